"""The report as one HTML page that stands by itself: styles and plots inside, nothing fetched, light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import jinja2
from markupsafe import Markup

from scenarios.report import plots
from scenarios.report.document import Report
from scenarios.report.plots import Series, Span
from scenarios.verdicts import METRICS, Verdict

_HERE: Final = Path(__file__).parent
_CLASSES: Final = {Verdict.PASS: "pass", Verdict.FAIL: "fail", Verdict.INVALID: "invalid", Verdict.NOT_MEASURED: "unknown"}
_LATENCY_TITLES: Final = {
    "durable": "reading → durable",
    "state": "reading → state (asked by REST)",
    "alarm_visible": "reading → limit alarm visible",
    "score_alarm_visible": "reading → score alarm visible",
    "query_simple": "simple query (7.1a)",
    "query_complex": "complex query (7.1b)",
    "query_batch": "batch query (7.1c)",
    "generator_lateness": "generator lateness",
}
_SHOWN_PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9, 100.0)


def render(report: Report) -> str:
    """The whole page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters["number"] = _number
    environment.filters["verdict_class"] = lambda verdict: _CLASSES[Verdict(verdict)]
    environment.filters["latency_title"] = lambda name: _LATENCY_TITLES.get(name, name)
    return environment.get_template("page.html.j2").render(
        report=report, metrics=METRICS, css=Markup((_HERE / "page.css").read_text(encoding="utf-8")),  # noqa: S704 (our own file)
        plots=_plots(report), highlights=_highlights(report), percentiles=_SHOWN_PERCENTILES,
        latency_rows=[_latency_row(latency) for latency in report.latencies],
        service_rows=[row for times in report.service_times for row in _service_rows(times.host, times)],
    )  # fmt: skip


def _plots(report: Report) -> dict[str, Markup]:
    spans = _spans(report)
    end_s = report.story.warmup_s + report.story.duration_s
    readings, queries = _groups(report)
    rates = [Series(name, _points(report.rates[key])) for key, name in
             (("sent", "sent"), ("acknowledged", "acknowledged")) if key in report.rates]  # fmt: skip
    alarms = [Series("live alarms raised", _points(report.rates.get("alarms", [])))]
    made = {
        "verdicts": plots.verdict_bars(_bars(report)),
        "rate": plots.time_plot(rates, y_title="readings per second", spans=spans, end_s=end_s),
        "alarms": plots.time_plot(alarms, y_title="alarms per second", spans=spans, end_s=end_s),
        "percentiles": plots.percentile_plot([_by_percentile(latency) for latency in (*readings, *queries)]),
        "latency": plots.latency_time_plot(_over_time(readings), spans=spans, end_s=end_s),
        "queries": plots.latency_time_plot(_over_time(queries), spans=spans, end_s=end_s),
        "lateness": plots.latency_time_plot(_over_time([report.generator.lateness]), spans=spans, end_s=end_s),
        "cores": plots.time_plot(_resource(report, 1, 1.0), y_title="cores in use", spans=spans),
        "memory": plots.time_plot(_resource(report, 2, 2.0**20), y_title="resident memory, MiB", spans=spans),
    }
    return {name: Markup(svg) for name, svg in made.items()}  # noqa: S704 (made by us, texts escaped there)


def _groups(report: Report) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    measured = [latency for latency in report.latencies if latency["count"] or latency["series"]]
    queries = [latency for latency in measured if latency["name"].startswith("query_")]
    return [latency for latency in measured if latency not in queries], queries


def _points(rows: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    return [(row[0], row[1]) for row in rows if row[0] >= 0]


def _by_percentile(latency: dict[str, Any]) -> Series:
    return Series(_LATENCY_TITLES.get(latency["name"], latency["name"]), [(p, ms) for p, ms in latency["percentiles_ms"]])


def _over_time(latencies: Sequence[dict[str, Any]]) -> list[Series]:
    lines = []
    for latency in latencies:
        title = _LATENCY_TITLES.get(latency["name"], latency["name"])
        shown = [row for row in latency["series"] if row[0] >= 0]
        lines.append(Series(f"{title}, p99 of the second", [(row[0], row[3]) for row in shown]))
    return lines


def _resource(report: Report, column: int, divisor: float) -> list[Series]:
    return [
        Series(r["role"], [(row[0], row[column] / divisor) for row in r["series"] if row[0] >= 0]) for r in report.resources
    ]


def _spans(report: Report) -> list[Span]:
    faults = [Span("fault", fault.at_s, fault.until_s, fault.text) for fault in report.faults]
    return [Span("warmup", 0.0, report.story.warmup_s, "warm-up"), *faults]


def _bars(report: Report) -> list[tuple[str, float, float, str, str, bool]]:
    """Expectations with one bound above zero; "exactly none" is better read in the table."""
    by_metric = {checked.metric: checked for checked in report.expectations if checked.measured is not None}
    rows = []
    for expect in report.story.settings["expect"]:
        checked = by_metric.get(expect["metric"])
        bound = expect.get("max") if expect.get("max") is not None else expect.get("min")
        if checked is None or checked.measured is None or not bound:
            continue
        label = f"{_number(checked.measured)} {checked.unit if checked.unit in ('ms', '1/s') else ''}".strip()
        is_max = expect.get("max") is not None
        rows.append((checked.title, checked.measured, float(bound), label, _CLASSES[checked.verdict], is_max))
    return rows


def _highlights(report: Report) -> list[tuple[str, str, str]]:
    """The few figures a reader looks for first: (value, unit, what)."""
    wanted = (
        ("devices_live", "devices", "live at the end"),
        ("readings_per_s", "readings/s", "acknowledged and durable"),
        ("durable_p99_ms", "ms", "reading → durable, p99"),
        ("alarm_visible_p99_ms", "ms", "reading → alarm visible, p99"),
        ("query_simple_p99_ms", "ms", "simple query under load, p99"),
        ("readings_lost", "lost", "of what was acknowledged"),
        ("readings_doubled", "doubled", "in the store"),
    )
    return [(_number(report.figures.get(metric)), unit, what) for metric, unit, what in wanted]


def _latency_row(latency: dict[str, Any]) -> dict[str, Any]:
    by_percentile = dict(latency["percentiles_ms"])
    return {
        "name": latency["name"], "of": latency["of"], "count": latency["count"], "errors": latency["errors"],
        "values": [by_percentile.get(p) for p in _SHOWN_PERCENTILES],
    }  # fmt: skip


def _service_rows(host: str, times: Any) -> list[dict[str, Any]]:
    rows = []
    for size, counts in zip(times.readings_up_to, times.counts, strict=True):
        total = sum(counts)
        if total:
            rows.append({"host": host, "size": size, "turns": total,
                         "p50_us": _percentile(counts, times.service_us_up_to, 0.5),
                         "p99_us": _percentile(counts, times.service_us_up_to, 0.99)})  # fmt: skip
    return rows


def _percentile(counts: Sequence[int], edges: Sequence[int], share: float) -> int:
    """The upper edge of the bin in which `share` of the counts is reached."""
    wanted, reached = share * sum(counts), 0
    for count, edge in zip(counts, edges, strict=True):
        reached += count
        if reached >= wanted:
            return edge
    return edges[-1]


def _number(value: float | None) -> str:
    return "–" if value is None else plots.number(value)
