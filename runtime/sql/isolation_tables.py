"""Isolations of devices: who cut which one off, when and why, and when that was undone. A device has one in force at most."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Boolean, Column, ForeignKey, Index, Integer, String, Table, Text, select
from sqlalchemy.sql.elements import ColumnElement

from runtime.sql.schema import Id, metadata, time_column

isolations: Final = Table(
    "isolations", metadata,
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("device_handle", ForeignKey("devices.handle"), nullable=False),
    time_column("isolated_us"),
    Column("isolated_by", String(200), nullable=False),
    Column("reason", Text, nullable=False),  # sealed (runtime.sql.sealed)
    Column("patients", Integer, nullable=False),  # how many were on it, or on what it carries
    Column("confirmed_by", String(200), nullable=True),  # the person of the ward who knows, where there were any
    Column("credentials_revoked", Boolean, nullable=False),
    time_column("released_us", nullable=True),
    Column("released_by", String(200), nullable=True),
    Column("release_reason", Text, nullable=True),  # sealed
    Index("ix_isolations_device_handle_isolated_us", "device_handle", "isolated_us"),
    sqlite_autoincrement=True,  # hosts know an isolation by its id: never twice
)  # fmt: skip
Index(
    "uq_isolations_in_force", isolations.c.device_handle, unique=True,
    sqlite_where=isolations.c.released_us.is_(None), postgresql_where=isolations.c.released_us.is_(None),
)  # fmt: skip


def is_isolated(handle: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether the device with this handle is cut off now."""
    in_force = select(isolations.c.device_handle).where(isolations.c.released_us.is_(None))
    return handle.in_(in_force)
