"""The write log on its way into the access log: what was written since, and how far that has come."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Engine, select

from runtime.sql.alarm_projection import move_position, position_of
from runtime.sql.engine import reading, writing
from runtime.sql.records import Row
from runtime.sql.tables import write_log

POSITION: Final = "audit-writes"


def untold_writes(engine: Engine, limit: int) -> list[Row]:
    """The oldest rows that are not in the access log's stream yet, in the order of their commits. Raises Unavailable."""
    query = select(write_log).where(write_log.c.id > position_of(engine, POSITION)).order_by(write_log.c.id).limit(limit)
    with reading(engine) as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def mark_told(engine: Engine, last_id: int) -> None:
    """Rows up to `last_id` are in the stream. Raises Unavailable."""
    with writing(engine) as connection:
        move_position(connection, POSITION, last_id)
