"""What was noticed of senders that may be attacked, or attack."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.create_table(
        "security_events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), autoincrement=True, nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("hospital_id", sa.String(65), nullable=False),
        sa.Column("handle", sa.BigInteger(), nullable=False),
        sa.Column("door", sa.String(16), nullable=False),
        sa.Column("address", sa.String(64), nullable=True),
        sa.Column("count", sa.Integer(), server_default="1", nullable=False),
        sa.Column("detail", sa.String(500), nullable=False),
        sa.Column("stream_sequence", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_security_events"),
        sa.UniqueConstraint("stream_sequence", name="uq_security_events_stream_sequence"),
    )
    op.create_index("ix_security_events_hospital_id_at_us", "security_events", ["hospital_id", "at_us"])
    op.create_index("ix_security_events_handle_at_us", "security_events", ["handle", "at_us"])
    op.create_index("ix_security_events_at_us", "security_events", ["at_us"])


def downgrade() -> None:
    op.drop_table("security_events")
