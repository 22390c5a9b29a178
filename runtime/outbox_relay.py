"""Carries the outbox to the bus: in order, at least once, under ids by which the stream keeps each message once.

A write is answered once the stream has what hosts must know of it (`settled`): a device whose registration was
answered is known to its host before its first reading, because both travel in one stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from sqlalchemy import Engine

from domain.errors import Unavailable
from domain.ports import Clock
from runtime.batches import NewMessage
from runtime.sql.outbox import mark_published, unpublished

logger = logging.getLogger(__name__)

_POLL_S: Final = 1.0
_RETRY_S: Final = 0.5
_AT_ONCE: Final = 500


class Publisher(Protocol):
    async def publish_all(self, messages: Sequence[NewMessage]) -> None:
        """Store messages in their order, each once. Raises Unavailable, with the first of them stored perhaps."""
        ...


async def carry_for_ever(carry: Callable[[], Awaitable[int]], at_once: int, what: str, *, look_s: float) -> None:
    """Call `carry` for ever: again at once after it carried `at_once`, else in `look_s`.

    What it raises as Unavailable is waited out, and said once. `what`: several things, which wait then.
    """
    is_down = False
    while True:
        try:
            while await carry() == at_once:
                pass
            is_down = False
        except Unavailable as error:
            if not is_down:
                logger.warning("%s wait: %s", what, error)
            is_down = True
        await asyncio.sleep(_RETRY_S if is_down else look_s)


class OutboxRelay:
    """One relay a database. `nudge` after a write spares the wait for the next look."""

    def __init__(self, engine: Engine, publisher: Publisher, clock: Clock) -> None:
        self._engine = engine
        self._publisher = publisher
        self._clock = clock
        self._work = asyncio.Event()
        self._asked = 0
        self._carried = 0
        self._news = asyncio.Condition()
        self._is_running = False

    def nudge(self) -> None:
        """Look now: a write may have added to the outbox."""
        self._asked += 1
        self._work.set()

    async def settled(self, within_s: float) -> bool:
        """Wait until all that was nudged for so far is in the stream; False when that takes longer, or nobody relays."""
        asked = self._asked
        if not self._is_running:
            return False
        try:
            async with asyncio.timeout(within_s), self._news:
                await self._news.wait_for(lambda: self._carried >= asked)
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Publish for ever; a bus that is away is waited for."""
        self._is_running = True
        try:
            await self._run()
        finally:
            self._is_running = False

    async def _run(self) -> None:
        is_down = False
        while True:
            self._work.clear()
            asked = self._asked
            try:
                carried = await self.relay()
                is_down = False
            except Unavailable as error:
                if not is_down:
                    logger.warning("the outbox waits for the bus: %s", error)
                is_down = True
                await asyncio.sleep(_RETRY_S)
                continue
            if carried == _AT_ONCE:
                continue
            # the look took all that waited then; what was written since has a look of its own, so steady writers starve nobody
            async with self._news:
                self._carried = asked
                self._news.notify_all()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_S):
                    await self._work.wait()

    async def relay(self) -> int:
        """Publish what waits now, in order; returns how many. Raises Unavailable, with all of it still waiting."""
        rows = await asyncio.to_thread(unpublished, self._engine, _AT_ONCE)
        if rows:
            messages = [NewMessage(row["subject"], row["payload"], f"outbox-{row['id']}") for row in rows]
            await self._publisher.publish_all(messages)
            await asyncio.to_thread(mark_published, self._engine, [row["id"] for row in rows], self._clock.now_us())
        return len(rows)
