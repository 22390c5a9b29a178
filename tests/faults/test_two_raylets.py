"""Hosts on two raylets: one is killed, and its shards run on the other."""

from __future__ import annotations

import psutil
import pytest

from tests.faults.fault_run import FaultBench, Pace
from tests.faults.schedule import Fault, Plan
from tests.faults.senders import HOSPITALS
from tests.faults.stand import NODE, Stand
from tests.faults.two_raylets import TwoRaylets

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.faults, pytest.mark.long, pytest.mark.timeout(300)]

CROSSINGS = tuple((1.5 + number, number) for number in range(len(HOSPITALS)))


def raylets_of_hosts(stand: Stand) -> set[int]:
    return {psutil.Process(pid).ppid() for pid in stand.pids("host")}


@pytest.mark.clause("7.3")
async def test_a_raylet_is_killed_and_its_shards_run_on_the_other(tmp_path):
    bench = FaultBench(Stand(tmp_path / "var", raylets=TwoRaylets(), proxied=False), Pace(load_s=6.0))
    try:
        await bench.start()
        (node,) = bench.stand.pids(NODE)
        assert node in raylets_of_hosts(bench.stand), "each raylet runs a host"
        assert len(raylets_of_hosts(bench.stand)) == 2
        result = await bench.play(Plan(0, (Fault(2.5, "kill", NODE),), CROSSINGS))
        assert node not in raylets_of_hosts(bench.stand)
    finally:
        await bench.stand.close()
    assert result.holds, str(result)
    assert result.verdict.ledger.acknowledged > 1_000
    assert result.recovered_s["kill node"] < 20
