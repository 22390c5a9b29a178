"""Isolations of devices, and how they came to the doors."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "isolations",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("device_handle", _ID, sa.ForeignKey("devices.handle"), nullable=False),
        sa.Column("isolated_us", sa.BigInteger(), nullable=False),
        sa.Column("isolated_by", sa.String(200), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("patients", sa.Integer(), nullable=False),
        sa.Column("confirmed_by", sa.String(200), nullable=True),
        sa.Column("credentials_revoked", sa.Boolean(), nullable=False),
        sa.Column("released_us", sa.BigInteger(), nullable=True),
        sa.Column("released_by", sa.String(200), nullable=True),
        sa.Column("release_reason", sa.Text(), nullable=True),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_isolations_device_handle_isolated_us", "isolations", ["device_handle", "isolated_us"])
    in_force = sa.text("released_us IS NULL")
    op.create_index(
        "uq_isolations_in_force", "isolations", ["device_handle"], unique=True, sqlite_where=in_force, postgresql_where=in_force
    )
    op.create_table(
        "sightings",
        sa.Column("device_handle", _ID, sa.ForeignKey("devices.handle"), primary_key=True, autoincrement=False),
        sa.Column("door", sa.String(16), nullable=False),
        sa.Column("address", sa.String(64), nullable=False, index=True),
        sa.Column("over_tls", sa.Boolean(), nullable=False),
        sa.Column("credential", sa.String(16), nullable=False),
        sa.Column("client", sa.String(120), nullable=False),
        sa.Column("first_us", sa.BigInteger(), nullable=False),
        sa.Column("last_us", sa.BigInteger(), nullable=False),
        sa.Column("fingerprint", sa.String(32), nullable=False),
        sa.Column("parts", sa.JSON(), nullable=False),
        sa.Column("changes", sa.Integer(), nullable=False),
        sa.Column("changed_us", sa.BigInteger(), nullable=True),
        sa.Column("parts_before", sa.JSON(), nullable=True),
    )


def downgrade() -> None:
    op.drop_table("sightings")
    op.drop_table("isolations")
