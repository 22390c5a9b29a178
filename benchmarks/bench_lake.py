"""The lake: rows/s committed, bytes a reading, merging, and how long questions take. Clauses 7.1a-c, 7.4a, 7.4b.

    python benchmarks/bench_lake.py            10 million readings of each kind, a few minutes
    python benchmarks/bench_lake.py --quick    200 thousand, as in CI

Two kinds of synthetic vital signs: `regular` (one reading a second, on the second) and `jittered` (device clocks of
microseconds); `sealed` is `regular` in files sealed with SM4-GCM. Commits are as a host makes them: two seconds of all
devices, fsynced. Questions are asked after merging.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa

from benchmarks.measure import Bench, seconds_each
from domain.readings import ReadingBatch
from runtime.key_provider import provider_in
from runtime.keys import make_missing
from runtime.lake import Advance, Lake, ReadingQuery, lake_rows
from runtime.lake_upkeep import compact, stats
from runtime.sealed_file import KEY, FileSeal

START_US = 1_790_000_000_000_000
METRICS = (1, 3, 4, 9)  # heart rate, respiration, SpO2, systolic pressure
DEVICES = 2_000
HOSPITALS = 10
COMMIT_S = 2
ROW_BYTES = 4 + 1 + 2 + 8 + 8 + 2 + 4 + 8 + 8 + 2 + 8  # as columns in memory, without the hospital


def vital_signs(second: int, *, is_jittered: bool, random: np.random.Generator) -> pa.Table:
    """Two seconds of every device: slow waves with noise, rounded as a monitor shows them."""
    handle, metric, at_s = (
        grid.ravel()
        for grid in np.meshgrid(np.arange(1, DEVICES + 1), np.array(METRICS), second + np.arange(COMMIT_S), indexing="ij")
    )
    value = np.round(80 + metric + 8 * np.sin(at_s / 120 + handle) + random.normal(0, 1, len(handle)))
    time_us = START_US + at_s * 1_000_000
    if is_jittered:
        time_us = time_us + handle * 37 % 1_000_000 + random.integers(0, 5_000, len(handle))
    frame_us = np.maximum.reduceat(time_us, np.arange(0, len(time_us), COMMIT_S * len(METRICS)))
    arrival_us = np.repeat(frame_us // 4_000 * 4_000 + 12_000, COMMIT_S * len(METRICS))  # group commits of 4 ms
    batch = ReadingBatch.of(handle=handle, metric=metric, time_us=time_us, value=value, sequence=at_s + 1)
    names = pa.array([f"sz.h{number:03d}" for number in range(HOSPITALS)])
    hospital = pa.DictionaryArray.from_arrays(pa.array(handle * HOSPITALS // (DEVICES + 1), pa.int32()), names)
    return lake_rows(batch, arrival_us, hospital)


def fill(bench: Bench, lake: Lake, kind: str, rows: int) -> None:
    """Commit `rows` readings; only the commits are timed, not the making of the rows."""
    random = np.random.default_rng(1)
    taken_s: list[float] = []
    held = 0
    while held < rows:
        table = vital_signs(len(taken_s) * COMMIT_S, is_jittered=kind == "jittered", random=random)
        started = time.perf_counter()
        lake.commit(table, {0: Advance(len(taken_s), len(taken_s) + 1, 1)})
        taken_s.append(time.perf_counter() - started)
        held += len(table)
    written = stats(lake)
    bench.note(f"{kind}: committed", held / sum(taken_s), "readings/s")
    bench.note(f"{kind}: commit of {len(table)}, p50", 1000 * median(taken_s), "ms")
    bench.note(f"{kind}: commit of {len(table)}, p99", 1000 * float(np.quantile(taken_s, 0.99)), "ms")
    bench.note(f"{kind}: as committed", written.size_bytes / written.rows, "bytes/reading")


def merge(bench: Bench, lake: Lake, kind: str) -> None:
    started = time.perf_counter()
    merged_files = compact(lake, START_US)
    taken_s = time.perf_counter() - started
    held = stats(lake)
    bench.note(f"{kind}: {merged_files} files merged into {held.files}", held.rows / taken_s, "readings/s")
    bench.note(f"{kind}: merged", held.size_bytes / held.rows, "bytes/reading", "≤ 3", "≤ 1.5")
    bench.note(f"{kind}: compression of {ROW_BYTES} bytes in memory", ROW_BYTES * held.rows / held.size_bytes, ": 1")


def questions(last_us: int) -> dict[str, Callable[[Lake], object]]:
    """By clause 7.1: a is clear and small, b many and fuzzy, c several at once."""
    minute = {"from_us": last_us - 60_000_000, "until_us": last_us}
    hour = {"from_us": last_us - 3_600_000_000, "until_us": last_us}
    point = ReadingQuery(handles=[DEVICES // 2], metrics=[1], **minute)
    ward = ReadingQuery(handles=list(range(100, 130)), **hour)
    threshold = ReadingQuery(metrics=[1], value_above=92.0, limit=1000, **hour)
    hospital = ReadingQuery(hospitals=["sz.h004"], metrics=[1], **hour)
    return {
        "one channel, a minute (7.1a)": lambda lake: lake.read(point),
        "30 devices, an hour (7.1a)": lambda lake: lake.read(ward),
        "first 1000 of everything (7.1b)": lambda lake: lake.read(ReadingQuery(limit=1000)),
        "threshold, an hour (7.1b)": lambda lake: lake.read(threshold),
        "hospital by minute (7.1b)": lambda lake: lake.buckets(hospital, 60_000_000),
        "fleet by hour (7.1b)": lambda lake: lake.fleet(ReadingQuery()),
        "three complex at once (7.1c)": lambda lake: [
            lake.read(threshold), lake.buckets(hospital, 60_000_000), lake.fleet(ReadingQuery()),
        ],
    }  # fmt: skip


def ask(bench: Bench, lake: Lake, kind: str) -> None:
    last_us = int(lake.state().files["max.time_us"].max()) + 1
    for name, question in questions(last_us).items():
        bench.note(f"{kind}: {name}", 1000 * seconds_each(lambda ask=question: ask(lake), bench.seconds), "ms")


def new_seal(keys_dir: Path) -> FileSeal:
    keys = provider_in(keys_dir)
    make_missing(keys, [KEY])
    return FileSeal(keys)


def main() -> None:
    bench = Bench("lake")
    for kind in ("regular", "jittered", "sealed"):
        with tempfile.TemporaryDirectory(prefix="bench-lake-") as folder:
            lake = Lake(Path(folder) / "readings", new_seal(Path(folder) / "keys") if kind == "sealed" else None)
            fill(bench, lake, kind, 200_000 if bench.quick else 10_000_000)
            merge(bench, lake, kind)
            ask(bench, lake, kind)
    bench.finish()


if __name__ == "__main__":
    main()
