"""The report as data: what `report.json` holds. Its JSON schema, `schema.json`, is made from these structs.

Times in the series are seconds since the start of the warm-up; latencies are milliseconds; sizes are bytes.
A figure that was not measured is null.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from domain.alarms import INTENDED_USE
from scenarios.ledger import Ledger
from scenarios.verdicts import Checked, ClauseVerdict, Verdict

FORMAT: Final = "vitalgrid-report/1"


class StorySection(msgspec.Struct, frozen=True):
    """What was played. `settings` is the whole scenario with overrides applied."""

    name: str
    title: str
    story: str
    covers: list[str]
    seed: int
    warmup_s: float
    duration_s: float
    settings: dict[str, Any]


class Machine(msgspec.Struct, frozen=True):
    """Where it ran; generator and platform share it unless the run was `--against` another address."""

    cpus: int
    cpu_model: str
    memory_bytes: int
    system: str
    python: str


class Provenance(msgspec.Struct, frozen=True):
    run_id: str
    started: str
    command: str
    commit: str
    machine: Machine
    intended_use: str = INTENDED_USE


class GeneratorSection(msgspec.Struct, frozen=True):
    """The load generator itself. More than `late_share_max` of the sends over `late_ms` late: INVALID."""

    late_ms: float
    late_share_max: float
    late_share: float
    sends: int
    lateness: dict[str, Any]
    door_errors: dict[str, int]


class FaultMark(msgspec.Struct, frozen=True):
    """A fault as it is drawn into the plots."""

    kind: str
    at_s: float
    until_s: float
    text: str


class AlarmSection(msgspec.Struct, frozen=True):
    by_rule: list[dict[str, Any]]
    heartbeats: int
    disconnections: int


class QuerySection(msgspec.Struct, frozen=True):
    """What was asked by kind, in words, and which questions failed."""

    asked: dict[str, str]
    failures: dict[str, int]


class ServiceTimes(msgspec.Struct, frozen=True):
    """How long one host's turns took, by how many readings they held.

    `counts[i][j]`: turns of at most `readings_up_to[i]` readings that took at most `service_us_up_to[j]`
    microseconds (and more than the bin before). The twin is calibrated from these.
    """

    host: str
    readings_up_to: list[int]
    service_us_up_to: list[int]
    counts: list[list[int]]
    commit_us_counts: list[int] = []


class Report(msgspec.Struct, frozen=True):
    """One run. `latencies`, `rates` and `resources` carry their series for the plots."""

    format: str
    verdict: Verdict
    valid: bool
    invalid_reason: str | None
    story: StorySection
    provenance: Provenance
    clauses: list[ClauseVerdict]
    expectations: list[Checked]
    figures: dict[str, float | None]
    generator: GeneratorSection
    latencies: list[dict[str, Any]]
    rates: dict[str, list[list[float]]]
    ledger: Ledger | None
    alarms: AlarmSection
    queries: QuerySection
    resources: list[dict[str, Any]]
    service_times: list[ServiceTimes]
    faults: list[FaultMark]
    notes: list[str] = []


def encode_report(report: Report) -> bytes:
    """`report.json`, for people to read as well."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1)


def decode_report(data: bytes) -> Report:
    return msgspec.json.decode(data, type=Report)


def schema() -> dict[str, Any]:
    """The JSON schema of `report.json`; `schema.json` beside this file is a copy of it."""
    return msgspec.json.schema(Report)
