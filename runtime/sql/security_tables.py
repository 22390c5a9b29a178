"""What was noticed of senders that may be attacked, or attack."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Index, Integer, String, Table

from runtime.sql.schema import Id, metadata, time_column

DETAIL_CHARS: Final = 500

security_events: Final = Table(
    "security_events", metadata,
    Column("id", Id, primary_key=True, autoincrement=True),
    time_column("at_us"),
    Column("kind", String(32), nullable=False),
    Column("hospital_id", String(65), nullable=False),
    Column("handle", BigInteger, nullable=False),  # of the true sender
    Column("door", String(16), nullable=False),
    Column("address", String(64), nullable=True),  # it spoke from
    Column("count", Integer, nullable=False, default=1, server_default="1"),
    Column("detail", String(DETAIL_CHARS), nullable=False),
    Column("stream_sequence", BigInteger, nullable=True, unique=True),  # of the notice; None of what was noticed elsewhere
    Index("ix_security_events_hospital_id_at_us", "hospital_id", "at_us"),
    Index("ix_security_events_handle_at_us", "handle", "at_us"),
    Index("ix_security_events_at_us", "at_us"),
)  # fmt: skip
