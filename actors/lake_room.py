"""What a host does while the lake takes no rows: it keeps a bounded number, then takes no more of the stream, and says so.

State, alarms and answers go on meanwhile; beyond the bound they stand still and the stream holds what comes. Nothing is
lost by that, and nothing has to be started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

from domain.ports import Clock

logger = logging.getLogger(__name__)

_LOOK_S: Final = 0.5


class LakeRoom:
    """`writing`: rows on their way into the lake; `full_since_us`: since when no turn is taken for want of room, or 0."""

    def __init__(self, host_name: str, clock: Clock, most_rows: int) -> None:
        self._host_name = host_name
        self._clock = clock
        self._most_rows = most_rows
        self._failure: type[Exception] | None = None
        self._committed = asyncio.Event()
        self.writing = 0
        self.full_since_us = 0

    async def wait(self, rows: Callable[[], int], waiting: Callable[[], None]) -> None:
        """Return while more rows may be kept. `rows`: those kept beside `writing`; `waiting` is called again and again."""
        while self.writing + rows() >= self._most_rows:
            if self._failure is not None and not self.full_since_us:
                self.full_since_us = self._clock.now_us()
                logger.error("the lake takes no rows, and no more fit in memory: the stream is taken no further",
                             extra={"host": self._host_name, "rows": rows()})  # fmt: skip
            self._committed.clear()
            waiting()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._committed.wait()
        if self.full_since_us:
            self.full_since_us = 0
            logger.warning("the lake takes rows again: the stream is taken on", extra={"host": self._host_name})

    def committed(self) -> None:
        self._committed.set()

    def failed(self, error: Exception) -> None:
        """A commit or a snapshot failed: said once, however often it is tried."""
        if type(error) is not self._failure:
            logger.error("a commit to the lake, or a snapshot, failed; it is tried again",
                         extra={"host": self._host_name}, exc_info=error)  # fmt: skip
        self._failure = type(error)

    def worked(self) -> None:
        """Commits and snapshots went through."""
        if self._failure is not None:
            logger.warning("commits to the lake and snapshots work again", extra={"host": self._host_name})
        self._failure = None
