"""The way of one message. No model here has a field for a value, a name, a text of somebody or a patient's key."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

Fact = str | int | bool | None


class StepOut(BaseModel):
    step: str = Field(description="`received`, `stored`, `acknowledged`, `taken`, `committed`, `rejected` or `lost`.")
    at: str | None = Field(description="Null: not known, or not any more.")
    after_ms: float | None = Field(description="Since the first step that has a time. A host may be quicker than the way back.")
    says: str
    facts: dict[str, Fact] = {}


class SenderOut(BaseModel):
    """Who brought readings that are shown, and over what, as far as the doors remember."""

    sender: str | None = Field(description="`hospital/device`.")
    handle: int
    protocol: str | None = None
    connection: str | None = Field(None, description="The door's name for the connection, as in its log.")
    request: str | None = Field(None, description="`X-Request-Id` of the HTTP request, as in the door's log.")
    peer: str | None = None
    path: str | None = None
    size_bytes: int | None = None
    received: str | None = None
    answered: str | None = None


class TracedReading(BaseModel):
    """One reading of the message, by what names it."""

    device: str | None
    handle: int
    metric: str
    instance: int
    time: str
    source_sequence: int = Field(description="Of its sender; 0: none was sent.")
    fate: str = Field(description="`stored`, `double`, `rejected: <reason>`, `waiting` or `unknown`.")
    validity: str | None = None
    mode: str | None = None
    origin: str | None = None
    marks: list[str] = []
    where: Literal["lake", "tail"] | None = None
    lake_file: str | None = None
    row_group: int | None = None
    in_rollups: bool | None = Field(None, description="Whether the file has its hourly rollups already.")
    trace: str | None = Field(None, description="By which the stored row leads back here; of a double, that of the first copy.")


class TracedAlarm(BaseModel):
    """One notification that had a reading of the message among its inputs."""

    alarm_id: str
    rule: str
    phase: str
    priority: int
    metric: str | None = Field(description="Of the reading; null for what a device said.")
    live: bool
    at: str = Field(description="Event time.")
    notified: str | None = Field(description="Null: the stream of alarms has it no more.")
    state: str
    outcome: str | None
    acknowledged_by: str | None
    acknowledged: str | None


class ViewingOut(BaseModel):
    index: int = Field(description="Of the event in the access log.")
    at: str
    who: str
    action: str
    route: str
    is_stream: bool


class ShownOut(BaseModel):
    """Answers and live streams that could have shown a reading of the message, as far as the access log says."""

    answers: int
    streams: int
    since: str = Field(description="Streams that began from then on; answers from the arrival on.")
    until: str
    is_cut: bool = Field(description="More was noted in that time than was looked at.")
    events: list[ViewingOut] | None = Field(description="Null unless you may read the access log.")
    link: str | None = None


class TraceOut(BaseModel):
    trace: str = Field(description="As it was asked for.")
    receipt: str | None = Field(description="Null: the message has none, or it is not known any more.")
    kind: Literal["readings", "event", "reject", "unknown"]
    kept_in: list[str] = Field(description="Of `stream`, `tail`, `lake`, `rejects`.")
    steps: list[StepOut]
    senders: list[SenderOut] = []
    readings_in_message: int | None = None
    readings_of_others: int | None = Field(None, description="In the same message, and beyond your reach.")
    readings_not_listed: int = Field(0, description="Within your reach; ask with `device` or `metric`.")
    fates: dict[str, int] = Field({}, description="Of the readings that are listed.")
    readings: list[TracedReading] = []
    alarms: list[TracedAlarm] = []
    alarms_of_others: int = Field(0, description="Notifications beyond what you may read of alarms (`alarm.read`).")
    shown: ShownOut | None = None
    rejects: list[str] = Field([], description="`reject-<n>` of what was refused of it.")
    resubmitted_as: str | None = None
    unknown: list[str] = Field([], description="What is not known, or not any more, and why.")


class MessageOut(BaseModel):
    """A message that brought something a device said."""

    trace: str
    arrival: str
    sender: str | None
    readings: int
    metrics: list[str]
    first_time: str
    last_time: str
    first_sequence: int
    last_sequence: int


class MissingOut(BaseModel):
    """Numbers that the device gave and that are not there between others that are."""

    first_sequence: int
    last_sequence: int
    after: str
    before: str


class RefusedOut(BaseModel):
    trace: str
    received: str
    door: str
    reason: str


class MessagesOut(BaseModel):
    device: str
    messages: list[MessageOut] = Field(description="The newest first.")
    is_cut: bool = Field(description="There are more in that time: ask for less of it.")
    missing: list[MissingOut] = Field(description="Never arrived, or beyond your reach: gaps in the device's own numbers.")
    rejects: list[RefusedOut] = Field(description="The newest first.")
    unknown: list[str] = Field(description="What of that time is not told, and why.")
