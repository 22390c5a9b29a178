"""Large questions: what another process answers is what the store would have answered here."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal

from domain import subjects
from domain.errors import InvalidInput, Unavailable
from runtime.lake import ReadingQuery
from runtime.lake_schema import POLARS_ROWS, ReadingCursor
from runtime.large_questions import MOST_WAITING, LargeQuestions, LargeReadings
from runtime.reading_store import Readings

QUERY = ReadingQuery(handles=[1, 2**32 - 1], from_us=1, until_us=9, limit=5, after=ReadingCursor(1, 2, 3, 4, 5))
ROWS = pl.DataFrame({name: [None if name == "raw_value" else 1] for name in POLARS_ROWS}, strict=False).cast(POLARS_ROWS)


class Store:
    """Answers every question with one answer, and remembers what it was asked."""

    def __init__(self, answer: Readings) -> None:
        self.answer = answer
        self.asked: list[tuple[Any, ...]] = []

    async def range(self, *asked: Any) -> Readings:
        self.asked.append(("range", *asked))
        return self.answer

    async def buckets(self, *asked: Any) -> Readings:
        self.asked.append(("buckets", *asked))
        return self.answer

    async def fleet(self, *asked: Any) -> Readings:
        self.asked.append(("fleet", *asked))
        return self.answer


def asker(store: Store) -> LargeReadings:
    """Asks `store` through what would travel over the bus."""

    async def ask_table(subject: str, payload: bytes, _timeout_s: float) -> pa.Table:
        assert subject == subjects.LARGE_QUESTIONS
        table = await LargeQuestions(store).answer(payload, subject)  # type: ignore[arg-type]
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return pa.ipc.open_stream(sink.getvalue()).read_all()

    return LargeReadings(SimpleNamespace(ask_table=ask_table))


@pytest.mark.parametrize("frame", [ROWS, ROWS.clear()], ids=["rows", "no rows"])
async def test_question_and_answer_survive_the_way(frame: pl.DataFrame) -> None:
    store = Store(Readings(frame, 17, (2,), {0: 41, 1: 7}))
    large = asker(store)
    answers = [
        await large.range(QUERY, (0, 3)),
        await large.buckets(QUERY, 60_000_000),
        await large.fleet(QUERY, 3_600_000_000, [1]),
    ]
    assert store.asked == [
        ("range", QUERY, [0, 3]), ("buckets", QUERY, 60_000_000, None), ("fleet", QUERY, 3_600_000_000, [1]),
    ]  # fmt: skip
    for answer in answers:
        assert_frame_equal(answer.frame, frame)
        assert (answer.lake_version, answer.incomplete_shards, answer.applied) == (17, (2,), {0: 41, 1: 7})


async def test_bytes_that_are_no_question_are_refused() -> None:
    with pytest.raises(InvalidInput, match="no question"):
        await LargeQuestions(Store(Readings(ROWS, None))).answer(b"\xff", "readings.large")  # type: ignore[arg-type]


class SlowStore(Store):
    """Answers one question after the other, each when it is let."""

    def __init__(self) -> None:
        super().__init__(Readings(ROWS, 17))
        self.begun = asyncio.Queue[ReadingQuery]()
        self.let = asyncio.Semaphore(0)

    async def range(self, *asked: Any) -> Readings:
        self.begun.put_nowait(asked[0])
        await self.let.acquire()
        return await super().range(*asked)


def of_device(handle: int) -> ReadingQuery:
    return ReadingQuery(handles=[handle])


@pytest.mark.clause("7.1c")
async def test_those_alike_that_wait_are_put_once_and_none_joins_one_that_has_begun() -> None:
    store = SlowStore()
    large = asker(store)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        asked = [group.create_task(large.range(of_device(1)))]
        assert await store.begun.get() == of_device(1)
        asked += [group.create_task(large.range(of_device(number))) for number in (1, 2, 1, 2, 1)]
        for _ in range(3):
            store.let.release()
    assert [query for _, query, _ in store.asked] == [of_device(1), of_device(1), of_device(2)]
    assert all(task.result().lake_version == 17 for task in asked)


async def test_more_different_ones_than_may_wait_are_refused_and_those_alike_are_not() -> None:
    store = SlowStore()
    large = asker(store)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(large.range(of_device(0)))
        await store.begun.get()
        for number in range(1, MOST_WAITING + 1):
            group.create_task(large.range(of_device(number)))
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="wait already"):
            await large.range(of_device(99))
        group.create_task(large.range(of_device(1)))
        for _ in range(MOST_WAITING + 1):
            store.let.release()
    assert len(store.asked) == MOST_WAITING + 1


async def test_an_error_reaches_all_who_asked_and_the_next_question_is_answered() -> None:
    store = SlowStore()
    large = asker(store)
    first = asyncio.create_task(large.range(of_device(1)))
    await store.begun.get()
    store.answer = None  # type: ignore[assignment]  # what breaks the answer
    both = [asyncio.create_task(large.range(of_device(2))) for _ in "ab"]
    for _ in range(2):
        store.let.release()
    for task in (first, *both):
        with pytest.raises(AttributeError):
            await asyncio.wait_for(task, 10)
    store.answer = Readings(ROWS, 18)
    store.let.release()
    assert (await asyncio.wait_for(large.range(of_device(2)), 10)).lake_version == 18


async def test_who_leaves_does_not_take_the_answer_away_from_others() -> None:
    store = SlowStore()
    large = asker(store)
    first = asyncio.create_task(large.range(of_device(1)))
    await store.begun.get()
    leaving, staying = (asyncio.create_task(large.range(of_device(2))) for _ in "ab")
    await asyncio.sleep(0)
    leaving.cancel()
    for _ in range(2):
        store.let.release()
    assert (await asyncio.wait_for(staying, 10)).lake_version == 17
    assert leaving.cancelled()
    await first
