"""The alarm desk's questions and answers: what is open, what was known, what people said to it.

Rows come from `alarm_projection`. The life of an alarm is the table of `domain.alarms`, nothing else. An answer does
nothing to a device. Clauses 6.3f, 9.2c.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, Engine, func, select, update

from domain.alarms import AlarmEvent, AlarmInput, AlarmState, Outcome, next_state
from domain.errors import Conflict, InvalidInput
from domain.permissions import NOWHERE, Reach
from runtime.sql.alarm_projection import POSITION, UNANSWERED, apply_alarm_events, position_of, save_position
from runtime.sql.engine import reading, writing
from runtime.sql.records import Author, Page, Row, change, check_text, log_write, one, page
from runtime.sql.sealed import open_texts, owner_of_alarm, place_of_note, shut_text
from runtime.sql.sealed_alarms import open_alarms, open_events
from runtime.sql.tables import alarm_events, alarms
from runtime.sql.within import ALARMS, COUNTED_ALARMS, within

__all__ = [
    "MAX_PAUSE_US", "POSITION", "acknowledge", "apply_alarm_events", "count_alarms", "events_of", "expire_pauses",
    "get_alarm", "list_alarms", "pause_audio", "position_of", "save_position",
]  # fmt: skip

MAX_PAUSE_US: Final = 3_600_000_000
_NOTE_CHARS: Final = 2_000


def get_alarm(engine: Engine, alarm_id: str) -> Row:
    """Raises NotFound."""
    with reading(engine) as connection:
        row = one(connection, select(alarms).where(alarms.c.alarm_id == alarm_id), f"alarm {alarm_id!r}")
        return _opened(connection, [row])[0]


def events_of(engine: Engine, alarm_id: str) -> list[AlarmEvent]:
    """What the platform said and knew: each notification of an alarm, in order of arrival. Raises NotFound."""
    query = select(alarm_events.c.content).where(alarm_events.c.alarm_id == alarm_id)
    with reading(engine) as connection:
        one(connection, select(alarms.c.alarm_id).where(alarms.c.alarm_id == alarm_id), f"alarm {alarm_id!r}")
        found = connection.execute(query.order_by(alarm_events.c.stream_sequence)).scalars()
        return open_events(connection, list(found))


def list_alarms(  # noqa: PLR0913 (one filter each)
    engine: Engine, *, reach: Reach, clear: Reach = NOWHERE, limit: int, after: tuple[Any, ...] | None = None,
    states: Sequence[str] | None = None, min_priority: int | None = None, hospital_id: str | None = None,
    ward_id: str | None = None, patient_key: str | None = None, handle: int | None = None, since_us: int | None = None,
    live: bool | None = None, rule: str | None = None,
) -> Page:  # fmt: skip
    """Those within `reach`, the newest first, by when they were raised; `is_clear` of those within `clear`, too."""
    query = select(alarms, within(clear, ALARMS).label("is_clear")).where(within(reach, ALARMS))
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
        found = page(connection, query, keys, limit=limit, after=after, descending=True)
        return Page(_opened(connection, found.rows), found.after)


def count_alarms(engine: Engine, *, reach: Reach, hospital_id: str | None = None, since_us: int | None = None) -> list[Row]:
    """Rows of (state, priority, rule, count) of the places within `reach`: the alarm burden."""
    columns = (alarms.c.state, alarms.c.priority, alarms.c.rule)
    query = select(*columns, func.count().label("count")).group_by(*columns).order_by(*columns)
    query = query.where(within(reach, COUNTED_ALARMS))
    if hospital_id is not None:
        query = query.where(alarms.c.hospital_id == hospital_id)
    if since_us is not None:
        query = query.where(alarms.c.raised_us >= since_us)
    with reading(engine) as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def acknowledge(
    engine: Engine, author: Author, alarm_id: str, outcome: Outcome, *, note: str | None = None, version: int | None = None
) -> Row:
    """A person has seen it and says what it was. Raises InvalidInput, NotFound, StaleVersion, Conflict when it is closed."""
    check_text(note, "a note", _NOTE_CHARS)
    values = UNANSWERED | {
        "outcome": str(outcome), "note": note, "acknowledged_by": author.who, "acknowledged_us": author.now_us,
    }  # fmt: skip
    said = {"outcome": str(outcome), "note": note}
    return _answer(engine, author, alarm_id, AlarmInput.ACKNOWLEDGE, values, said, version=version)


def pause_audio(engine: Engine, author: Author, alarm_id: str, until_us: int, *, version: int | None = None) -> Row:
    """Sound off until `until_us`, at most an hour ahead; the picture stays.

    Raises NotFound, InvalidInput, StaleVersion, Conflict when the alarm is not sounding.
    """
    if not author.now_us < until_us <= author.now_us + MAX_PAUSE_US:
        after_s = (until_us - author.now_us) / 1e6
        raise InvalidInput(f"an audio pause ends within the next {MAX_PAUSE_US // 1_000_000} s, not {after_s:g} s from now")
    values = {"paused_until_us": until_us}
    return _answer(engine, author, alarm_id, AlarmInput.PAUSE_AUDIO, values, values, version=version)


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


def _answer(
    engine: Engine, author: Author, alarm_id: str, happened: AlarmInput, values: Row, said: Row, *, version: int | None
) -> Row:
    with writing(engine) as connection:
        row = one(connection, select(alarms).where(alarms.c.alarm_id == alarm_id), f"alarm {alarm_id!r}")
        state = next_state(AlarmState(row["state"]), happened)
        if state is None:
            raise Conflict(f"alarm {alarm_id!r} is {row['state']}: '{happened}' is not possible in that state")
        values = {**values, "state": str(state)}
        if values.get("note") is not None:
            whose, otherwise = owner_of_alarm(row), owner_of_alarm({**row, "patient_key": None})
            values["note"] = shut_text(connection, whose, place_of_note(row), values["note"], otherwise)
        about = None if row["patient_key"] is None else owner_of_alarm(row)
        row = change(connection, alarms, {"alarm_id": alarm_id}, values, version=version, what=f"alarm {alarm_id!r}")
        log_write(connection, author, f"alarm.{happened}", alarm_id, said, about=about)
        return _opened(connection, [row])[0]


def _opened(connection: Connection, rows: list[Row]) -> list[Row]:
    return open_alarms(connection, open_texts(connection, rows, "note", [place_of_note(row) for row in rows]))
