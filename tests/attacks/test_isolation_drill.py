"""The drill on a real platform: a flooding and a spoofed monitor are cut off, one of them from a patient, and taken back."""

from __future__ import annotations

import asyncio

import pytest

from tests.attacks.isolation_drill import play, refused_of
from tests.running_platform import RunningPlatform

pytestmark = [
    pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.clause("8.4b"), pytest.mark.clause("8.4d"),
    pytest.mark.clause("9.4"),
]  # fmt: skip


def test_what_comes_through_behind_the_first_refusal_is_seen() -> None:
    assert refused_of({1, 2, 3, 4}, {1, 2}) == ({3, 4}, set())
    assert refused_of({1, 2, 3, 4}, {1, 2, 4}) == ({3}, {4})
    assert refused_of({1, 2}, {1, 2}) == (set(), set())


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
