"""A flood of sign-ins waits in a short queue; the event loop goes on."""

from __future__ import annotations

import asyncio
import threading

import pytest

from domain.errors import Busy
from runtime.hashing_lane import HashingLane
from runtime.sm import pbkdf2_sm3


@pytest.fixture
def lane():
    made = HashingLane(most_waiting=3)
    yield made
    made.close()


@pytest.mark.clause("9.1b")
async def test_what_does_not_fit_the_queue_is_refused_before_it_runs(lane):
    release, ran = threading.Event(), []

    def work(number):
        release.wait(10)
        ran.append(number)

    waiting = [asyncio.ensure_future(lane.run(work, number)) for number in range(20)]
    await asyncio.wait(waiting[4:])
    refused = [task for task in waiting if task.done() and isinstance(task.exception(), Busy)]
    assert len(refused) == 16
    release.set()
    await asyncio.gather(*waiting[:4])
    assert ran == [0, 1, 2, 3]
    await lane.run(work, 4)  # there is room again


async def test_the_loop_goes_on_while_a_full_lane_hashes(lane):
    rounds = 0
    hashing = [asyncio.ensure_future(lane.run(pbkdf2_sm3, b"password", b"salt" * 4, iterations=100_000)) for _ in range(4)]
    while not hashing[0].done():
        rounds += 1
        await asyncio.sleep(0)
    assert rounds > 20  # one derivation; if it held the interpreter the loop would come round once or twice
    await asyncio.gather(*hashing)


async def test_what_nobody_waits_for_any_more_keeps_its_place_until_it_has_run(lane):
    release, started = threading.Event(), threading.Event()

    def work():
        started.set()
        release.wait(10)

    held = asyncio.ensure_future(lane.run(work))
    await asyncio.to_thread(started.wait, 10)
    held.cancel()
    with pytest.raises(asyncio.CancelledError):
        await held
    waiting = [asyncio.ensure_future(lane.run(work)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Busy):
        await lane.run(work)
    release.set()
    await asyncio.gather(*waiting)


async def test_an_error_of_the_work_is_told_and_gives_its_place_back(lane):
    for _ in range(6):
        with pytest.raises(ZeroDivisionError):
            await lane.run(lambda: 1 // 0)
