"""Large questions: what another process answers is what the store would have answered here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal

from domain import subjects
from domain.errors import InvalidInput
from runtime.lake import ReadingQuery
from runtime.lake_schema import POLARS_ROWS, ReadingCursor
from runtime.large_questions import LargeQuestions, LargeReadings
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
