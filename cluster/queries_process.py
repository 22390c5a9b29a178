"""The process of large questions to the readings: see `runtime.large_questions`. Started by `cluster.platform`.

It takes half of the processors at most: the other half answers small questions and raises alarms meanwhile.
"""

from __future__ import annotations

import asyncio
import os

os.environ.setdefault("POLARS_MAX_THREADS", str(max(1, (os.cpu_count() or 1) // 2)))  # read when Polars is imported

import uvloop

from cluster.connection import Connection
from cluster.processes import tell_ready, until_ended
from cluster.sealing import file_seal
from domain import bus_rights, subjects
from runtime.bus import Bus
from runtime.garbage import look_seldom
from runtime.lake import Lake
from runtime.large_questions import LargeQuestions
from runtime.log import configure_logging
from runtime.priority import share_finely
from runtime.reading_store import ReadingStore
from runtime.settings import Settings
from runtime.tasks import end


async def main() -> None:
    """Answer until asked to end."""
    share_finely()
    settings = Settings()
    configure_logging(settings.log_level, settings.log_format)
    connection = Connection.load(settings.data_dir)
    bus = await Bus.connect(connection.nats_url, connection.bus_key(bus_rights.QUERIES), "queries")
    lake = await asyncio.to_thread(Lake, settings.lake_dir, file_seal(settings))
    store = ReadingStore(lake, bus, range(settings.shards))
    await bus.answer(subjects.LARGE_QUESTIONS, LargeQuestions(store).answer)
    look_seldom()
    tell_ready()
    ahead = asyncio.create_task(store.look_ahead(), name="look ahead")
    await until_ended()
    await end(ahead)
    await bus.close()


if __name__ == "__main__":
    uvloop.run(main())
