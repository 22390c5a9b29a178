"""Questions that are put together."""

from __future__ import annotations

import asyncio
import threading

import pytest

from runtime.gathered import Gathered


class Oracle:
    """Answers each key with its double, once it may; -1 fails."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.may_answer = threading.Event()
        self.may_answer.set()

    def __call__(self, keys: list[int]) -> dict[int, int]:
        self.asked.append(keys)
        assert self.may_answer.wait(10)
        if -1 in keys:
            raise LookupError("no such thing")
        return {key: 2 * key for key in keys if key < 100}


async def test_who_asks_while_another_is_answered_shares_the_next_question() -> None:
    oracle = Oracle()
    oracle.may_answer.clear()
    gathered = Gathered(oracle)
    first = asyncio.create_task(gathered.get(0))
    while not oracle.asked:  # noqa: ASYNC110 (a thread's doing)
        await asyncio.sleep(0.001)
    rest = [asyncio.create_task(gathered.get(key)) for key in (1, 2, 3, 3, 200)]
    await asyncio.sleep(0)
    oracle.may_answer.set()
    assert await first == 0
    assert await asyncio.gather(*rest) == [2, 4, 6, 6, None]
    assert oracle.asked == [[0], [1, 2, 3, 200]]
    assert await gathered.get(1) == 2
    assert len(oracle.asked) == 3


async def test_no_question_is_larger_than_allowed() -> None:
    oracle = Oracle()
    gathered = Gathered(oracle, at_once=10)
    assert await asyncio.gather(*map(gathered.get, range(25))) == [2 * key for key in range(25)]
    assert max(map(len, oracle.asked)) == 10


async def test_a_failure_is_theirs_who_asked_together_and_nobody_elses() -> None:
    gathered = Gathered(Oracle())
    failed = await asyncio.gather(gathered.get(-1), gathered.get(5), return_exceptions=True)
    assert [type(answer) for answer in failed] == [LookupError, LookupError]
    assert await gathered.get(5) == 10


async def test_who_leaves_takes_nobody_elses_answer_along() -> None:
    oracle = Oracle()
    oracle.may_answer.clear()
    gathered = Gathered(oracle)
    leaving, staying = asyncio.create_task(gathered.get(7)), asyncio.create_task(gathered.get(7))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    oracle.may_answer.set()
    assert await staying == 14
