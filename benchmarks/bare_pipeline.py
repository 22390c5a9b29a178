"""The limit that the reading path is measured against: the same frames, and nothing but what nobody can leave out.

    python benchmarks/bare_pipeline.py [--quick]

A nats-server that fsyncs every message; one publisher that waits for its acknowledgements; one consumer, a process of
its own, that checks and decodes each frame, writes the newest values into arrays and all rows, sorted, into Parquet on
disk. No identities, no rules, no duplicates, no exactly-once, no queries. `bench_throughput.py` prints the platform's
figure beside this one's, from the same run, as a ratio.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from benchmarks.frames_load import READINGS_A_FRAME, Sender, frames_of
from benchmarks.measure import Bench
from domain import subjects
from domain.frames import decode_frame
from domain.readings import ReadingBatch
from runtime.bus import Bus
from runtime.bus_access import TokenAccess
from runtime.durable import fsync
from runtime.follower import StreamMessage
from runtime.nats_server import NatsServer

IN_FLIGHT = 16
FILE_ROWS = 500_000
TOKEN = "bare"
REPOSITORY = Path(__file__).resolve().parent.parent
METRICS = 64  # the arrays hold one value for each handle and metric below this


async def carry(frames: Sequence[bytes], folder: Path) -> float:
    """Seconds from the first frame published until every row is in a file on disk."""
    server = NatsServer(folder / "nats", access=TokenAccess(TOKEN))
    url = await server.start()
    bus = await Bus.connect(url, TOKEN, "publisher")
    await bus.ensure_streams(max_stream_bytes=20 * 2**30, retention_s=3600, duplicate_window_s=120)
    consumer = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.bare_pipeline", "--consume", url, str(folder), str(len(frames)),
        stdout=subprocess.PIPE, cwd=REPOSITORY,
    )  # fmt: skip
    assert consumer.stdout is not None
    await consumer.stdout.readline()  # it follows the stream now
    began = time.perf_counter()
    room = asyncio.Semaphore(IN_FLIGHT)

    async def publish(number: int, frame: bytes) -> None:
        await bus.publish(subjects.reading(0), frame, f"bare-{number}")
        room.release()

    async with asyncio.TaskGroup() as group:
        for number, frame in enumerate(frames):
            await room.acquire()
            group.create_task(publish(number, frame))
    await consumer.stdout.readline()
    took_s = time.perf_counter() - began
    await consumer.wait()
    await bus.close()
    await server.stop()
    return took_s


async def consume(url: str, folder: Path, count: int) -> None:
    """Follow the stream until `count` frames are on disk; says so on stdout."""
    bus = await Bus.connect(url, TOKEN, "consumer")
    arrived: asyncio.Queue[StreamMessage] = asyncio.Queue()
    follower = await bus.follow(subjects.READINGS_STREAM, [subjects.reading(0)], 1, arrived.put_nowait)
    print("following", flush=True)
    values, times_us = np.zeros(0), np.zeros(0, np.int64)
    open_rows: list[ReadingBatch] = []
    writing: list[asyncio.Task[None]] = []
    for number in range(count):
        message = await arrived.get()
        readings = decode_frame(message.payload).readings
        at = readings.handle.astype(np.int64) * METRICS + readings.metric % METRICS
        if len(values) <= at.max():
            values, times_us = (np.resize(array, 2 * int(at.max()) + 1) for array in (values, times_us))
        values[at], times_us[at] = readings.value, readings.time_us
        open_rows.append(readings)
        if sum(map(len, open_rows)) >= FILE_ROWS or number == count - 1:
            batch, open_rows = ReadingBatch.concat(open_rows), []
            writing.append(asyncio.create_task(asyncio.to_thread(write, batch, folder / f"{number}.parquet")))
    await asyncio.gather(*writing)
    print("written", flush=True)
    await follower.stop()
    await bus.close()


def write(readings: ReadingBatch, path: Path) -> None:
    frame = pl.DataFrame(pa.Table.from_batches([readings.to_arrow()]))
    frame.sort("handle", "metric", "time_us").write_parquet(path, compression="zstd")
    fsync(path)


def readings_per_s(frames: Sequence[bytes]) -> float:
    """Carry the frames once, in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="bare-") as folder:
        return len(frames) * READINGS_A_FRAME / asyncio.run(carry(frames, Path(folder)))


def main() -> None:
    bench = Bench("bare-pipeline")
    seconds, gateways = (4, 4) if bench.quick else (40, 50)
    rng = np.random.default_rng(1)
    senders = [Sender("", 1 + n, range(10_000 + n * 500, 10_500 + n * 500)) for n in range(gateways)]
    by_sender = [frames_of(sender, seconds, 1_790_000_000_000_000, rng) for sender in senders]
    frames = [frame for second in zip(*by_sender, strict=True) for frame in second]
    bench.note(f"{len(frames)} frames of {READINGS_A_FRAME}", readings_per_s(frames), "readings/s")
    bench.note("size of a frame", len(frames[0]) / READINGS_A_FRAME, "bytes/reading")
    bench.finish()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--consume"]:
        asyncio.run(consume(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])))
    else:
        main()
