"""Alarms as the API shows them. Every answer carries the platform's intended use."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from api.masks import MaskedText, shown_note
from api.paging import Page
from api.times import Rfc3339, Zone
from domain.alarms import INTENDED_USE, AlarmEvent, KnownInput, Outcome, Priority
from domain.permissions import View
from domain.quality import describe


class AlarmOut(BaseModel):
    alarm_id: str
    hospital_id: str
    ward_id: str | None
    bed_id: str | None
    device_id: str | None
    handle: int
    patient_key: str | None
    rule: str
    rule_version: int
    alert_type: str
    priority: int
    priority_name: str
    state: str
    phase: str
    latching: bool
    live: bool = Field(description="False for late, backfilled or replayed data: shown with its age, never paged.")
    text: str
    metric: str | None
    value: float | None
    limit: float | None
    unit: str | None
    onset: str
    last_event: str
    ended: str | None
    raised: str
    outcome: str | None
    note: MaskedText = None
    acknowledged_by: str | None
    acknowledged: str | None
    paused_until: str | None
    stream_sequence: int
    version: int
    intended_use: str = INTENDED_USE

    @classmethod
    def of(cls, row: dict[str, Any], zone: Zone, view: View) -> Self:
        shown: dict[str, Any] = {name: row[name] for name in cls.model_fields if name in row}
        shown["note"] = shown_note(row["note"], view)
        shown |= {name: zone.maybe(row[f"{name}_us"]) for name in cls.model_fields if f"{name}_us" in row}
        return cls(**shown, limit=row["limit_value"], priority_name=Priority(row["priority"]).name.lower())


class AlarmPage(Page[AlarmOut]):
    intended_use: str = INTENDED_USE


class BurdenRow(BaseModel):
    state: str
    priority: int
    rule: str
    count: int


class Burden(BaseModel):
    """How many alarms there are, by state, priority and rule."""

    open: int
    total: int
    rows: list[BurdenRow]
    intended_use: str = INTENDED_USE


class AcknowledgeIn(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"outcome": "actionable"}]})
    outcome: Outcome = Field(description="What the person who looked found.")
    note: str | None = Field(None, max_length=2000)


class PauseIn(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"until": "2026-11-23T08:02:00+08:00"}]})
    until: Rfc3339 = Field(description="Sound is off until then, at most an hour ahead. The picture stays.")


class InputOut(BaseModel):
    """One input of a decision as the platform knew it then."""

    metric: str
    value: float | None
    time: str | None
    age_s: float | None
    quality: dict[str, Any]
    used: bool
    note: str | None

    @classmethod
    def of(cls, known: KnownInput, zone: Zone) -> Self:
        return cls(
            metric=known.metric, value=known.value, time=zone.maybe(known.time_us), age_s=known.age_s,
            quality=describe(known.quality), used=known.used, note=known.note,
        )  # fmt: skip


class PatientLink(BaseModel):
    patient_key: str | None
    ambiguous: bool = Field(description="A boundary of an association was too near to tell whose reading it was.")


class NotificationOut(BaseModel):
    """One thing that was said about the alarm, with what was known when it was said."""

    event_id: str
    phase: str
    priority: int
    rule: str
    rule_version: int
    text: str
    value: float | None
    limit: float | None
    unit: str | None
    live: bool
    event_time: str
    arrival: str
    inputs: list[InputOut]
    patient: PatientLink
    members: list[str]

    @classmethod
    def of(cls, event: AlarmEvent, zone: Zone) -> Self:
        about = event.subject
        return cls(
            event_id=event.event_id, phase=event.phase.value, priority=event.priority, rule=event.rule,
            rule_version=event.rule_version, text=event.text, value=event.value, limit=event.limit, unit=event.unit,
            live=event.live, event_time=zone.text(event.event_us), arrival=zone.text(event.arrival_us),
            inputs=[InputOut.of(known, zone) for known in event.inputs], members=list(event.members),
            patient=PatientLink(patient_key=about.patient_key, ambiguous=about.patient_ambiguous),
        )  # fmt: skip


class Knowledge(BaseModel):
    """What the platform knew: the alarm as it stands, and each notification with its inputs."""

    alarm: AlarmOut
    notifications: list[NotificationOut]
    intended_use: str = INTENDED_USE


class EpisodeRow(BaseModel):
    hospital: str | None
    device_id: str | None
    handle: int
    metric: str
    instance: int
    rule: str = Field(description="`limit.very-low` … `limit.very-high`, `change.rate`.")
    onset: str
    end: str | None = Field(description="Null while it lasts.")
    patient_key: str | None = Field(description="Null where the patient could not be told.")
    limit: float | None
    value: float | None = Field(description="Of the reading that raised it.")
    unit: str | None


class EpisodeTable(BaseModel):
    items: list[EpisodeRow]
    next: str | None = None
    lake_version: int | None = Field(description="Version of the lake that it was recomputed from.")
    incomplete_shards: list[int]
