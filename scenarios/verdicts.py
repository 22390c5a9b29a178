"""What is measured, which clause each figure speaks for, and what a run is found to be.

A figure that was not measured is "not measured": never a pass, never a fail. A run whose generator fell behind its
own schedule is INVALID as a whole: it says nothing about the platform, good or bad.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Protocol

import msgspec


class Verdict(StrEnum):
    PASS = "pass"  # noqa: S105 (a verdict)
    FAIL = "FAIL"
    INVALID = "INVALID"
    NOT_MEASURED = "not measured"


class ExitCode:
    """Of `vitalgrid scenario run`: passed, an expectation failed, wrong use, the run is INVALID."""

    PASSED = 0
    FAILED = 1
    USAGE = 2
    INVALID = 3


# clause -> what it asks for here, in one line
CLAUSES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "5.3": "Store and forward over a broken WAN: everything arrives, in order, once",
        "5.4c": "Reliable transport: retransmission without duplicates",
        "6.1d": "Vital signs, environment, infusion, activity fused in one model",
        "6.3f": "Vital signs out of range notify automatically, and in time",
        "7.1a": "Simple query within 1 s",
        "7.1b": "Complex query (fuzzy, many records) within 2 s",
        "7.1c": "Batch query (several at once) within 3 s",
        "7.3": "Strong concurrency: devices connected, stably online",
        "7.4a": "Write, read and processing latency",
        "8.1": "Transfer of information, accurate and stable",
        "9.3": "Nothing acknowledged is lost, whatever fails",
    }
)


class MetricInfo(msgspec.Struct, frozen=True):
    """One figure of a run: its unit, the clauses it speaks for, and what it is."""

    unit: str
    clauses: tuple[str, ...]
    title: str


def _figures() -> dict[str, MetricInfo]:
    latency = {
        "durable": (("7.4a",), "reading due → acknowledged, fsynced in the stream"),
        "state": (("7.4a",), "reading due → in the device's state, as the REST API shows it"),
        "alarm_visible": (("6.3f",), "reading due → its limit alarm on the live stream"),
        "score_alarm_visible": (("6.3f",), "reading due → its early-warning-score alarm on the live stream"),
        "query_simple": (("7.1a",), "simple query under load"),
        "query_complex": (("7.1b",), "complex query under load"),
        "query_batch": (("7.1c",), "several complex queries at once, under load"),
    }
    return {
        f"{name}_{point}_ms": MetricInfo("ms", clauses, f"{title}, {_POINT_TITLES[point]}")
        for name, (clauses, title) in latency.items()
        for point in _POINT_TITLES
    }


_POINT_TITLES: Final = {"p50": "median", "p99": "99th percentile", "max": "worst"}

METRICS: Final[Mapping[str, MetricInfo]] = MappingProxyType(
    {
        "devices_registered": MetricInfo("devices", ("7.3",), "devices registered for this run"),
        "devices_live": MetricInfo("devices", ("7.3",), "devices delivering as their model promises, at the end"),
        "devices_live_share": MetricInfo("share", ("7.3",), "devices live, of those registered"),
        "gateways_connected": MetricInfo("connections", ("7.3",), "gateway connections open at the end"),
        "reconnects": MetricInfo("times", ("7.3",), "connections that broke and came back"),
        "readings_per_s": MetricInfo("1/s", ("7.3", "7.4a"), "readings acknowledged per second, over the measured time"),
        "readings_sent": MetricInfo("readings", ("7.4a",), "different readings sent, warm-up included"),
        "readings_acknowledged": MetricInfo("readings", ("7.4a",), "readings acknowledged, warm-up included"),
        "readings_lost": MetricInfo(
            "readings", ("5.3", "8.1", "9.3"), "acknowledged, but neither stored nor among the rejects"
        ),
        "readings_doubled": MetricInfo("readings", ("5.4c",), "stored more than once"),
        "readings_unacknowledged": MetricInfo("readings", ("8.1",), "sent and never acknowledged"),
        "readings_rejected": MetricInfo("readings", ("8.1",), "refused and kept among the rejects"),
        "readings_unexpected": MetricInfo("readings", ("8.1",), "stored under our senders' names, but never sent"),
        "readings_retransmitted": MetricInfo("readings", ("5.4c",), "sent a second time on purpose"),
        "readings_backfilled": MetricInfo("readings", ("5.3",), "sent after a cut, marked as backfill"),
        "generator_late_share": MetricInfo("share", (), "sends that left later than the run's tolerance"),
        "alarms_live": MetricInfo("alarms", ("6.3f",), "alarms raised on the live stream"),
        "alarms_clinical": MetricInfo("alarms", ("6.3f",), "physiological ones among them"),
        "alarms_technical": MetricInfo("alarms", ("6.3f",), "technical ones among them"),
        "alarms_score": MetricInfo("alarms", ("6.3f",), "raised by an early-warning score"),
        "alarms_doubled": MetricInfo("alarms", ("6.3f",), "notifications seen twice under one id"),
        "late_pages": MetricInfo("alarms", ("6.3f",), "live alarms on readings too old to page for"),
        "deteriorations": MetricInfo("patients", (), "patients on a monitor who turned septic in the world"),
        "deteriorations_noticed_share": MetricInfo("share", ("6.3f",), "of them, patients with a clinical alarm afterwards"),
        "patients_admitted": MetricInfo("patients", ("8.1",), "admitted in the run, and put on the devices of their bed"),
        "patients_transferred": MetricInfo("patients", ("8.1",), "moved to another bed, and onto its devices"),
        "patients_discharged": MetricInfo("patients", ("8.1",), "discharged, their devices taken off"),
        "movement_errors": MetricInfo("movements", ("8.1",), "movements of patients that the platform did not take"),
        "readings_attributed": MetricInfo(
            "readings",
            ("6.1d", "8.1"),
            "of some beds with a movement: joined to whoever lay there, or to nobody where nobody did",
        ),
        "readings_misattributed": MetricInfo(
            "readings", ("6.1d", "8.1"), "of the same beds: joined to another, or to nobody where somebody lay"
        ),
        "hosts_killed": MetricInfo("hosts", (), "host processes killed by the run"),
        "readings_clock_skewed": MetricInfo("readings", ("8.1",), "stored with the mark of a source whose clock is off"),
        "readings_ahead_of_arrival": MetricInfo("readings", ("6.1d",), "looked up at a time beyond their arrival"),
        "query_errors": MetricInfo("queries", ("7.1a", "7.1b", "7.1c"), "queries answered by an error or not at all"),
        "replayed_readings": MetricInfo("readings", ("6.1d",), "readings of real patients played beside the fleet"),
        **_figures(),
    }
)


class _Expect(Protocol):
    @property
    def metric(self) -> str: ...
    @property
    def max(self) -> float | None: ...
    @property
    def min(self) -> float | None: ...
    @property
    def equals(self) -> float | None: ...


class Checked(msgspec.Struct, frozen=True):
    """An expectation and what became of it. `measured` is None where the figure was not measured."""

    metric: str
    title: str
    unit: str
    clauses: tuple[str, ...]
    expected: str
    measured: float | None
    verdict: Verdict


class ClauseVerdict(msgspec.Struct, frozen=True):
    """What a run says about one clause; `figures` name the expectations it rests on."""

    clause: str
    duty: str
    verdict: Verdict
    figures: tuple[str, ...]


def check(expectations: Sequence[_Expect], figures: Mapping[str, float | None], *, valid: bool) -> list[Checked]:
    """Each expectation held against the figures; with `valid` false a measured one is INVALID, whatever it says."""
    return [_check_one(expect, figures.get(expect.metric), valid) for expect in expectations]


def _check_one(expect: _Expect, measured: float | None, valid: bool) -> Checked:
    info = METRICS[expect.metric]
    if measured is None:
        verdict = Verdict.NOT_MEASURED
    elif not valid:
        verdict = Verdict.INVALID
    else:
        verdict = Verdict.PASS if holds(expect, measured) else Verdict.FAIL
    return Checked(expect.metric, info.title, info.unit, info.clauses, bounds(expect), measured, verdict)


def holds(expect: _Expect, measured: float) -> bool:
    """Whether `measured` is within what was expected, edges included; NaN never is."""
    return (
        measured == measured  # noqa: PLR0124 (NaN is not itself)
        and (expect.max is None or measured <= expect.max)
        and (expect.min is None or measured >= expect.min)
        and (expect.equals is None or measured == expect.equals)
    )


def bounds(expect: _Expect) -> str:
    """The expectation in signs: `≥ 20 000`, `= 0`."""
    signs = (("=", expect.equals), ("≥", expect.min), ("≤", expect.max))
    return ", ".join(f"{sign} {_number(bound)}" for sign, bound in signs if bound is not None)


def _number(value: float) -> str:
    return f"{value:,.0f}".replace(",", " ") if value == int(value) else f"{value:g}"


def by_clause(covers: Sequence[str], checked: Sequence[Checked]) -> list[ClauseVerdict]:
    """The worst verdict of the expectations that speak for each covered clause; none of them: not measured."""
    rows = []
    for clause in covers:
        speaking = [item for item in checked if clause in item.clauses]
        verdict = worst([item.verdict for item in speaking])
        rows.append(ClauseVerdict(clause, CLAUSES[clause], verdict, tuple(item.metric for item in speaking)))
    return rows


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """INVALID before FAIL before "not measured" before pass; of nothing, "not measured"."""
    for verdict in (Verdict.INVALID, Verdict.FAIL, Verdict.NOT_MEASURED):
        if verdict in verdicts:
            return verdict
    return Verdict.PASS if verdicts else Verdict.NOT_MEASURED


def overall(checked: Sequence[Checked], *, valid: bool) -> Verdict:
    """The verdict of the run. An expectation that was not measured keeps a run from passing."""
    return worst([item.verdict for item in checked]) if valid else Verdict.INVALID


def exit_code(verdict: Verdict) -> int:
    """What the command returns: 0 passed, 3 INVALID, else 1."""
    return {Verdict.PASS: ExitCode.PASSED, Verdict.INVALID: ExitCode.INVALID}.get(verdict, ExitCode.FAILED)
