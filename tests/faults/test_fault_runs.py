"""Some of the runs that `make faults` plays: kills, stops, cut links, hosts that come and go, and nothing is lost."""

from __future__ import annotations

import pytest

from tests.faults.fault_run import FaultBench
from tests.faults.orders import is_placed, placement
from tests.faults.schedule import Fault, Plan
from tests.faults.senders import HOSPITALS
from tests.faults.stand import Stand

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(300)]

CROSSINGS = tuple((2.0 + number, number) for number in range(len(HOSPITALS)))
PLANS = (
    Plan(
        0,
        (  # within two seconds; and the access log's own processes in the midst of it
            Fault(3.0, "kill", "nats-server"),
            Fault(3.3, "kill", "witness"),
            Fault(3.6, "kill", "host", pick=0.7),
            Fault(4.0, "kill", "audit"),
            Fault(4.8, "blackhole", "senders", 2.4),
        ),
        CROSSINGS,
    ),
    Plan(
        0,
        (
            Fault(1.0, "order", "swap-hosts", pick=0.1),
            Fault(2.5, "order", "hand-over"),
            Fault(3.0, "kill", "host"),
            Fault(4.0, "order", "place", pick=0.25),
        ),
        CROSSINGS,
    ),
    Plan(0, (Fault(1.5, "kill", "gcs_server"), Fault(2.0, "blackhole", "host", 3.0), Fault(4.0, "kill", "doors")), CROSSINGS),
)


@pytest.mark.clause("9.3", "9.3d")
@pytest.mark.parametrize("plans", [PLANS[:2], pytest.param(PLANS[2:], marks=pytest.mark.long)], ids=["hosts", "ray"])
async def test_nothing_that_was_acknowledged_is_lost_doubled_or_changed_and_alarms_are_told(tmp_path, plans):
    bench = FaultBench(Stand(tmp_path / "var"))
    try:
        await bench.start()
        results = [await bench.play(plan) for plan in plans]
        placements = [await placement(bench.stand, hospital) for hospital in HOSPITALS]
    finally:
        await bench.stand.close()
    assert [str(result) for result in results if not result.holds] == []
    assert all(is_placed(state) for state in placements), placements
    assert all(result.verdict.ledger.acknowledged > 2_000 for result in results)
    assert all(result.logged > 5 for result in results)


@pytest.mark.long
@pytest.mark.clause("6.3f")
async def test_a_limit_crossed_while_the_platform_is_down_for_long_pages_once_it_is_back(tmp_path):
    """What the probes sent meanwhile comes too late to page; what they send afterwards is still beyond."""
    bench = FaultBench(Stand(tmp_path / "var", HOSTS__LIVE_HORIZON_S="4"))
    try:
        await bench.start()
        result = await bench.play(Plan(0, (Fault(1.0, "kill", "up"),), tuple((1.5, n) for n in range(len(HOSPITALS)))))
    finally:
        await bench.stand.close()
    assert result.holds, str(result)
