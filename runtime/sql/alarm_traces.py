"""Which alarms a reading went into: notifications that had it among their inputs, without the values. Clause 9.2a."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Engine, select

from domain.alarms import AlarmEvent, Phase
from domain.permissions import Reach
from runtime.sql.engine import reading
from runtime.sql.tables import alarm_events, alarms, associations, patients
from runtime.sql.within import ALARMS, within

MOST_ALARMS: Final = 200  # that are looked at
MOST_NOTIFIED: Final = 1_000
_decode: Final = msgspec.json.Decoder(AlarmEvent).decode
Input = tuple[str, int]  # the metric's code, and the event time that rules went by


@dataclass(frozen=True, slots=True)
class Notified:
    """One notification and how its alarm stands. `inputs`: readings that it was said by; `used`: those that counted.

    `is_shown`: whether its alarm may be read by who asks; of others they are told how many.
    """

    is_shown: bool
    alarm_id: str
    handle: int
    patient_key: str | None
    rule: str
    phase: Phase
    priority: int
    is_live: bool
    event_us: int
    arrival_us: int
    stream_sequence: int
    inputs: frozenset[Input]
    state: str
    outcome: str | None
    acknowledged_by: str | None
    acknowledged_us: int | None


def notified_about(
    engine: Engine, reach: Reach, shown: Reach, handles: Collection[int], from_us: int, until_us: int
) -> list[Notified]:
    """What was notified about these devices, and the patients they were on, with event times of [from_us, until_us].

    Alarms within `reach` alone, of the newest MOST_ALARMS that were open then; in the order in which they were notified, at
    most MOST_NOTIFIED. Those within `shown` may be read.
    """
    with reading(engine) as connection:
        about = {*handles, *_worn_by(connection, handles, from_us, until_us)}
        columns = (alarms.c.alarm_id, *(alarms.c[name] for name in ("state", "outcome", "acknowledged_by", "acknowledged_us")))
        query = select(*columns, within(shown, ALARMS).label("is_shown")).where(
            alarms.c.handle.in_(sorted(about)), alarms.c.onset_us <= until_us, alarms.c.last_event_us >= from_us,
            within(reach, ALARMS),
        )  # fmt: skip
        newest = query.order_by(alarms.c.onset_us.desc()).limit(MOST_ALARMS)
        stand = {row.alarm_id: row for row in connection.execute(newest)}
        said = select(alarm_events.c.alarm_id, alarm_events.c.stream_sequence, alarm_events.c.content).where(
            alarm_events.c.alarm_id.in_(sorted(stand)), alarm_events.c.event_us.between(from_us, until_us)
        )
        in_order = said.order_by(alarm_events.c.stream_sequence).limit(MOST_NOTIFIED)
        found = connection.execute(in_order).all() if stand else []
    return [_notified(_decode(row.content), row.stream_sequence, stand[row.alarm_id]) for row in found]


def _worn_by(connection: Connection, handles: Collection[int], from_us: int, until_us: int) -> list[int]:
    """The handles of the patients who wore these devices meanwhile."""
    worn = associations.join(patients, patients.c.patient_key == associations.c.patient_key)
    query = select(patients.c.handle).select_from(worn).where(
        associations.c.device_handle.in_(sorted(handles)), associations.c.superseded_us.is_(None),
        associations.c.start_us <= until_us, associations.c.end_us.is_(None) | (associations.c.end_us > from_us),
    )  # fmt: skip
    return list(connection.execute(query).scalars())


def _notified(event: AlarmEvent, stream_sequence: int, row: Any) -> Notified:
    inputs = frozenset((one.metric, one.time_us) for one in event.inputs if one.used and one.time_us is not None)
    subject = event.subject
    return Notified(
        bool(row.is_shown), event.alarm_id, subject.handle, subject.patient_key, event.rule, event.phase,
        int(event.priority), event.live, event.event_us, event.arrival_us, stream_sequence, inputs, row.state, row.outcome,
        row.acknowledged_by, row.acknowledged_us,
    )  # fmt: skip
