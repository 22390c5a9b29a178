"""Numbers about the platform for Prometheus. One registry for each app, so that tests and processes stay apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0)

Sample = tuple[tuple[str, ...], float]  # label values, number


class Telemetry:
    """What the API process counts. `watch` adds gauges that are read when Prometheus asks."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Histogram(
            "vitalgrid_api_request_seconds",
            "Time to the first byte of an answer.",
            ("method", "route", "status"),
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self.live_clients = Gauge("vitalgrid_live_clients", "Clients of a live stream.", ("stream",), registry=self.registry)
        self.live_overflows = Counter(
            "vitalgrid_live_overflows", "Live clients disconnected because they were too slow.", ("stream",),
            registry=self.registry,
        )  # fmt: skip
        self.task_failures = Counter(
            "vitalgrid_background_failures", "Crashes of background tasks; each was restarted.", ("task",),
            registry=self.registry,
        )  # fmt: skip
        self.webhook_deliveries = Counter(
            "vitalgrid_webhook_deliveries", "Attempts to deliver an alarm event.", ("outcome",), registry=self.registry
        )

        self.alarms_open = Gauge("vitalgrid_alarms_open", "Alarms that are not closed.", ("priority",), registry=self.registry)
        self.rejects_kept = Gauge("vitalgrid_rejects_kept", "Refused messages that are kept.", registry=self.registry)
        self.outbox_waiting = Gauge(
            "vitalgrid_outbox_waiting", "Messages to the hosts that wait to be published.", registry=self.registry
        )

    def watch(self, name: str, text: str, labels: tuple[str, ...], read: Callable[[], Iterable[Sample]]) -> None:
        """Add a gauge whose samples `read` gives at scrape time; it must not block."""
        self.registry.register(_Watched(name, text, labels, read))

    def text(self) -> bytes:
        return generate_latest(self.registry)


class _Watched(Collector):
    def __init__(self, name: str, text: str, labels: tuple[str, ...], read: Callable[[], Iterable[Sample]]) -> None:
        self._name, self._text, self._labels, self._read = name, text, labels, read

    def collect(self) -> Iterable[GaugeMetricFamily]:
        family = GaugeMetricFamily(self._name, self._text, labels=self._labels)
        for values, number in self._read():
            family.add_metric(list(values), number)
        yield family


def single(number: float) -> list[Sample]:
    """One sample without labels."""
    return [((), number)]


def by_label(numbers: Mapping[str, float]) -> list[Sample]:
    """One sample for each value of a gauge's only label."""
    return [((label,), number) for label, number in numbers.items()]
