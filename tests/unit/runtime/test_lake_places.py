"""Where rows of the lake lie, and by which commit they came."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from domain.readings import ReadingBatch
from runtime.lake import Advance, Lake, ReadingQuery, lake_rows
from runtime.lake_places import PLACED, commit_of, placed_rows
from runtime.lake_upkeep import compact

pytestmark = pytest.mark.clause("9.2a")
NOW_US = 1_795_420_800_000_000


def rows(handle: int, sequence: int, time_us: int) -> pa.Table:
    batch = ReadingBatch.of(handle=handle, metric=1, time_us=time_us, value=71.25, sequence=sequence)
    return lake_rows(batch, np.array([time_us + 5]), pa.array(["sz.h001"]).dictionary_encode())


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(tmp_path / "lake", writer="host-2")
    lake.claim(3, 7)
    for n in range(1, 5):
        lake.commit(rows(10 + n, n, NOW_US + n), {3: Advance(10 * (n - 1), 10 * n, 7)})
    return lake


def test_a_row_is_found_with_its_file_and_without_its_value(lake: Lake) -> None:
    found = placed_rows(lake, ReadingQuery(handles=[12], metrics=[1], from_us=NOW_US, until_us=NOW_US + 9))
    assert dict(found.rows.schema) == PLACED
    assert "value" not in found.rows.columns
    assert (found.rows["sequence"].to_list(), found.is_cut) == ([2], False)
    assert (lake.path / found.rows["file"][0]).exists()
    assert found.version == lake.positions().version


def test_nobodys_rows_are_in_no_file(lake: Lake) -> None:
    found = placed_rows(lake, ReadingQuery(handles=[99], from_us=NOW_US, until_us=NOW_US + 9))
    assert (len(found.rows), found.is_cut) == (0, False)


def test_a_message_is_found_by_the_commit_that_reached_it(lake: Lake) -> None:
    for sequence, position in ((1, 10), (10, 10), (11, 20), (40, 40)):
        found = commit_of(lake.path, 0, shard=3, sequence=sequence)
        assert found is not None
        assert (found.shard, found.position, found.epoch, found.writer) == (3, position, 7, "host-2")
    assert commit_of(lake.path, 0, shard=3, sequence=41) is None
    assert commit_of(lake.path, 0, shard=4, sequence=1) is None


def test_a_file_is_found_by_the_commit_that_brought_it(lake: Lake) -> None:
    file = placed_rows(lake, ReadingQuery(handles=[13])).rows["file"][0]
    found = commit_of(lake.path, 0, file=file)
    assert found is not None
    assert (found.position, found.writer) == (30, "host-2")


def test_merging_moves_rows_and_is_no_commit_of_a_host(lake: Lake) -> None:
    before = placed_rows(lake, ReadingQuery(handles=[13])).rows["file"][0]
    assert compact(lake, NOW_US + 10 * 86_400_000_000, min_files=2) > 0
    merged = placed_rows(lake, ReadingQuery(handles=[13]))
    assert (len(merged.rows), merged.rows["file"][0] == before) == (1, False)
    assert commit_of(lake.path, 0, file=merged.rows["file"][0]) is None
    assert commit_of(lake.path, 0, shard=3, sequence=25) is not None


def test_what_the_log_has_no_more_is_not_known(lake: Lake) -> None:
    log = lake.path / "_delta_log"
    for entry in sorted(log.glob("*.json"))[:4]:
        entry.unlink()
    assert commit_of(lake.path, 0, shard=3, sequence=1) is None  # the first that is left may not have been the first
    assert commit_of(lake.path, 0, shard=3, sequence=40) is not None
