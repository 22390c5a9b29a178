"""Handles: the region-wide numbers of devices and patients, from 1 on, never used again."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, insert, text

from domain.errors import Conflict
from runtime.sql.tables import handles

HIGHEST: Final = 2**32 - 1
_REST: Final = text(
    "WITH RECURSIVE numbers(handle) AS (SELECT CAST(:second AS BIGINT) UNION ALL SELECT handle + 1 FROM numbers "
    "WHERE handle < :last) INSERT INTO handles (handle, kind) SELECT handle, :kind FROM numbers"
)


def take_handle(connection: Connection, kind: str) -> int:
    """One fresh handle. Errors as `take_handles`."""
    return take_handles(connection, 1, kind)


def take_handles(connection: Connection, count: int, kind: str) -> int:
    """The first of `count` consecutive fresh handles. Raises Conflict when the region has given out all it can.

    Nobody comes between, because one writer is at work at a time (see `engine`).
    """
    key = connection.execute(insert(handles).values(kind=kind)).inserted_primary_key
    assert key is not None
    first = int(key[0])
    if first + count - 1 > HIGHEST:
        raise Conflict(f"{count} handles from {first} on go beyond {HIGHEST}: the region is full")
    if count > 1:
        connection.execute(_REST, {"second": first + 1, "last": first + count - 1, "kind": kind})
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SELECT setval(pg_get_serial_sequence('handles', 'handle'), {first + count - 1})")
    return first
