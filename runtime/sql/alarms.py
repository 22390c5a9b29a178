"""The alarm desk's records: what was notified becomes a row an alarm, and people's answers are kept with it.

Events come from the alarm stream, at least once and nearly in order. Applying one twice changes nothing; the stream
position is stored in the same transaction. The life of an alarm is the table of `domain.alarms`, nothing else.
Clauses 6.3f, 9.2c.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Engine, delete, func, insert, select, update

from domain.alarms import AlarmEvent, AlarmInput, AlarmState, Outcome, Phase, next_state
from domain.errors import Conflict, InvalidInput
from runtime.sql.engine import reading, writing
from runtime.sql.records import Author, Page, Row, change, log_write, one, page
from runtime.sql.tables import alarm_events, alarms, positions

POSITION: Final = "alarm-desk"
MAX_PAUSE_US: Final = 3_600_000_000
_CHUNK: Final = 500


def apply_alarm_events(engine: Engine, events: Sequence[tuple[int, AlarmEvent]]) -> int:
    """Take (stream sequence, event) pairs in; returns how many were new."""
    if not events:
        return 0
    with writing(engine) as connection:
        ids = [event.event_id for _, event in events]
        known = _known(connection, alarm_events.c.event_id, ids)
        rows = _rows(connection, [event.alarm_id for _, event in events])
        fresh: list[dict[str, Any]] = []
        new: set[str] = set()
        changed: set[str] = set()
        for sequence, event in events:
            if event.event_id in known:
                continue
            known.add(event.event_id)
            fresh.append({
                "event_id": event.event_id, "alarm_id": event.alarm_id, "stream_sequence": sequence,
                "event_us": event.event_us, "content": msgspec.json.encode(event),
            })  # fmt: skip
            if event.alarm_id in rows:
                _advance(rows[event.alarm_id], event)
                changed.add(event.alarm_id)
            else:
                rows[event.alarm_id] = _first(sequence, event)
                new.add(event.alarm_id)
        if fresh:
            connection.execute(insert(alarm_events), fresh)
        if new:
            connection.execute(insert(alarms), [rows[alarm_id] for alarm_id in sorted(new)])
        for alarm_id in sorted(changed - new):
            row = rows[alarm_id]
            connection.execute(
                update(alarms).where(alarms.c.alarm_id == alarm_id).values({**row, "version": row["version"] + 1})
            )
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


def get_alarm(engine: Engine, alarm_id: str) -> Row:
    """Raises NotFound."""
    with reading(engine) as connection:
        return one(connection, select(alarms).where(alarms.c.alarm_id == alarm_id), f"alarm {alarm_id!r}")


def events_of(engine: Engine, alarm_id: str) -> list[AlarmEvent]:
    """Each notification of an alarm, in order of arrival. Raises NotFound for an unknown alarm."""
    query = select(alarm_events.c.content).where(alarm_events.c.alarm_id == alarm_id)
    with reading(engine) as connection:
        one(connection, select(alarms.c.alarm_id).where(alarms.c.alarm_id == alarm_id), f"alarm {alarm_id!r}")
        found = connection.execute(query.order_by(alarm_events.c.stream_sequence)).scalars()
        return [msgspec.json.decode(content, type=AlarmEvent) for content in found]


def list_alarms(  # noqa: PLR0913 (one filter each)
    engine: Engine, *, limit: int, after: tuple[Any, ...] | None = None, states: Sequence[str] | None = None,
    min_priority: int | None = None, hospital_id: str | None = None, ward_id: str | None = None,
    patient_key: str | None = None, handle: int | None = None, since_us: int | None = None, live: bool | None = None,
    rule: str | None = None,
) -> Page:  # fmt: skip
    """The newest first, by when they were raised."""
    query = select(alarms)
    equal = {"hospital_id": hospital_id, "ward_id": ward_id, "patient_key": patient_key, "handle": handle, "live": live,
             "rule": rule}  # fmt: skip
    for name, value in equal.items():
        if value is not None:
            query = query.where(alarms.c[name] == value)
    if states is not None:
        query = query.where(alarms.c.state.in_(list(states)))
    if min_priority is not None:
        query = query.where(alarms.c.priority >= min_priority)
    if since_us is not None:
        query = query.where(alarms.c.raised_us >= since_us)
    with reading(engine) as connection:
        keys = [alarms.c.raised_us, alarms.c.alarm_id]
        return page(connection, query, keys, limit=limit, after=after, descending=True)


def count_alarms(engine: Engine, *, hospital_id: str | None = None, since_us: int | None = None) -> list[Row]:
    """Rows of (state, priority, rule, count): the alarm burden."""
    columns = (alarms.c.state, alarms.c.priority, alarms.c.rule)
    query = select(*columns, func.count().label("count")).group_by(*columns).order_by(*columns)
    if hospital_id is not None:
        query = query.where(alarms.c.hospital_id == hospital_id)
    if since_us is not None:
        query = query.where(alarms.c.raised_us >= since_us)
    with reading(engine) as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def acknowledge(engine: Engine, author: Author, alarm_id: str, outcome: Outcome, *, version: int | None = None) -> Row:
    """A person has seen it and says what it was. Raises NotFound, Conflict when it is closed."""
    values = {"outcome": str(outcome), "acknowledged_by": author.who, "acknowledged_us": author.now_us}
    return _answer(engine, author, alarm_id, AlarmInput.ACKNOWLEDGE, values, version=version)


def pause_audio(engine: Engine, author: Author, alarm_id: str, until_us: int, *, version: int | None = None) -> Row:
    """Sound off until `until_us`, at most an hour ahead; the picture stays. Raises NotFound, InvalidInput, Conflict."""
    if not author.now_us < until_us <= author.now_us + MAX_PAUSE_US:
        raise InvalidInput("an audio pause ends after now and within one hour")
    return _answer(engine, author, alarm_id, AlarmInput.PAUSE_AUDIO, {"paused_until_us": until_us}, version=version)


def expire_pauses(engine: Engine, now_us: int) -> int:
    """End the audio pauses whose time is over; returns how many."""
    over = (alarms.c.state == AlarmState.AUDIO_PAUSED) & (alarms.c.paused_until_us <= now_us)
    state = next_state(AlarmState.AUDIO_PAUSED, AlarmInput.PAUSE_EXPIRED)
    with reading(engine) as connection:
        if connection.execute(select(alarms.c.alarm_id).where(over).limit(1)).first() is None:
            return 0
    with writing(engine) as connection:
        values = {"state": str(state), "paused_until_us": None, "version": alarms.c.version + 1}
        return int(connection.execute(update(alarms).where(over).values(values)).rowcount)


def forget_alarms(engine: Engine, before_us: int) -> int:
    """Delete closed alarms that ended before an instant (retention); returns how many."""
    old = (alarms.c.state == AlarmState.CLOSED) & (alarms.c.last_event_us < before_us)
    with writing(engine) as connection:
        gone = select(alarms.c.alarm_id).where(old)
        connection.execute(delete(alarm_events).where(alarm_events.c.alarm_id.in_(gone)))
        return int(connection.execute(delete(alarms).where(old)).rowcount)


def _answer(
    engine: Engine, author: Author, alarm_id: str, happened: AlarmInput, values: dict[str, Any], *, version: int | None
) -> Row:
    with writing(engine) as connection:
        row = one(connection, select(alarms).where(alarms.c.alarm_id == alarm_id), f"alarm {alarm_id!r}")
        state = next_state(AlarmState(row["state"]), happened)
        if state is None:
            raise Conflict(f"alarm {alarm_id!r} is {row['state']}: '{happened}' is not possible any more")
        values = {**values, "state": str(state)}
        row = change(connection, alarms, {"alarm_id": alarm_id}, values, version=version, what=f"alarm {alarm_id!r}")
        log_write(connection, author, f"alarm.{happened}", alarm_id)
        return row


def _first(sequence: int, event: AlarmEvent) -> Row:
    about = event.subject
    row: Row = {
        "alarm_id": event.alarm_id, "hospital_id": about.hospital_id, "ward_id": about.ward_id, "bed_id": about.bed_id,
        "device_id": about.device_id, "handle": about.handle, "patient_key": about.patient_key, "rule": event.rule,
        "rule_version": event.rule_version, "alert_type": str(event.alert_type), "priority": int(event.priority),
        "state": str(AlarmState.ACTIVE), "phase": str(event.phase), "latching": event.latching, "live": event.live,
        "text": event.text, "metric": about.metric, "value": event.value, "limit_value": event.limit, "unit": event.unit,
        "onset_us": event.onset_us, "last_event_us": event.event_us, "ended_us": None, "raised_us": event.arrival_us,
        "stream_sequence": sequence, "outcome": None, "acknowledged_by": None, "acknowledged_us": None,
        "paused_until_us": None, "version": 1,
    }  # fmt: skip
    if event.phase is Phase.END:
        _end(row, event)
    return row


def _advance(row: Row, event: AlarmEvent) -> None:
    """A further notification. One older than what is shown is kept among the events and moves nothing."""
    row["raised_us"] = min(row["raised_us"], event.arrival_us)
    row["priority"] = max(row["priority"], int(event.priority))
    if event.event_us < row["last_event_us"] or row["phase"] == Phase.END:
        return
    row |= {"phase": str(event.phase), "text": event.text, "last_event_us": event.event_us, "value": event.value}
    if event.phase is Phase.END:
        _end(row, event)
    elif event.phase is Phase.ESCALATE:
        row["state"] = str(next_state(AlarmState(row["state"]), AlarmInput.ESCALATED) or row["state"])


def _end(row: Row, event: AlarmEvent) -> None:
    happened = AlarmInput.ENDED if row["latching"] else AlarmInput.ENDED_NON_LATCHING
    row["state"] = str(next_state(AlarmState(row["state"]), happened) or row["state"])
    row |= {"phase": str(Phase.END), "ended_us": event.event_us}


def _known(connection: Connection, column: Any, ids: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for start in range(0, len(ids), _CHUNK):
        found |= set(connection.execute(select(column).where(column.in_(list(ids[start : start + _CHUNK])))).scalars())
    return found


def _rows(connection: Connection, alarm_ids: Sequence[str]) -> dict[str, Row]:
    found: dict[str, Row] = {}
    wanted = sorted(set(alarm_ids))
    for start in range(0, len(wanted), _CHUNK):
        query = select(alarms).where(alarms.c.alarm_id.in_(wanted[start : start + _CHUNK]))
        found |= {row["alarm_id"]: dict(row) for row in connection.execute(query).mappings()}
    return found
