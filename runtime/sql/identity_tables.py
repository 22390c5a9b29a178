"""Users, their sessions, what principals were given, and whom they treat."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Integer, LargeBinary, String, Table, Text

from runtime.sql.schema import Id, metadata, time_column

users: Final = Table(
    "users", metadata,
    Column("id", String(16), primary_key=True),  # u-<12 hex>: for life, never used again
    Column("name", String(64), nullable=False, unique=True),
    Column("status", String(16), nullable=False),
    Column("password", Text, nullable=False),  # runtime.password_hashes
    Column("must_change", Boolean, nullable=False),
    time_column("password_changed_us"),
    Column("failures", Integer, nullable=False, default=0, server_default="0"),  # in a row, of the present window
    time_column("failing_since_us", nullable=True), time_column("locked_until_us", nullable=True),
    time_column("created_us"), time_column("last_login_us", nullable=True),
    Column("patient_key", String(32), nullable=True),  # of a patient's own account
)  # fmt: skip

# Passwords that were replaced, so that they do not come back.
password_history: Final = Table(
    "password_history", metadata,
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("user_id", ForeignKey("users.id"), nullable=False, index=True),
    Column("password", Text, nullable=False),
)  # fmt: skip

# The primary key is the rule: a user has one session.
sessions: Final = Table(
    "sessions", metadata,
    Column("user_id", ForeignKey("users.id"), primary_key=True),
    Column("id", String(24), nullable=False, unique=True),
    Column("access_digest", String(64), nullable=False, unique=True),
    Column("refresh_digest", String(64), nullable=False, unique=True),
    Column("address", String(64), nullable=False),
    Column("factors", String(64), nullable=False, default="password", server_default="password"),  # domain.principals.Factor
    time_column("begun_us"), time_column("active_us"), time_column("ends_us"),
)  # fmt: skip

# Seeds of one-time codes. One that is not confirmed opens nothing, and may be replaced by another.
second_factors: Final = Table(
    "second_factors", metadata,
    Column("user_id", ForeignKey("users.id"), primary_key=True),
    Column("seed", LargeBinary, nullable=False),  # sealed: runtime.second_factors
    time_column("made_us"), time_column("confirmed_us", nullable=True),
    Column("last_step", BigInteger, nullable=False, default=0, server_default="0"),  # codes of this step and before are used
)  # fmt: skip

# Each stands in for one code, once.
recovery_codes: Final = Table(
    "recovery_codes", metadata,
    Column("digest", String(64), primary_key=True),
    Column("user_id", ForeignKey("users.id"), nullable=False, index=True),
    time_column("used_us", nullable=True),
)  # fmt: skip

# Tokens that were good, for a day: their holder is told why they are not any more.
ended_sessions: Final = Table(
    "ended_sessions", metadata,
    Column("access_digest", String(64), primary_key=True),
    Column("refresh_digest", String(64), nullable=False, unique=True),
    Column("session_id", String(24), nullable=False),
    Column("user_id", ForeignKey("users.id"), nullable=False),
    Column("why", String(32), nullable=False),
    Column("at_us", BigInteger, nullable=False, index=True),
)  # fmt: skip

grants: Final = Table(
    "grants", metadata,
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("principal_id", String(16), nullable=False, index=True),
    Column("role", String(32), nullable=False),
    Column("place", String(131), nullable=False),  # domain.principals.Place
    Column("relation", String(16), nullable=False, default="any", server_default="any"),
    time_column("until_us", nullable=True),  # it ends by itself then
    time_column("given_us"), time_column("ended_us", nullable=True),
)  # fmt: skip

# Who treats a patient, and when.
care_teams: Final = Table(
    "care_teams", metadata,
    Column("patient_key", ForeignKey("patients.patient_key"), primary_key=True),
    Column("principal_id", String(16), primary_key=True, index=True),
    Column("from_us", BigInteger, primary_key=True),
    time_column("until_us", nullable=True),
)  # fmt: skip

# What a service gets for its token, for an hour.
service_access: Final = Table(
    "service_access", metadata,
    Column("digest", String(64), primary_key=True),
    Column("token_name", ForeignKey("tokens.name"), nullable=False),
    Column("ends_us", BigInteger, nullable=False, index=True),
)  # fmt: skip
