"""Numbers about the platform for Prometheus. One registry for each app, so that tests and processes stay apart."""

from __future__ import annotations

from collections import Counter as TotalsBy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0)

Sample = tuple[tuple[str, ...], float]  # label values, number
_Family = GaugeMetricFamily | CounterMetricFamily


@dataclass(frozen=True, slots=True)
class Figure:
    """One name on the page, for its documentation. `kind`: gauge, total or histogram."""

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str


class Telemetry:
    """What the API process counts. `watch` and `watch_total` add what is read when Prometheus asks. `figures`: all there is."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.figures: list[Figure] = []
        name, text, labels = (
            "vitalgrid_api_request_seconds",
            "Time to the first byte of an answer.",
            ("method", "route", "status"),
        )
        self._note(name, "histogram", labels, text)
        self.requests = Histogram(name, text, labels, buckets=_BUCKETS_S, registry=self.registry)
        self.live_clients = self._gauge("vitalgrid_live_clients", "Clients of a live stream.", "stream")
        self.live_overflows = self._total(
            "vitalgrid_live_overflows", "Live clients disconnected because they were too slow.", "stream"
        )
        self.connections_cut: TotalsBy[str] = TotalsBy()
        self.watch_total(
            "vitalgrid_api_connections_cut", "Connections refused or ended for what their peers did, or did not.", ("why",),
            lambda: [((why,), count) for why, count in self.connections_cut.items()],
        )  # fmt: skip
        self.task_failures = self._total(
            "vitalgrid_background_failures", "Crashes of background tasks; each was restarted.", "task"
        )
        self.webhook_deliveries = self._total(
            "vitalgrid_webhook_deliveries", "Attempts to deliver an alarm event, and events left out.", "outcome"
        )
        self.alarms_open = self._gauge("vitalgrid_alarms_open", "Alarms that are not closed.", "priority")
        self.rejects_kept = self._gauge("vitalgrid_rejects_kept", "Refused messages that are kept.")
        self.outbox_waiting = self._gauge("vitalgrid_outbox_waiting", "Messages to the hosts that wait to be published.")

    def watch(self, name: str, text: str, labels: tuple[str, ...], read: Callable[[], Iterable[Sample]]) -> None:
        """Add a gauge whose samples `read` gives at scrape time; it must not block."""
        self._note(name, "gauge", labels, text)
        self.registry.register(_Watched(GaugeMetricFamily, name, text, labels, read))

    def watch_total(self, name: str, text: str, labels: tuple[str, ...], read: Callable[[], Iterable[Sample]]) -> None:
        """As `watch`, for a running total that begins anew when whoever counts it does; `_total` is put behind its name."""
        self._note(f"{name}_total", "total", labels, text)
        self.registry.register(_Watched(CounterMetricFamily, name, text, labels, read))

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        self._note(name, "gauge", labels, text)
        return Gauge(name, text, labels, registry=self.registry)

    def _total(self, name: str, text: str, *labels: str) -> Counter:
        self._note(f"{name}_total", "total", labels, text)
        return Counter(name, text, labels, registry=self.registry)

    def _note(self, name: str, kind: str, labels: tuple[str, ...], text: str) -> None:
        self.figures.append(Figure(name, kind, labels, text))

    def text(self) -> bytes:
        return generate_latest(self.registry)


class _Watched(Collector):
    def __init__(
        self, kind: type[_Family], name: str, text: str, labels: tuple[str, ...], read: Callable[[], Iterable[Sample]]
    ) -> None:
        self._kind, self._name, self._text, self._labels, self._read = kind, name, text, labels, read

    def collect(self) -> Iterable[_Family]:
        family = self._kind(self._name, self._text, labels=self._labels)
        for values, number in self._read():
            family.add_metric(list(values), number)
        yield family


def single(number: float) -> list[Sample]:
    """One sample without labels."""
    return [((), number)]


def by_label(numbers: Mapping[str, float]) -> list[Sample]:
    """One sample for each value of a gauge's only label."""
    return [((label,), number) for label, number in numbers.items()]
