"""Platforms that are broken on purpose: under each variant the history checker goes red, by the invariant it breaks."""

from __future__ import annotations

import pytest

from tests.faults.checker import Invariant
from tests.faults.fault_run import FaultBench, Pace
from tests.faults.schedule import Fault, Plan
from tests.faults.stand import Stand

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(240)]

QUICK = Pace(load_s=6.0, told_within_s=4.0, settle_s=6.0)
CROSSINGS = tuple((1.0, number) for number in range(4))

# variants that share a platform break different invariants; the fault is what brings them to light
TOGETHER = {
    "nothing fails": (
        (),
        {
            "forgets-duplicates": Invariant.DOUBLED,
            "drops-refused-commits": Invariant.LOST,
            "invents-readings": Invariant.NEVER_SENT,
            "contradicts-itself": Invariant.CONTRADICTED,
            "answers-without-the-lake": Invariant.UNANSWERED,
        },
    ),
    "the bus is killed": (
        (Fault(2.0, "kill", "nats-server"),),
        {
            "acknowledges-early": Invariant.LOST,
            "rounds-values": Invariant.CHANGED,
            "tells-no-alarms": Invariant.UNTOLD,
            "answers-twice": Invariant.ANSWERED_WRONG,
        },
    ),
    "a host is killed": (
        (Fault(4.5, "kill", "host"),),
        {"commits-without-position": Invariant.DOUBLED, "shows-no-alarms": Invariant.UNSHOWN},
    ),
}


@pytest.mark.parametrize(
    "story", [pytest.param(story, marks=[pytest.mark.long] * (story != "the bus is killed")) for story in TOGETHER]
)
async def test_the_checker_goes_red_under_a_broken_platform(tmp_path, story):
    faults, broken = TOGETHER[story]
    bench = FaultBench(Stand(tmp_path / "var", broken=tuple(broken)), QUICK)
    try:
        await bench.start()
        result = await bench.play(Plan(0, faults, CROSSINGS))
    finally:
        await bench.stand.close()
    assert result.verdict is not None, result.problem
    assert [name for name, invariant in broken.items() if not result.verdict.count(invariant)] == [], str(result)


def test_every_invariant_has_a_broken_platform():
    assert {invariant for _, broken in TOGETHER.values() for invariant in broken.values()} == set(Invariant)
