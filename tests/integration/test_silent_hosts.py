"""Hosts that fall silent, as real processes under a real Ray, bus and supervisor (`tests.silent_hosts`)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]

TIMEOUT_S: Final = 2.0  # of heartbeats, in `tests.silent_hosts`


def play(folder: Path, *cases: str) -> list[dict[str, Any]]:
    """In a process of its own, because what Ray reads from the environment it reads once."""
    script = [sys.executable, "-m", "tests.silent_hosts", str(folder), str(TIMEOUT_S), *cases]
    done = subprocess.run(script, capture_output=True, text=True, timeout=280, check=False)
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [one["case"] for one in told] == list(cases), done.stderr[-3000:]
    return told


@pytest.mark.clause("7.3", "9.3d")
def test_one_that_is_killed_is_lost_when_ray_tells_of_it_and_one_that_works_hard_is_waited_for(tmp_path: Path) -> None:
    killed, works = play(tmp_path, "kill", "work")
    assert (killed["why"], killed["restarts"]) == ("its process has ended", 1)
    assert killed["lost_s"] < TIMEOUT_S / 2, "not by its silence"
    assert works["is_waited_for"], "it was silent for longer than the timeout"
    assert (works["why"], works["restarts"]) == ("", 0)


@pytest.mark.long
def test_one_that_is_stopped_hangs_or_is_cut_from_the_bus_is_replaced_and_none_while_the_bus_is_away(tmp_path: Path) -> None:
    stopped, hangs, cut, bus_away = play(tmp_path, "stop", "hang", "cut", "bus-away")
    assert "stopped" in stopped["why"]
    assert "hangs" in hangs["why"]
    assert "bus connection is cut" in cut["why"]
    assert [one["restarts"] for one in (stopped, hangs, cut)] == [1, 1, 1]
    assert stopped["lost_s"] < TIMEOUT_S + 2.0
    assert (bus_away["why"], bus_away["restarts"]) == ("", 0)
