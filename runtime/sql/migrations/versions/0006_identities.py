"""Users with passwords, one session a user, grants, and short-lived access of services."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _people()
    op.create_table(
        "grants",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("principal_id", sa.String(16), nullable=False, index=True),
        sa.Column("role", sa.String(32), nullable=False),
        sa.Column("place", sa.String(131), nullable=False),
        sa.Column("given_us", sa.BigInteger(), nullable=False),
        sa.Column("ended_us", sa.BigInteger(), nullable=True),
    )
    op.create_table(
        "service_access",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("token_name", sa.String(200), sa.ForeignKey("tokens.name"), nullable=False),
        sa.Column("ends_us", sa.BigInteger(), nullable=False, index=True),
    )


def _people() -> None:
    op.create_table(
        "users",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("name", sa.String(64), nullable=False, unique=True),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("password", sa.Text(), nullable=False),
        sa.Column("must_change", sa.Boolean(), nullable=False),
        sa.Column("password_changed_us", sa.BigInteger(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("failing_since_us", sa.BigInteger(), nullable=True),
        sa.Column("locked_until_us", sa.BigInteger(), nullable=True),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("last_login_us", sa.BigInteger(), nullable=True),
    )
    op.create_table(
        "password_history",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("user_id", sa.String(16), sa.ForeignKey("users.id"), nullable=False, index=True),
        sa.Column("password", sa.Text(), nullable=False),
    )
    op.create_table(
        "sessions",
        sa.Column("user_id", sa.String(16), sa.ForeignKey("users.id"), primary_key=True),
        sa.Column("id", sa.String(24), nullable=False, unique=True),
        sa.Column("access_digest", sa.String(64), nullable=False, unique=True),
        sa.Column("refresh_digest", sa.String(64), nullable=False, unique=True),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("begun_us", sa.BigInteger(), nullable=False),
        sa.Column("active_us", sa.BigInteger(), nullable=False),
        sa.Column("ends_us", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "ended_sessions",
        sa.Column("access_digest", sa.String(64), primary_key=True),
        sa.Column("refresh_digest", sa.String(64), nullable=False, unique=True),
        sa.Column("session_id", sa.String(24), nullable=False),
        sa.Column("user_id", sa.String(16), sa.ForeignKey("users.id"), nullable=False),
        sa.Column("why", sa.String(32), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False, index=True),
    )


def downgrade() -> None:
    for name in ("service_access", "grants", "ended_sessions", "sessions", "password_history", "users"):
        op.drop_table(name)
