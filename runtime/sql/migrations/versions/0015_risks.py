"""The register of data-security risks, and its history, which nobody changes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from runtime.sql.schema import Id

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.create_table(
        "risks",
        sa.Column("id", Id, primary_key=True, autoincrement=True),
        sa.Column("finding", sa.String(300), nullable=True),
        sa.Column("rule", sa.String(64), nullable=True),
        sa.Column("subject", sa.String(200), nullable=False, server_default=""),
        sa.Column("title", sa.Text, nullable=True),
        sa.Column("measure", sa.Text, nullable=True),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("likelihood", sa.SmallInteger, nullable=False),
        sa.Column("severity", sa.SmallInteger, nullable=False),
        sa.Column("evidence", sa.JSON, nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("found_us", sa.BigInteger, nullable=False),
        sa.Column("seen_us", sa.BigInteger, nullable=False),
        sa.Column("accepted_until_us", sa.BigInteger, nullable=True),
        sa.Column("version", sa.Integer, nullable=False, server_default="1"),
        sa.PrimaryKeyConstraint("id", name="pk_risks"),
        sa.UniqueConstraint("finding", name="uq_risks_finding"),
    )
    op.create_index("ix_risks_state", "risks", ["state"])
    op.create_table(
        "risk_events",
        sa.Column("id", Id, primary_key=True, autoincrement=True),
        sa.Column("risk_id", Id, sa.ForeignKey("risks.id", name="fk_risk_events_risk_id"), nullable=False),
        sa.Column("at_us", sa.BigInteger, nullable=False),
        sa.Column("who", sa.String(200), nullable=False),
        sa.Column("event", sa.String(32), nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("likelihood", sa.SmallInteger, nullable=False),
        sa.Column("severity", sa.SmallInteger, nullable=False),
        sa.Column("note", sa.Text, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_risk_events"),
    )
    op.create_index("ix_risk_events_risk_id", "risk_events", ["risk_id"])


def downgrade() -> None:
    op.drop_table("risk_events")
    op.drop_table("risks")
