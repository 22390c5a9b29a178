"""Questions under load: each at its due time, counted from then; failures are counted, and never stop the asking."""

from __future__ import annotations

import asyncio
import time

import pytest

from domain.errors import Unavailable
from scenarios.model import Queries
from scenarios.query_load import Place, QueryLoad

PLACE = Place("sz.h001", "icu-01", "mon-1", "heart_rate")


class FakeRest:
    def __init__(self, takes_s=0.0, fails=False):
        self.asked = []
        self._takes_s, self._fails = takes_s, fails

    def __getattr__(self, name):
        async def ask(*_):
            self.asked.append(name)
            await asyncio.sleep(self._takes_s)
            if self._fails:
                raise Unavailable("the lake is away")

        return ask


async def load(rest, **rates):
    queries = QueryLoad(
        rest, Queries(**{"simple_per_s": 0, "complex_per_s": 0, "batch_per_s": 0} | rates), [PLACE], lambda: 10**12
    )
    await queries.run(time.perf_counter(), warmup_s=0.05, until_s=0.2)
    return queries


@pytest.mark.clause("7.1a")
async def test_simple_queries_take_turns():
    rest = FakeRest()
    queries = await load(rest, simple_per_s=40)
    assert rest.asked == ["latest_of_ward", "device_range"] * 4
    assert queries.simple.count + queries.simple.warmup_count == 8
    assert queries.simple.warmup_count == 2


@pytest.mark.clause("7.1b")
@pytest.mark.clause("7.1c")
async def test_complex_and_batch_queries_are_labelled_apart():
    rest = FakeRest()
    queries = await load(rest, complex_per_s=20, batch_per_s=10)
    assert (queries.complex.count + queries.complex.warmup_count, queries.batch.count + queries.batch.warmup_count) == (4, 2)
    assert queries.simple.count == 0


async def test_a_slow_answer_does_not_hold_up_the_next_question():
    rest = FakeRest(takes_s=0.15)
    queries = await load(rest, simple_per_s=40)
    assert len(rest.asked) == 8
    assert queries.simple.percentile_ms(50) >= 140


async def test_failures_are_counted_with_their_words():
    queries = await load(FakeRest(fails=True), simple_per_s=40)
    assert queries.figures() == {"query_errors": 8}
    assert queries.failures == {"the lake is away": 8}


async def test_nothing_asked_is_not_measured():
    assert (await load(FakeRest())).figures() == {"query_errors": None}
