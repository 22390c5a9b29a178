"""The platform's real parts on virtual time under every fault: the promises hold, and each can be seen to break.

Runs are those of fixed seeds; `make simulate` plays as many more as one likes.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest

from tests.simulation import variants
from tests.simulation.checker import PROMISES, broken
from tests.simulation.many import verdict
from tests.simulation.story import play
from tests.simulation.virtual_time import NODE, Node, Stuck, run

SEEDS = range(60)
_TRACE = "from tests.simulation.story import play; print(play({}).trace())"


@pytest.mark.clause("9.3")
@pytest.mark.clause("7.4a")
@pytest.mark.parametrize("first", range(SEEDS.start, SEEDS.stop, 10))
def test_every_promise_is_kept_whatever_befalls_the_platform(first: int) -> None:
    failures = [failure for seed in range(first, first + 10) if (failure := verdict(seed)) is not None]
    assert not failures, "\n".join(failures)


def test_the_runs_of_these_tests_hold_much() -> None:
    histories = [play(seed) for seed in range(20)]
    faults = {fault.split()[1] for history in histories for fault in history.faults}
    assert any(history.places != list(range(len(history.places))) for history in histories)  # a hospital was handed over
    assert {
        "crash_door",
        "crash_host",
        "crash_server",
        "cut_off",
        "give_up",
        "move",
        "break_turn",
        "turn_clock",
        "set_clocks",
        "hand_over",
    } <= faults
    logs = [len(history.logs[stream]) for history in histories for stream in ("ALARMS", "REJECTS")]
    assert sum(logs) > 100
    assert any(history.said.keyed for history in histories)
    assert any(history.said.events for history in histories)
    assert any(len(history.cells) > 1 for history in histories)
    assert sum(len(history.told) - len(_ids(history)) for history in histories) > 50  # said again


def _ids(history) -> set[str]:
    return {message_id for _, _, message_id in history.told}


def test_a_seed_is_the_whole_run() -> None:
    seed = 6
    another_process = subprocess.run(
        [sys.executable, "-c", _TRACE.format(seed)], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert play(seed).trace() == play(seed).trace() == another_process.stdout.strip()
    assert play(seed).trace() != play(seed + 1).trace()


@pytest.mark.parametrize("variant", variants.ALL, ids=lambda variant: variant.__name__)
def test_a_broken_platform_breaks_its_promise(variant, monkeypatch: pytest.MonkeyPatch) -> None:
    promises = variant(monkeypatch)
    assert promises <= {promise.__name__ for promise in PROMISES}
    found: set[str] = set()
    for seed in range(variants.MOST_SEEDS):
        found |= set(broken(play(seed)))
        if promises <= found:
            return
    pytest.fail(f"{variant.__name__} broke {found} in {variants.MOST_SEEDS} runs, expected {promises}")


def test_every_promise_has_a_variant_that_breaks_it() -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        shown = {name for variant in variants.ALL for name in variant(monkeypatch)}
    assert shown == {promise.__name__ for promise in PROMISES}


def test_a_failing_seed_says_how_to_repeat_it(monkeypatch: pytest.MonkeyPatch) -> None:
    variants.an_intake_that_answers_before_the_stream_has_it(monkeypatch)
    said = [failure for seed in range(5) if (failure := verdict(seed)) is not None]
    assert said
    assert "again: make simulate SEED=" in said[0].splitlines()[0]


def test_virtual_time_jumps_and_a_platform_that_waits_for_nothing_is_stuck() -> None:
    async def sleep_long() -> float:
        await asyncio.sleep(86_400)
        return asyncio.get_running_loop().time()

    async def wait_for_nobody() -> None:
        await asyncio.get_running_loop().create_future()

    assert run(sleep_long()) == 86_400
    with pytest.raises(Stuck):
        run(wait_for_nobody())


def test_a_node_that_dies_takes_its_tasks_and_threads_along() -> None:
    done: list[str] = []

    async def work() -> None:
        assert NODE.get().name == "n"
        await asyncio.to_thread(done.append, "thread")
        await asyncio.sleep(1)
        done.append("task")

    async def story(dies_after_s: float) -> None:
        node = Node("n", "1")
        task = node.run(work())
        await asyncio.sleep(dies_after_s)
        node.die()
        await asyncio.sleep(5)
        assert task.done()

    run(story(2.0))
    assert done == ["thread", "task"]
    run(story(0.5))
    assert done == ["thread", "task", "thread"]
    run(story(0.0))
    assert len(done) == 3
