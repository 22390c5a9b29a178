"""Small runs of the stories against a whole platform: what is asserted is the ledger and the report, never a timing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.running_platform import RunningPlatform

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]

SMALL = ("fleet.devices=400", "warmup_s=4", "generator.late_share_max=1")
INVALID, USAGE = 3, 2


def play(platform: RunningPlatform, folder: Path, story: str, *settings: str) -> dict[str, Any]:
    """Run `vitalgrid scenario run` as its user would and return the report's data."""
    options = [part for setting in (*SMALL, *settings) for part in ("--set", setting)]
    played = subprocess.run(
        [sys.executable, "-m", "cluster.cli", "scenario", "run", story, *options, "--run-id", story,
         "--reports", str(folder), "--data-dir", str(platform.data_dir)],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert played.returncode not in (INVALID, USAGE), played.stdout[-3000:] + played.stderr[-3000:]
    report: dict[str, Any] = json.loads((folder / story / "report.json").read_text())
    assert "<html" in (folder / story / "report.html").read_text()
    return report


@pytest.mark.clause("8.1")
@pytest.mark.clause("5.4c")
@pytest.mark.clause("6.1d")
def test_a_calm_day_is_kept_whole_with_real_patients_beside(platform: RunningPlatform, tmp_path: Path) -> None:
    report = play(platform, tmp_path, "calm-district", "duration_s=8", "fault.0.at_s=6")
    ledger = report["ledger"]
    assert ledger["sent"] == ledger["acknowledged"] == ledger["stored"] + ledger["rejected"]
    assert (ledger["lost"], ledger["doubled"], ledger["unexpected"]) == (0, 0, 0)
    assert ledger["sent"] > 2_000


@pytest.mark.clause("9.3d")
def test_a_host_killed_in_the_middle_of_a_run_loses_and_doubles_nothing(platform: RunningPlatform, tmp_path: Path) -> None:
    before = set(platform.connection.host_pids.values())
    report = play(platform, tmp_path, "host-kill", "duration_s=12", "fault.0.at_s=8")
    ledger = report["ledger"]
    assert (ledger["lost"], ledger["doubled"], ledger["unexpected"]) == (0, 0, 0)
    assert ledger["acknowledged"] > 1_000
    assert set(platform.connection.host_pids.values()) != before
