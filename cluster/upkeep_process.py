"""The lake's upkeep: merging small files, retention, deletion. A process of its own, behind everything else.

Merging a minute's files costs seconds of processor, which the readings and answers of that moment need more.
Started by `cluster.platform`.
"""

from __future__ import annotations

import asyncio
import os

from cluster.processes import tell_ready, until_ended
from cluster.sealing import file_seal
from runtime.clock import SystemClock
from runtime.lake import Lake
from runtime.lake_upkeep import LakeUpkeep
from runtime.log import configure_logging
from runtime.priority import stay_behind
from runtime.settings import Settings


async def main() -> None:
    """Keep the lake until asked to end."""
    settings = Settings()
    configure_logging(settings.log_level, settings.log_format)
    stay_behind()
    lake = Lake(settings.lake_dir, file_seal(settings))
    upkeep = asyncio.create_task(LakeUpkeep(lake, settings.lake, SystemClock(), settings.storage.reserve_bytes).run())
    tell_ready()
    await until_ended()
    upkeep.cancel()
    os._exit(0)  # a merge in the middle of its work is not waited for: what is not committed is swept up later


if __name__ == "__main__":
    asyncio.run(main())
