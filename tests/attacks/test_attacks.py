"""The drill, then every flood, small and many at once, against a platform whose links all speak TLS.

`make attacks` plays each flood at full size. In the drill a flooding and a spoofed monitor are cut off, one of them from a
patient, and taken back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from domain.principals import Role
from tests.attacks.attack_run import AttackBench
from tests.attacks.floods import FLOODS
from tests.attacks.isolation_drill import play, refused_of
from tests.running_platform import RunningPlatform, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]
SECONDS = 1.5
TRIES = 3
BUSY = 8  # at once, of attackers that do much each time
P99_S = 10.0  # that nobody is kept out; `make attacks` judges by the second that is promised
HELD = ("good readings",)  # their sender is made to wait, so it comes seldom
GROUPS = (
    ("live streams", "catch-ups"),  # first: who was refused often before is told a moment later than this lasts
    ("slow headers", "slow bodies", "slow reads", "MQTT silence", "pings"),
    ("connections", "handshakes", "garbage"),
    ("MQTT connects", "wrong tokens", "logins"),
    ("oversize", "bombs", "complex questions", "simple questions"),
    HELD,
)


def held(platform: RunningPlatform) -> float:
    """How often a sender had to wait at a door because it sent more than it may."""
    with platform.http(Role.CAPACITY_PLANNER) as http:
        text = http.get(f"{platform.connection.api_url}/metrics").raise_for_status().text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("vitalgrid_door_held_total{"))


def test_what_comes_through_behind_the_first_refusal_is_seen() -> None:
    assert refused_of({1, 2, 3, 4}, {1, 2}) == ({3, 4}, set())
    assert refused_of({1, 2, 3, 4}, {1, 2, 4}) == ({3}, {4})
    assert refused_of({1, 2}, {1, 2}) == (set(), set())


@pytest.mark.clause("8.4b", "8.4d")
@pytest.mark.clause("9.4")
def test_a_spoofed_and_a_flooding_device_are_cut_off_within_seconds_and_nobody_else_loses_a_reading(
    platform: RunningPlatform,
) -> None:
    drill = asyncio.run(play(platform))
    assert drill.problems == [], str(drill)
    assert drill.seconds["flood: told as a security event, before any order"] < 25.0, str(drill)
    assert drill.seconds["spoof: the ward's alarm"] < 10.0, str(drill)
    assert drill.seconds["flood: its token opens nothing"] < 10.0, str(drill)
    rules = [line.split(": ")[0].split()[-1] for line in drill.seen]
    assert "technical.device-isolated" in rules
    assert "undo: the ward's alarm is over" in drill.seconds, str(drill)
    assert drill.kept_apart > 0


@pytest.mark.clause("9.1b")
def test_each_flood_is_played() -> None:
    assert sorted(name for group in GROUPS for name in group) == sorted(FLOODS)


async def under(bench: AttackBench, group: Sequence[str]) -> bool:
    """Whether the floods came and were told so: on a busy machine attackers hardly get to it. Honest clients notice nothing."""
    outcome = await bench.under(group, SECONDS)
    assert outcome.problems(P99_S) == [], outcome
    told = outcome.attackers.keys() & {"cut", "refused", "401", "413", "415", "422", "429", "431", "503"}
    return outcome.attackers.get("opened", 0) >= (2 if group == HELD else BUSY) and bool(told)


@pytest.mark.clause("9.1b")
def test_floods_keep_no_honest_client_out_and_cost_no_reading(platform: RunningPlatform) -> None:
    async def flooded() -> set[int]:
        bench = AttackBench(platform, connections=40, busy=BUSY)
        await bench.start(TRIES * len(GROUPS))
        for group in GROUPS:
            left = TRIES
            while not await under(bench, group):
                left -= 1
                assert left, group
        await bench.honest.close()
        assert len(bench.honest.acknowledged) > 20
        return await bench.honest.lost()

    assert asyncio.run(flooded()) == set()
    wait_until(lambda: held(platform) >= 1, 10)
    for name in ("api", "doors"):
        assert "Traceback" not in platform.log(f"{name}.log"), platform.log(f"{name}.log")[-3000:]
