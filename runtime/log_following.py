"""Brings the stream of records into the access log, for ever: gathered for a moment, each once, none passed over.

What can pass by itself (a full disk, a bus that is away) is tried again with the same records. A log that contradicts
itself takes nothing more until somebody has looked: it says so each second, and is opened again now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

import msgspec

from domain import subjects
from domain.errors import Unavailable, VitalgridError
from domain.log_entries import LogRecord, read_record
from domain.messages import LogState, encode
from domain.ports import Clock
from runtime.bus import Bus
from runtime.follower import Follower, StreamMessage
from runtime.log_events import Received
from runtime.log_keeper import LogKeeper
from runtime.tasks import end

logger = logging.getLogger(__name__)

_GATHER_S: Final = 0.25  # one signature and some fsyncs for what comes within so long
_AT_ONCE: Final = 256
_QUEUE: Final = 5_000
_RETRY_S: Final = 1.0
_LOOK_AGAIN_S: Final = 30.0
_TELL_S: Final = 1.0
_FORGET_EVERY: Final = 10_000  # records that are in the log and may leave the stream
_KEEP_BEHIND: Final = 1_000


class LogFollowing:
    """See module. `open_log` opens the log; it and the log's own calls run in a thread."""

    def __init__(self, bus: Bus, open_log: Callable[[], LogKeeper], clock: Clock) -> None:
        self._bus = bus
        self._open_log = open_log
        self._clock = clock
        self._waiting: asyncio.Queue[StreamMessage] = asyncio.Queue()
        self._taking = 0
        self._size = 0
        self._problem: str | None = None

    async def run(self) -> None:
        """Follow for ever."""
        telling = asyncio.create_task(self._tell(), name="tell the log's state")
        try:
            while True:
                try:
                    await self._follow()
                except (VitalgridError, OSError) as error:
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
            start = await asyncio.to_thread(lambda: keeper.next_sequence)
            follower = await self._bus.follow(
                subjects.AUDIT_STREAM, list(subjects.AUDIT_SUBJECTS), start, self._waiting.put_nowait
            )
            await self._take_all(keeper, follower, start)
        finally:
            if follower is not None:
                await follower.stop()
            await asyncio.to_thread(keeper.close)

    async def _take_all(self, keeper: LogKeeper, follower: Follower, expected: int) -> None:
        forgotten = expected
        while True:
            self._problem = None
            messages = await self._gathered()
            self._taking = len(messages)
            records = []
            for message in messages:
                records += self._with_gap(message, expected)
                expected = message.sequence + 1
            if self._waiting.qsize() > _QUEUE:
                follower.pause()
            await self._taken(keeper, records)
            self._taking, self._size = 0, keeper.size
            if self._waiting.qsize() < _QUEUE // 2:
                follower.resume()
            if expected - forgotten > _FORGET_EVERY:
                forgotten = await asyncio.to_thread(lambda: keeper.next_sequence)
                with contextlib.suppress(Unavailable):  # it takes room a little longer then
                    await self._bus.purge(subjects.AUDIT_STREAM, max(forgotten - _KEEP_BEHIND, 1))

    async def _gathered(self) -> list[StreamMessage]:
        """The next message, and what comes shortly after it."""
        messages = [await self._waiting.get()]
        with contextlib.suppress(TimeoutError):
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

    async def _taken(self, keeper: LogKeeper, records: list[Received]) -> None:
        """Take records in, however often a full disk makes it necessary to try."""
        while True:
            try:
                await asyncio.to_thread(keeper.take, records)
                self._problem = None
                return
            except (Unavailable, OSError) as error:
                self._say(error)
            await asyncio.sleep(_RETRY_S)

    def _say(self, error: VitalgridError | OSError) -> None:
        if str(error) != self._problem:
            logger.error("the access log does not grow: %s", error)
        self._problem = str(error)

    async def _tell(self) -> None:
        while True:
            state = LogState(self._clock.now_us(), self._size, self._waiting.qsize() + self._taking, self._problem)
            with contextlib.suppress(OSError):
                await self._bus.core_publish(subjects.LOG_STATE, encode(state))
            await asyncio.sleep(_TELL_S)
