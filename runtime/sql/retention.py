"""Deletion of rows that are past their time, and what is held of each table. Rules: `domain.retention`. Clause 9.3h."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import JSON, BigInteger, Connection, Engine, Table, Text, cast, delete, exists, func, or_, select, union_all
from sqlalchemy.sql.elements import ColumnElement

from domain.instants import DAY_US
from runtime.sql.engine import reading, writing
from runtime.sql.holds import held_hospitals, in_force
from runtime.sql.life_tables import legal_holds
from runtime.sql.records import Author, Row, log_write
from runtime.sql.tables import devices, exports, hand_overs, maintenance_windows, metadata, outbox, patients, reject_actions

_AT_ONCE: Final = 5_000  # rows of one transaction, so that other writers do not wait for long


@dataclass(frozen=True, slots=True)
class Expiring:
    """Rows of a table that go when `time` lies as far back as the setting says."""

    table: Table
    time: ColumnElement[Any]
    setting: str
    key: ColumnElement[Any]


EXPIRING: Final[Mapping[str, Expiring]] = {
    "exports": Expiring(exports, exports.c.at_us, "retention.export_days", exports.c.id),
    "reject_actions": Expiring(reject_actions, reject_actions.c.at_us, "retention.export_days", reject_actions.c.reject_id),
    "maintenance_windows": Expiring(
        maintenance_windows, maintenance_windows.c.until_us, "retention.maintenance_days", maintenance_windows.c.id
    ),
    "outbox": Expiring(outbox, outbox.c.published_us, "retention.outbox_days", outbox.c.id),
}
# the time by which a table's oldest record is told, where it has one
_OLDEST: Final = (
    "at_us", "requested_us", "raised_us", "event_us", "recorded_us", "admitted_us", "begun_us", "from_us", "set_us", "given_us",
    "made_us", "created_us",
)  # fmt: skip


def delete_expired(engine: Engine, author: Author, days: Mapping[str, float]) -> dict[str, int]:
    """Delete what is past its time, a table after the other; how many rows of each. A run that deletes is in the write log.

    `days`: by setting. While a hold stands, on whatever it is, maintenance windows of its hospital stay, what is noted of
    exports of its readings or of nobody knows whose, and all that is noted of rejects. No hold keeps copies on their way
    (outbox).
    """
    return {name: count for name, what in EXPIRING.items() if (count := _delete(engine, author, name, what, days))}


def expired(engine: Engine, now_us: int, days: Mapping[str, float]) -> dict[str, int]:
    """How many rows `delete_expired` would delete of each table."""
    with reading(engine) as connection:
        counts = {
            name: select(func.count()).select_from(what.table).where(_is_over(connection, what, now_us, days))
            for name, what in EXPIRING.items()
        }
        return {name: int(connection.execute(query).scalar_one()) for name, query in counts.items()}


def held_of(engine: Engine) -> dict[str, Row]:
    """Of each table how many rows it has, and the time of the oldest one, where a column tells that."""
    with reading(engine) as connection:
        return {name: _held(connection, table) for name, table in metadata.tables.items()}


def next_to_expire(engine: Engine, days: Mapping[str, float], retention_us: int) -> dict[str, int]:
    """When the next row of each table goes, if nothing holds it; of patients when the law lets the next one go."""
    with reading(engine) as connection:
        found = {
            name: (connection.execute(select(func.min(what.time))).scalar_one(), round(days[what.setting] * DAY_US))
            for name, what in EXPIRING.items()
        }
        discharged = select(func.min(patients.c.discharged_us)).where(patients.c.ref.is_not(None))
        found["patients"] = (connection.execute(discharged).scalar_one(), retention_us)
    return {name: int(oldest) + kept_us for name, (oldest, kept_us) in found.items() if oldest is not None}


def _delete(engine: Engine, author: Author, name: str, what: Expiring, days: Mapping[str, float]) -> int:
    total = 0
    while True:
        with writing(engine) as connection:
            some = select(what.key).where(_is_over(connection, what, author.now_us, days)).limit(_AT_ONCE)
            keys = connection.execute(some).scalars().all()
            if keys:
                connection.execute(delete(what.table).where(what.key.in_(keys)))
                log_write(connection, author, "retention.delete", name, {"rows": len(keys)})
        total += len(keys)
        if len(keys) < _AT_ONCE:
            return total


def _is_over(connection: Connection, what: Expiring, now_us: int, days: Mapping[str, float]) -> ColumnElement[bool]:
    is_over: ColumnElement[bool] = what.time < now_us - round(days[what.setting] * DAY_US)
    if what.table is outbox:  # by this row it is known that a hand-over was told
        return is_over & outbox.c.id.not_in(select(hand_overs.c.outbox_id).where(hand_overs.c.settled_us.is_(None)))
    if what.table is maintenance_windows:
        return is_over & maintenance_windows.c.hospital_id.not_in(held_hospitals(now_us))
    is_held = exists(select(legal_holds.c.id).where(in_force(now_us)))  # of whom a reject was no row says
    return is_over & ~(is_held & _may_be_of_held(connection, now_us) if what.table is exports else is_held)


def _may_be_of_held(connection: Connection, now_us: int) -> ColumnElement[bool]:
    """The condition that readings of a hospital of which something is held were exported, or nobody knows whose."""
    held = held_hospitals(now_us)
    theirs = union_all(*(select(one.c.handle).where(one.c.hospital_id.in_(held)) for one in (devices, patients)))
    noted = func.nullif(cast(exports.c.handles, Text), "null")
    is_sqlite = connection.dialect.name == "sqlite"
    each = func.json_each(noted) if is_sqlite else func.json_array_elements_text(cast(noted, JSON))
    handle = each.table_valued("value").c.value
    return or_(func.coalesce(noted, "[]") == "[]", exists(select(handle).where(cast(handle, BigInteger).in_(theirs))))


def _held(connection: Connection, table: Table) -> Row:
    time = next((table.c[name] for name in _OLDEST if name in table.c), None)
    columns = [func.count().label("rows"), *([] if time is None else [func.min(time).label("oldest_us")])]
    row = connection.execute(select(*columns).select_from(table)).one()
    return {"rows": int(row[0]), "oldest_us": None if time is None else row[1]}
