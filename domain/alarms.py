"""Alarms: priorities, the life of one alarm as a table, and the record of what was notified.

Two records are kept of each alarm. `AlarmEvent`s are what the platform notified, in order of arrival, immutable.
The *episode* (`Episode`) is the condition in event time and can be recomputed from the lake under any shuffle.
Ids are deterministic, so a replay raises nothing twice.

The platform is a secondary, information-only alarm path: bedside alarms stay primary. It acknowledges and pauses
with an end; it never silences a device. Sources: IEC 60601-1-8 (priorities, latching, audio paused), IHE PCD ACM
(event phases, alert types). Clauses 6.3f, 9.2c.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Final

import msgspec
import xxhash

INTENDED_USE: Final = (
    "Secondary, information-only alarm path. Alarms at the bedside stay primary; do not rely on this display alone."
)


class Priority(IntEnum):
    """IEC 60601-1-8, the highest first in value order so that max() is the more urgent."""

    INFORMATION = 0
    LOW = 1
    MEDIUM = 2
    HIGH = 3


class AlertType(StrEnum):
    """IHE PCD ACM alert type: physiological, technical, advisory."""

    PHYSIOLOGICAL = "SP"
    TECHNICAL = "ST"
    ADVISORY = "SA"


class Phase(StrEnum):
    """IHE PCD ACM event phase."""

    START = "start"
    CONTINUE = "continue"
    UPDATE = "update"
    ESCALATE = "escalate"
    DEESCALATE = "deescalate"
    END = "end"


class AlarmState(StrEnum):
    ACTIVE = "active"  # condition present, nobody has answered
    ACKNOWLEDGED = "acknowledged"  # condition present, a person has seen it
    AUDIO_PAUSED = "audio-paused"  # condition present, sound off until a stated end; the picture stays
    LATCHED = "latched"  # condition gone, nobody has answered yet
    CLOSED = "closed"  # condition gone and answered, or of a kind that does not latch


class AlarmInput(StrEnum):
    """What moves an alarm from state to state."""

    ESCALATED = "escalated"
    ENDED = "ended"  # a latching alarm's condition went away
    ENDED_NON_LATCHING = "ended-non-latching"
    ACKNOWLEDGE = "acknowledge"
    PAUSE_AUDIO = "pause-audio"
    PAUSE_EXPIRED = "pause-expired"


class Outcome(StrEnum):
    """What the person who acknowledged found."""

    ACTIONABLE = "actionable"
    NOT_ACTIONABLE = "not-actionable"
    ARTEFACT = "artefact"


_S, _I = AlarmState, AlarmInput

# (state, input) -> state. A pair that is not here is not allowed. Escalation re-opens what was answered:
# a worse condition is news, and never lowers the priority already shown.
TRANSITIONS: Final = MappingProxyType({
    (_S.ACTIVE, _I.ESCALATED): _S.ACTIVE,
    (_S.ACTIVE, _I.ENDED): _S.LATCHED,
    (_S.ACTIVE, _I.ENDED_NON_LATCHING): _S.CLOSED,
    (_S.ACTIVE, _I.ACKNOWLEDGE): _S.ACKNOWLEDGED,
    (_S.ACTIVE, _I.PAUSE_AUDIO): _S.AUDIO_PAUSED,
    (_S.ACKNOWLEDGED, _I.ESCALATED): _S.ACTIVE,
    (_S.ACKNOWLEDGED, _I.ENDED): _S.CLOSED,
    (_S.ACKNOWLEDGED, _I.ENDED_NON_LATCHING): _S.CLOSED,
    (_S.ACKNOWLEDGED, _I.ACKNOWLEDGE): _S.ACKNOWLEDGED,
    (_S.AUDIO_PAUSED, _I.ESCALATED): _S.ACTIVE,
    (_S.AUDIO_PAUSED, _I.ENDED): _S.LATCHED,
    (_S.AUDIO_PAUSED, _I.ENDED_NON_LATCHING): _S.CLOSED,
    (_S.AUDIO_PAUSED, _I.ACKNOWLEDGE): _S.ACKNOWLEDGED,
    (_S.AUDIO_PAUSED, _I.PAUSE_AUDIO): _S.AUDIO_PAUSED,
    (_S.AUDIO_PAUSED, _I.PAUSE_EXPIRED): _S.ACTIVE,
    (_S.LATCHED, _I.ACKNOWLEDGE): _S.CLOSED,
})  # fmt: skip

OPEN_STATES: Final = frozenset({_S.ACTIVE, _S.ACKNOWLEDGED, _S.AUDIO_PAUSED, _S.LATCHED})


class AlarmSubject(msgspec.Struct, frozen=True):
    """Whom and what an alarm is about. `patient_key` is opaque; `ambiguous` when a boundary was too near to tell."""

    hospital_id: str
    ward_id: str | None = None
    bed_id: str | None = None
    device_id: str | None = None
    handle: int = 0
    patient_key: str | None = None
    patient_ambiguous: bool = False
    metric: str | None = None
    instance: int = 0


class KnownInput(msgspec.Struct, frozen=True):
    """One input of a decision as the platform knew it then. `used` is false for one that was stale or unusable."""

    metric: str
    value: float | None
    time_us: int | None
    age_s: float | None
    quality: int
    used: bool = True
    note: str | None = None  # a proxy (SaO2 for SpO2), "missing", "stale", …


class AlarmEvent(msgspec.Struct, frozen=True):
    """One notification: what was said about alarm `alarm_id`, when, and on what knowledge.

    `event_id` is unique and deterministic: the same input gives the same id on every replay. `onset_us` and
    `event_us` are event time, `arrival_us` the stream's arrival time. `live` is false for late, backfilled or
    replayed data: it is shown with its age and never pages. Where it still holds once readings come in time, a live
    CONTINUE says so, once. `members` of a mass alarm are device ids.
    """

    event_id: str
    alarm_id: str
    phase: Phase
    alert_type: AlertType
    priority: Priority
    rule: str
    rule_version: int
    subject: AlarmSubject
    onset_us: int
    event_us: int
    arrival_us: int
    text: str
    latching: bool = False
    live: bool = True
    value: float | None = None
    limit: float | None = None
    unit: str | None = None
    inputs: tuple[KnownInput, ...] = ()
    members: tuple[str, ...] = ()


class Episode(msgspec.Struct, frozen=True):
    """A condition in event time: from `onset_us` to `end_us` (None while it lasts), under one rule version."""

    alarm_id: str
    rule: str
    rule_version: int
    onset_us: int
    end_us: int | None
    priority: Priority


def alarm_id_of(scope: str, rule: str, rule_version: int, onset_us: int) -> str:
    """The id of the alarm that `rule` raises on `scope` (a channel, patient or hospital address) at `onset_us`."""
    return xxhash.xxh3_128_hexdigest(f"{scope}|{rule}|{rule_version}|{onset_us}".encode())


def event_id_of(alarm_id: str, phase: Phase, event_us: int) -> str:
    """The id of one notification about an alarm."""
    return xxhash.xxh3_128_hexdigest(f"{alarm_id}|{phase}|{event_us}".encode())


def next_state(state: AlarmState, happened: AlarmInput) -> AlarmState | None:
    """The state after `happened`, or None when the table does not allow it."""
    return TRANSITIONS.get((state, happened))
