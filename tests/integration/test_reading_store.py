"""Lake and hot tails answering as one: never a reading missed, never one doubled, whatever happens in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain import subjects
from domain.errors import InvalidInput, Unavailable
from domain.messages import FreshnessQuery, LatestQuery, TailQuery, decode_query
from domain.quality import Mark, pack
from domain.readings import ReadingBatch
from runtime.bus import Bus
from runtime.lake import Advance, Lake, ReadingQuery
from runtime.lake_queries import cursor_behind
from runtime.lake_schema import ANSWER_ORDER
from runtime.lake_upkeep import compact
from runtime.reading_store import ReadingStore
from runtime.tail import HotTail
from tests.lake_samples import START_US, rows_of, sample_batch, sample_rows

SHARDS = (0, 1, 2)
ALL = ReadingQuery()
MARKED = pack(marks=int(Mark.POSSIBLE_DUPLICATE))


class Region:
    """Shards with their streams, hosts (a hot tail each) and one real lake; the platform without its processes."""

    def __init__(self, path: Path) -> None:
        self.lake = Lake(path)
        self.streams: dict[int, list[pa.Table]] = {shard: [] for shard in SHARDS}
        self.epochs = dict.fromkeys(SHARDS, 0)
        self.tails: dict[int, HotTail] = {}
        self.now_us = 0
        self.meanwhile: Callable[[], None] = lambda: None
        for shard in SHARDS:
            self.take_over(shard)

    def take_over(self, shard: int) -> None:
        """A new host restores the shard: at the lake's position, then everything of the stream behind it."""
        self.epochs[shard] += 1
        position = self.lake.claim(shard, self.epochs[shard])
        self.tails[shard] = HotTail(keep_committed_us=5)
        self.tails[shard].hold(shard, position)
        for sequence, rows in enumerate(self.streams[shard], start=1):
            self.tails[shard].append(shard, sequence, rows)

    def append(self, shard: int, rows: pa.Table) -> None:
        self.streams[shard].append(rows)
        if shard in self.tails:
            self.tails[shard].append(shard, len(self.streams[shard]), rows)

    def commit(self, shard: int) -> None:
        position, end = self.lake.positions().positions.get(shard, 0), len(self.streams[shard])
        if shard in self.tails and end > position:
            rows = pa.concat_tables(self.streams[shard][position:end])
            self.lake.commit(rows, {shard: Advance(position, end, self.epochs[shard])})
            self.tails[shard].committed(shard, end, self.now_us)

    def anything(self, random: Random) -> None:
        """One thing that happens to a region."""
        shard = random.choice(SHARDS)
        self.now_us += random.randrange(4)
        match random.choices(("append", "commit", "take over", "compact"), (8, 4, 1, 1))[0]:
            case "append":
                self.append(shard, sample_rows(random.randrange(1, 20), seed=shard * 1000 + len(self.streams[shard])))
            case "commit":
                self.commit(shard)
            case "take over":
                self.take_over(shard)
            case "compact":
                compact(self.lake, START_US, min_files=3)

    def acknowledged(self) -> pl.DataFrame:
        tables = [rows for stream in self.streams.values() for rows in stream]
        frame = pl.DataFrame(pa.concat_tables([sample_rows(0), *tables])).with_columns(pl.col("raw_value").fill_nan(None))
        return frame.sort(ANSWER_ORDER)

    async def ask_table(self, subject: str, payload: bytes, timeout_s: float) -> pa.Table:
        """What `runtime.bus.Bus` does, and much may happen before the answer."""
        self.meanwhile()
        shard = next(shard for shard in SHARDS if subjects.shard(shard) == subject)
        query = decode_query(payload)
        if shard not in self.tails or not isinstance(query, TailQuery):
            raise Unavailable(f"nobody answers at {subject} within {timeout_s} s")
        return self.tails[shard].query(shard, query)


@pytest.fixture
def region(tmp_path: Path) -> Region:
    return Region(tmp_path)


@pytest.fixture
def store(region: Region) -> ReadingStore:
    return ReadingStore(region.lake, region, SHARDS)


def keys(frame: pl.DataFrame) -> list[tuple[object, ...]]:
    return list(frame.select("handle", "metric", "time_us", "sequence", "value").iter_rows())


slow_enough = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.clause("7.1a")
@pytest.mark.clause("9.3")
@given(random=st.randoms(use_true_random=False))
@slow_enough
async def test_at_any_moment_the_answer_is_what_was_acknowledged(
    tmp_path_factory: pytest.TempPathFactory, random: Random
) -> None:
    region = Region(tmp_path_factory.mktemp("lake"))
    store = ReadingStore(region.lake, region, SHARDS)
    for _ in range(12):
        for _ in range(random.randrange(4)):
            region.anything(random)
        answer = await store.range(ALL)
        assert answer.incomplete_shards == ()
        assert answer.frame.equals(region.acknowledged())


@pytest.mark.clause("7.1a")
@pytest.mark.clause("9.3")
@given(random=st.randoms(use_true_random=False))
@slow_enough
async def test_whatever_happens_while_asking_nothing_acknowledged_before_is_missed_and_nothing_doubled(
    tmp_path_factory: pytest.TempPathFactory, random: Random
) -> None:
    region = Region(tmp_path_factory.mktemp("lake"))
    store = ReadingStore(region.lake, region, SHARDS)
    for _ in range(8):
        region.meanwhile = lambda: None
        for _ in range(random.randrange(5)):
            region.anything(random)
        before = set(keys(region.acknowledged()))
        turbulent = iter(range(random.randrange(12)))

        def disturb(turbulent: object = turbulent) -> None:
            if next(turbulent, None) is not None:
                region.anything(random)

        region.meanwhile = disturb
        answer = await store.range(ALL)
        found = keys(answer.frame)
        assert len(found) == len(set(found))
        assert set(found) <= set(keys(region.acknowledged()))
        missed = before - set(found)
        assert not missed or answer.incomplete_shards


@given(
    random=st.randoms(use_true_random=False),
    query=st.builds(
        ReadingQuery,
        handles=st.none() | st.lists(st.integers(1, 300), min_size=0, max_size=60),
        metrics=st.none() | st.lists(st.integers(1, 9), max_size=3),
        hospitals=st.none() | st.lists(st.sampled_from(["sz.h000", "sz.h001", "sz.h009"]), max_size=2),
        from_us=st.none() | st.integers(START_US, START_US + 30_000_000),
        until_us=st.none() | st.integers(START_US + 30_000_000, START_US + 60_000_000),
        value_above=st.none() | st.integers(70, 90),
        limit=st.integers(5, 40),
        descending=st.booleans(),
    ),
)
@slow_enough
async def test_pages_of_any_question_cross_from_lake_to_tail_unnoticed(
    tmp_path_factory: pytest.TempPathFactory, random: Random, query: ReadingQuery
) -> None:
    region = Region(tmp_path_factory.mktemp("lake"))
    store = ReadingStore(region.lake, region, SHARDS)
    for _ in range(10):
        region.anything(random)
    pages, after, first = [], None, True
    while first or after is not None:
        page_query, first = replace(query, after=after), False
        page = (await store.range(page_query)).frame
        pages.append(page)
        after = cursor_behind(page, page_query)
    for shard in SHARDS:
        region.commit(shard)
    assert pl.concat(pages).equals(region.lake.read(query.without_page()))


@pytest.mark.clause("7.1b")
async def test_summaries_over_lake_and_tail_equal_those_of_the_lake_alone(region: Region, store: ReadingStore) -> None:
    random = Random(7)
    for _ in range(30):
        region.anything(random)
    buckets = (await store.buckets(ALL, 20_000_000)).frame
    fleet = (await store.fleet(ALL)).frame
    tail_rows = sum(tail.rows() for tail in region.tails.values())
    for shard in SHARDS:
        region.commit(shard)
    assert tail_rows > 0
    assert buckets.drop("mean").equals(region.lake.buckets(ALL, 20_000_000).drop("mean"))
    assert fleet.drop("mean").equals(region.lake.fleet(ALL).drop("mean"))
    np.testing.assert_allclose(fleet["mean"], region.lake.fleet(ALL)["mean"])


def marked_repeat(delay_us: int) -> pa.Table:
    batch = ReadingBatch.of(handle=1, metric=1, time_us=START_US, value=72.0, quality=MARKED, sequence=0)
    return rows_of(batch, delay_us=delay_us)


async def test_a_marked_repeat_in_the_tail_of_one_in_the_lake_is_given_once(region: Region, store: ReadingStore) -> None:
    region.append(0, marked_repeat(500))
    region.commit(0)
    region.append(0, marked_repeat(600))
    region.append(0, marked_repeat(700))
    answer = await store.range(ALL)
    assert answer.frame["arrival_us"].to_list() == [START_US + 500]
    assert (await store.buckets(ALL, 1_000_000)).frame["count"].to_list() == [1]


async def test_an_answer_names_its_lake_version_and_how_far_each_shard_is_in_it(region: Region, store: ReadingStore) -> None:
    region.append(1, sample_rows(3))
    region.commit(1)
    region.append(1, sample_rows(3, seed=1))
    answer = await store.range(ALL, shards=[1])
    assert answer.lake_version == region.lake.positions().version
    assert answer.applied == {1: 2}
    assert len(region.lake.read(ALL, version=answer.lake_version)) == 3


async def test_a_host_that_does_not_answer_is_named_and_the_lake_still_answers(region: Region, store: ReadingStore) -> None:
    for shard in SHARDS:
        region.append(shard, sample_rows(5, seed=shard))
        region.commit(shard)
        region.append(shard, sample_rows(2, seed=10 + shard))
    del region.tails[2]
    answer = await store.range(ALL)
    assert answer.incomplete_shards == (2,)
    assert len(answer.frame) == 5 * 3 + 2 * 2


async def test_rows_that_left_the_tail_are_found_in_a_newer_version(region: Region, store: ReadingStore) -> None:
    region.append(0, sample_rows(5))

    def commit_and_forget() -> None:
        region.commit(0)
        region.now_us += 1_000_000
        region.append(0, sample_rows(1, seed=len(region.streams[0])))
        region.meanwhile = lambda: None
        region.tails[0].committed(0, 1, region.now_us)

    region.meanwhile = commit_and_forget
    answer = await store.range(ALL, shards=[0])
    assert answer.incomplete_shards == ()
    assert len(answer.frame) == 6


async def test_a_host_that_always_forgets_too_soon_is_named(region: Region, store: ReadingStore) -> None:
    region.append(0, sample_rows(5))
    region.tails[0].hold(0, 7)  # as if it had started behind what the lake will hold
    answer = await store.range(ALL, shards=[0])
    assert answer.incomplete_shards == (0,)


async def test_state_questions_name_hosts_that_do_not_answer(store: ReadingStore) -> None:
    latest = await store.latest(LatestQuery(handles=[1]))
    freshness = await store.freshness(FreshnessQuery(), shards=[1])
    assert (latest.incomplete_shards, freshness.incomplete_shards) == (SHARDS, (1,))
    assert latest.frame.columns[:4] == ["handle", "instance", "metric", "time_us"]
    assert freshness.frame.is_empty()


@pytest.mark.integration
@pytest.mark.clause("7.1a")
async def test_over_a_real_bus_the_tail_is_part_of_the_answer(bus: Bus, tmp_path: Path) -> None:
    region = Region(tmp_path)
    latest = pa.table({
        "handle": pa.array([9, 4], pa.uint32()), "instance": pa.array([0, 0], pa.uint8()),
        "metric": pa.array([1, 1], pa.uint16()),
        "time_us": [5, 6], "arrival_us": [7, 8], "value": [1.0, 2.0], "quality": pa.array([0, 0], pa.uint16()),
        "state": pa.array(["live", "stale"]).dictionary_encode(),
    })  # fmt: skip

    async def answer(payload: bytes, subject: str) -> pa.Table:
        query = decode_query(payload)
        return latest if isinstance(query, LatestQuery) else await region.ask_table(subject, payload, 1.0)

    for shard in SHARDS[:2]:
        await bus.answer(subjects.shard(shard), answer)
    store = ReadingStore(region.lake, bus, SHARDS, timeout_s=1.0)
    batch = sample_batch(50)
    region.append(0, rows_of(batch.take(slice(0, 30))))
    region.commit(0)
    region.append(0, rows_of(batch.take(slice(30, 50))))
    found = await store.range(ALL)
    assert found.frame.equals(region.acknowledged())
    assert found.incomplete_shards == (2,)
    state = await store.latest(LatestQuery(), shards=[0])
    assert state.frame["handle"].to_list() == [4, 9]
    assert state.frame["state"].to_list() == ["stale", "live"]


async def test_errors_of_the_question_itself_reach_the_caller(region: Region) -> None:
    class Refusing:
        async def ask_table(self, subject: str, payload: bytes, timeout_s: float) -> pa.Table:
            raise InvalidInput("question to a shard cannot be read")

    with pytest.raises(InvalidInput):
        await ReadingStore(region.lake, Refusing(), SHARDS).range(ALL)
