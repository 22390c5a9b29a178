"""`vitalgrid scenario`: list the stories, play one, show its report, compare two."""

from __future__ import annotations

import asyncio
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from cluster.command_options import DataDir
from cluster.run_target import remote_target, settings_of, some_platform
from cluster.run_view import RunView, comparison_table, show_report, wide_console
from domain.errors import InvalidInput, NotFound
from runtime.clock import SystemClock
from runtime.priority import go_ahead
from runtime.settings import Settings
from scenarios.catalogue import open_scenario, parse_assignments, scenario_names
from scenarios.comparison import compare
from scenarios.launch import latest_run, load_report, new_run_id
from scenarios.model import Scenario
from scenarios.report.document import Report
from scenarios.runner import ScenarioRun
from scenarios.target import Target
from scenarios.verdicts import ExitCode, exit_code

scenario = typer.Typer(name="scenario", help="Stories played against the platform, with verdicts.", no_args_is_help=True)
_console = wide_console()

Reports = Annotated[Path, typer.Option("--reports", help="Where runs leave their reports.")]
Token = Annotated[str | None, typer.Option("--token", help="API token (default: VITALGRID_TOKEN, or this machine's own).")]


@scenario.command("list")
def list_scenarios() -> None:
    """Show the stories there are."""
    table = Table("name", "title", "clauses", "devices", "takes")
    for name in scenario_names():
        one = open_scenario(name)
        table.add_row(name, one.title, " ".join(one.covers), f"{one.fleet.devices:,}", f"{one.total_s:.0f} s")
    _console.print(table)


@scenario.command("run")
def run_scenario(  # noqa: PLR0913, PLR0917 (options of a command)
    name: Annotated[str, typer.Argument(help="One of `scenario list`, or a .toml file.")],
    assign: Annotated[list[str] | None, typer.Option("--set", help="Override, such as fleet.devices=5000.")] = None,
    against: Annotated[str | None, typer.Option(help="API address of a platform elsewhere.")] = None,
    mqtt: Annotated[
        str | None, typer.Option(help="MQTT door of that platform, [mqtts://]host:port (default: port 1883).")
    ] = None,
    ca: Annotated[Path | None, typer.Option(help="Authority of that platform's certificates, its pki/ca.pem.")] = None,
    token: Token = None,
    data_dir: DataDir = None,
    reports: Reports = Path("reports"),
    run_id: Annotated[str | None, typer.Option(help="Name of the run's folder (default: time and scenario).")] = None,
) -> None:
    """Play a story: against the platform that runs here, one elsewhere, or one started for the purpose.

    Exit codes: 0 passed, 1 an expectation failed or was not measured, 2 wrong use, 3 INVALID (the generator fell behind).
    """
    try:
        story = open_scenario(name, parse_assignments(assign or []))
    except (InvalidInput, NotFound) as error:
        _console.print(f"[red]{error}[/red]", highlight=False)
        raise typer.Exit(ExitCode.USAGE) from None
    folder = reports / (run_id or new_run_id(name, SystemClock().now_us()))
    settings = settings_of(data_dir)
    elsewhere = remote_target(against, token, mqtt, settings.region_id, ca) if against is not None else None
    report = asyncio.run(_play(name, story, settings, elsewhere, token, folder))
    show_report(_console, report, str(folder / "report.html"))
    raise typer.Exit(exit_code(report.verdict))


async def _play(
    name: str, story: Scenario, settings: Settings, elsewhere: Target | None, token: str | None, folder: Path
) -> Report:  # fmt: skip
    if elsewhere is not None:
        return await _played(name, story, elsewhere, folder)
    async with some_platform(settings, token) as (target, is_own):
        if is_own:
            _console.print("no platform was running here: one was started for this run", highlight=False)
        return await _played(name, story, target, folder)


async def _played(name: str, story: Scenario, target: Target, folder: Path) -> Report:
    go_ahead()  # who measures must not wait for what is measured
    command = shlex.join(["vitalgrid", *without_token(sys.argv[1:])])
    with RunView(_console) as view:
        run = ScenarioRun(name, story, target, folder, clock=SystemClock(), command=command, show=view.show)
        return await run.play()


def without_token(arguments: list[str]) -> list[str]:
    """The command as it may be printed."""
    shown: list[str] = []
    for argument in arguments:
        is_token = bool(shown) and shown[-1] == "--token"
        shown.append("…" if is_token else ("--token=…" if argument.startswith("--token=") else argument))
    return shown


@scenario.command("report")
def show_run(
    run: Annotated[str | None, typer.Argument(help="A run's id or folder (default: the newest).")] = None,
    reports: Reports = Path("reports"),
) -> None:
    """Show the verdicts of a run and where its report is."""
    run = run or latest_run(reports)
    report = load_report(reports, run)
    show_report(_console, report, str(reports / report.provenance.run_id / "report.html"))


@scenario.command("compare")
def compare_runs(
    first: Annotated[str, typer.Argument(help="A run's id, folder or report.json.")],
    second: Annotated[str, typer.Argument(help="Another one.")],
    reports: Reports = Path("reports"),
) -> None:
    """Show the figures of two runs side by side with their ratio."""
    one, other = load_report(reports, first), load_report(reports, second)
    _console.print(comparison_table(compare(one, other), one.provenance.run_id, other.provenance.run_id))
