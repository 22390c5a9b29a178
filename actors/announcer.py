"""What turns make known, on its way into the streams: alarm events and refusals, in order, a bounded number at once.

A mass outage or a replay brings tens of thousands of events in one turn. They leave in windows, each with one fsync,
and a window that was not acknowledged is sent again, under the same ids, before anything that came after it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from itertools import islice, takewhile
from typing import Final

from domain.errors import Unavailable
from runtime.batches import NewMessage
from runtime.bus import Bus

logger = logging.getLogger(__name__)

WINDOW: Final = 256
FULL: Final = 20_000  # told and not yet kept: from here on turns wait
_RETRY_S: Final = 0.5


class Announcer:
    """`tell` from turns, `run` beside them. Each message is stored once, as long as the stream remembers its id."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._waiting: deque[NewMessage] = deque()
        self._changed = asyncio.Condition()
        self._work = asyncio.Event()
        self.told = 0
        self.kept = 0

    def tell(self, subject: str, payload: bytes, message_id: str) -> None:
        """Take a message; it is in the stream once `kept` has reached what `told` is now."""
        self._waiting.append(NewMessage(subject, payload, message_id))
        self.told += 1
        self._work.set()

    async def all_kept(self, told: int) -> None:
        """Return once the first `told` messages are in their streams."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.kept >= told)

    async def room(self) -> None:
        """Return while there is room for more; a host that is told to wait takes no turn."""
        if len(self._waiting) >= FULL:
            async with self._changed:
                await self._changed.wait_for(lambda: len(self._waiting) < FULL)

    async def run(self) -> None:
        """Publish for ever."""
        while True:
            await self._work.wait()
            self._work.clear()
            while window := self._window():
                await self._publish(window)
                for _ in window:
                    self._waiting.popleft()
                await self._say_kept(len(window))

    async def _say_kept(self, count: int) -> None:
        async with self._changed:
            self.kept += count
            self._changed.notify_all()

    def _window(self) -> list[NewMessage]:
        """The messages that wait first and go into one stream."""
        stream = self._waiting[0].subject.partition(".")[0] if self._waiting else ""
        return list(takewhile(lambda message: message.subject.partition(".")[0] == stream, islice(self._waiting, WINDOW)))

    async def _publish(self, window: list[NewMessage]) -> None:
        """Return once every message of `window` is acknowledged."""
        while True:
            try:
                await self._bus.publish_all(window)
            except Unavailable as error:
                logger.warning("events wait for their stream: %s", error, extra={"waiting": len(self._waiting)})
                await asyncio.sleep(_RETRY_S)
            else:
                return
