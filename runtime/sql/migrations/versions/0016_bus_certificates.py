"""Certificates with which programs of hospitals come to the bus."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from runtime.sql.schema import Id

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.create_table(
        "bus_certificates",
        sa.Column("id", Id, primary_key=True, autoincrement=True),
        sa.Column(
            "token_name", sa.String(200), sa.ForeignKey("tokens.name", name="fk_bus_certificates_token_name"), nullable=False
        ),
        sa.Column(
            "hospital_id", sa.String(65), sa.ForeignKey("hospitals.id", name="fk_bus_certificates_hospital_id"), nullable=False
        ),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("key_digest", sa.String(64), nullable=False),
        sa.Column("certificate", sa.Text, nullable=True),
        sa.Column("fingerprint", sa.String(80), nullable=True),
        sa.Column("made_by", sa.String(200), nullable=False),
        sa.Column("made_us", sa.BigInteger, nullable=False),
        sa.Column("ends_us", sa.BigInteger, nullable=True),
        sa.Column("revoked_us", sa.BigInteger, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_bus_certificates"),
        sa.UniqueConstraint("key_digest", name="uq_bus_certificates_key_digest"),
        sa.UniqueConstraint("fingerprint", name="uq_bus_certificates_fingerprint"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_bus_certificates_token_name", "bus_certificates", ["token_name"])


def downgrade() -> None:
    op.drop_table("bus_certificates")
