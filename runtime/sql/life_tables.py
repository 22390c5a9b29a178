"""Requests to erase persons, and what holds records beyond every rule."""

from __future__ import annotations

from typing import Final

from sqlalchemy import JSON, BigInteger, Column, ForeignKey, Index, SmallInteger, String, Table, Text

from runtime.sql.schema import Id, metadata, time_column

# A request and what became of it. The certificate stays for good: nothing in it leads to a person.
erasures: Final = Table(
    "erasures", metadata,
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("patient_key", String(32), nullable=False, index=True),
    Column("state", String(16), nullable=False, index=True),  # domain.erasures.State
    Column("who", String(200), nullable=False),
    Column("reason", Text, nullable=True),  # sealed with the patient's key
    time_column("requested_us"), time_column("due_us"), time_column("retained_until_us"),
    Column("level_before", SmallInteger, nullable=True),  # what is put back when the request is taken back
    Column("step", String(16), nullable=True),  # the next one of a job that has begun
    Column("counts", JSON, nullable=False),  # what each step did
    time_column("begun_us", nullable=True), time_column("ended_us", nullable=True),
    Column("certificate", Text, nullable=True),  # a signed note
)  # fmt: skip

# Nothing of what is held is deleted by a rule, and nobody of it is erased.
legal_holds: Final = Table(
    "legal_holds", metadata,
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("kind", String(8), nullable=False),  # domain.erasures.Held
    Column("target", String(131), nullable=False),  # patient key, hospital/device, or hospital
    Column("hospital_id", ForeignKey("hospitals.id"), nullable=False, index=True),
    Column("who", String(200), nullable=False),
    Column("reason", Text, nullable=False),  # sealed with the hospital's key
    time_column("from_us"), time_column("until_us", nullable=True),
    Column("lifted_us", BigInteger, nullable=True), Column("lifted_by", String(200), nullable=True),
    Index("ix_legal_holds_lifted_us", "lifted_us"),
)  # fmt: skip
