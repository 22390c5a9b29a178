"""A run in the terminal: a table that keeps itself up to date, or plain lines where nobody looks (a pipe, a log)."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from domain.alarms import INTENDED_USE
from scenarios.comparison import Comparison
from scenarios.progress import Progress, Stage
from scenarios.report.document import Report
from scenarios.verdicts import Verdict

_STYLES: Final = {Verdict.PASS: "bold green", Verdict.FAIL: "bold red", Verdict.INVALID: "bold yellow"}
_LINE_EVERY_S: Final = 5.0
_FILE_WIDTH: Final = 150


def wide_console() -> Console:
    """The terminal as it is; a file or pipe has no width of its own, so tables there get one they fit in."""
    return Console() if sys.stdout.isatty() else Console(width=_FILE_WIDTH)


class RunView:
    """Show progress with `show`; a context manager, because a live table must be ended."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4) if console.is_terminal else None
        self._last_stage: Stage | None = None
        self._last_line_s = -_LINE_EVERY_S

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, progress: Progress) -> None:
        if self._live is not None:
            self._live.update(progress_table(progress))
            return
        if progress.stage == self._last_stage and progress.at_s - self._last_line_s < _LINE_EVERY_S:
            return
        self._last_stage, self._last_line_s = progress.stage, progress.at_s
        self._console.print(progress_line(progress), highlight=False, soft_wrap=True)


def progress_line(progress: Progress) -> str:
    """One line for a log."""
    parts = [f"{progress.at_s:6.1f} s", str(progress.stage)]
    if progress.readings_per_s is not None:
        parts.append(f"{progress.readings_per_s:,.0f} readings/s")
    parts += [f"{name} {value:,.0f} ms" for name, value in _latencies(progress) if value is not None]
    if progress.sent:
        parts.append(f"{progress.alarms} alarms, {progress.acknowledged:,} of {progress.sent:,} acknowledged")
    if progress.lost is not None:
        parts.append(f"lost {progress.lost}, doubled {progress.doubled}")
    if progress.detail:
        parts.append(progress.detail)
    return "  ".join(parts)


def progress_table(progress: Progress) -> Table:
    """The live view."""
    table = Table.grid(padding=(0, 3))
    done = min(progress.at_s, progress.total_s)
    table.add_row(
        f"[bold]{progress.scenario}[/bold]", f"[cyan]{progress.stage}[/cyan] {progress.detail}",
        ProgressBar(total=max(progress.total_s, 1.0), completed=done, width=30), _eta(progress),
    )  # fmt: skip
    table.add_row(
        f"devices {progress.devices:,}", f"gateways connected {progress.connected:,}",
        f"readings/s {_or_dash(progress.readings_per_s)}", f"acknowledged {progress.acknowledged:,} of {progress.sent:,}",
    )  # fmt: skip
    stream = {None: "", True: "live stream connected", False: "[red]live stream: no connection[/red]"}[progress.alarm_stream]
    table.add_row(
        *(f"{name} {_or_dash(value)} ms" for name, value in _latencies(progress)), f"alarms {progress.alarms:,}", stream
    )
    ledger = "" if progress.lost is None else f"lost {progress.lost}, doubled {progress.doubled}"
    late = progress.late_share
    generator = "" if late is None else f"generator late {100 * late:.2f} %"
    table.add_row(f"platform {_or_dash(progress.platform_cores, 1)} cores", generator, ledger, "")
    return table


def verdict_table(report: Report) -> Table:
    """What the run says, clause by clause."""
    table = Table(title=f"{report.story.title}: {report.verdict}", title_style=_style(report.verdict), title_justify="left")
    for column in ("clause", "what it asks for", "figure", "measured", "expected", "verdict"):
        table.add_column(column, justify="right" if column in ("measured", "expected") else "left", overflow="fold")
    by_metric = {checked.metric: checked for checked in report.expectations}
    for row in report.clauses:
        for number, metric in enumerate(row.figures or ("",)):
            checked = by_metric.get(metric)
            style = _style(checked.verdict if checked else row.verdict)
            table.add_row(
                row.clause if number == 0 else "", row.duty if number == 0 else "", metric,
                f"{_or_dash(checked.measured, 2)} {checked.unit}" if checked else "",
                checked.expected if checked else "no expectation", f"[{style}]{checked.verdict if checked else row.verdict}[/]",
            )  # fmt: skip
    if report.invalid_reason:
        table.caption = report.invalid_reason
    return table


def show_report(console: Console, report: Report, where: str) -> None:
    """Verdicts, the clinical caution, and where the whole report is."""
    console.print(verdict_table(report))
    console.print(INTENDED_USE, style="yellow", highlight=False)
    console.print(f"report: {where}", highlight=False, soft_wrap=True)


def comparison_table(comparison: Comparison, first: str, second: str) -> Table:
    """Figures of two runs with their ratio."""
    table = Table(title="\n".join(("second against first", *comparison.differences)), title_justify="left")
    for column in ("figure", "unit", first, second, "ratio"):
        table.add_column(column, justify="left" if column in ("figure", "unit") else "right", overflow="fold")
    for figure in comparison.figures:
        ratio = "–" if figure.ratio is None else f"{figure.ratio:.2f}"
        table.add_row(figure.metric, figure.unit, _or_dash(figure.first, 2), _or_dash(figure.second, 2), ratio)
    return table


def _latencies(progress: Progress) -> list[tuple[str, float | None]]:
    return [("durable p99", progress.durable_p99_ms), ("simple query p99", progress.query_p99_ms)]


def _eta(progress: Progress) -> str:
    return "" if progress.eta_s is None else f"{progress.eta_s:.0f} s to go"


def _or_dash(value: float | None, digits: int = 0) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value == int(value) else f"{value:,.{digits}f}"


def _style(verdict: Verdict) -> str:
    return _STYLES.get(verdict, "dim")
