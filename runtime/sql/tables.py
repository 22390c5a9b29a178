"""The schema of the business database. Times are UTC microseconds (`_us`); rows that people edit carry a `version`."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)  # fmt: skip

from runtime.sql import (
    bus_tables,  # noqa: F401 (as below)
    credential_tables,  # noqa: F401 (as below)
    identity_tables,  # noqa: F401 (its tables are of the same schema)
    isolation_tables,  # noqa: F401 (as above)
    life_tables,  # noqa: F401 (as above)
    risk_tables,  # noqa: F401 (as above)
    schema,
    security_tables,  # noqa: F401 (so is its table)
    sighting_tables,  # noqa: F401 (as above)
)
from runtime.sql.schema import Id as _Id
from runtime.sql.schema import time_column as _time
from runtime.sql.schema import version_column as _version

metadata: Final = schema.metadata

hospitals: Final = Table(
    "hospitals", metadata,
    Column("id", String(65), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("tier", String(16), nullable=False),
    Column("beds", Integer, nullable=False),
    Column("shard", Integer, nullable=False, index=True),
    Column("placement", String(16), nullable=False, default="shared", server_default="shared"),
    Column("district", String(64), nullable=True),
    _time("created_us"), _version(),
)  # fmt: skip

hand_overs: Final = Table(
    "hand_overs", metadata,
    Column("number", _Id, primary_key=True, autoincrement=True),
    Column("hospital_id", ForeignKey("hospitals.id"), nullable=False, index=True),
    Column("from_shard", Integer, nullable=False),
    Column("to_shard", Integer, nullable=False),
    Column("outbox_id", BigInteger, nullable=False),  # of the last message that tells both shards
    Column("cut_by", BigInteger, nullable=True),  # a sequence of the stream, not before the cut
    _time("begun_us"), _time("switched_us", nullable=True), _time("settled_us", nullable=True),
    sqlite_autoincrement=True,  # a number names a state in safety: never twice
)  # fmt: skip

wards: Final = Table(
    "wards", metadata,
    Column("hospital_id", ForeignKey("hospitals.id"), primary_key=True),
    Column("id", String(64), primary_key=True),
    Column("name", String(200), nullable=False),
    _version(),
)  # fmt: skip

beds: Final = Table(
    "beds", metadata,
    Column("hospital_id", ForeignKey("hospitals.id"), primary_key=True),
    Column("id", String(64), primary_key=True),
    Column("ward_id", String(64), nullable=True),
    _version(),
    Index("ix_beds_hospital_id_ward_id", "hospital_id", "ward_id"),
)  # fmt: skip

# Handles of devices and patients come from here and are never used again.
handles: Final = Table(
    "handles", metadata, Column("handle", _Id, primary_key=True, autoincrement=True), Column("kind", String(8), nullable=False),
    sqlite_autoincrement=True,
)  # fmt: skip

devices: Final = Table(
    "devices", metadata,
    Column("handle", ForeignKey("handles.handle"), primary_key=True, autoincrement=False),
    Column("device_id", String(64), nullable=False),
    Column("hospital_id", ForeignKey("hospitals.id"), nullable=False),
    Column("model", String(64), nullable=False),
    Column("ward_id", String(64), nullable=True),
    Column("bed_id", String(64), nullable=True),
    Column("gateway_handle", _Id, nullable=True, index=True),
    Column("token_digest", String(64), nullable=True),  # runtime.tokens
    _time("token_made_us", nullable=True), Column("token_made_by", String(200), nullable=True),  # none of earlier versions'
    Column("needs_certificate", Boolean, nullable=False, default=False, server_default=false()),  # a token alone will not do
    Column("status", String(16), nullable=False),
    Column("attributes", JSON, nullable=False),
    Column("level", SmallInteger, nullable=True),  # none: that of its class (domain.labels)
    _time("created_us"), _version(),
    UniqueConstraint("hospital_id", "device_id"),
    UniqueConstraint("token_digest", name="uq_devices_token_sha256"),  # its name is older than the column's
    Index("ix_devices_hospital_id_ward_id", "hospital_id", "ward_id"),
    Index("ix_devices_level", "level"),
)  # fmt: skip

patients: Final = Table(
    "patients", metadata,
    Column("patient_key", String(32), primary_key=True),
    Column("handle", ForeignKey("handles.handle"), nullable=False, unique=True),
    Column("hospital_id", ForeignKey("hospitals.id"), nullable=False),
    Column("ref_index", String(64), nullable=False),
    Column("ref", Text, nullable=True),  # sealed (runtime.sql.sealed), as name is; none of a patient whose data were erased
    Column("name", Text, nullable=True),
    Column("sex", String(16), nullable=True),
    Column("age_years", Float, nullable=True),
    Column("pregnant", Boolean, nullable=False),
    Column("spo2_scale", Integer, nullable=False),
    Column("ward_id", String(64), nullable=True),
    Column("bed_id", String(64), nullable=True),
    Column("level", SmallInteger, nullable=True),  # as of devices
    _time("admitted_us"), _time("discharged_us", nullable=True), _version(),
    UniqueConstraint("hospital_id", "ref_index", name="uq_patients_hospital_id_ref"),  # as above
    Index("ix_patients_level", "level"),
)  # fmt: skip

# Bitemporal: a span is true in [start_us, end_us) and was believed in [recorded_us, superseded_us).
associations: Final = Table(
    "associations", metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("device_handle", ForeignKey("devices.handle"), nullable=False),
    Column("patient_key", ForeignKey("patients.patient_key"), nullable=False, index=True),
    _time("start_us"), _time("end_us", nullable=True), _time("recorded_us"), _time("superseded_us", nullable=True),
    Column("who", String(200), nullable=False),
    Column("reason", Text, nullable=True),
    Index("ix_associations_device_handle_start_us", "device_handle", "start_us"),
)  # fmt: skip

limit_presets: Final = Table(
    "limit_presets", metadata,
    Column("patient_key", ForeignKey("patients.patient_key"), primary_key=True),
    Column("metric", String(64), primary_key=True),
    Column("limits", JSON, nullable=False),
    _time("set_us"), _version(),
)  # fmt: skip

maintenance_windows: Final = Table(
    "maintenance_windows", metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("hospital_id", ForeignKey("hospitals.id"), nullable=False, index=True),
    Column("device_handle", _Id, nullable=True),
    Column("ward_id", String(64), nullable=True),
    _time("from_us"), _time("until_us"),
    Column("who", String(200), nullable=False),
    Column("reason", Text, nullable=True),
    _version(),
)  # fmt: skip

alarms: Final = Table(
    "alarms", metadata,
    Column("alarm_id", String(32), primary_key=True),
    Column("hospital_id", String(65), nullable=False),
    Column("ward_id", String(64), nullable=True),
    Column("bed_id", String(64), nullable=True),
    Column("device_id", String(64), nullable=True),
    Column("handle", _Id, nullable=False),
    Column("patient_key", String(32), nullable=True, index=True),
    Column("rule", String(64), nullable=False),
    Column("rule_version", Integer, nullable=False),
    Column("alert_type", String(2), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("phase", String(16), nullable=False),
    Column("latching", Boolean, nullable=False),
    Column("live", Boolean, nullable=False),
    Column("text", Text, nullable=False),
    Column("metric", String(64), nullable=True),
    Column("value", Float, nullable=True),
    Column("limit_value", Float, nullable=True),
    Column("unit", String(32), nullable=True),
    _time("onset_us"), _time("last_event_us"), _time("ended_us", nullable=True),
    _time("raised_us"),  # stream arrival of the first notification
    Column("stream_sequence", BigInteger, nullable=False),
    Column("outcome", String(16), nullable=True),
    Column("note", Text, nullable=True),
    Column("acknowledged_by", String(200), nullable=True),
    _time("acknowledged_us", nullable=True), _time("paused_until_us", nullable=True), _version(),
    Index("ix_alarms_state_priority", "state", "priority"),
    Index("ix_alarms_hospital_id_raised_us", "hospital_id", "raised_us"),
    Index("ix_alarms_raised_us_alarm_id", "raised_us", "alarm_id"),
    Index("ix_alarms_handle_onset_us", "handle", "onset_us"),
)  # fmt: skip

# What was notified: the database itself refuses updates.
alarm_events: Final = Table(
    "alarm_events", metadata,
    Column("event_id", String(32), primary_key=True),
    Column("alarm_id", String(32), nullable=False, index=True),
    Column("stream_sequence", BigInteger, nullable=False),
    _time("event_us"),
    Column("content", LargeBinary, nullable=False),  # the AlarmEvent as it was notified, JSON
)  # fmt: skip

positions: Final = Table(
    "positions", metadata, Column("name", String(64), primary_key=True), Column("sequence", BigInteger, nullable=False)
)

outbox: Final = Table(
    "outbox", metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("subject", String(200), nullable=False),
    Column("payload", LargeBinary, nullable=False),
    _time("created_us"), Column("published_us", BigInteger, nullable=True, index=True),
    sqlite_autoincrement=True,  # ids become message ids on the bus: never twice
)  # fmt: skip

tokens: Final = Table(
    "tokens", metadata,
    Column("name", String(200), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("role", String(32), nullable=False),
    Column("place", String(131), nullable=True),  # where the role holds; none: in the whole region
    _time("created_us"), _time("revoked_us", nullable=True), _time("last_used_us", nullable=True),
    UniqueConstraint("digest", name="uq_tokens_sha256"),  # as above
)  # fmt: skip

# Append-only: the database itself refuses updates and deletes.
write_log: Final = Table(
    "write_log", metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    _time("at_us"),
    Column("who", String(200), nullable=False),
    Column("action", String(64), nullable=False),
    Column("target", String(200), nullable=False),
    Column("reason", Text, nullable=True),
    Column("detail", JSON(none_as_null=True), nullable=True),
)  # fmt: skip

exports: Final = Table(
    "exports", metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    _time("at_us"),
    Column("who", String(200), nullable=False),
    Column("lake_version", BigInteger, nullable=False),
    Column("handles", JSON, nullable=True),
    _time("from_us", nullable=True), _time("until_us", nullable=True),
    Column("query", JSON, nullable=False),
)  # fmt: skip

reject_actions: Final = Table(
    "reject_actions", metadata,
    Column("reject_id", String(200), primary_key=True),
    _time("at_us"),
    Column("who", String(200), nullable=False),
    Column("receipt", String(100), nullable=False),
)  # fmt: skip
