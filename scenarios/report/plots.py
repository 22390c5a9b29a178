"""Plots as inline SVG: no script, no font, no address outside the page. Colours are classes, so that CSS has the say.

A plot says its unit on each axis, shades the warm-up, and marks faults. Values come in plain lists.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

WIDTH: Final = 860
HEIGHT: Final = 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 74, 16, 14, 46
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """A line: its name in the legend and its points, in order of x."""

    name: str
    points: Sequence[Point]


@dataclass(frozen=True, slots=True)
class Span:
    """A shaded stretch of the x axis: the warm-up, a fault."""

    kind: str  # "warmup" or "fault"
    start: float
    end: float
    text: str


@dataclass(frozen=True, slots=True)
class _Axis:
    """Maps values to pixels. `ticks` are (value, label)."""

    low: float
    high: float
    start_px: float
    end_px: float
    ticks: Sequence[tuple[float, str]]
    scale: Callable[[float], float] = float

    def at(self, value: float) -> float:
        low, high = self.scale(self.low), self.scale(self.high)
        share = (self.scale(min(max(value, self.low), self.high)) - low) / ((high - low) or 1.0)
        return self.start_px + share * (self.end_px - self.start_px)


def time_plot(series: Sequence[Series], *, y_title: str, spans: Sequence[Span] = (), end_s: float | None = None) -> str:
    """Values over the seconds of a run, from zero."""
    drawn = [s for s in series if s.points]
    if not drawn:
        return _nothing()
    top = nice_ceiling(max(y for s in drawn for _, y in s.points))
    y = _Axis(0, top, HEIGHT - _BOTTOM, _TOP, [(top * i / 4, number(top * i / 4)) for i in range(5)])
    x = _time_axis(drawn, spans, end_s)
    return _plot(drawn, x, y, "seconds since the start of the warm-up", y_title, spans)


def latency_time_plot(series: Sequence[Series], *, spans: Sequence[Span] = (), end_s: float | None = None) -> str:
    """Milliseconds over the seconds of a run, on a logarithmic axis."""
    drawn = [s for s in series if s.points]
    if not drawn:
        return _nothing()
    y = _log_axis([y for s in drawn for _, y in s.points], HEIGHT - _BOTTOM, _TOP)
    x = _time_axis(drawn, spans, end_s)
    return _plot(drawn, x, y, "seconds since the start of the warm-up", "latency, ms (logarithmic)", spans)


def percentile_plot(series: Sequence[Series]) -> str:
    """Latency by percentile; x is stretched towards 100 %, as HDR histograms are drawn."""
    drawn = [s for s in series if s.points]
    if not drawn:
        return _nothing()
    ticks = [(p, f"{p:g} %") for p in (0.0, 50.0, 90.0, 99.0, 99.9, 99.99)]
    x = _Axis(0.0, 99.995, _LEFT, WIDTH - _RIGHT, ticks, lambda p: -math.log10(1 - min(p, 99.995) / 100))
    y = _log_axis([y for s in drawn for _, y in s.points], HEIGHT - _BOTTOM, _TOP)
    return _plot(drawn, x, y, "share of the measured ones that were at most this late", "latency, ms (logarithmic)", ())


def verdict_bars(rows: Sequence[tuple[str, float, float, str, str, bool]]) -> str:
    """One bar a figure: (title, measured, bound, label, verdict class, whether the bound is a maximum).

    Bars are scaled to their own bound, which is the line in the middle: at most it, or at least it, is the pass.
    """
    if not rows:
        return _nothing()
    height = 24 * len(rows) + 26
    left, right = 430.0, WIDTH - 150.0
    middle = (left + right) / 2
    parts = [
        f'<text x="{middle:.0f}" y="12" class="tick" text-anchor="middle">bound</text>',
        f'<line x1="{middle:.0f}" x2="{middle:.0f}" y1="18" y2="{height - 4}" class="bound"/>',
    ]
    for i, (title, measured, bound, label, verdict, is_max) in enumerate(rows):
        top = 22 + 24 * i
        share = min(measured / bound, 2.0) if bound > 0 else (0.0 if measured <= 0 else 2.0)
        end = left + (middle - left) * share
        parts.append(f'<text x="{left - 10:.0f}" y="{top + 14}" class="label" text-anchor="end">{escape(title)}</text>')
        parts.append(
            f'<rect x="{left:.0f}" y="{top + 3}" width="{max(end - left, 2):.1f}" height="15" rx="2" class="bar {verdict}"/>'
        )
        sign = "≤" if is_max else "≥"
        parts.append(
            f'<text x="{right + 8:.0f}" y="{top + 14}" class="label">{escape(label)} <tspan class="tick">{sign} '
            f"{number(bound)}</tspan></text>"
        )
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img">{"".join(parts)}</svg>'


def nice_ceiling(value: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1.0, 2.0, 2.5, 5.0, 10.0) if step * power >= value * (1 - 1e-9))


def number(value: float) -> str:
    """A number for people: thin groups of three, no more digits than tell something."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.3g}"


def _time_axis(series: Sequence[Series], spans: Sequence[Span], end_s: float | None) -> _Axis:
    last = end_s if end_s is not None else max(x for s in series for x, _ in s.points)
    last = max(last, *(span.end for span in spans if span.kind == "warmup"), 1.0)
    step = next(s for s in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 10**9) if last / s <= 12)
    ticks = [(float(t), number(t)) for t in range(0, int(last) + 1, step)]
    return _Axis(0.0, last, _LEFT, WIDTH - _RIGHT, ticks)


def _log_axis(values: Sequence[float], start_px: float, end_px: float) -> _Axis:
    positive = [v for v in values if v > 0] or [1.0]
    low = 10.0 ** math.floor(math.log10(min(positive)))
    high = 10.0 ** math.ceil(math.log10(max(positive) * (1 + 1e-9)))
    high = max(high, low * 10)
    exponents = range(round(math.log10(low)), round(math.log10(high)) + 1)
    return _Axis(low, high, start_px, end_px, [(10.0**e, number(10.0**e)) for e in exponents], math.log10)


def _plot(series: Sequence[Series], x: _Axis, y: _Axis, x_title: str, y_title: str, spans: Sequence[Span]) -> str:
    middle, centre = (_TOP + HEIGHT - _BOTTOM) / 2, (_LEFT + WIDTH - _RIGHT) / 2
    parts = [*(_span(span, x) for span in spans), *_grid(x, y)]
    parts += [f'<path d="{_path(s.points, x, y)}" class="line s{i % 8}"/>' for i, s in enumerate(series)]
    parts.append(f'<text x="{centre:.0f}" y="{HEIGHT - 8}" class="title" text-anchor="middle">{escape(x_title)}</text>')
    parts.append(
        f'<text transform="translate(15 {middle:.0f}) rotate(-90)" class="title" text-anchor="middle">{escape(y_title)}</text>'
    )
    legend = "".join(f'<span class="key"><i class="swatch s{i % 8}"></i>{escape(s.name)}</span>' for i, s in enumerate(series))
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg><div class="legend">{legend}</div>'


def _grid(x: _Axis, y: _Axis) -> list[str]:
    parts = []
    for value, label in y.ticks:
        at = y.at(value)
        parts.append(f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}" class="grid"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{at + 4:.1f}" class="tick" text-anchor="end">{label}</text>')
    for value, label in x.ticks:
        at = x.at(value)
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{HEIGHT - _BOTTOM}" y2="{HEIGHT - _BOTTOM + 4}" class="axis"/>')
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - _BOTTOM + 17}" class="tick" text-anchor="middle">{label}</text>')
    parts.append(f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{HEIGHT - _BOTTOM}" y2="{HEIGHT - _BOTTOM}" class="axis"/>')
    return parts


def _span(span: Span, x: _Axis) -> str:
    start, end = x.at(span.start), x.at(max(span.end, span.start))
    return (
        f'<rect x="{start:.1f}" y="{_TOP}" width="{max(end - start, 1.5):.1f}" height="{HEIGHT - _BOTTOM - _TOP}" '
        f'class="span {span.kind}"><title>{escape(span.text)}</title></rect>'
        f'<text x="{start + 4:.1f}" y="{_TOP + 12}" class="tick">{escape(span.text)}</text>'
    )


def _path(points: Sequence[Point], x: _Axis, y: _Axis) -> str:
    return " ".join(f"{'M' if i == 0 else 'L'}{x.at(px):.1f} {y.at(py):.1f}" for i, (px, py) in enumerate(points))


def _nothing() -> str:
    return '<p class="quiet">not measured</p>'
