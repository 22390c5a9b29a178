"""Everything a run has found, and the report made of it. A figure nobody could measure stays None: "not measured"."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np

from domain.errors import VitalgridError
from scenarios.admissions import AdmissionDesk
from scenarios.alarms_seen import AlarmWatch, alarm_latencies, noticed_share
from scenarios.attribution import Attribution, check_attribution
from scenarios.books import ClosedBooks
from scenarios.generator_orders import Done
from scenarios.ledger import Ledger, sources_of
from scenarios.measures import Latency, Lateness, Rates, figures_of
from scenarios.model import Fault, Scenario
from scenarios.provenance import provenance
from scenarios.query_load import QueryLoad
from scenarios.report.document import (
    FORMAT,
    AlarmSection,
    FaultMark,
    GeneratorSection,
    QuerySection,
    Report,
    ServiceTimes,
    StorySection,
)
from scenarios.resources import Resources
from scenarios.rest import Rest
from scenarios.roster import Roster
from scenarios.state_probes import StateProbes
from scenarios.stored import StoredRows
from scenarios.verdicts import by_clause, check, overall

_BUSY_NEIGHBOURS: Final = 0.3  # cores
_ASKED: Final = {
    "7.1a": "the latest readings of a ward; one device and metric over five minutes",
    "7.1b": "part of a device's or ward's name, its readings of five minutes over the region; a metric by hospital and hour",
    "7.1c": "two searches, a fleet aggregate and a device range at once, until the last answer",
}


@dataclass
class Findings:
    """What was found, as it comes in."""

    scenario: Scenario
    start_us: int
    done: Done
    roster: Roster
    watch: AlarmWatch
    probes: StateProbes
    queries: QueryLoad
    resources: Resources
    killed: list[str] = field(default_factory=list)
    rejected_reasons: dict[str, int] = field(default_factory=dict)
    recording_sources: set[int] = field(default_factory=set)
    service_times: list[ServiceTimes] = field(default_factory=list)
    live_devices: int | None = None
    books: ClosedBooks | None = None
    ledger: Ledger | None = None
    stored: StoredRows | None = None
    desk: AdmissionDesk | None = None
    attribution: Attribution | None = None
    notes: list[str] = field(default_factory=list)

    async def look_at_freshness(self, rest: Rest) -> None:
        """Count the devices that deliver as their models promise; "not measured" when the platform cannot say."""
        try:
            self.live_devices = sum([await rest.live_devices(hospital) for hospital in self.roster.hospitals])
        except VitalgridError as error:
            self.notes.append(f"Devices live were not measured: {error}")

    async def look_at_attribution(self, rest: Rest) -> None:
        """Ask whose readings those of moved patients are; "not measured" when nobody moved or the platform cannot say."""
        if self.desk is None or not self.desk.movements.rows:
            return
        try:
            self.attribution = await check_attribution(rest, self.desk, self.start_us, self.scenario.total_s)
        except VitalgridError as error:
            self.notes.append(f"Whose readings are whose was not measured: {error}")

    @property
    def durable(self) -> Latency:
        latency = Latency("durable", "messages")
        latency.merge(self.done.durable)
        return latency

    @property
    def lateness(self) -> Lateness:
        limits = self.scenario.generator
        lateness = Lateness(limits.late_ms, limits.late_share_max)
        lateness.latency.merge(self.done.lateness)
        lateness.sends, lateness.late = self.done.sends, self.done.late
        return lateness

    def latencies(self) -> list[Latency]:
        """All of them, in the order of the reading's way."""
        if self.books is None:
            alarms = [Latency("alarm_visible", "alarms"), Latency("score_alarm_visible", "alarms")]
        else:
            alarms = alarm_latencies(
                self.watch, self.books, self.roster.sender_of, start_us=self.start_us, warmup_s=self.scenario.warmup_s
            )
        return [self.durable, self.probes.latency, *alarms, *self.queries.latencies]

    def rates(self) -> Rates:
        rates = self.watch.rates(self.start_us)
        rates.merge(self.done.rates)
        return rates

    def figures(self, latencies: list[Latency], rates: Rates) -> dict[str, float | None]:
        """Every figure of `verdicts.METRICS` that this run can tell."""
        scenario, done = self.scenario, self.done
        devices = self.roster.device_count
        live = self.live_devices
        acknowledged = rates.total("acknowledged", scenario.warmup_s, scenario.total_s)
        return {
            "devices_registered": devices,
            "devices_live": live,
            "devices_live_share": None if live is None else live / max(devices, 1),
            "gateways_connected": done.connected,
            "reconnects": done.reconnects,
            "readings_per_s": acknowledged / scenario.duration_s,
            "readings_retransmitted": done.retransmitted,
            "readings_backfilled": done.backfilled,
            "generator_late_share": self.lateness.share,
            "hosts_killed": len(self.killed),
            **self._ledger_figures(),
            **self.watch.figures(),
            **self._world_figures(),
            **(self.desk.figures() if self.desk is not None else {}),
            **(self.attribution.figures() if self.attribution is not None else {}),
            **self.queries.figures(),
            **figures_of(latencies),
        }

    def _ledger_figures(self) -> dict[str, float | None]:
        names = ("sent", "acknowledged", "lost", "doubled", "unacknowledged", "rejected", "unexpected")
        ledger = self.ledger
        return {f"readings_{name}": None if ledger is None else getattr(ledger, name) for name in names} | {
            "readings_clock_skewed": None if self.stored is None else self.stored.clock_skewed,
            "readings_ahead_of_arrival": None if self.stored is None else self.stored.ahead_of_arrival,
            "replayed_readings": self._replayed(),
        }

    def _replayed(self) -> int | None:
        if self.books is None:
            return None
        sources, counts = np.unique(sources_of(self.books.acknowledged), return_counts=True)
        return int(counts[np.isin(sources, list(self.recording_sources))].sum())

    def _world_figures(self) -> dict[str, float | None]:
        deteriorated = self.deteriorated()
        return {
            "deteriorations": len(deteriorated),
            "deteriorations_noticed_share": noticed_share(self.watch, deteriorated, self.roster.patient_keys, self.start_us),
        }

    def deteriorated(self) -> dict[str, float]:
        """Reference -> second of the run: patients on a monitor whom the world made septic."""
        return {
            subject: at_s
            for kind, at_s, subject, detail in self.done.truth
            if kind == "deteriorated" and detail == "sepsis" and subject in self.roster.monitored
        }


def assemble(name: str, run_id: str, command: str, found: Findings) -> Report:
    """The report of a run: figures, verdicts, series."""
    scenario = found.scenario
    lateness = found.lateness
    latencies, rates = found.latencies(), found.rates()
    figures = found.figures(latencies, rates)
    checked = check(scenario.expect, figures, valid=lateness.is_valid)
    return Report(
        format=FORMAT,
        verdict=overall(checked, valid=lateness.is_valid),
        valid=lateness.is_valid,
        invalid_reason=None if lateness.is_valid else _why_invalid(lateness),
        story=StorySection(
            name, scenario.title, scenario.story, scenario.covers, scenario.seed, scenario.warmup_s, scenario.duration_s,
            msgspec.to_builtins(scenario),
        ),
        provenance=provenance(run_id, command, found.start_us),
        clauses=by_clause(scenario.covers, checked),
        expectations=checked,
        figures=figures,
        generator=GeneratorSection(
            lateness.limit_ms, lateness.share_max, lateness.share, lateness.sends, lateness.latency.summary(),
            found.done.errors,
        ),
        latencies=[latency.summary() for latency in latencies],
        rates={key: rates.series(key) for key in ("sent", "acknowledged", "alarms")},
        ledger=found.ledger,
        alarms=AlarmSection(found.watch.by_rule(), found.watch.heartbeats, found.watch.disconnections),
        queries=QuerySection(_ASKED, found.queries.failures),
        resources=found.resources.summary(scenario.warmup_s),
        service_times=found.service_times,
        faults=[_mark(fault) for fault in scenario.fault],
        notes=_notes(found),
    )  # fmt: skip


def _why_invalid(lateness: Lateness) -> str:
    if not lateness.sends:
        return "The generator sent nothing in the measured time."
    return (
        f"{100 * lateness.share:.2f} % of the sends left more than {lateness.limit_ms:g} ms after they were due; at most "
        f"{100 * lateness.share_max:g} % may. "
        "The load was not what the scenario says, so the run shows nothing of the platform."
    )


def _mark(fault: Fault) -> FaultMark:
    where = f", hospitals {', '.join(map(str, fault.hospitals))}" if fault.hospitals else ""
    return FaultMark(fault.kind, fault.at_s, fault.at_s + fault.for_s, f"{fault.kind}{where}")


def _notes(found: Findings) -> list[str]:
    notes = list(found.notes)
    others = found.resources.mean_cores("others", found.scenario.warmup_s)
    if others is not None and others > _BUSY_NEIGHBOURS:
        notes.append(
            f"Other processes of this machine took {others:.1f} cores during the measured time: figures suffer from it."
        )
    if found.killed:
        notes.append(f"Killed by the scenario: {', '.join(found.killed)}.")
    notes += [f"Rejected messages, reason {reason}: {count}." for reason, count in found.rejected_reasons.items()]
    if found.desk is not None:
        notes += [f"A movement failed, {count} times: {sentence}" for sentence, count in found.desk.failures.items()]
    if found.probes.last_failure:
        notes.append(f"The last state probe that failed: {found.probes.last_failure}")
    return notes
