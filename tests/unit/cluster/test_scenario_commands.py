"""`vitalgrid scenario` and `fleet` as their user sees them: tables, exit codes, no token in sight."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from typer.testing import CliRunner

from cluster.fleet_commands import parse_duration_s, show_replay
from cluster.run_target import remote_target
from cluster.run_view import RunView, progress_line, progress_table
from cluster.scenario_commands import scenario, without_token
from domain.alarms import INTENDED_USE
from domain.errors import InvalidInput, Unauthenticated
from scenarios.ledger import Ledger
from scenarios.progress import Progress, Stage
from scenarios.replay import ReplayResult
from scenarios.replay_check import Difference, ScoreCounts
from scenarios.report.document import encode_report
from tests.report_samples import sample_report

MEASURING = Progress(
    "r", "wan-cut", Stage.MEASURING, 1, at_s=30, total_s=75, eta_s=55, devices=20_000, connected=40, sent=1_000,
    acknowledged=900, readings_per_s=4_812.0, durable_p99_ms=12.4, alarms=3, alarm_stream=False, late_share=0.002,
)  # fmt: skip


@pytest.fixture
def invoke():
    return lambda *arguments: CliRunner().invoke(scenario, list(arguments))


def text_of(renderable):
    console = Console(file=io.StringIO(), width=160)
    console.print(renderable)
    return console.file.getvalue()


def test_the_list_names_every_story(invoke):
    shown = invoke("list")
    assert shown.exit_code == 0
    for name in ("calm-district", "host-kill", "wan-cut"):
        assert name in shown.output


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["nonsense"], "calm-district"),
        (["wan-cut", "--set", "fleet.device=3"], "devices"),
        (["wan-cut", "--set", "x"], "key=value"),
    ],
)
def test_wrong_use_ends_with_two_and_the_right_words(invoke, arguments, word):
    ended = invoke("run", *arguments)
    assert ended.exit_code == 2
    assert word in ended.output


def test_reports_are_shown_and_compared(invoke, tmp_path):
    for run, report in (("20261123-081005-a", sample_report()), ("20261123-081105-b", sample_report(readings_per_s=9_624.8))):
        (tmp_path / run).mkdir()
        (tmp_path / run / "report.json").write_bytes(encode_report(report))
    shown = invoke("report", "--reports", str(tmp_path))
    assert INTENDED_USE[:40] in shown.output
    assert "pass" in shown.output
    compared = invoke("compare", "20261123-081005-a", "20261123-081105-b", "--reports", str(tmp_path))
    assert compared.exit_code == 0
    assert "2.00" in compared.output


def test_progress_in_a_pipe_is_plain_lines_every_few_seconds():
    console = Console(file=io.StringIO(), width=300)
    with RunView(console) as view:
        for second in range(12):
            view.show(Progress("r", "s", Stage.MEASURING, 1, at_s=float(second), total_s=20, sent=1))
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 3
    assert "\x1b" not in console.file.getvalue()
    assert "4,812 readings/s" in progress_line(MEASURING)


def test_the_live_view_says_when_the_alarm_stream_is_silent():
    shown = text_of(progress_table(MEASURING))
    assert "no connection" in shown
    assert "900 of 1,000" in shown
    assert "55 s to go" in shown


def test_a_token_never_reaches_the_report():
    assert without_token(["scenario", "run", "x", "--token", "secret"])[-1] == "…"
    assert "secret" not in " ".join(without_token(["--token=secret", "--set", "a=b"]))


def test_another_platform_needs_an_address_and_a_token(monkeypatch):
    monkeypatch.delenv("VITALGRID_TOKEN", raising=False)
    with pytest.raises(Unauthenticated, match="VITALGRID_TOKEN"):
        remote_target("http://a:1", None, None, "sz")
    with pytest.raises(InvalidInput, match="https://host:port"):
        remote_target("nowhere", "t", None, "sz")
    target = remote_target("https://a:8080/", "t", None, "sz")
    assert (target.api_url, target.mqtt_host, target.mqtt_port, target.lake_dir) == ("https://a:8080", "a", 1883, None)
    assert "'t'" not in repr(target)


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("60s", 60), ("5m", 300), ("1.5h", 5400)])
def test_durations_are_read_with_their_unit(text, seconds):
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "0s", "-5", "soon", "5d"])
def test_a_duration_that_is_none_is_refused(text):
    with pytest.raises(InvalidInput, match="60s, 5m or 1h"):
        parse_duration_s(text)


def replayed(**changes):
    facts = {"ledger": Ledger(10, 10, 10, 0, 0, 0, 0, 0), "values": Difference(10, 10, 0, 0), "scores": ScoreCounts(2, 7, 1)}
    return ReplayResult(
        recording="slice", sent=10, acknowledged=10, senders=1, replay_s=2.0, recorded_s=7200.0, late_share=0.0,
        durable_p99_ms=5.0, alarms_by_rule=[{"rule": "limit.low", "priority": "medium", "live": False, "count": 4}], errors={},
        rejects={}, **(facts | changes),
    )  # fmt: skip


def test_a_replay_tells_what_came_back():
    console = Console(file=io.StringIO(), width=160)
    show_replay(console, replayed())
    shown = console.file.getvalue()
    assert "10 of 10, queried back and compared value by value; lost 0, doubled 0" in shown
    assert "2 complete, 7 partial (no total), 1 not computable" in shown
    assert "limit.low" in shown
    assert INTENDED_USE in shown


def test_a_replay_is_right_only_when_everything_came_back_equal():
    assert replayed().is_right
    assert not replayed(values=Difference(10, 9, 0, 1)).is_right
    assert not replayed(ledger=Ledger(10, 10, 9, 0, 1, 0, 0, 0)).is_right
    assert not replayed(ledger=None, values=None).is_right
