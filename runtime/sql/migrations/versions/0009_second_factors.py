"""Second factors: seeds of one-time codes, recovery codes, and which factors a session was begun with."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_table(
        "second_factors",
        sa.Column("user_id", sa.String(16), sa.ForeignKey("users.id"), primary_key=True),
        sa.Column("seed", sa.LargeBinary(), nullable=False),
        sa.Column("made_us", sa.BigInteger(), nullable=False),
        sa.Column("confirmed_us", sa.BigInteger(), nullable=True),
        sa.Column("last_step", sa.BigInteger(), nullable=False, server_default="0"),
    )
    op.create_table(
        "recovery_codes",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("user_id", sa.String(16), sa.ForeignKey("users.id"), nullable=False, index=True),
        sa.Column("used_us", sa.BigInteger(), nullable=True),
    )
    op.add_column("sessions", sa.Column("factors", sa.String(64), nullable=False, server_default="password"))


def downgrade() -> None:
    op.drop_column("sessions", "factors")
    op.drop_table("recovery_codes")
    op.drop_table("second_factors")
