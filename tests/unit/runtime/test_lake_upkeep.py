"""Upkeep of the lake: merging, retention and deletion, beside writers and readers."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest

from domain.errors import NotFound
from runtime import lake_upkeep
from runtime.clock import ManualClock
from runtime.lake import Advance, Lake, ReadingQuery
from runtime.lake_upkeep import LakeUpkeep, compact, expire, stats, vacuum
from runtime.setting_sections import LakeSettings
from tests.lake_samples import DAY_US, START_US, as_set, sample_rows, table_set
from tests.waiting import until

ALL = ReadingQuery()
TODAY_US = START_US
A_WEEK_LATER_US = START_US + 7 * DAY_US


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


def commit_minutes(lake: Lake, minutes: range, *, shard: int = 0, rows: int = 100) -> None:
    for minute in minutes:
        start_us = START_US + minute * 60_000_000
        table = sample_rows(rows, seed=shard * 1000 + minute, start_us=start_us)
        lake.commit(table, {shard: Advance(minute, minute + 1, 1)})


def data_files(lake: Lake) -> list[Path]:
    return list(lake.path.glob("day=*/*.parquet"))


@pytest.mark.clause("7.4b")
def test_small_files_become_one_sorted_file_of_the_same_rows(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lake_upkeep, "CHUNK_ROWS", 130)  # several chunks, and hospitals cut in two
    commit_minutes(lake, range(10))
    before = lake.read(ALL)
    assert compact(lake, TODAY_US) == 10
    assert lake.read(ALL).equals(before)
    (path,) = lake.state().files["path"]
    stored = pl.read_parquet(lake.path / path, hive_partitioning=False)
    assert stored.select("hospital", "handle", "metric", "time_us").equals(
        stored.select("hospital", "handle", "metric", "time_us").sort(pl.all())
    )
    assert lake.positions().positions == {0: 10}


def test_merging_again_finds_nothing_to_do(lake: Lake) -> None:
    commit_minutes(lake, range(10))
    compact(lake, TODAY_US)
    version = lake.positions().version
    assert compact(lake, TODAY_US) == 0
    assert compact(lake, A_WEEK_LATER_US) == 0
    assert lake.positions().version == version


def test_a_growing_day_waits_for_enough_files_and_a_past_day_does_not(lake: Lake) -> None:
    commit_minutes(lake, range(5))
    assert compact(lake, TODAY_US) == 0
    assert compact(lake, A_WEEK_LATER_US) == 5


def test_a_large_file_is_not_rewritten_for_a_little_more(lake: Lake) -> None:
    lake.commit(sample_rows(5000), {0: Advance(0, 1, 1)})
    commit_minutes(lake, range(10), shard=1)
    assert compact(lake, TODAY_US) == 10
    assert sorted(lake.state().files["rows"]) == [1000, 5000]
    commit_minutes(lake, range(10, 20), shard=1)
    assert compact(lake, TODAY_US) == 12  # now they amount to something beside it
    assert lake.state().files["rows"].to_list() == [7000]


def test_no_file_grows_beyond_the_target(lake: Lake) -> None:
    commit_minutes(lake, range(10))
    compact(lake, A_WEEK_LATER_US, target_rows=300)
    assert max(lake.state().files["rows"]) == 300
    assert len(lake.read(ALL)) == 1000


def test_a_version_from_before_a_merge_reads_the_same(lake: Lake) -> None:
    commit_minutes(lake, range(10))
    version = lake.positions().version
    before = lake.read(ALL)
    compact(lake, TODAY_US)
    assert lake.read(ALL, version=version).equals(before)


def test_merging_while_others_append_loses_and_doubles_nothing(lake: Lake) -> None:
    finished = threading.Event()

    def keep_merging() -> int:
        own, merged = Lake(lake.path), 0
        while not finished.is_set():
            merged += compact(own, TODAY_US, min_files=3)
        return merged

    def write(shard: int) -> None:
        commit_minutes(Lake(lake.path), range(25), shard=shard, rows=20)

    with ThreadPoolExecutor(4) as pool:
        mergers = [pool.submit(keep_merging) for _ in range(2)]  # two at once: each other's work is refused, not mixed
        try:
            list(pool.map(write, (0, 1)))
        finally:
            finished.set()
        merged = sum(merger.result() for merger in mergers)
    assert merged > 0
    found = lake.read(ALL)
    assert len(found) == 2 * 25 * 20
    assert found.select("handle", "metric", "time_us", "sequence").n_unique() == len(found)
    assert lake.positions().positions == {0: 25, 1: 25}


def test_a_merge_prepared_before_another_is_refused_and_cleans_up(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    commit_minutes(lake, range(10))
    rival = Lake(lake.path)
    write_file = lake_upkeep.write_file

    def write_slowly(*args: object, **options: object) -> object:
        monkeypatch.setattr(lake_upkeep, "write_file", write_file)
        file = write_file(*args, **options)
        assert compact(rival, TODAY_US) == 10
        return file

    monkeypatch.setattr(lake_upkeep, "write_file", write_slowly)
    assert compact(lake, TODAY_US) == 0
    assert len(lake.read(ALL)) == 1000
    assert len(data_files(lake)) == 11


@pytest.mark.clause("9.3h")
def test_whole_days_past_their_retention_leave_and_their_files_are_deleted(lake: Lake) -> None:
    for day in range(4):
        lake.commit(sample_rows(50, seed=day, start_us=START_US + day * DAY_US), {0: Advance(day, day + 1, 1)})
    now_us = START_US + 4 * DAY_US
    assert expire(lake, 2, now_us) == 100
    assert expire(lake, 2, now_us) == 0
    kept = set().union(*(table_set(sample_rows(50, seed=day, start_us=START_US + day * DAY_US)) for day in (2, 3)))
    assert as_set(lake.read(ALL)) == kept
    assert len(data_files(lake)) == 4
    assert vacuum(lake, retention_h=0) == 2
    assert len(data_files(lake)) == 2
    assert lake.positions().positions == {0: 4}


def test_retention_beside_an_append_keeps_the_appended_rows(lake: Lake) -> None:
    lake.commit(sample_rows(50, start_us=START_US - 9 * DAY_US), {0: Advance(0, 1, 1)})
    other = Lake(lake.path)
    state = other.state()
    lake.commit(sample_rows(50, seed=1), {0: Advance(1, 2, 1)})
    assert state.view.version < lake.positions().version
    assert expire(other, 3, TODAY_US) == 50
    assert as_set(lake.read(ALL)) == table_set(sample_rows(50, seed=1))


def test_vacuum_spares_what_kept_versions_need(lake: Lake) -> None:
    commit_minutes(lake, range(10))
    version = lake.positions().version
    compact(lake, TODAY_US)
    assert vacuum(lake) == 0
    assert len(lake.read(ALL, version=version)) == 1000


def test_vacuum_deletes_what_a_crashed_commit_left(lake: Lake) -> None:
    commit_minutes(lake, range(2))
    orphan = data_files(lake)[0].with_name("orphan.parquet")
    orphan.write_bytes(b"half a file")
    vacuum(lake, retention_h=0)
    assert not orphan.exists()
    assert len(lake.read(ALL)) == 200


def test_a_version_whose_files_are_deleted_is_not_found(lake: Lake) -> None:
    commit_minutes(lake, range(10))
    version = lake.positions().version
    compact(lake, TODAY_US)
    vacuum(lake, retention_h=0)
    with pytest.raises(NotFound, match="not kept any more"):
        lake.read(ALL, version=version)


def test_stats_tell_the_size_from_the_log(lake: Lake) -> None:
    assert stats(lake).first_day is None
    commit_minutes(lake, range(3))
    told = stats(lake)
    assert (told.rows, told.files, str(told.first_day)) == (300, 3, "2026-09-21")
    assert told.size_bytes == sum(path.stat().st_size for path in data_files(lake))


def test_the_background_round_merges_expires_and_deletes_once_an_hour(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.commit(sample_rows(50, start_us=START_US - 9 * DAY_US), {1: Advance(0, 1, 1)})
    commit_minutes(lake, range(10))
    clock = ManualClock(TODAY_US)
    upkeep = LakeUpkeep(lake, LakeSettings(retention_days=3), clock)
    deletions: list[int] = []
    monkeypatch.setattr(lake_upkeep, "vacuum", lambda lake: deletions.append(clock.now_us()))
    upkeep.once()
    assert lake.state().files["rows"].to_list() == [1000]
    clock.advance(seconds=600)
    upkeep.once()
    clock.advance(seconds=3600)
    upkeep.once()
    assert deletions == [TODAY_US, TODAY_US + 4_200_000_000]


async def test_upkeep_that_fails_is_logged_and_tried_again(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rounds: list[None] = []

    def fail_once(_: object) -> None:
        rounds.append(None)
        if len(rounds) == 1:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(LakeUpkeep, "once", fail_once)
    task = asyncio.create_task(LakeUpkeep(lake, LakeSettings(compaction_interval_s=0.001), ManualClock()).run())
    await until(lambda: len(rounds) >= 2)
    task.cancel()
    assert [record.message for record in caplog.records] == [
        "upkeep of the lake failed; its readers and writers go on without it"
    ]
