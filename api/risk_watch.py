"""Looks for risks to data, every hour and when it is asked to: what is so, as rules judge it, into the register. Clause 6.1."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from api.services import Backend
from domain.errors import VitalgridError
from domain.instants import DAY_US
from domain.risks import Facts, Posture, evaluate
from runtime.access_counts import Counted, count_accesses
from runtime.sql import risk_facts, risks
from runtime.sql.records import by_platform

logger = logging.getLogger(__name__)

_EVERY_S: Final = 3600.0
_FIRST_S: Final = 60.0  # a start has more urgent work
_WINDOW_DAYS: Final = 7
_WHERE_THEY_WORK: Final = ZoneInfo("Asia/Shanghai")


async def watch_risks(backend: Backend) -> None:
    """Look for ever."""
    await asyncio.sleep(_FIRST_S)
    while True:
        await look_for_risks(backend)
        await asyncio.sleep(_EVERY_S)


async def look_for_risks(backend: Backend) -> int:
    """Look now; how many entries of the register are others than before. Raises Unavailable."""
    services = backend.services
    now_us = services.clock.now_us()
    since_us = now_us - _WINDOW_DAYS * DAY_US
    known = await backend.read(risk_facts.known, backend.engine, now_us=now_us, since_us=since_us, days=services.periods.days)
    counted = await _accesses(backend, since_us)
    facts = Facts(
        now_us, services.posture or Posture(), known.accounts, known.tokens, known.exports, known.last_backup_us,
        counted and counted.accesses, _WINDOW_DAYS, known.devices, known.overdue, known.notices,
        counted and counted.reached_us, counted and counted.by_tokens,
    )  # fmt: skip
    found, judged = evaluate(facts)
    return await backend.write(risks.bring_in, backend.engine, by_platform("rules", now_us), found, judged)


async def _accesses(backend: Backend, since_us: int) -> Counted | None:
    """None while the log cannot be read: then nothing is said about it, and nothing closed."""
    try:
        return await backend.lanes.codec(count_accesses, backend.services.log.folder, since_us, _WINDOW_DAYS, _local)
    except VitalgridError as error:
        logger.warning("accesses cannot be counted for the register of risks: %s", error)
        return None


def _local(instant: datetime) -> datetime:
    return instant.astimezone(_WHERE_THEY_WORK)
