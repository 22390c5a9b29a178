"""The alarm stream becomes rows: each notification as it was said, and each alarm as it stands.

Events come at least once and nearly in order. Applying one twice changes nothing, the stream position is stored in
the same transaction, and without people's answers a row does not depend on the order in which its events came.
Clauses 6.3f, 9.2c.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, Engine, bindparam, insert, select, update

from domain.alarms import AlarmEvent, AlarmInput, AlarmState, Phase, next_state
from runtime.sql.engine import reading, writing
from runtime.sql.erasures import erased_among
from runtime.sql.records import Row
from runtime.sql.sealed_alarms import of_nobody, shut_alarms, shut_events
from runtime.sql.tables import alarm_events, alarms, positions

POSITION: Final = "alarm-desk"
UNANSWERED: Final[Row] = {
    "outcome": None, "note": None, "acknowledged_by": None, "acknowledged_us": None, "paused_until_us": None,
}  # fmt: skip
_RANK: Final = {phase: rank for rank, phase in enumerate(Phase)}  # of two phases at one event time the later one counts
_CHUNK: Final = 500
_UPDATE: Final = (
    update(alarms)
    .where(alarms.c.alarm_id == bindparam("of"))
    .values({column.name: bindparam(f"new_{column.name}") for column in alarms.c if column.name != "alarm_id"})
)


def apply_alarm_events(engine: Engine, events: Sequence[tuple[int, AlarmEvent]]) -> int:
    """Take (stream sequence, event) pairs in; returns how many were new."""
    if not events:
        return 0
    with writing(engine) as connection:
        known = _known_events(connection, [event.event_id for _, event in events])
        fresh = {event.event_id: (sequence, event) for sequence, event in reversed(events) if event.event_id not in known}
        in_order = sorted(fresh.values(), key=lambda pair: pair[0])
        if in_order:
            in_order = _without_the_erased(connection, in_order)
            connection.execute(insert(alarm_events), _kept(connection, in_order))
            _project(connection, in_order)
        move_position(connection, POSITION, max(sequence for sequence, _ in events))
    return len(fresh)


def position_of(engine: Engine, name: str = POSITION) -> int:
    """The stream sequence up to which `name` has applied its stream; 0 at first."""
    with reading(engine) as connection:
        found = connection.execute(select(positions.c.sequence).where(positions.c.name == name)).scalar_one_or_none()
    return int(found or 0)


def move_position(connection: Connection, name: str, sequence: int) -> None:
    """Note that `name` has applied its stream up to `sequence`; never backwards."""
    before = connection.execute(select(positions.c.sequence).where(positions.c.name == name)).scalar_one_or_none()
    if before is None:
        connection.execute(insert(positions).values(name=name, sequence=sequence))
    elif sequence > before:
        connection.execute(update(positions).where(positions.c.name == name).values(sequence=sequence))


def save_position(engine: Engine, name: str, sequence: int) -> None:
    """As `move_position`, in a transaction of its own."""
    with writing(engine) as connection:
        move_position(connection, name, sequence)


def _without_the_erased(connection: Connection, events: Sequence[tuple[int, AlarmEvent]]) -> list[tuple[int, AlarmEvent]]:
    """Of who is being erased or was the stream may still tell, or tell again: that there was an alarm, and of nobody."""
    keys = {event.subject.patient_key for _, event in events} - {None}
    erased = erased_among(connection, sorted(key for key in keys if key is not None))
    return [
        (sequence, of_nobody(event) if event.subject.patient_key in erased else event) for sequence, event in events
    ]  # fmt: skip


def _project(connection: Connection, events: Sequence[tuple[int, AlarmEvent]]) -> None:
    rows = _rows(connection, {event.alarm_id for _, event in events})
    here, shown = set(rows), set()
    for sequence, event in events:
        if event.alarm_id not in rows:
            rows[event.alarm_id] = _first(sequence, event)
        elif not _advance(rows[event.alarm_id], event):
            continue
        shown.add(event.alarm_id)
    shut_alarms(connection, [rows[alarm_id] for alarm_id in sorted(shown)])  # of the others it lies there as it is
    new = [row for alarm_id, row in rows.items() if alarm_id not in here]
    if new:
        connection.execute(insert(alarms), new)
    changed = [
        {"of": row.pop("alarm_id"), **{f"new_{name}": value for name, value in row.items()}, "new_version": row["version"] + 1}
        for alarm_id, row in rows.items()
        if alarm_id in here
    ]
    if changed:
        connection.execute(_UPDATE, changed)


def _kept(connection: Connection, events: Sequence[tuple[int, AlarmEvent]]) -> list[dict[str, Any]]:
    contents = shut_events(connection, [event for _, event in events])
    return [
        {
            "event_id": event.event_id, "alarm_id": event.alarm_id, "stream_sequence": sequence, "event_us": event.event_us,
            "content": content,
        } for (sequence, event), content in zip(events, contents, strict=True)
    ]  # fmt: skip


def _first(sequence: int, event: AlarmEvent) -> Row:
    about = event.subject
    row: Row = {
        "alarm_id": event.alarm_id, "hospital_id": about.hospital_id, "ward_id": about.ward_id, "bed_id": about.bed_id,
        "device_id": about.device_id, "handle": about.handle, "patient_key": about.patient_key, "rule": event.rule,
        "rule_version": event.rule_version, "alert_type": str(event.alert_type), "priority": int(event.priority),
        "state": str(AlarmState.ACTIVE), "latching": event.latching, "live": event.live, "metric": about.metric,
        "onset_us": event.onset_us, "last_event_us": event.event_us, "ended_us": None, "raised_us": event.arrival_us,
        "stream_sequence": sequence, "version": 1, **UNANSWERED,
    }  # fmt: skip
    _show(row, event)
    return row


def _advance(row: Row, event: AlarmEvent) -> bool:
    """A further notification. The newest in event time is shown, and an end is final, whenever it comes.

    Returns whether this one is shown now.
    """
    is_news = (event.event_us, _RANK[event.phase]) > (row["last_event_us"], _RANK[Phase(row["phase"])])
    is_worse = event.priority > row["priority"]
    row["raised_us"] = min(row["raised_us"], event.arrival_us)
    row["last_event_us"] = max(row["last_event_us"], event.event_us)
    row["priority"] = max(row["priority"], int(event.priority))
    row["live"] = row["live"] or event.live
    if row["ended_us"] is not None:
        return False
    if event.phase is Phase.ESCALATE and (is_news or is_worse):
        _move(row, AlarmInput.ESCALATED)
    if not is_news and event.phase is not Phase.END:
        return False
    _show(row, event)
    return True


def _show(row: Row, event: AlarmEvent) -> None:
    row |= {
        "phase": str(event.phase), "text": event.text, "value": event.value, "limit_value": event.limit, "unit": event.unit,
    }  # fmt: skip
    if event.phase is Phase.END:
        row["ended_us"] = event.event_us
        _move(row, AlarmInput.ENDED if row["latching"] else AlarmInput.ENDED_NON_LATCHING)


def _move(row: Row, happened: AlarmInput) -> None:
    """Follow the table. An answer holds for what was answered: what is active again has none, what is over no pause."""
    state = next_state(AlarmState(row["state"]), happened)
    if state is None:
        return
    row["state"] = str(state)
    row |= UNANSWERED if state is AlarmState.ACTIVE else {"paused_until_us": None}


def _known_events(connection: Connection, ids: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for start in range(0, len(ids), _CHUNK):
        query = select(alarm_events.c.event_id).where(alarm_events.c.event_id.in_(list(ids[start : start + _CHUNK])))
        found |= set(connection.execute(query).scalars())
    return found


def _rows(connection: Connection, alarm_ids: set[str]) -> dict[str, Row]:
    found: dict[str, Row] = {}
    wanted = sorted(alarm_ids)
    for start in range(0, len(wanted), _CHUNK):
        query = select(alarms).where(alarms.c.alarm_id.in_(wanted[start : start + _CHUNK]))
        found |= {row["alarm_id"]: dict(row) for row in connection.execute(query).mappings()}
    return found
