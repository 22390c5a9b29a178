"""Where grants hold and for how long, districts, care teams, patients' own accounts, and records above their class."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_ADDED = {
    "hospitals": ("district",),
    "patients": ("level",),
    "devices": ("level",),
    "users": ("patient_key",),
    "tokens": ("place",),
    "grants": ("relation", "until_us"),
}


def upgrade() -> None:
    op.add_column("hospitals", sa.Column("district", sa.String(64), nullable=True))
    op.add_column("patients", sa.Column("level", sa.SmallInteger(), nullable=True))
    op.add_column("devices", sa.Column("level", sa.SmallInteger(), nullable=True))
    op.add_column("users", sa.Column("patient_key", sa.String(32), nullable=True))
    op.add_column("tokens", sa.Column("place", sa.String(131), nullable=True))
    op.add_column("grants", sa.Column("relation", sa.String(16), nullable=False, server_default="any"))
    op.add_column("grants", sa.Column("until_us", sa.BigInteger(), nullable=True))
    op.create_table(
        "care_teams",
        sa.Column("patient_key", sa.String(32), sa.ForeignKey("patients.patient_key"), primary_key=True),
        sa.Column("principal_id", sa.String(16), primary_key=True, index=True),
        sa.Column("from_us", sa.BigInteger(), primary_key=True),
        sa.Column("until_us", sa.BigInteger(), nullable=True),
    )


def downgrade() -> None:
    op.drop_table("care_teams")
    for table, columns in _ADDED.items():
        for column in columns:
            op.drop_column(table, column)
