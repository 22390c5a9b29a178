"""Certificates with which programs of hospitals come to the bus."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, ForeignKey, String, Table, Text

from runtime.sql.schema import Id, metadata, time_column

# Rows stay: what was good when is part of the record.
bus_certificates: Final = Table(
    "bus_certificates", metadata,
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("token_name", ForeignKey("tokens.name"), nullable=False, index=True),  # whose it is
    Column("hospital_id", ForeignKey("hospitals.id"), nullable=False),
    Column("request", Text, nullable=False),  # PKCS #10, PEM
    # by which the bus knows who has it: of the key, so that it is nobody else's in a restored database either
    Column("key_digest", String(64), nullable=False, unique=True),
    Column("certificate", Text, nullable=True),  # with its chain, PEM; none until `vitalgrid up` has signed it
    Column("fingerprint", String(80), nullable=True, unique=True),
    Column("made_by", String(200), nullable=False),
    time_column("made_us"), Column("ends_us", BigInteger, nullable=True), Column("revoked_us", BigInteger, nullable=True),
    sqlite_autoincrement=True,
)  # fmt: skip
