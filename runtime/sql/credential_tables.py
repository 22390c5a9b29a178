"""What devices prove with who they are, beside the token in `devices`, and codes by which they come to have something."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Column, ForeignKey, Index, String, Table, Text

from runtime.sql.schema import Id, metadata, time_column

# Rows stay: what was good when is part of the record.
device_certificates: Final = Table(
    "device_certificates", metadata,
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("handle", ForeignKey("devices.handle"), nullable=False),
    Column("fingerprint", String(80), nullable=False, unique=True),  # runtime.device_authority
    Column("serial", String(42), nullable=False),
    Column("key_digest", String(64), nullable=False),
    Column("certificate", Text, nullable=False),  # PEM: an answer that was lost is given again
    time_column("made_us"), time_column("ends_us"),
    time_column("until_us"),  # no longer than this at our doors: earlier than its end once it was renewed
    time_column("revoked_us", nullable=True),
    Column("made_by", String(200), nullable=False),
    # all that the inventory asks of a million devices: it reads no certificate
    Index("ix_device_certificates_handle", "handle", "revoked_us", "until_us", "made_us"),
)  # fmt: skip

claim_codes: Final = Table(
    "claim_codes", metadata,
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("handle", ForeignKey("devices.handle"), nullable=False, index=True),
    Column("digest", String(64), nullable=False, unique=True),  # runtime.tokens
    time_column("made_us"), time_column("ends_us"),
    Column("made_by", String(200), nullable=False),
    time_column("used_us", nullable=True),
    time_column("revoked_us", nullable=True),
    Column("certificate_id", ForeignKey("device_certificates.id"), nullable=True),  # what it was used for; none: a token
)  # fmt: skip

# Of tokens and certificates, to the hour: doors tell it, and it is nobody's edit.
credential_uses: Final = Table(
    "credential_uses", metadata,
    Column("credential", String(80), primary_key=True),  # a token's digest or a certificate's fingerprint
    Column("handle", Id, nullable=False, index=True),
    time_column("last_used_us"),
)  # fmt: skip
