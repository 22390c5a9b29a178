"""Rows for tests and benchmarks of the lake: small, seeded, and easy to tell apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from domain.readings import ReadingBatch
from runtime.keys import make_missing
from runtime.lake import lake_rows
from runtime.sealed_file import FileSeal
from runtime.soft_keys import SoftKeys

START_US = 1_790_000_000_000_000  # 2026-09-21T14:13:20Z
DAY_US = 86_400_000_000


def hospitals_of(handle: np.ndarray) -> pa.Array:
    """Handles 1-99 lie in sz.h000, 100-199 in sz.h001, …"""
    names = pa.array([f"sz.h{number:03d}" for number in range(int(handle.max(initial=0)) // 100 + 1)])
    return pa.DictionaryArray.from_arrays(pa.array(handle // 100, pa.int32()), names)


def sample_batch(count: int, *, seed: int = 0, start_us: int = START_US, span_us: int = 60_000_000, devices: int = 300):
    """Readings of random devices and metrics 1 to 9 over `span_us`; sequences run, so that no two are equal."""
    random = np.random.default_rng(seed)
    return ReadingBatch.of(
        handle=random.integers(1, devices + 1, count),
        metric=random.integers(1, 10, count),
        time_us=start_us + random.integers(0, span_us, count),
        value=np.round(random.normal(80, 10, count)),
        sequence=np.arange(1, count + 1) + seed * 1_000_000,
    )


def rows_of(batch: ReadingBatch, delay_us: int = 500) -> pa.Table:
    """As a host hands them to the lake."""
    return lake_rows(batch, batch.time_us + delay_us, hospitals_of(batch.handle))


def sample_rows(count: int, **options: int) -> pa.Table:
    return rows_of(sample_batch(count, **options))


def as_set(frame: pl.DataFrame) -> set[tuple[object, ...]]:
    """Rows by what identifies them in these samples."""
    return set(frame.select("handle", "metric", "time_us", "sequence").iter_rows())


def sample_seal(folder: Path, *, writes: bool = True) -> FileSeal:
    """A seal with keys in `folder`, made if there are none."""
    keys = SoftKeys(folder)
    make_missing(keys, ["lake"])
    return FileSeal(keys, writes=writes)


def table_set(table: pa.Table) -> set[tuple[object, ...]]:
    return as_set(pl.DataFrame(table))
