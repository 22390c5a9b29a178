"""Lake upkeep in the background of `vitalgrid up`: compaction, retention, removal of files nobody needs."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from domain.ports import Clock
from runtime.lake import Lake
from runtime.lake_upkeep import compact, expire, vacuum
from runtime.settings import LakeSettings

logger = logging.getLogger(__name__)

_DAILY_S: Final = 86_400.0


async def keep_lake(lake: Lake, settings: LakeSettings, clock: Clock) -> None:
    """Compact at the interval of the settings; expire and vacuum once a day. Runs until cancelled.

    A failure is logged and the next round tries again: upkeep changes no row, so nothing waits for it.
    """
    loop = asyncio.get_running_loop()
    next_expiry_s = loop.time()
    while True:
        await asyncio.sleep(settings.compaction_interval_s)
        try:
            merged = await asyncio.to_thread(compact, lake, clock.now_us())
            if loop.time() >= next_expiry_s:
                expired = await asyncio.to_thread(expire, lake, settings.retention_days, clock.now_us())
                deleted = await asyncio.to_thread(vacuum, lake)
                logger.info("lake swept", extra={"expired_rows": expired, "deleted_files": deleted})
                next_expiry_s = loop.time() + _DAILY_S
        except Exception:  # a full disk, a busy table: the lake stays right, only larger
            logger.exception("lake upkeep failed; it is tried again")
        else:
            logger.debug("lake compacted", extra={"merged_files": merged})
