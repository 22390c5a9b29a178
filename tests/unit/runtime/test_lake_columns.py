"""A lake that an older version wrote: it opens, reads and grows, and what its rows lack reads as no correction."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake

from runtime.lake import Advance, Lake, ReadingQuery, lake_rows
from runtime.lake_schema import ADDED_LATER, HOUR_US, TABLE_SCHEMA
from runtime.lake_stored import to_stored
from runtime.lake_upkeep import compact, stats
from tests.lake_samples import DAY_US, START_US, as_set, hospitals_of, rows_of, sample_batch

OLD = pa.schema([field for field in TABLE_SCHEMA if field.name not in ADDED_LATER])
ALL = ReadingQuery()


def an_old_table(path: Path, files: int = 1) -> pl.DataFrame:
    """A table without the columns of clocks; returns its rows as they were handed in."""
    DeltaTable.create(path, OLD, partition_by=["day"], name="readings")
    written = []
    for number in range(files):
        rows = rows_of(sample_batch(50, seed=number))
        stored = to_stored(rows).with_columns(pl.col("hospital").cast(pl.String)).select(OLD.names)
        told = CommitProperties(app_transactions=[Transaction("shard-0", number + 1), Transaction("epoch-0", 1)])
        write_deltalake(path, stored.to_arrow().cast(OLD), mode="append", commit_properties=told)
        written.append(pl.DataFrame(rows))
    return pl.concat(written)


def corrected(count: int, offset_us: int) -> pa.Table:
    batch = sample_batch(count, seed=99)
    return lake_rows(batch, batch.time_us + 500, hospitals_of(batch.handle), offset_us, 2_000_000)


def test_an_old_table_gets_the_columns_when_it_is_opened_and_its_rows_read_as_not_corrected(tmp_path: Path) -> None:
    old = an_old_table(tmp_path)
    lake = Lake(tmp_path)
    found = lake.read(ALL)
    assert as_set(found) == as_set(old)
    assert found.columns[-2:] == list(ADDED_LATER)
    assert found.select(pl.col(ADDED_LATER).sum()).row(0) == (0, 0)
    assert set(ADDED_LATER) <= {field.name for field in DeltaTable(tmp_path).schema().fields}
    assert lake.positions().positions == {0: 1}
    assert lake.positions().epochs == {0: 1}


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    an_old_table(tmp_path)
    assert Lake(tmp_path).positions() == Lake(tmp_path).positions()


def test_what_is_added_to_an_old_table_keeps_its_correction_beside_old_rows(tmp_path: Path) -> None:
    old = an_old_table(tmp_path)
    lake = Lake(tmp_path)
    lake.commit(corrected(40, -120_000_000), {0: Advance(1, 2, 1)})
    found = Lake(tmp_path).read(ALL)
    assert len(found) == len(old) + 40
    assert found.filter(pl.col("clock_offset_us") == -120_000_000)["sequence"].n_unique() == 40
    assert found["clock_uncertainty_us"].sum() == 40 * 2_000_000
    assert lake.buckets(ALL, HOUR_US)["count"].sum() == len(found)


def test_a_process_that_opened_the_lake_before_goes_on_writing_and_reading(tmp_path: Path) -> None:
    an_old_table(tmp_path)
    opened_before = DeltaTable(tmp_path)
    lake = Lake(tmp_path)
    version = opened_before.version()
    opened_before.update_incremental()
    assert opened_before.version() == version + 1  # the columns alone: no file was rewritten
    lake.commit(corrected(10, 5), {0: Advance(1, 2, 1)})
    assert len(lake.read(ALL)) == 60
    assert len(lake.read(ALL, version=version)) == 50


@pytest.mark.parametrize("old_files", [3])
def test_old_and_new_files_are_merged_into_one(tmp_path: Path, old_files: int) -> None:
    old = an_old_table(tmp_path, files=old_files)
    lake = Lake(tmp_path)
    lake.commit(corrected(40, 7), {0: Advance(old_files, old_files + 1, 1)})
    before = lake.read(ALL)
    assert compact(lake, START_US + 2 * DAY_US) == old_files + 1
    assert stats(lake).files == 1
    assert lake.read(ALL).equals(before)
    assert before["clock_offset_us"].sum() == 7 * 40
    assert len(before) == len(old) + 40
