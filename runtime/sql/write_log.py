"""The write log on its way into the access log: what was written since, and how far that has come."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, Engine, or_, select

from domain.principals import OF_MACHINE, Kind, Other, other_of
from runtime.sql.alarm_projection import move_position, position_of
from runtime.sql.engine import reading, writing
from runtime.sql.identity_tables import users
from runtime.sql.records import Row
from runtime.sql.tables import tokens, write_log

POSITION: Final = "audit-writes"


def untold_writes(engine: Engine, limit: int) -> list[Row]:
    """The oldest rows that are not in the access log's stream yet, in the order of their commits. Raises Unavailable.

    With `by_kind` and `by_id`, who wrote, where that is known: a user or token for life, because no name is used again.
    """
    query = select(write_log).where(write_log.c.id > position_of(engine, POSITION)).order_by(write_log.c.id).limit(limit)
    with reading(engine) as connection:
        rows = [dict(row) for row in connection.execute(query).mappings()]
        known = _known(connection, {row["who"] for row in rows})
    return [row | dict(zip(("by_kind", "by_id"), known[row["who"]], strict=True)) for row in rows]


def mark_told(engine: Engine, last_id: int) -> None:
    """Rows up to `last_id` are in the stream. Raises Unavailable."""
    with writing(engine) as connection:
        move_position(connection, POSITION, last_id)


def _known(connection: Connection, names: set[str]) -> dict[str, tuple[str | None, str | None]]:
    """Kind and id of each who is named; none of a name that two have: of before that was refused."""
    found: dict[str, list[tuple[str, str]]] = {name: _other(name) for name in names}
    columns = (users.c.id, users.c.name, users.c.patient_key)
    for row in connection.execute(select(*columns).where(or_(users.c.name.in_(names), users.c.id.in_(names)))):
        called = row.name if row.patient_key is None else row.id
        if called in found:
            found[called].append((Kind.USER.value, row.id))
    for name in connection.execute(select(tokens.c.name).where(tokens.c.name.in_(names))).scalars():
        found[name].append((Kind.SERVICE.value, name))
    return {name: them[0] if len(them) == 1 else (None, None) for name, them in found.items()}


def _other(name: str) -> list[tuple[str, str]]:
    match other_of(name):
        case Other.PLATFORM | Other.DEVICE as other:
            return [(other.value, name)]
        case Other.MACHINE_ACCOUNT if name.startswith(OF_MACHINE):
            return [(Other.MACHINE_ACCOUNT.value, name.removeprefix(OF_MACHINE))]
        case _:  # a patient's account is a user, by its id
            return []
