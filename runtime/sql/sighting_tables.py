"""How each device last came to a door by itself, and what it was before that changed."""

from __future__ import annotations

from typing import Final

from sqlalchemy import JSON, Boolean, Column, ForeignKey, Integer, String, Table

from runtime.sql.schema import metadata, time_column

sightings: Final = Table(
    "sightings", metadata,
    Column("device_handle", ForeignKey("devices.handle"), primary_key=True, autoincrement=False),
    Column("door", String(16), nullable=False),
    Column("address", String(64), nullable=False, index=True),
    Column("over_tls", Boolean, nullable=False),
    Column("credential", String(16), nullable=False),
    Column("client", String(120), nullable=False),
    time_column("first_us"), time_column("last_us"),
    Column("fingerprint", String(32), nullable=False),
    Column("parts", JSON, nullable=False),  # what the fingerprint was made of (domain.sightings)
    Column("changes", Integer, nullable=False),
    time_column("changed_us", nullable=True),
    Column("parts_before", JSON(none_as_null=True), nullable=True),
)  # fmt: skip
