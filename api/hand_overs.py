"""Leads hand-overs of hospitals from step to step, from wherever they stand; one process of a region does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

from api.services import Backend
from domain import subjects
from domain.errors import Unavailable
from runtime.sql import hand_overs

logger = logging.getLogger(__name__)

_LOOK_S: Final = 2.0
_LOOK_SOON_S: Final = 0.1  # while both shards are being told
SETTLE_S: Final = 120.0  # far beyond what a door remembers, and a sender waits for its acknowledgement


async def lead_hand_overs(backend: Backend) -> None:
    """For ever. A bus that is away is waited for."""
    while True:
        is_telling = False
        with contextlib.suppress(Unavailable):
            is_telling = await _lead(backend)
        await asyncio.sleep(_LOOK_SOON_S if is_telling else _LOOK_S)


async def _lead(backend: Backend) -> bool:
    """One look at all that are under way; whether some shard is not told yet."""
    services, is_telling = backend.services, False
    now_us = services.clock.now_us()
    for row in await backend.read(hand_overs.unsettled, backend.engine):
        number, about = row["number"], {key: row[key] for key in ("number", "hospital_id", "from_shard", "to_shard")}
        if row["switched_us"] is None and not row["is_told"]:
            is_telling = True
        elif row["switched_us"] is None:
            cut_by = (await services.bus.stream_state(subjects.READINGS_STREAM)).last_sequence
            await backend.write(hand_overs.switch, backend.engine, number, cut_by=cut_by, now_us=now_us)
            await backend.doors_told()
            await backend.reading_feed.close()  # clients listen to shards: they connect again, and go on where they were
            logger.info("a hospital is in another shard", extra=about)
        elif now_us - row["switched_us"] >= SETTLE_S * 1e6:
            await backend.write(hand_overs.settle, backend.engine, number, now_us)
            backend.relay.nudge()
            logger.info("a hand-over is settled", extra=about)
    return is_telling
