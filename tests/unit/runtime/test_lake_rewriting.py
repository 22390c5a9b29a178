"""Rows leave the lake by handle, and days that are over, but for what is held. Clause 9.3h."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from domain.erasures import HeldReadings
from runtime import lake_rewriting
from runtime.lake import Advance, Lake, ReadingQuery
from runtime.lake_rewriting import SeenFiles, count_overdue, drop_handle, expire_but
from runtime.lake_upkeep import compact, roll_up, vacuum
from tests.lake_samples import DAY_US, START_US, as_set, sample_rows, sample_seal

pytestmark = pytest.mark.clause("9.3h")
ALL = ReadingQuery()
LATER_US = START_US + 9 * DAY_US


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    made = Lake(tmp_path)
    fill(made)
    return made


def fill(lake: Lake) -> None:
    for minute in range(6):
        rows = sample_rows(200, seed=minute, start_us=START_US + minute * 60_000_000, devices=300)
        lake.commit(rows, {0: Advance(minute, minute + 1, 1)})


def test_all_rows_of_a_handle_leave_and_no_others(lake: Lake) -> None:
    before = lake.read(ALL)
    mine = before.filter(pl.col("handle") == 142)
    assert len(mine) > 0
    assert list(drop_handle(lake, "sz.h000", 142)) == []  # of another hospital
    assert sum(drop_handle(lake, "sz.h001", 142)) == len(mine)
    assert lake.read(ALL).equals(before.filter(pl.col("handle") != 142))
    assert list(drop_handle(lake, "sz.h001", 142)) == []
    assert lake.positions().positions == {0: 6}
    compact(lake, LATER_US)
    assert as_set(lake.read(ALL)) == as_set(before.filter(pl.col("handle") != 142))


def test_no_file_has_them_once_old_versions_are_gone(lake: Lake) -> None:
    compact(lake, LATER_US)
    roll_up(lake, least_rows=1)
    list(drop_handle(lake, "sz.h001", 142))
    vacuum(lake, 0)
    for path in lake.path.rglob("*.parquet"):
        frame = pl.read_parquet(path, hive_partitioning=False)
        if "handle" in frame.columns:
            assert 142 not in frame["handle"].to_list(), path


def test_a_merge_meanwhile_neither_brings_them_back_nor_loses_others(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    before = lake.read(ALL)
    written = lake_rewriting._written_without

    def merged_meanwhile(*args: object) -> object:
        monkeypatch.setattr(lake_rewriting, "_written_without", written)
        file = written(*args)  # type: ignore[arg-type]
        compact(lake, LATER_US)
        return file

    monkeypatch.setattr(lake_rewriting, "_written_without", merged_meanwhile)
    list(drop_handle(lake, "sz.h001", 142))
    assert as_set(lake.read(ALL)) == as_set(before.filter(pl.col("handle") != 142))


def test_a_lake_that_other_upkeep_never_leaves_alone_is_looked_through_to_its_end(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = lake.read(ALL)
    count, reads = lake_rewriting._count, list[str]()

    def counted_meanwhile(lake: Lake, path: str, which: pl.Expr) -> int:
        reads.append(path)
        found = count(lake, path, which)
        assert lake.commit_upkeep(lake.state(), [])
        return found

    monkeypatch.setattr(lake_rewriting, "_count", counted_meanwhile)
    taken = list(drop_handle(lake, "sz.h001", 142))
    assert sum(taken) == before.filter(pl.col("handle") == 142).height
    assert 6 <= len(reads) == len({*reads}) <= 6 + len(taken)  # each file once, and what was written in its place
    assert as_set(lake.read(ALL)) == as_set(before.filter(pl.col("handle") != 142))


def test_a_sealed_lake_says_nothing_of_its_files_and_is_rewritten_too(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "sealed", sample_seal(tmp_path / "keys"))
    fill(lake)
    before = lake.read(ALL)
    assert sum(drop_handle(lake, "sz.h001", 142)) == before.filter(pl.col("handle") == 142).height
    assert as_set(lake.read(ALL)) == as_set(before.filter(pl.col("handle") != 142))


@pytest.mark.parametrize("kept", [HeldReadings(frozenset({"sz.h001"})), HeldReadings(handles=frozenset({142, 250}))])
def test_days_that_are_over_leave_but_for_what_is_held(lake: Lake, kept: HeldReadings) -> None:
    before = lake.read(ALL)
    held = before.filter(pl.col("hospital").cast(pl.String).is_in(kept.hospitals) | pl.col("handle").is_in(kept.handles))
    assert 0 < len(held) < len(before)
    assert expire_but(lake, 30, LATER_US, kept, SeenFiles()) == 0
    assert count_overdue(lake, 3, LATER_US, kept) == len(before) - len(held)
    assert expire_but(lake, 3, LATER_US, kept, SeenFiles()) == len(before) - len(held)
    assert as_set(lake.read(ALL)) == as_set(held)
    version = lake.positions().version
    assert expire_but(lake, 3, LATER_US, kept, SeenFiles()) == 0
    assert lake.positions().version == version


def test_a_file_with_nothing_but_what_is_held_is_read_once_until_something_else_is_held(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    count = lake_rewriting._count

    def counted(lake: Lake, path: str, which: pl.Expr) -> int:
        reads.append(path)
        return count(lake, path, which)

    monkeypatch.setattr(lake_rewriting, "_count", counted)
    held, fewer, seen = HeldReadings(handles=frozenset({142, 250})), HeldReadings(handles=frozenset({142})), SeenFiles()
    assert expire_but(lake, 3, LATER_US, held, seen) > 0
    expire_but(lake, 3, LATER_US, held, seen)  # what was written without the others
    reads.clear()
    assert expire_but(lake, 3, LATER_US, held, seen) == 0
    assert reads == []
    assert expire_but(lake, 3, LATER_US, fewer, seen) > 0
    assert reads
