"""Certificates of devices, claim codes, when credentials were used, who made a token, and who has to show a certificate."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "device_certificates",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("handle", _ID, sa.ForeignKey("devices.handle"), nullable=False),
        sa.Column("fingerprint", sa.String(80), nullable=False, unique=True),
        sa.Column("serial", sa.String(42), nullable=False),
        sa.Column("key_digest", sa.String(64), nullable=False),
        sa.Column("certificate", sa.Text(), nullable=False),
        sa.Column("made_us", sa.BigInteger(), nullable=False),
        sa.Column("ends_us", sa.BigInteger(), nullable=False),
        sa.Column("until_us", sa.BigInteger(), nullable=False),
        sa.Column("revoked_us", sa.BigInteger(), nullable=True),
        sa.Column("made_by", sa.String(200), nullable=False),
    )
    counted = ["handle", "revoked_us", "until_us", "made_us"]
    op.create_index("ix_device_certificates_handle", "device_certificates", counted)
    op.create_table(
        "claim_codes",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("handle", _ID, sa.ForeignKey("devices.handle"), nullable=False, index=True),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("made_us", sa.BigInteger(), nullable=False),
        sa.Column("ends_us", sa.BigInteger(), nullable=False),
        sa.Column("made_by", sa.String(200), nullable=False),
        sa.Column("used_us", sa.BigInteger(), nullable=True),
        sa.Column("revoked_us", sa.BigInteger(), nullable=True),
        sa.Column("certificate_id", _ID, sa.ForeignKey("device_certificates.id"), nullable=True),
    )
    op.create_table(
        "credential_uses",
        sa.Column("credential", sa.String(80), primary_key=True),
        sa.Column("handle", _ID, nullable=False, index=True),
        sa.Column("last_used_us", sa.BigInteger(), nullable=False),
    )
    op.add_column("devices", sa.Column("needs_certificate", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("devices", sa.Column("token_made_us", sa.BigInteger(), nullable=True))
    op.add_column("devices", sa.Column("token_made_by", sa.String(200), nullable=True))


def downgrade() -> None:
    for column in ("token_made_by", "token_made_us", "needs_certificate"):
        op.drop_column("devices", column)
    for table in ("credential_uses", "claim_codes", "device_certificates"):
        op.drop_table(table)
