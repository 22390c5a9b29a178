"""Latencies in HDR histograms, beside a series over time. Microseconds inside, milliseconds to people.

Latency counts from the moment a thing was *due* by the schedule, so a sender that falls behind cannot hide it
(coordinated omission). Warm-up is recorded apart and never enters a figure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

from hdrh.histogram import HdrHistogram

LOWEST_US: Final = 1
HIGHEST_US: Final = 600_000_000  # ten minutes: a reading held through a WAN cut still counts
DIGITS: Final = 3
PERCENTILES: Final = (0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.95, 99.99, 100.0)


class Latency:
    """One latency: a histogram of the measured time, and the counts and worst values second by second."""

    def __init__(self, name: str, unit_of: str = "messages") -> None:
        self.name = name
        self.unit_of = unit_of
        self._histogram = HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)
        self._seconds: dict[int, HdrHistogram] = {}
        self.errors = 0
        self.warmup_count = 0

    def record(self, latency_us: float, *, at_s: float, warmup: bool = False) -> None:
        """Count one. `at_s` is when it was due, in seconds of the run; a negative latency (clock steps) counts as 1 us."""
        value = min(max(int(latency_us), LOWEST_US), HIGHEST_US)
        second = int(at_s)
        series = self._seconds.get(second)
        if series is None:
            series = self._seconds[second] = HdrHistogram(LOWEST_US, HIGHEST_US, 2)
        series.record_value(value)
        if warmup:
            self.warmup_count += 1
        else:
            self._histogram.record_value(value)

    @property
    def count(self) -> int:
        return int(self._histogram.get_total_count())

    def percentile_ms(self, percentile: float) -> float | None:
        """The value below which `percentile` % of the measured ones lie; None when none was measured."""
        return self._histogram.get_value_at_percentile(percentile) / 1000 if self.count else None

    @property
    def max_ms(self) -> float | None:
        return self._histogram.get_max_value() / 1000 if self.count else None

    def summary(self) -> dict[str, Any]:
        """As in `report.json`: percentiles in ms, and the series [second, count, p50, p99, max]."""
        return {
            "name": self.name,
            "of": self.unit_of,
            "count": self.count,
            "errors": self.errors,
            "warmup_count": self.warmup_count,
            "mean_ms": round(self._histogram.get_mean_value() / 1000, 3) if self.count else None,
            "percentiles_ms": [[p, round(self.percentile_ms(p) or 0.0, 3)] for p in PERCENTILES] if self.count else [],
            "series": self.series(),
            "hdr": self._histogram.encode().decode("ascii"),
        }

    def series(self, last: int | None = None) -> list[list[float]]:
        """[second of the run, count, p50 ms, p99 ms, max ms], warm-up included (a plot shades it).

        `last`: of the newest so many seconds only. Each second costs a walk through its histogram in Python.
        """
        seconds = sorted(self._seconds)[-last if last else None :]
        return [[second, *_second_figures(self._seconds[second])] for second in seconds]

    def encoded(self) -> dict[str, Any]:
        """Everything, for another process to merge."""
        return {
            "name": self.name, "of": self.unit_of, "errors": self.errors, "warmup": self.warmup_count,
            "histogram": self._histogram.encode().decode(),  # base64 text: it travels as JSON
            "seconds": {second: histogram.encode().decode() for second, histogram in self._seconds.items()},
        }  # fmt: skip

    def merge(self, encoded: dict[str, Any]) -> None:
        """Add what another process `encoded`."""
        self._histogram.decode_and_add(encoded["histogram"])
        self.errors += encoded["errors"]
        self.warmup_count += encoded["warmup"]
        for second, histogram in encoded["seconds"].items():
            mine = self._seconds.setdefault(int(second), HdrHistogram(LOWEST_US, HIGHEST_US, 2))
            mine.decode_and_add(histogram)


def _second_figures(histogram: HdrHistogram) -> list[float]:
    points = histogram.get_percentile_to_value_dict([50, 99, 100])
    return [int(histogram.get_total_count()), *(round(value / 1000, 3) for value in points.values())]


def percentile_of_encoded(encoded: str, percentile: float) -> float:
    """A percentile in ms of the `hdr` text of a report, for comparing runs."""
    histogram = HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)
    histogram.decode_and_add(encoded)
    return float(histogram.get_value_at_percentile(percentile)) / 1000


class Lateness:
    """How late the generator itself was. More than `share_max` of sends over `limit_ms` late: the run is INVALID."""

    def __init__(self, limit_ms: float, share_max: float) -> None:
        self.limit_ms = limit_ms
        self.share_max = share_max
        self.sends = 0
        self.late = 0
        self.latency = Latency("generator_lateness", "sends")

    def record(self, late_us: float, *, at_s: float, warmup: bool) -> None:
        self.latency.record(late_us, at_s=at_s, warmup=warmup)
        if not warmup:
            self.sends += 1
            self.late += late_us > self.limit_ms * 1000

    @property
    def share(self) -> float:
        return self.late / self.sends if self.sends else 0.0

    @property
    def is_valid(self) -> bool:
        """False when the generator fell behind, or sent nothing at all in the measured time."""
        return self.sends > 0 and self.share <= self.share_max


class Rates:
    """Counts second by second, each name a series."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))

    def add(self, name: str, at_s: float, count: float = 1) -> None:
        self._counts[name][int(at_s)] += count

    def series(self, name: str) -> list[list[float]]:
        """[second of the run, count in it], in order."""
        return [[second, count] for second, count in sorted(self._counts[name].items())]

    def total(self, name: str, from_s: float, until_s: float) -> float:
        return sum(count for second, count in self._counts[name].items() if from_s <= second < until_s)

    def encoded(self) -> dict[str, dict[int, float]]:
        return {name: dict(series) for name, series in self._counts.items()}

    def merge(self, encoded: dict[str, dict[int, float]]) -> None:
        for name, series in encoded.items():
            for second, count in series.items():
                self._counts[name][int(second)] += count


def figures_of(latencies: Sequence[Latency]) -> dict[str, float | None]:
    """`<name>_p50_ms`, `_p99_ms`, `_max_ms` of each, None where nothing was measured."""
    figures: dict[str, float | None] = {}
    for latency in latencies:
        figures[f"{latency.name}_p50_ms"] = latency.percentile_ms(50)
        figures[f"{latency.name}_p99_ms"] = latency.percentile_ms(99)
        figures[f"{latency.name}_max_ms"] = latency.max_ms
    return figures
