"""Rollups: whatever is rolled up, whenever it came, answers are those of a plain scan of all rows."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.errors import IntegrityViolation
from domain.quality import Mark, Mode, Validity, pack
from domain.readings import ReadingBatch
from runtime import lake_checksums, lake_files, lake_folder, lake_pages, lake_queries, lake_rollups, lake_row_groups
from runtime.lake import Advance, Lake, ReadingQuery
from runtime.lake_folder import LakeFolder
from runtime.lake_queries import CHANNEL, FLEET, cursor_behind, merged, summarise
from runtime.lake_rollups import CHANNELS, LEVELS, MARKED, sweep
from runtime.lake_schema import HOUR_US
from runtime.lake_upkeep import compact, expire, roll_up, seal, vacuum
from runtime.reading_store import ReadingStore
from tests.lake_samples import DAY_US, START_US, rows_of, sample_rows, sample_seal

EVENING_US = START_US - START_US % HOUR_US
LATER_US = EVENING_US + 9 * DAY_US
QUALITIES = (
    0, 0, 0, pack(Validity.QUESTIONABLE), pack(Validity.NOT_AVAILABLE), pack(Validity.INVALID), pack(mode=Mode.DEMO),
    pack(marks=int(Mark.POSSIBLE_DUPLICATE)), pack(marks=int(Mark.LATE | Mark.CONVERTED)),
)  # fmt: skip
HANDLES = (1, 2, 101, 102, 201)
QUESTIONS = 25  # to each lake


def asked(random: Random) -> ReadingQuery:
    """Any question, of whole hours or not."""

    def maybe(value: Any) -> Any:
        return value if random.random() < 0.4 else None

    from_us, until_us = sorted(EVENING_US + random.choice([1, 59_999_999, 60_000_000]) * random.randrange(300) for _ in "ab")
    if random.random() < 0.5:
        from_us, until_us = from_us // HOUR_US * HOUR_US, -(-until_us // HOUR_US) * HOUR_US
    return ReadingQuery(
        handles=maybe(random.sample([*HANDLES, 999], random.randrange(4))),
        metrics=maybe(random.sample([1, 2, 3], random.randrange(1, 3))), hospitals=maybe(["sz.h001"]),
        from_us=maybe(from_us), until_us=maybe(until_us), limit=random.choice([1, 5, 20, 100]),
        descending=random.random() < 0.5, usable_only=random.random() < 0.3,
        value_above=maybe(float(random.randrange(12))), value_below=maybe(float(random.randrange(12))),
    )  # fmt: skip


def readings_of_an_evening(seed: int) -> pa.Table:
    """Few channels, five hours in no order, many alike: values are whole, so that sums are exact in any order."""
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 150))
    handle = random.choice(HANDLES, count)
    quality = random.choice(QUALITIES, count)
    batch = ReadingBatch.of(
        handle=handle, instance=random.integers(0, 2, count), metric=random.integers(1, 4, count),
        time_us=EVENING_US + random.integers(0, 5 * 60, count) * 60_000_000,
        value=np.where(quality == pack(Validity.NOT_AVAILABLE), np.nan, random.integers(0, 12, count).astype(float)),
        quality=quality, sequence=np.arange(count) % 3,
    )  # fmt: skip
    return rows_of(batch, delay_us=int(random.integers(0, 10**9)))


def lived(folder: str, random: Random) -> Lake:
    """A lake with a history: commits, the same readings once more in other files, merges in between and rows since.

    Some are sealed, some only from a moment on.
    """
    keys = Path(folder) / "_keys"
    lake = Lake(Path(folder), sample_seal(keys) if random.random() < 0.3 else None)
    committed: list[pa.Table] = []
    for what in random.choices(("new", "again", "merge", "seal"), (5, 2, 2, 1), k=random.randrange(3, 10)):
        if what == "seal":
            lake = Lake(Path(folder), sample_seal(keys))
            seal(lake, most=random.randrange(3))
            continue
        if what == "merge":
            compact(lake, LATER_US)
            continue
        rows = random.choice(committed) if what == "again" and committed else readings_of_an_evening(random.randrange(10**6))
        lake.commit(rows, {0: Advance(len(committed), len(committed) + 1, 1)})
        committed.append(rows)
    return lake


def plain(lake: Lake, query: ReadingQuery) -> pl.DataFrame:
    return lake_queries.read(lake.folder, lake.state().files, query)


def plain_summary(lake: Lake, query: ReadingQuery, keys: tuple[str, ...], bucket_us: int, *, real_only: bool) -> pl.DataFrame:
    rows = lake_queries.rows(lake.folder, lake.state().files, query.without_page())
    return merged([summarise(rows, keys, bucket_us, real_only=real_only).collect()], keys)


@pytest.fixture(autouse=True, params=[-1, 3], ids=["no device by itself", "few devices by row groups"])
def every_lake_is_large(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lake_row_groups, "FEW_HANDLES", request.param)
    monkeypatch.setattr(lake_row_groups, "FRESH_ROWS", 40)
    monkeypatch.setattr(lake_files, "ROW_GROUP_ROWS", 16)
    monkeypatch.setattr(lake_files, "MERGED_GROUP_ROWS", 16)
    monkeypatch.setattr(lake_folder, "_SMALL_BYTES", 0)
    monkeypatch.setattr(lake_pages, "FEW_ROWS", 0)
    monkeypatch.setattr(lake_pages, "FIRST_HITS", 2)


@pytest.mark.clause("7.1b")
@given(random=st.randoms(use_true_random=False))
@settings(max_examples=6, deadline=None)
def test_summaries_are_those_of_all_rows_whatever_came_late_or_twice(random: Random) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lake = lived(folder, random)
        for _ in range(QUESTIONS):
            query, bucket_us = asked(random), random.choice([1, 6, 6, 12, 144]) * HOUR_US // 6
            assert lake.fleet(query, bucket_us).equals(plain_summary(lake, query, FLEET, bucket_us, real_only=True))
            assert lake.buckets(query, bucket_us).equals(plain_summary(lake, query, CHANNEL, bucket_us, real_only=False))


@pytest.mark.clause("7.1b")
@given(random=st.randoms(use_true_random=False))
@settings(max_examples=6, deadline=None)
def test_pages_one_behind_the_other_are_the_plain_scan(random: Random) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lake = lived(folder, random)
        for _ in range(QUESTIONS):
            query = asked(random)
            if random.random() < 0.3:
                query = replace(query, handles=[random.choice(HANDLES)], metrics=[random.choice([1, 2, 3])])
            page = lake.read(query)
            assert page.equals(plain(lake, query))
            query = replace(query, after=cursor_behind(page, query))
            assert lake.read(query).equals(plain(lake, query))


def a_merged_day(lake: Lake) -> None:
    for minute in range(10):
        rows = sample_rows(200, seed=minute, start_us=START_US + minute * 60_000_000)
        lake.commit(rows, {0: Advance(minute, minute + 1, 1)})
    compact(lake, LATER_US)


def test_a_page_of_any_length_is_exact(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    a_merged_day(lake)
    for limit in range(1, 60):  # each may end where a device ends
        query = ReadingQuery(limit=limit, descending=limit % 2 == 1)
        assert lake.read(query).equals(plain(lake, query))


def rollups_of(lake: Lake) -> list[Path]:
    return sorted((lake.path / "_rollups").glob("*/*"))


def test_a_damaged_rollup_is_passed_over_and_made_anew(tmp_path: Path) -> None:
    a_merged_day(Lake(tmp_path))
    whole = Lake(tmp_path).fleet(ReadingQuery())
    for path in rollups_of(Lake(tmp_path)):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    lake_checksums._intact.clear()  # as in a process that has not looked at them yet
    lake = Lake(tmp_path)
    assert lake.fleet(ReadingQuery()).drop("mean").equals(whole.drop("mean"))
    assert roll_up(lake, least_rows=1) == 1
    assert len(rollups_of(lake)) == len(LEVELS)
    assert lake.fleet(ReadingQuery()).drop("mean").equals(whole.drop("mean"))


def test_a_file_without_rollups_gets_them_once(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.commit(sample_rows(500), {0: Advance(0, 1, 1)})
    assert roll_up(lake) == 0  # too small to be worth it: it will be merged
    before = lake.buckets(ReadingQuery(), HOUR_US)
    assert roll_up(lake, least_rows=1) == 1
    assert roll_up(lake, least_rows=1) == 0
    assert lake.buckets(ReadingQuery(), HOUR_US).drop("mean").equals(before.drop("mean"))


def test_sparse_readings_get_no_rollup_by_channel_and_are_asked_all_the_same(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(lake_rollups, "_NEVER_SPARSE", 3)
    monkeypatch.setattr(lake_rollups, "_WORTH_ROWS", 1_000_000)
    lake = Lake(tmp_path / "readings")
    for number in range(2):
        lake.commit(readings_of_an_evening(number), {0: Advance(number, number + 1, 1)})
    assert compact(lake, LATER_US) == 2
    files = lake.state().files
    assert lake.rollups.paths(CHANNELS, files) == [None]
    assert lake.rollups.are_made(files) == [True]
    assert roll_up(lake, least_rows=1) == 0, "it is not tried again and again"
    random = Random(1)
    for _ in range(QUESTIONS):
        query, bucket_us = asked(random), random.choice([1, 6, 12]) * HOUR_US // 6
        assert lake.fleet(query, bucket_us).equals(plain_summary(lake, query, FLEET, bucket_us, real_only=True))
        assert lake.buckets(query, bucket_us).equals(plain_summary(lake, query, CHANNEL, bucket_us, real_only=False))
        assert lake.read(query).equals(plain(lake, query))


def test_rollups_outlive_vacuum_and_leave_with_their_files(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    a_merged_day(lake)
    vacuum(lake)
    assert len(rollups_of(lake)) == len(LEVELS)
    assert expire(lake, 1, LATER_US) == 2000
    vacuum(lake, 0)
    assert rollups_of(lake) == []


def test_rollups_answer_without_the_files(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    a_merged_day(lake)
    before = lake.fleet(ReadingQuery())
    for path in lake.path.glob("day=*/*.parquet"):
        path.unlink()
    assert lake.fleet(ReadingQuery()).equals(before)


@pytest.mark.parametrize(("descending", "read"), [(False, 3), (True, 1)])
def test_a_page_of_one_channel_reads_no_file_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, descending: bool, read: int
) -> None:
    monkeypatch.setattr(lake_row_groups, "FEW_HANDLES", 8)
    monkeypatch.setattr(lake_row_groups, "FRESH_ROWS", 0)
    lake = Lake(tmp_path)
    for minute in range(10):  # five readings of the channel in each
        time_us = START_US + (10 * minute + np.arange(5)) * 1_000_000
        rows = rows_of(ReadingBatch.of(handle=7, metric=1, time_us=time_us, value=80.0, sequence=minute * 5 + np.arange(1, 6)))
        lake.commit(rows, {0: Advance(minute, minute + 1, 1)})
    query = ReadingQuery(handles=[7], metrics=[1], limit=12 if read == 3 else 5, descending=descending)
    wanted = plain(lake, query)
    opened: list[str] = []
    table = lake_row_groups.Part.table

    def watched(part: lake_row_groups.Part, names: list[str]) -> pa.Table:
        opened.append(part.path)
        return table(part, names)

    monkeypatch.setattr(lake_row_groups.Part, "table", watched)
    assert lake.read(query).equals(wanted)
    assert len(opened) == read


def test_footers_are_kept_within_their_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake(tmp_path)
    for minute in range(6):
        lake.commit(sample_rows(200, seed=minute), {0: Advance(minute, minute + 1, 1)})
    query = ReadingQuery(handles=[7])
    footers = lake_row_groups.Footers(most_bytes=1)
    monkeypatch.setattr(lake_row_groups, "_footers", footers)
    monkeypatch.setattr(lake_row_groups, "FEW_HANDLES", 8)
    assert lake.read(query).equals(plain(lake, query))
    assert len(footers) == 1


async def test_looking_ahead_spares_questions_the_footers_and_passes_over_what_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(tmp_path)
    for minute in range(3):
        lake.commit(sample_rows(200, seed=minute), {0: Advance(minute, minute + 1, 1)})
    damaged = tmp_path / lake.state().files["path"][0]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    footers = lake_row_groups.Footers(lake_row_groups.FOOTERS_BYTES)
    monkeypatch.setattr(lake_row_groups, "_footers", footers)
    monkeypatch.setattr(lake_checksums, "_intact", set())
    store = ReadingStore(lake, None, ())  # type: ignore[arg-type]  # nobody is asked
    await store.look_ahead(most_bytes=0)
    assert len(footers) == 0
    await store.look_ahead()
    assert len(footers) == 2
    with pytest.raises(IntegrityViolation):
        lake.read(ReadingQuery(handles=[7]))


def test_a_search_reads_no_row_where_no_value_is_high_enough(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    a_merged_day(lake)
    for path in lake.path.glob("day=*/*.parquet"):
        path.unlink()
    assert lake.read(ReadingQuery(value_above=1e6, limit=10)).is_empty()


def test_marked_rows_are_kept_beside_their_file(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    batch = ReadingBatch.of(handle=[1, 1], metric=1, time_us=START_US, value=7.0, quality=[0, int(Mark.POSSIBLE_DUPLICATE)])
    for position in range(2):
        lake.commit(rows_of(batch), {0: Advance(position, position + 1, 1)})
    compact(lake, LATER_US)
    (path,) = lake.rollups.paths(MARKED, lake.state().files)
    assert path is not None
    assert len(pl.read_parquet(path)) == 2
    (path,) = lake.rollups.paths(CHANNELS, lake.state().files)
    assert path is not None
    assert lake.fleet(ReadingQuery())["count"].to_list() == [3]


def test_what_a_crash_left_is_swept(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    a_merged_day(lake)
    stray = tmp_path / "_rollups" / CHANNELS / "0123456789abcdef0123456789abcdef.parquet"
    stray.write_bytes(b"half")
    assert sweep(LakeFolder(tmp_path)) == 1
    assert len(rollups_of(lake)) == len(LEVELS)
