"""The register of risks to data: what was found or entered, what is done about it, and how that came."""

from __future__ import annotations

from typing import Final

from sqlalchemy import JSON, BigInteger, Column, ForeignKey, SmallInteger, String, Table, Text

from runtime.sql.schema import Id, metadata, time_column, version_column

# One row a finding, however often it is found: `finding` is its key. Entered by hand it has none.
risks: Final = Table(
    "risks", metadata,
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("finding", String(300), nullable=True, unique=True),
    Column("rule", String(64), nullable=True),
    Column("subject", String(200), nullable=False, default="", server_default=""),  # a principal's name
    Column("title", Text, nullable=True),  # of those entered by hand: sealed. The others' stand in domain.risks
    Column("measure", Text, nullable=True),  # sealed; none: the rule's
    Column("kind", String(64), nullable=False),  # the class of records at risk: domain.labels
    Column("owner", String(64), nullable=False),  # a role, or a person's name for signing in
    Column("likelihood", SmallInteger, nullable=False), Column("severity", SmallInteger, nullable=False),
    Column("evidence", JSON, nullable=False),
    Column("state", String(32), nullable=False, index=True),
    time_column("found_us"), time_column("seen_us"), time_column("accepted_until_us", nullable=True),
    version_column(),
)  # fmt: skip

risk_events: Final = Table(
    "risk_events", metadata,
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("risk_id", ForeignKey("risks.id"), nullable=False, index=True),
    Column("at_us", BigInteger, nullable=False),
    Column("who", String(200), nullable=False),
    Column("event", String(32), nullable=False),
    Column("state", String(32), nullable=False),
    Column("likelihood", SmallInteger, nullable=False), Column("severity", SmallInteger, nullable=False),
    Column("note", Text, nullable=True),  # sealed
)  # fmt: skip
