"""Brings the stream of records into the access log, for ever: gathered for a moment, each once, none passed over.

What can pass by itself (a full disk, a bus that is away) is tried again with the same records. A log that contradicts
itself, or meets what nobody thought of, takes nothing more until somebody has looked: it says so each second, and is
opened again now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable
from typing import Final

import msgspec
from nats.errors import Error as NatsError

from domain import subjects
from domain.errors import Unavailable, VitalgridError
from domain.log_entries import LogRecord, read_record
from domain.messages import LogState, encode
from domain.ports import Clock
from runtime.bus import Bus
from runtime.follower import Follower, StreamMessage
from runtime.log_events import Received
from runtime.log_keeper import LogKeeper
from runtime.log_witnesses import LogWitnesses
from runtime.tasks import end

logger = logging.getLogger(__name__)

_GATHER_S: Final = 0.25  # one signature and some fsyncs for what comes within so long
_AT_ONCE: Final = 256
_QUEUE: Final = 5_000
_RETRY_S: Final = 1.0
_LOOK_AGAIN_S: Final = 30.0
_TELL_S: Final = 1.0
_WITNESS_S: Final = 1.0  # in a quiet log, between looks at witnesses that are behind
_PATIENCE_S: Final = 30.0  # at a start, with witnesses that signed before: they may be starting too; records wait
_AGAIN_S: Final = 0.2
_FORGET_EVERY: Final = 10_000  # records that are in the log and may leave the stream
_KEEP_BEHIND: Final = 1_000
_PARTS: Final = 4  # of the stream's room: when records in the log may take one of them, they leave


class LogFollowing:
    """See module. `open_log` opens the log; it and the log's own calls run in a thread."""

    def __init__(
        self, bus: Bus, open_log: Callable[[], LogKeeper], clock: Clock, witnesses: LogWitnesses | None = None
    ) -> None:
        """`witnesses`: those of the log that `open_log` opens."""
        self._bus = bus
        self._open_log = open_log
        self._clock = clock
        self._witnesses = witnesses
        self._waiting: asyncio.Queue[StreamMessage] = asyncio.Queue()
        self._taking = 0
        self._size = 0
        self._forget_bytes = math.inf
        self._problem: str | None = None

    async def run(self) -> None:
        """Follow for ever."""
        telling = asyncio.create_task(self._tell(), name="tell the log's state")
        try:
            while True:
                try:
                    await self._follow()
                except Exception as error:  # noqa: BLE001 (whatever it was: nobody else takes records in)
                    self._say(error)
                    await asyncio.sleep(_RETRY_S if isinstance(error, (Unavailable, OSError)) else _LOOK_AGAIN_S)
        finally:
            await end(telling)

    async def _follow(self) -> None:
        """Until something breaks. Then the log is closed, and whoever opens it again goes on where it stood."""
        keeper = await asyncio.to_thread(self._open_log)
        follower: Follower | None = None
        try:
            self._waiting, self._size = asyncio.Queue(), keeper.size
            await self._heard_witnesses(keeper)
            start = await asyncio.to_thread(lambda: keeper.next_sequence)
            follower = await self._bus.follow(
                subjects.AUDIT_STREAM, list(subjects.AUDIT_SUBJECTS), start, self._waiting.put_nowait
            )
            await self._take_all(keeper, follower, start)
        finally:
            if follower is not None:
                await follower.stop()
            await asyncio.to_thread(keeper.close)

    async def _heard_witnesses(self, keeper: LogKeeper) -> None:
        """Before anything is taken in: an older copy of the log must not grow into another one. Raises RolledBack."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + _PATIENCE_S * await asyncio.to_thread(keeper.was_witnessed)
        while not await asyncio.to_thread(keeper.witness) and loop.time() < until_s:  # noqa: ASYNC110 (others are asked)
            await asyncio.sleep(_AGAIN_S)

    async def _take_all(self, keeper: LogKeeper, follower: Follower, expected: int) -> None:
        await self._forget(expected)
        forgotten, taken_bytes = expected, 0
        while True:
            self._problem = None
            while not (messages := await self._gathered()):
                await asyncio.to_thread(keeper.witness)
            self._taking = len(messages)
            records = []
            for message in messages:
                records += self._with_gap(message, expected)
                expected = message.sequence + 1
            if self._waiting.qsize() > _QUEUE:
                follower.pause()
            await self._taken(keeper, follower, records)
            self._taking, self._size = 0, keeper.size
            if self._waiting.qsize() < _QUEUE // 2:
                follower.resume()
            taken_bytes += sum(len(message.payload) for message in messages)
            if expected - forgotten > _FORGET_EVERY or taken_bytes > self._forget_bytes:
                await self._forget(expected)
                forgotten, taken_bytes = expected, 0

    async def _forget(self, taken_until: int) -> None:
        """Let records before `taken_until`, which are in the log, leave the stream: it refuses new ones when it is full.

        The last of them stay, unless it is so small that a quarter of it is in use.
        """
        with contextlib.suppress(Unavailable):  # they take room a little longer then
            state = await self._bus.stream_state(subjects.AUDIT_STREAM)
            is_tight = 0 < state.max_bytes < _PARTS * state.size_bytes
            until = taken_until if is_tight else taken_until - _KEEP_BEHIND
            if max(state.first_sequence, 1) < until <= state.last_sequence + 1:  # beyond its end it is another stream
                await self._bus.purge(subjects.AUDIT_STREAM, until)
            self._forget_bytes = state.max_bytes / _PARTS if state.max_bytes else math.inf

    async def _gathered(self) -> list[StreamMessage]:
        """The next message, and what comes shortly after it; none when none comes for a moment."""
        messages: list[StreamMessage] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_WITNESS_S):
                messages.append(await self._waiting.get())
            async with asyncio.timeout(_GATHER_S):
                while len(messages) < _AT_ONCE:
                    messages.append(await self._waiting.get())
        return messages

    def _with_gap(self, message: StreamMessage, expected: int) -> list[Received]:
        """The record of a message; before it, when the stream lost some, one that says so."""
        received = [Received(message.sequence, read_record(message.payload, message.sequence, message.stored_us))]
        if message.sequence <= expected:
            return received
        missing = message.sequence - expected
        logger.error("records for the access log are lost: the stream lacks them", extra={"from": expected, "records": missing})
        event = msgspec.Raw(encode({"kind": "lost", "from_sequence": expected, "records": missing}))
        return [Received(message.sequence, LogRecord(f"lost-{expected}", message.stored_us, "log", expected, event)), *received]

    async def _taken(self, keeper: LogKeeper, follower: Follower, records: list[Received]) -> None:
        """Take records in, however often a full disk makes it necessary to try. Meanwhile the stream holds the others."""
        while True:
            try:
                await asyncio.to_thread(keeper.take, records)
                self._problem = None
                return
            except (Unavailable, OSError) as error:
                follower.pause()
                self._say(error)
            await asyncio.sleep(_RETRY_S)

    def _say(self, error: Exception) -> None:
        is_known = isinstance(error, (VitalgridError, OSError))
        problem = str(error) if is_known else f"{type(error).__name__}: {error}"
        if problem != self._problem:
            logger.error("the access log does not grow: %s", problem, exc_info=None if is_known else error)
        self._problem = problem

    async def _tell(self) -> None:
        while True:
            waiting = self._waiting.qsize() + self._taking
            cosigned, away = (None, []) if (known := self._witnesses) is None else (known.size, known.problems)
            state = LogState(self._clock.now_us(), self._size, waiting, self._problem, cosigned, "; ".join(away) or None)
            with contextlib.suppress(NatsError, OSError):
                await self._bus.core_publish(subjects.LOG_STATE, encode(state))
            await asyncio.sleep(_TELL_S)
