"""A million live devices in the cells of sixteen shards: memory, registration, a round of readings, snapshots, restore.

    python benchmarks/bench_million.py            1,000,000 devices of four channels
    python benchmarks/bench_million.py --quick    20,000, as in CI

What hosts keep in memory for their devices, without the processes around it: what is resident more than before, over the
number of devices. Every channel has delivered once. Clauses 7.3, 7.4b.
"""

from __future__ import annotations

import gc
import time

import numpy as np
import psutil

from actors.shard import ShardCell
from benchmarks.measure import Bench
from domain.messages import DevicesRegistered
from domain.readings import ReadingBatch
from domain.thing_catalogue import thing_model

SHARDS = 16
MODEL = thing_model("fridge")
AT_ONCE = 5_000
T0_US = 1_790_000_000_000_000


def registered(shard: int, first: int, count: int) -> ShardCell:
    """A cell with devices on handles `first`…, told of as a bulk registration tells."""
    cell = ShardCell(shard)
    for start in range(first, first + count, AT_ONCE):
        handles = list(range(start, min(start + AT_ONCE, first + count)))
        wards: list[str | None] = [f"ward-{handle % 50:02}" for handle in handles]
        beds: list[str | None] = [None] * len(handles)
        names = [f"fridge-{handle:07}" for handle in handles]
        cell.apply_control(DevicesRegistered(f"sz.h{shard:03}", handles, names, [MODEL.id] * len(handles), wards, beds), T0_US)
    return cell


def everybody_speaks(cell: ShardCell, first: int, count: int) -> None:
    """One reading of every channel."""
    metrics = np.array(list(MODEL.by_metric), dtype=np.uint16)
    for start in range(first, first + count, AT_ONCE):
        handle = np.repeat(np.arange(start, min(start + AT_ONCE, first + count)), len(metrics))
        number = np.arange(len(handle)) % len(metrics)
        batch = ReadingBatch.of(
            handle=handle, metric=metrics[number], time_us=T0_US, value=np.where(number == 0, 4.0, 1.0),
            source=handle, sequence=number + 1,
        )  # fmt: skip
        cell.step(batch, np.full(len(handle), T0_US + 50_000))


def main() -> None:
    bench = Bench("million")
    each = (20_000 if bench.quick else 1_000_000) // SHARDS
    devices, process = each * SHARDS, psutil.Process()
    gc.collect()
    before = process.memory_info().rss
    began = time.perf_counter()
    cells = [registered(shard, 1 + shard * each, each) for shard in range(SHARDS)]
    bench.note(f"{devices:,} devices registered", devices / (time.perf_counter() - began), "devices/s")
    began = time.perf_counter()
    for shard, cell in enumerate(cells):
        everybody_speaks(cell, 1 + shard * each, each)
    channels = sum(cell.channel_count for cell in cells)
    bench.note(f"a reading on each of {channels:,} channels", channels / (time.perf_counter() - began), "readings/s")
    gc.collect()
    bench.note("resident", (process.memory_info().rss - before) / devices, "bytes a device", "≤ 1,000", "≤ 300")
    began = time.perf_counter()
    snapshots = [cell.snapshot() for cell in cells]
    bench.note("snapshot of all", time.perf_counter() - began, "s")
    bench.note("its size", sum(table.nbytes for tables in snapshots for table in tables.values()) / devices, "bytes a device")
    began = time.perf_counter()
    for shard, tables in enumerate(snapshots):
        cells[shard] = ShardCell(shard)
        cells[shard].restore(tables)
    bench.note("restore of all", time.perf_counter() - began, "s")
    bench.finish()


if __name__ == "__main__":
    main()
