"""Requests to erase persons, and legal holds."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "erasures",
        sa.Column("id", _ID, autoincrement=True, nullable=False),
        sa.Column("patient_key", sa.String(32), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("who", sa.String(200), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("requested_us", sa.BigInteger(), nullable=False),
        sa.Column("due_us", sa.BigInteger(), nullable=False),
        sa.Column("retained_until_us", sa.BigInteger(), nullable=False),
        sa.Column("level_before", sa.SmallInteger(), nullable=True),
        sa.Column("step", sa.String(16), nullable=True),
        sa.Column("counts", sa.JSON(), nullable=False),
        sa.Column("begun_us", sa.BigInteger(), nullable=True),
        sa.Column("ended_us", sa.BigInteger(), nullable=True),
        sa.Column("certificate", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_erasures"),
    )
    op.create_index("ix_erasures_patient_key", "erasures", ["patient_key"])
    op.create_index("ix_erasures_state", "erasures", ["state"])
    op.create_table(
        "legal_holds",
        sa.Column("id", _ID, autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("target", sa.String(131), nullable=False),
        sa.Column("hospital_id", sa.String(65), nullable=False),
        sa.Column("who", sa.String(200), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("from_us", sa.BigInteger(), nullable=False),
        sa.Column("until_us", sa.BigInteger(), nullable=True),
        sa.Column("lifted_us", sa.BigInteger(), nullable=True),
        sa.Column("lifted_by", sa.String(200), nullable=True),
        sa.ForeignKeyConstraint(["hospital_id"], ["hospitals.id"], name="fk_legal_holds_hospital_id"),
        sa.PrimaryKeyConstraint("id", name="pk_legal_holds"),
    )
    op.create_index("ix_legal_holds_hospital_id", "legal_holds", ["hospital_id"])
    op.create_index("ix_legal_holds_lifted_us", "legal_holds", ["lifted_us"])


def downgrade() -> None:
    op.drop_table("legal_holds")
    op.drop_table("erasures")
