"""A bus in memory: one server that fsyncs before it acknowledges and remembers message ids, and connections to it.

As `runtime.bus.Bus` promises: a publish that was acknowledged is stored, under its message id once; one that was not may
or may not be; an atomic batch is stored whole or not at all, and refused when an id of it is known. A follower gets each
message of its subjects once, in order, however late and in however many pieces.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from domain import subjects
from domain.errors import Unavailable
from runtime.batches import NewMessage, batches_of
from runtime.bus import StreamState
from runtime.follower import StreamMessage
from tests.simulation.network import Network
from tests.simulation.virtual_time import EPOCH_US, Node

PUBLISH_S = 5.0  # as of `runtime.bus`
_FSYNC_S = 0.004
_REFUSED = 0
_STREAMS = {
    "reading": subjects.READINGS_STREAM, "control": subjects.READINGS_STREAM, "once": subjects.READINGS_STREAM,
    "alarm": subjects.ALARMS_STREAM, "reject": subjects.REJECTS_STREAM,
}  # fmt: skip


@dataclass(frozen=True)
class _Publish:
    """One message, or an atomic batch of several."""

    messages: Sequence[NewMessage]
    answer: Callable[[int], None]

    @property
    def stream(self) -> str:
        return _STREAMS[self.messages[0].subject.partition(".")[0]]


class StreamServer:
    """The streams. What came in is on disk one fsync later, then acknowledged, then followed."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.logs: dict[str, list[StreamMessage]] = {stream: [] for stream in _STREAMS.values()}
        self.told: list[tuple[str, bytes, str]] = []  # every publish that ever was sent, stored or not
        self._sequence_of: dict[tuple[str, str], int] = {}
        self._taken: deque[_Publish] = deque()  # in memory only
        self._sync: asyncio.TimerHandle | None = None
        self._followers: dict[MemoryFollower, None] = {}
        self.is_up = True

    def take(self, publish: _Publish) -> None:
        if not self.is_up:
            return
        self._taken.append(publish)
        if self._sync is None:
            self._sync = asyncio.get_running_loop().call_later(_FSYNC_S, self._synced, len(self._taken))

    def crash(self) -> None:
        """Of what was not yet acknowledged the disk may have some, in order."""
        self.is_up = False
        if self._sync is not None:
            self._sync.cancel()
            self._sync = None
        for _ in range(self._chance.randint(0, len(self._taken))):
            self._store(self._taken.popleft())
        self._taken.clear()

    def start(self) -> None:
        self.is_up = True
        for follower in self._followers:
            follower.wake()

    def _synced(self, count: int) -> None:
        self._sync = None
        for publish in [self._taken.popleft() for _ in range(count)]:
            publish.answer(self._store(publish))
        if self._taken:
            self._sync = asyncio.get_running_loop().call_later(_FSYNC_S, self._synced, len(self._taken))
        for follower in self._followers:
            follower.wake()

    def _store(self, publish: _Publish) -> int:
        """The sequence of the last message; _REFUSED for a batch of which an id is known."""
        log, keys = self.logs[publish.stream], [(publish.stream, message.message_id) for message in publish.messages]
        if len(keys) > 1 and any(key in self._sequence_of for key in keys):
            return _REFUSED
        for key, message in zip(keys, publish.messages, strict=True):
            if key not in self._sequence_of:
                stored_us = EPOCH_US + round(asyncio.get_running_loop().time() * 1e6)
                log.append(StreamMessage(message.subject, len(log) + 1, message.payload, stored_us))
                self._sequence_of[key] = len(log)
        return self._sequence_of[keys[-1]]

    def followers(self) -> list[MemoryFollower]:
        return list(self._followers)

    def add(self, follower: MemoryFollower) -> None:
        self._followers[follower] = None

    def remove(self, follower: MemoryFollower) -> None:
        self._followers.pop(follower, None)


class MemoryFollower:
    """As `runtime.follower.Follower`."""

    def __init__(self, bus: MemoryBus, stream: str, wanted: list[str], start: int, on_message: Callable[..., None]) -> None:
        self._bus = bus
        self.node = bus.node
        self._log = bus.server.logs[stream]
        self.wanted = frozenset(wanted)
        self.next_sequence = max(start, 1)
        self.pending = 0
        self._on_message = on_message
        self._more, self._flowing = asyncio.Event(), asyncio.Event()
        self._flowing.set()
        self.wake()
        bus.server.add(self)
        self._watch = asyncio.create_task(self._pump())

    def wake(self) -> None:
        self._more.set()

    def pause(self) -> None:
        self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    async def stop(self) -> None:
        self._watch.cancel()
        self._bus.server.remove(self)

    async def _pump(self) -> None:
        network, chance = self._bus.network, self._bus.network.chance
        while True:
            await self._more.wait()
            await self._flowing.wait()
            await asyncio.sleep(network.delay_s())
            await network.joined(self._bus.node)
            self._more.clear()
            if not self._bus.server.is_up:
                continue
            most = self.next_sequence + chance.choice([1, 2, 5, 1000])
            while self.next_sequence <= len(self._log) and self.next_sequence < most:
                message = self._log[self.next_sequence - 1]
                self.next_sequence += 1
                if message.subject in self.wanted:
                    self._on_message(message)
            self.pending = len(self._log) + 1 - self.next_sequence
            if self.pending:
                self._more.set()


class MemoryBus:
    """One node's connection, with the verbs of `runtime.bus.Bus`."""

    def __init__(self, server: StreamServer, network: Network, node: Node) -> None:
        self.server = server
        self.network = network
        self.node = node

    async def publish(self, subject: str, payload: bytes, message_id: str) -> int:
        return await self._publish([NewMessage(subject, payload, message_id)])

    async def publish_all(self, messages: Sequence[NewMessage]) -> None:
        for batch in batches_of(messages):
            if len(batch) == 1 or await self._publish(batch) == _REFUSED:
                for message in batch:
                    await self.publish(*message)

    async def _publish(self, messages: Sequence[NewMessage]) -> int:
        loop = asyncio.get_running_loop()
        acknowledged: asyncio.Future[int] = loop.create_future()
        self.server.told += messages
        publish = _Publish(messages, lambda sequence: self._send_back(acknowledged, sequence))
        for delay_s in self.network.delays_s():
            loop.call_later(delay_s, self._arrive, publish)
        try:
            async with asyncio.timeout(PUBLISH_S):
                return await acknowledged
        except TimeoutError:
            raise Unavailable(f"no acknowledgement from the stream of {messages[0].subject}") from None

    def _arrive(self, publish: _Publish) -> None:
        """A client that is cut off keeps what it has to say and says it when it is joined again, or loses it."""
        if not self.network.is_cut(self.node):
            self.server.take(publish)
        elif not self.node.is_dead and self.network.chance.random() < 0.5:
            self.node.run(self._say_later(publish))

    async def _say_later(self, publish: _Publish) -> None:
        await self.network.joined(self.node)
        self.server.take(publish)

    def _send_back(self, acknowledged: asyncio.Future[int], sequence: int) -> None:
        def arrive() -> None:
            if not acknowledged.done() and not self.node.is_dead and not self.network.is_cut(self.node):
                acknowledged.set_result(sequence)

        for delay_s in self.network.delays_s():
            asyncio.get_running_loop().call_later(delay_s, arrive)

    async def follow(
        self, stream: str, wanted: list[str], start_sequence: int, on_message: Callable[[StreamMessage], None]
    ) -> MemoryFollower:
        await self._there_and_back()
        return MemoryFollower(self, stream, wanted, start_sequence, on_message)

    async def stream_state(self, stream: str) -> StreamState:
        await self._there_and_back()
        log = self.server.logs[stream]
        return StreamState(1, len(log), len(log), 0)

    async def last_sequence(self, stream: str, subject: str) -> int:
        await self._there_and_back()
        return max((m.sequence for m in self.server.logs[stream] if m.subject == subject), default=0)

    async def get_message(self, stream: str, sequence: int) -> StreamMessage | None:
        await self._there_and_back()
        log = self.server.logs[stream]
        return log[sequence - 1] if 0 < sequence <= len(log) else None

    async def answer(self, subject: str, handler: Any) -> Callable[[], Awaitable[None]]:
        """Nobody asks in a simulation."""

        async def stop() -> None:
            pass

        return stop

    async def flush(self) -> None:
        pass

    @property
    def is_connected(self) -> bool:
        """Nobody listens to what is told and kept nowhere."""
        return False

    async def ask_table(self, subject: str, payload: bytes, timeout_s: float) -> pa.Table:
        raise Unavailable(f"nobody answers at {subject}")

    async def _there_and_back(self) -> None:
        delays_s = self.network.delays_s()
        await asyncio.sleep(delays_s[0] if delays_s else PUBLISH_S)
        if not delays_s or self.network.is_cut(self.node) or not self.server.is_up:
            raise Unavailable("the stream does not answer")
