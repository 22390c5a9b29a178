"""A feed: one follower of a stream, shared by all clients of a live route.

The follower runs while there are clients. A client that names the last event it has seen first catches up by a
follower of its own, and joins the shared one at the very message where both meet: nothing is missed or doubled.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from api.live.subscription import JUDGED_ANEW, Subscription, sse
from api.turns import Turns
from domain.errors import TooManyRequests, VitalgridError
from runtime.bus import Bus
from runtime.follower import Follower, StreamMessage

logger = logging.getLogger(__name__)

HEARTBEAT_S: Final = 0.5  # promised at least every second
CATCH_UPS: Final = 4  # of one holder at once: each reads the stream by itself, up to all that is kept of it
_CATCH_UP_S: Final = 30.0  # that others of the holder wait for their turn: a display that is refused may not come again
_BEAT_SLICES: Final = 10  # of the clients: a heartbeat for thousands at one time would hold up an alarm behind it


class _Clients:
    """Clients by the subjects that they want, so that a message finds its own without asking each."""

    def __init__(self) -> None:
        self._by_subject: dict[str | None, dict[Subscription, None]] = {}
        self._all: dict[Subscription, int] = {}  # with the slice in which each has its heartbeats
        self._joined = 0

    def __len__(self) -> int:
        return len(self._all)

    def add(self, client: Subscription) -> None:
        self._joined += 1
        self._all[client] = self._joined % _BEAT_SLICES
        for subject in _wanted(client):
            self._by_subject.setdefault(subject, {})[client] = None

    def discard(self, client: Subscription) -> None:
        if self._all.pop(client, None) is None:
            return
        for subject in _wanted(client):
            self._by_subject[subject].pop(client)
            if not self._by_subject[subject]:
                del self._by_subject[subject]

    def wanting(self, subject: str) -> list[Subscription]:
        return [*self._by_subject.get(subject, ()), *self._by_subject.get(None, ())]

    def slice(self, number: int) -> list[Subscription]:
        return [client for client, its in self._all.items() if its == number]

    def all(self) -> list[Subscription]:
        return list(self._all)


def _wanted(client: Subscription) -> Iterable[str | None]:
    return (None,) if client.subjects is None else client.subjects


class Feed:
    """See module. `prepare` decodes a message once for all clients; it runs on the event loop and must be quick."""

    def __init__(self, bus: Bus, stream: str, wanted: tuple[str, ...], prepare: Callable[[StreamMessage], Any]) -> None:
        self._bus = bus
        self._stream = stream
        self._wanted = wanted
        self._prepare = prepare
        self._clients = _Clients()
        self._catching_up: dict[Subscription, Follower] = {}
        self._catch_ups = Turns(CATCH_UPS)
        self._follower: Follower | None = None
        self._first = 0  # where the shared follower began
        self._last_of: dict[str, int] = {}  # subject -> newest sequence the shared follower gave
        self.stored_us: dict[str, int] = {}  # subject -> when that was stored
        self._lock = asyncio.Lock()
        self._joining: dict[Subscription, None] = {}
        self._heart: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def client_count(self) -> int:
        return len(self._clients) + len(self._catching_up) + len(self._joining)

    @property
    def last_sequence(self) -> int:
        """The newest sequence seen."""
        return max(self._last_of.values(), default=max(self._first - 1, 0))

    @property
    def is_connected(self) -> bool:
        return self._bus.is_connected

    async def join(self, client: Subscription, after: int | None) -> None:
        """Let `client` have every message behind sequence `after` (None: from now on).

        Raises Unavailable, and TooManyRequests while others of its holder catch up and go on to.
        """
        self._joining[client] = None
        has_joined = False
        try:
            await self._join(client, after)
            has_joined = True
        finally:
            del self._joining[client]
            if not has_joined:
                await self.leave(client)

    async def _join(self, client: Subscription, after: int | None) -> None:
        async with self._lock:
            await self._start()
        if after is None:
            client.after = self.last_sequence
            self._clients.add(client)
            return
        state = await self._bus.stream_state(self._stream)
        client.after = min(after, state.last_sequence)
        if after + 1 < state.first_sequence:
            gap = {"from_sequence": after + 1, "until_sequence": state.first_sequence}
            client.put(sse("gap", msgspec.json.encode(gap)))
        await self._in_its_turn(client)

    async def leave(self, client: Subscription) -> None:
        """Forget `client`; the last one to leave stops the follower."""
        client.close()
        self._clients.discard(client)
        follower = self._caught_up(client)
        if follower is not None:
            await follower.stop()
        async with self._lock:
            if not self.client_count:
                await self._stop()

    async def close(self) -> None:
        """End every client's stream."""
        for client in self._everybody():
            await self.leave(client)

    def end_limited(self) -> None:
        """End the streams that may show some patients and not others: their clients connect again, and are judged anew."""
        for client in self._everybody():
            if client.is_limited:
                client.end(*JUDGED_ANEW)

    def end_judged_else(self, *, is_emergency: bool) -> None:
        """End the streams whose clients would get something else now: an emergency began since they came, or is over."""
        for client in self._everybody():
            if client.is_in_emergency not in (None, is_emergency):
                client.end(*JUDGED_ANEW)

    def _everybody(self) -> list[Subscription]:
        """Those too that wait for their turn to catch up: what they may see was judged before."""
        return [*self._clients.all(), *self._catching_up, *self._joining]

    async def _start(self) -> None:
        if self._follower is not None:
            return
        self._first = (await self._bus.stream_state(self._stream)).last_sequence + 1
        self._last_of.clear()
        self.stored_us.clear()
        self._follower = await self._bus.follow(self._stream, list(self._wanted), self._first, self._receive)
        self._heart = asyncio.create_task(self._beat(), name=f"heartbeat of {self._stream}")

    async def _stop(self) -> None:
        follower, self._follower = self._follower, None
        heart, self._heart = self._heart, None
        if heart is not None:
            heart.cancel()
        if follower is not None:
            await follower.stop()

    def _receive(self, message: StreamMessage) -> None:
        self._last_of[message.subject] = message.sequence
        self.stored_us[message.subject] = message.stored_us
        clients = self._clients.wanting(message.subject)
        if not clients:
            return
        prepared = self._prepared(message)
        for client in clients:
            client.offer(message.sequence, prepared)

    def _prepared(self, message: StreamMessage) -> Any:
        """What clients select from; None for a message that cannot be read: it is logged, and the stream goes on."""
        try:
            return self._prepare(message)
        except (msgspec.DecodeError, VitalgridError):
            logger.exception("a message of a live stream cannot be read", extra={"sequence": message.sequence})
            return None

    async def _in_its_turn(self, client: Subscription) -> None:
        """Let it catch up once few of its holder's do. Who reads slowly holds up those of the same holder alone."""
        try:
            async with asyncio.timeout(_CATCH_UP_S):
                await self._catch_ups.take(client.holder)
        except TimeoutError:
            what = f"{CATCH_UPS} live streams of yours catch up with what they missed, and others wait: wait until one has"
            raise TooManyRequests(what) from None
        try:
            await self._catch_up(client)
        except BaseException:  # not met, broken or cancelled: whatever it is, the turn ends
            self._catch_ups.give_back(client.holder)
            raise

    async def _catch_up(self, client: Subscription) -> None:
        """Feed `client` by a follower of its own until it has all that the shared one gave, then move it over."""
        wanted = list(self._wanted) if client.subjects is None else sorted(client.subjects)
        client.is_bounded = False

        def receive(message: StreamMessage) -> None:
            client.offer(message.sequence, self._prepared(message))
            own = self._catching_up.get(client)
            if own is not None and client.is_filling:
                own.pause()
            elif self._has_met(client, message.sequence, message.pending):
                self._move_over(client)

        def drained() -> None:
            follower.resume()
            if follower.pending == 0 and self._has_met(client, client.after, 0):  # nothing more may come for hours
                self._move_over(client)

        follower = await self._bus.follow(self._stream, wanted, client.after + 1, receive)
        self._catching_up[client] = follower
        client.on_drained = drained
        if client.is_filling:  # messages were faster than the answer; once it has read them it is `drained`
            follower.pause()
        elif follower.pending == 0 and self._has_met(client, client.after, 0):
            self._move_over(client)

    def _has_met(self, client: Subscription, sequence: int, pending: int) -> bool:
        """Whether a client that has all up to `sequence` lacks nothing that the shared follower has passed already.

        Nothing pending counts too: whatever is stored from then on lies behind the shared follower's first message.
        """
        passed = max((last for subject, last in self._last_of.items() if client.wants(subject)), default=0)
        return sequence >= passed and (sequence + 1 >= self._first or pending == 0)

    def _move_over(self, client: Subscription) -> None:
        follower = self._caught_up(client)
        if follower is None:
            return
        client.is_bounded = True
        client.on_drained = lambda: None
        self._clients.add(client)
        ending = asyncio.create_task(follower.stop())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    def _caught_up(self, client: Subscription) -> Follower | None:
        """End its turn to catch up, if it has one; returns what it followed the stream by."""
        follower = self._catching_up.pop(client, None)
        if follower is not None:
            self._catch_ups.give_back(client.holder)
        return follower

    async def _beat(self) -> None:
        """A slice of the clients after the other. Those that want the same subjects get one and the same event."""
        for number in itertools.cycle(range(_BEAT_SLICES)):
            made: dict[frozenset[str] | None, bytes] = {}
            for client in (*self._clients.slice(number), *(self._catching_up if number == 0 else ())):
                event = made.get(client.subjects)
                if event is None:
                    event = made[client.subjects] = client.heartbeat()
                client.put(event)
            await asyncio.sleep(HEARTBEAT_S / _BEAT_SLICES)
