"""A report made of plausible numbers, for tests of the report itself. Nothing here was measured."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import msgspec

from scenarios.ledger import Ledger
from scenarios.measures import Latency
from scenarios.model import Expect, Fault, FleetWish, Scenario
from scenarios.report.document import (
    FORMAT,
    AlarmSection,
    FaultMark,
    GeneratorSection,
    Machine,
    Provenance,
    QuerySection,
    Report,
    ServiceTimes,
    StorySection,
)
from scenarios.verdicts import by_clause, check, overall

SCENARIO = Scenario(
    title="WAN cut: nothing is lost, nothing pages late",
    story="Two hospitals lose the region for 20 s in the middle of the day. Their gateways keep what they measure and "
    "send it when the link is back. Nobody is paged for what happened minutes ago.",
    covers=["5.3", "5.4c", "6.3f", "7.1a", "7.1b", "7.3", "7.4a", "8.1"], seed=42, duration_s=60, warmup_s=15,
    fleet=FleetWish(devices=20_000), fault=[Fault("wan-cut", at_s=30, for_s=20, hospitals=[0, 1])],
    expect=[
        Expect("readings_lost", equals=0), Expect("readings_doubled", equals=0), Expect("readings_per_s", min=4_000),
        Expect("durable_p99_ms", max=250), Expect("alarm_visible_p99_ms", max=1_000),
        Expect("query_simple_p99_ms", max=300), Expect("query_complex_p99_ms", max=2_000),
        Expect("devices_live_share", min=0.95),
    ],
)  # fmt: skip


@dataclass(frozen=True)
class Wave:
    """A latency that swells between two seconds of the run."""

    name: str
    of: str
    base_ms: float
    swell_ms: float = 0.0

    @functools.cache  # noqa: B019 (a few, for the life of the tests)
    def summary(self) -> dict[str, Any]:
        made = Latency(self.name, self.of)
        for second in range(75):
            for k in range(40):
                swell = self.swell_ms if 50 <= second < 56 else 0.0
                ms = self.base_ms * (1 + 0.3 * math.sin(second / 4)) * (1 + (k / 40) ** 6 * 4) + swell * (k % 3)
                made.record(ms * 1000, at_s=second + k / 40, warmup=second < 15)
        return made.summary()


WAVES = (
    Wave("durable", "messages", 9, 30), Wave("state", "probes", 70, 60), Wave("alarm_visible", "alarms", 130, 90),
    Wave("query_simple", "queries", 28, 15), Wave("query_complex", "queries", 260, 220), Wave("query_batch", "queries", 700),
)  # fmt: skip


def latency_summaries() -> list[dict[str, Any]]:
    return [wave.summary() for wave in WAVES]


def sample_report(*, valid: bool = True, **figures: float | None) -> Report:
    """The sample, with some figures replaced."""
    latencies = latency_summaries()
    known: dict[str, float | None] = {
        "devices_live": 19_874, "devices_live_share": 0.9937, "readings_per_s": 4_812.4, "readings_lost": 0,
        "readings_doubled": 0, "devices_registered": 20_000,
    } | {f"{one['name']}_p99_ms": dict(one["percentiles_ms"])[99.0] for one in latencies} | figures  # fmt: skip
    checked = check(SCENARIO.expect, known, valid=valid)
    seconds = range(75)
    lateness = Wave("generator_lateness", "sends", 1.1).summary()
    sent = [
        [s, 4_800 + 300 * math.sin(s / 3) - (2_400 if 30 <= s < 50 else 0) + (9_000 if 50 <= s < 55 else 0)] for s in seconds
    ]
    return Report(
        format=FORMAT, verdict=overall(checked, valid=valid), valid=valid,
        invalid_reason=None if valid else "3.1 % of the sends left more than 50 ms late; at most 1 % may.",
        story=StorySection(
            "wan-cut", SCENARIO.title, SCENARIO.story, SCENARIO.covers, SCENARIO.seed, SCENARIO.warmup_s,
            SCENARIO.duration_s, msgspec.to_builtins(SCENARIO),
        ),
        provenance=Provenance(
            "20261123-0810-wan-cut", "2026-11-23T08:10:00Z", "vitalgrid scenario run wan-cut --set fleet.devices=20000",
            "0123abc", Machine(2, "Example CPU", 24 * 2**30, "Linux 6.1", "3.11.9"),
        ),
        clauses=by_clause(SCENARIO.covers, checked), expectations=checked, figures=known,
        generator=GeneratorSection(50.0, 0.01, 0.0004, 31_280, lateness, {}),
        latencies=latencies,
        rates={"sent": sent, "acknowledged": sent, "alarms": [[s, 2 + 2 * math.sin(s) ** 2] for s in seconds]},
        ledger=Ledger(361_204, 361_204, 361_204, 0, 0, 0, 0, 0),
        alarms=AlarmSection(
            [{"rule": "limit.very-low", "priority": "high", "live": True, "count": 61},
             {"rule": "news2", "priority": "medium", "live": True, "count": 18},
             {"rule": "limit.high", "priority": "medium", "live": False, "count": 9}], 150, 0,
        ),
        queries=QuerySection({"7.1a": "latest of a ward; one device for five minutes"}, {}),
        resources=[
            {"role": role, "cores_mean": cores, "cores_max": cores * 1.6, "rss_max_bytes": mib * 2**20,
             "series": [[s, cores * (1 + 0.2 * math.sin(s / 5)), mib * 2**20] for s in seconds]}
            for role, cores, mib in (("api", 0.18, 160), ("doors", 0.41, 120), ("host", 0.52, 610), ("nats-server", 0.2, 90))
        ],
        service_times=[ServiceTimes("h1", [1, 1_024, 32_768], [1_000, 10_000, 100_000], [[9, 1, 0], [2, 80, 3], [0, 10, 5]])],
        faults=[FaultMark("wan-cut", 30, 50, "wan-cut, hospitals 0 and 1")],
    )  # fmt: skip
