"""Clocks jump, of the platform and of a sender: nothing is lost, doubled or changed, and alarms are told live soon after."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from tests.faults.fault_run import FaultBench, Pace
from tests.faults.schedule import Plan
from tests.faults.senders import HOSPITALS
from tests.faults.stand import Stand

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.faults, pytest.mark.long, pytest.mark.timeout(300)]

HOUR_US = 3_600_000_000
AFTER_THE_JUMPS = tuple((10.5 + number / 2, number) for number in range(len(HOSPITALS)))
CROSSINGS = tuple((2.0 + number, number) for number in range(len(HOSPITALS)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    return tmp_path_factory.mktemp("clocks") / "var"


async def test_jumps_of_the_platforms_clock_lose_and_double_nothing_and_alarms_are_told_live_soon_after(folder):
    """An hour on, then back by one and a half, then to the true time: as an NTP client does that was wrong twice."""
    bench = FaultBench(Stand(folder, proxied=False), Pace(load_s=14.0, told_within_s=3.0, settle_s=10.0))
    stand = bench.stand
    jumped: list[int] = []

    async def jump() -> None:
        for offset_us in (HOUR_US, -HOUR_US // 2, 0):
            await asyncio.sleep(2.5)
            stand.clock_file.write_text(str(offset_us))
            jumped.append(offset_us)

    try:
        await bench.start()
        jumping = asyncio.create_task(jump())
        result = await bench.play(Plan(0, (), AFTER_THE_JUMPS))
        await jumping
        assert len(jumped) == 3
        assert result.holds, str(result)
        assert result.verdict.ledger.acknowledged > 2_000
    finally:
        await stand.close()


async def test_a_sender_whose_clock_jumps_loses_nothing_and_its_values_stay_as_sent(folder):
    """A gateway's clock goes an hour back, then two hours on, in the middle of its frames."""
    bench = FaultBench(Stand(folder.with_name("senders"), proxied=False))
    rng = np.random.default_rng(5)
    try:
        await bench.start()
        playing = asyncio.create_task(bench.play(Plan(0, (), CROSSINGS)))
        for skew_us in (-HOUR_US, 2 * HOUR_US, 0):
            await asyncio.sleep(2.0)
            if bench.load is not None:
                bench.load.gateways[int(rng.integers(len(HOSPITALS)))].skew_us = skew_us
        result = await playing
        assert result.holds, str(result)
    finally:
        await bench.stand.close()
