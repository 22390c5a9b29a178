"""Upkeep: merging the lake's small files, retention of everything, erasure of persons. A process of its own, behind all else.

Merging a minute's files costs seconds of processor, which the readings and answers of that moment need more.
Started by `cluster.platform`.
"""

from __future__ import annotations

import asyncio
import os
from functools import partial
from typing import Final

from cluster.first_start import sealer_of
from cluster.processes import tell_ready, until_ended
from cluster.sealing import file_seal
from runtime.clock import SystemClock
from runtime.erasure_certificates import certificate_signer
from runtime.erasure_job import ErasureJob, keep_erasing
from runtime.key_provider import provider_of
from runtime.lake import Lake
from runtime.lake_rewriting import SeenFiles
from runtime.lake_upkeep import LakeUpkeep
from runtime.log import configure_logging
from runtime.priority import stay_behind
from runtime.retention import Periods, expire_lake, keep_rules
from runtime.settings import Settings
from runtime.sql.engine import open_engine

_HOSTS_LAG_S: Final = 5.0  # behind the stream, while they keep up


async def main() -> None:
    """Keep the lake until asked to end."""
    settings = Settings()
    configure_logging(settings.log_level, settings.log_format)
    stay_behind()
    lake, clock = Lake(settings.lake_dir, file_seal(settings)), SystemClock()
    sealer = sealer_of(settings)
    engine = open_engine(settings.sql_url, sealer)
    signer = certificate_signer(provider_of(settings), settings.audit_origin)
    job = ErasureJob(
        engine, lake, settings.audit_dir, sealer.data_keys, signer, clock, settings.bus.stream_retention_h,
        2 * settings.lake.flush_interval_s + _HOSTS_LAG_S, settings.lake.retention_days,
    )  # fmt: skip
    rules, periods = settings.retention, Periods.of(settings.retention, settings.lake)
    by_holds = partial(expire_lake, engine, SeenFiles())
    tasks = [
        asyncio.create_task(LakeUpkeep(lake, settings.lake, clock, settings.storage.reserve_bytes, by_holds).run()),
        asyncio.create_task(keep_rules(engine, clock, periods, rules.round_every_s)),
        asyncio.create_task(keep_erasing(job, rules.look_every_s)),
    ]
    tell_ready()
    await until_ended()
    for task in tasks:
        task.cancel()
    os._exit(0)  # a merge in the middle of its work is not waited for: what is not committed is swept up later


if __name__ == "__main__":
    asyncio.run(main())
