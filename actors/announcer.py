"""What turns make known, on its way into the streams: alarm events and refusals, in order, a bounded number at once.

A mass outage or a replay brings tens of thousands of events in one turn. Sent all at once they would wait for each
other until all of them run out of time together; here they leave in windows, and what was not acknowledged is sent
again, under the same id, before anything that came after it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Final, NamedTuple

from runtime.bus import Bus

logger = logging.getLogger(__name__)

WINDOW: Final = 256
WINDOW_BYTES: Final = 8 * 2**20
FULL: Final = 20_000  # told and not yet kept: from here on turns wait
_RETRY_S: Final = 0.5


class _Message(NamedTuple):
    subject: str
    payload: bytes
    message_id: str


class Announcer:
    """`tell` from turns, `run` beside them. Each message is stored once, as long as the stream remembers its id."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._waiting: deque[_Message] = deque()
        self._changed = asyncio.Condition()
        self._work = asyncio.Event()
        self.told = 0
        self.kept = 0

    def tell(self, subject: str, payload: bytes, message_id: str) -> None:
        """Take a message; it is in the stream once `kept` has reached what `told` is now."""
        self._waiting.append(_Message(subject, payload, message_id))
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

    def _window(self) -> list[_Message]:
        window: list[_Message] = []
        size = 0
        for message in self._waiting:
            size += len(message.payload)
            if window and (len(window) == WINDOW or size > WINDOW_BYTES):
                break
            window.append(message)
        return window

    async def _publish(self, window: list[_Message]) -> None:
        """Return once every message of `window` is acknowledged."""
        while True:
            results = await asyncio.gather(*(self._bus.publish(*message) for message in window), return_exceptions=True)
            failed = [(message, error) for message, error in zip(window, results, strict=True) if isinstance(error, Exception)]
            if not failed:
                return
            logger.warning("events wait for their stream: %s", failed[0][1], extra={"waiting": len(self._waiting)})
            window = [message for message, _ in failed]
            await asyncio.sleep(_RETRY_S)
