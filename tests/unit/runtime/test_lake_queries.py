"""Questions to the lake, against plain computations over the same rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.errors import InvalidInput
from domain.quality import Mark, Mode, Validity, pack
from domain.readings import ReadingBatch
from runtime.lake import Advance, Lake, ReadingQuery
from runtime.lake_queries import cursor_behind, prune, without_repeats
from runtime.lake_schema import ANSWER_ORDER
from tests.lake_samples import START_US, rows_of, sample_rows

MINUTE_US = 60_000_000
COMMITS = 6


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Six commits of 500 rows, one minute each, over 300 devices of four hospitals."""
    lake = Lake(tmp_path_factory.mktemp("lake"))
    for minute in range(COMMITS):
        rows = sample_rows(500, seed=minute, start_us=START_US + minute * MINUTE_US)
        lake.commit(rows, {0: Advance(minute, minute + 1, 1)})
    return lake


@pytest.fixture(scope="module")
def everything(lake: Lake) -> pl.DataFrame:
    return lake.read(ReadingQuery())


def expected(everything: pl.DataFrame, query: ReadingQuery) -> pl.DataFrame:
    """The plain way: row by row."""

    def wanted(row: dict[str, object]) -> bool:
        return (
            (query.handles is None or row["handle"] in query.handles)
            and (query.metrics is None or row["metric"] in query.metrics)
            and (query.hospitals is None or row["hospital"] in query.hospitals)
            and (query.from_us is None or row["time_us"] >= query.from_us)
            and (query.until_us is None or row["time_us"] < query.until_us)
            and (query.value_above is None or row["value"] > query.value_above)
            and (query.value_below is None or row["value"] < query.value_below)
        )

    rows = sorted((row for row in everything.iter_rows(named=True) if wanted(row)), key=lambda r: [r[n] for n in ANSWER_ORDER])
    return pl.DataFrame(rows[::-1] if query.descending else rows, schema=everything.schema)[: query.limit]


times = st.none() | st.integers(START_US - MINUTE_US, START_US + (COMMITS + 1) * MINUTE_US)
queries = st.builds(
    lambda span, **rest: ReadingQuery(from_us=span[0], until_us=span[1], **rest),
    span=st.tuples(times, times).map(lambda ends: tuple(sorted(ends)) if None not in ends else ends),
    handles=st.none() | st.lists(st.integers(0, 400), max_size=40),
    metrics=st.none() | st.lists(st.integers(0, 12), max_size=4),
    hospitals=st.none() | st.lists(st.sampled_from(["sz.h000", "sz.h001", "sz.h002", "sz.h003", "sz.h9"]), max_size=3),
    value_above=st.none() | st.integers(50, 100),
    value_below=st.none() | st.integers(70, 120),
    limit=st.none() | st.integers(1, 200),
    descending=st.booleans(),
)


@pytest.mark.clause("7.1a")
@given(query=queries)
@settings(max_examples=40, deadline=None)
def test_any_question_is_answered_as_the_plain_way_would(lake: Lake, everything: pl.DataFrame, query: ReadingQuery) -> None:
    assert lake.read(query).equals(expected(everything, query))


@given(query=queries.filter(lambda query: query.limit is not None and query.limit >= 20))
@settings(max_examples=15, deadline=None)
def test_pages_put_together_are_the_whole_answer(lake: Lake, query: ReadingQuery) -> None:
    pages: list[pl.DataFrame] = []
    after = None
    while not pages or after is not None:
        page_query = replace(query, after=after)
        pages.append(lake.read(page_query))
        after = cursor_behind(pages[-1], page_query)
    assert pl.concat(pages).equals(lake.read(query.without_page()))


def test_pages_may_end_among_readings_of_one_channel_and_time(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    batch = ReadingBatch.of(handle=1, metric=1, time_us=START_US, value=np.arange(7.0), sequence=np.arange(1, 8))
    lake.commit(rows_of(batch), {0: Advance(0, 1, 1)})
    query, values = ReadingQuery(limit=3), []
    while True:
        page = lake.read(query)
        values += page["value"].to_list()
        after = cursor_behind(page, query)
        if after is None:
            break
        query = replace(query, after=after)
    assert values == list(range(7))


def test_only_files_whose_statistics_allow_a_match_are_read(lake: Lake) -> None:
    files = lake.state().files
    last_minute = ReadingQuery(from_us=START_US + (COMMITS - 1) * MINUTE_US)
    assert len(prune(files, last_minute)) == 1
    assert prune(files, ReadingQuery(handles=[9_999])).is_empty()
    assert prune(files, ReadingQuery(metrics=[])).is_empty()
    assert prune(files, ReadingQuery(hospitals=["sz.h999"])).is_empty()
    assert len(prune(files, ReadingQuery(handles=[150, 9_999]))) == COMMITS


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"from_us": 2, "until_us": 1}])
def test_a_question_that_makes_no_sense_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidInput):
        ReadingQuery(**wrong)


def lake_with_doubtful_quality(path: Path) -> Lake:
    """Usable, not usable, test data and NaN, all of one device in one minute."""
    lake = Lake(path)
    qualities = [
        pack(), pack(Validity.QUESTIONABLE), pack(Validity.VALIDATED), pack(Validity.INVALID),
        pack(Validity.CALIBRATING), pack(mode=Mode.TEST), pack(marks=int(Mark.IMPLAUSIBLE)),
    ]  # fmt: skip
    values = [70.0, 80.0, 90.0, 1000.0, 1000.0, 60.0, 300.0]
    batch = ReadingBatch.of(
        handle=1, metric=1, time_us=START_US + np.arange(8) * 1000,
        value=[*values, np.nan], quality=[*qualities, pack()], sequence=np.arange(1, 9),
    )  # fmt: skip
    lake.commit(rows_of(batch), {0: Advance(0, 1, 1)})
    return lake


def test_a_threshold_scan_finds_measurements_only(tmp_path: Path) -> None:
    lake = lake_with_doubtful_quality(tmp_path)
    assert lake.read(ReadingQuery(metrics=[1], value_above=80.0))["value"].to_list() == [90.0, 300.0]
    assert len(lake.read(ReadingQuery())) == 8


def test_buckets_summarise_usable_readings(tmp_path: Path) -> None:
    buckets = lake_with_doubtful_quality(tmp_path).buckets(ReadingQuery(), MINUTE_US)
    row = buckets.row(0, named=True)
    assert (row["count"], row["min"], row["max"], row["mean"], row["last"]) == (5, 60.0, 300.0, 120.0, 300.0)


def test_fleet_aggregates_leave_test_data_out(tmp_path: Path) -> None:
    fleet = lake_with_doubtful_quality(tmp_path).fleet(ReadingQuery())
    row = fleet.row(0, named=True)
    assert (row["hospital"], row["count"], row["min"], row["mean"]) == ("sz.h000", 4, 70.0, 135.0)


@pytest.mark.clause("7.1b")
def test_buckets_equal_the_plain_computation(lake: Lake, everything: pl.DataFrame) -> None:
    buckets = lake.buckets(ReadingQuery(metrics=[1, 2]), 2 * MINUTE_US)
    rows = everything.filter(pl.col("metric") <= 2)
    assert buckets["count"].sum() == len(rows)
    assert len(buckets) > 100
    for bucket in buckets.sample(40, seed=1).iter_rows(named=True):
        members = rows.filter(
            pl.col("handle") == bucket["handle"], pl.col("metric") == bucket["metric"],
            pl.col("time_us") >= bucket["bucket_us"], pl.col("time_us") < bucket["bucket_us"] + 2 * MINUTE_US,
        ).sort("time_us")  # fmt: skip
        assert bucket["bucket_us"] % (2 * MINUTE_US) == 0
        assert (bucket["count"], bucket["min"], bucket["max"]) == (len(members), members["value"].min(), members["value"].max())
        assert bucket["mean"] == pytest.approx(members["value"].mean())
        assert (bucket["last"], bucket["last_time_us"]) == (members["value"][-1], members["time_us"][-1])


@pytest.mark.clause("7.1b")
def test_fleet_aggregates_equal_the_plain_computation(lake: Lake, everything: pl.DataFrame) -> None:
    fleet = lake.fleet(ReadingQuery())
    hour_us = 3_600_000_000
    plain = (
        everything.group_by("hospital", "metric", bucket_us=pl.col("time_us") // hour_us * hour_us)
        .agg(count=pl.len(), mean=pl.col("value").mean(), max=pl.col("value").max())
        .sort("hospital", "metric", "bucket_us")
    )
    assert fleet["count"].to_list() == plain["count"].to_list()
    np.testing.assert_allclose(fleet["mean"], plain["mean"])
    assert fleet["max"].to_list() == plain["max"].to_list()


def repeated(quality: int, times: int, *, sequence: int = 0) -> ReadingBatch:
    return ReadingBatch.of(handle=[1] * times, metric=1, time_us=START_US, value=72.0, quality=quality, sequence=sequence)


def test_marked_repeats_are_given_once_across_commits_and_unmarked_rows_are_never_touched(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    marked = pack(marks=int(Mark.POSSIBLE_DUPLICATE))
    lake.commit(rows_of(repeated(pack(), 2)), {0: Advance(0, 1, 1)})
    lake.commit(rows_of(repeated(marked, 3), delay_us=700), {0: Advance(1, 2, 1)})
    lake.commit(rows_of(repeated(marked, 1), delay_us=600), {0: Advance(2, 3, 1)})
    lake.commit(rows_of(repeated(marked, 1, sequence=5), delay_us=800), {0: Advance(3, 4, 1)})
    found = lake.read(ReadingQuery())
    assert [delay - START_US for delay in found["arrival_us"]] == [500, 500, 600, 800]
    assert lake.buckets(ReadingQuery(), MINUTE_US)["count"].to_list() == [4]
    assert without_repeats(found.lazy()).collect().height == 4


def test_other_marks_do_not_make_a_repeat(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.commit(rows_of(repeated(pack(marks=int(Mark.BACKFILL | Mark.CONFLICT)), 3)), {0: Advance(0, 1, 1)})
    assert len(lake.read(ReadingQuery())) == 3


def test_an_empty_lake_answers_with_no_rows(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    assert lake.read(ReadingQuery()).is_empty()
    assert lake.buckets(ReadingQuery(), MINUTE_US).is_empty()
    assert lake.fleet(ReadingQuery()).is_empty()
