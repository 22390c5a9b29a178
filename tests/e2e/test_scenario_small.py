"""A small scenario and a real patient against the whole platform, as `vitalgrid up` starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.run_target import local_target
from domain.errors import Conflict
from runtime.clock import SystemClock
from runtime.settings import Settings
from scenarios.catalogue import open_scenario
from scenarios.launch import ScenarioRuns
from scenarios.progress import Stage, read_progress
from scenarios.replay import Replay, ReplayWish
from scenarios.report.document import decode_report
from scenarios.runner import ScenarioRun
from scenarios.target import Target
from tests.running_platform import RunningPlatform
from tests.source_tree import ROOT

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

SMALL = {
    "fleet.devices": "300", "fleet.tertiary_beds": "60", "fleet.secondary": "1", "fleet.secondary_beds": "20",
    "fleet.primary": "0", "warmup_s": "2", "duration_s": "5",
    # one busy core is enough to be late here: how the generator is judged has tests of its own
    "generator.late_ms": "2000",
}  # fmt: skip


def target_of(platform: RunningPlatform) -> Target:
    return local_target(Settings(data_dir=platform.data_dir), platform.token)


async def play(platform: RunningPlatform, folder: Path, name: str, overrides: dict[str, str]):
    shown = []
    scenario = open_scenario(name, SMALL | overrides)
    run = ScenarioRun(name, scenario, target_of(platform), folder, clock=SystemClock(), command="test", show=shown.append)
    return await run.play(), shown


@pytest.mark.clause("8.1")
@pytest.mark.clause("7.3")
async def test_a_small_fleet_is_live_and_its_ledger_balances(platform, tmp_path):
    folder = tmp_path / "20261123-081005-clock-skew"
    overrides = {
        "fault.0.at_s": "0",
        "fault.0.for_s": "7",
        "fault.0.share": "0.5",
        "fault.1.at_s": "1",
        "fault.1.for_s": "4",
        "fault.1.share": "0.9",
    }
    report, shown = await play(platform, folder, "clock-skew", overrides)
    ledger = report.ledger
    assert ledger is not None
    assert ledger.sent > 500
    assert (ledger.lost, ledger.doubled, ledger.unexpected, ledger.unacknowledged) == (0, 0, 0, 0)
    assert ledger.stored == ledger.sent
    assert report.figures["readings_retransmitted"] > 0, "what was sent twice is stored once"
    assert report.figures["readings_clock_skewed"] > 0
    assert report.figures["readings_ahead_of_arrival"] == 0, "the patient is looked up by corrected time"
    assert report.figures["devices_registered"] == 300
    assert report.figures["devices_live"] > 150, "most have spoken, on a busy machine too"
    assert report.figures["query_errors"] == 0
    assert report.figures["durable_p99_ms"] > 0
    assert report.valid
    assert decode_report((folder / "report.json").read_bytes()).verdict == report.verdict
    assert "prefers-color-scheme" in (folder / "report.html").read_text()
    assert [progress.stage for progress in shown][-1] is Stage.FINISHED
    assert read_progress(folder).verdict == report.verdict


@pytest.mark.clause("6.1d")
@pytest.mark.clause("8.1")
async def test_patients_come_move_and_go_and_readings_are_those_of_whoever_lay_there(platform, tmp_path):
    """Twice: the second run finds the hospitals as the first left them."""
    overrides = {
        "fleet.devices": "900", "fleet.tertiary_beds": "600", "duration_s": "8", "movement.pace": "1000",
        "fault.0.at_s": "1", "fault.0.for_s": "3",
    }  # fmt: skip
    for number in range(2):
        report, _ = await play(platform, tmp_path / f"20261123-08100{number}-sepsis-cluster", "sepsis-cluster", overrides)
        figures = report.figures
        assert figures["movement_errors"] == 0, report.notes
        assert figures["patients_admitted"] >= 5
        assert figures["patients_discharged"] >= 3
        assert figures["patients_transferred"] >= 1
        assert figures["readings_attributed"] > 20
        assert figures["readings_misattributed"] == 0
        ledger = report.ledger
        assert (ledger.lost, ledger.doubled, ledger.unexpected, ledger.rejected) == (0, 0, 0, 0)


@pytest.mark.clause("6.1d")
@pytest.mark.parametrize(
    ("path", "limit"), [("tests/data/vitals/mimic_s00001_slice.csv", None), ("tests/data/physionet2012", 4)]
)
async def test_real_patients_come_back_value_by_value(platform, tmp_path, path, limit):
    wish = ReplayWish(path, speed=40_000.0, limit=limit)
    result = await Replay(wish, target_of(platform), tmp_path / "replay", clock=SystemClock()).play()
    assert result.sent == result.acknowledged > 500
    assert result.ledger.balances
    assert result.values.equal == result.values.compared == result.sent
    assert result.is_right
    assert result.scores.partial > 0
    assert all(not alarm["live"] for alarm in result.alarms_by_rule if not alarm["rule"].startswith("technical"))


async def test_a_run_started_for_the_api_ends_with_a_report(platform, tmp_path):
    runs = ScenarioRuns(tmp_path / "reports", platform.data_dir, SystemClock())
    settings = SMALL | {"fault.0.at_s": "3", "fault.0.for_s": "2"}
    run_id = await runs.start("wan-cut", settings)
    with pytest.raises(Conflict, match="one run at a time"):
        await runs.start("wan-cut", settings)
    exit_code = await runs.ended(run_id)
    assert runs.progress(run_id)["stage"] == "finished", (tmp_path / "reports" / run_id / "run.log").read_text()[-2000:]
    assert runs.progress(run_id)["lost"] == 0
    assert exit_code == 1, "300 devices hold back fewer readings than the story expects"
    assert runs.report(run_id, "html").startswith(b"<!doctype html>")


def test_wrong_use_of_the_command_is_told_by_its_exit_code(tmp_path):
    command = [sys.executable, "-m", "cluster.cli", "scenario", "run", "wan-cut", "--set", "fleet.devcies=3"]
    ended = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "VITALGRID_DATA_DIR": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert "devices" in ended.stdout
