"""Brings what doors noticed of senders from the readings' stream into the business database, and forgets what is old."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from api.services import Backend
from domain import subjects
from domain.errors import RejectedInput
from domain.instants import DAY_US
from domain.messages import SecurityNotice, decode_control
from runtime.follower import StreamMessage
from runtime.sql.alarm_projection import position_of
from runtime.sql.security_events import POSITION, forget_events, keep_notices

logger = logging.getLogger(__name__)

KEPT_US: Final = 400 * DAY_US  # half a year is the least that the law asks of network logs
MOST: Final = 1_000_000
_BATCH: Final = 500
_QUEUE: Final = 5_000
_TAG: Final = b'"security-notice"'
_FORGET_EVERY_S: Final = 3_600.0


class SecurityDesk:
    """Follows the control messages from the position stored with what was kept of them."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def run(self) -> None:
        """Keep for ever. Raises what breaks it; started again it goes on at the stored position."""
        services = self._backend.services
        position = await self._backend.lanes.sql(position_of, services.engine, POSITION)
        waiting: asyncio.Queue[StreamMessage] = asyncio.Queue()
        follower = await services.bus.follow(subjects.READINGS_STREAM, [subjects.ANY_CONTROL], position + 1, waiting.put_nowait)
        try:
            while True:
                batch = [await waiting.get()]
                while len(batch) < _BATCH and not waiting.empty():
                    batch.append(waiting.get_nowait())
                if waiting.qsize() > _QUEUE:
                    follower.pause()
                notices = _notices(batch)
                last = batch[-1].sequence
                if notices or last - position >= _BATCH:  # of what is nothing of ours, only now and then how far it was read
                    await self._backend.lanes.sql(keep_notices, services.engine, notices, last)
                    position = last
                if waiting.qsize() < _QUEUE // 2:
                    follower.resume()
        finally:
            await follower.stop()


async def forget_old_events(backend: Backend) -> None:
    """Once an hour, for ever, whether something is noticed or not. Raises what breaks it."""
    while True:
        gone = await backend.lanes.sql(forget_events, backend.engine, backend.services.clock.now_us(), KEPT_US, MOST)
        if gone:
            logger.info("old security events were deleted", extra={"events": gone})
        await asyncio.sleep(_FORGET_EVERY_S)


def _notices(batch: list[StreamMessage]) -> list[tuple[int, SecurityNotice]]:
    notices = []
    for message in batch:
        if _TAG not in message.payload:
            continue
        try:
            control = decode_control(message.payload)
        except RejectedInput:  # its shard refuses it, and keeps it so
            continue
        if isinstance(control, SecurityNotice):
            notices.append((message.sequence, control))
    return notices
