"""A hospital gets a shard and a host of its own while it sends, and while the platform is killed in the midst of it."""

from __future__ import annotations

import pytest

from tests.faults.fault_run import FaultBench
from tests.faults.orders import hosts, is_placed, placement
from tests.faults.schedule import Fault, Plan
from tests.faults.senders import HOSPITALS
from tests.faults.stand import Stand

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.faults, pytest.mark.long, pytest.mark.timeout(300)]

CROSSINGS = tuple((1.5 + number, number) for number in range(len(HOSPITALS)))
HOSPITAL = HOSPITALS[1]
SETTINGS = {"SHARDS": "6", "HOSTS__LIVE_HORIZON_S": "600"}  # two shards more than hospitals; a start may take a minute


@pytest.mark.clause("7.3")
async def test_an_order_to_dedicate_a_hospital_is_carried_out_though_the_platform_is_killed_meanwhile(tmp_path):
    bench = FaultBench(Stand(tmp_path / "var", **SETTINGS))
    try:
        await bench.start()
        result = await bench.play(Plan(0, (Fault(1.0, "order", "place", pick=0.25), Fault(1.5, "kill", "up")), CROSSINGS))
        state, view = await placement(bench.stand, HOSPITAL), await hosts(bench.stand)
    finally:
        await bench.stand.close()
    assert result.holds, str(result)
    assert result.verdict.ledger.acknowledged > 1_000
    assert state["placement"] == "dedicated"
    assert is_placed(state), state
    assert [host["shards"] for host in view["hosts"] if host["name"] == state["host"]] == [[state["shard"]]]
    assert sorted(shard for host in view["hosts"] for shard in host["shards"]) == list(range(6))
    assert (view["wanted"], view["dedicated"]) == (3, [state["shard"]])
