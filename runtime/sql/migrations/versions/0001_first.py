"""The first schema. Migrations state what they do and never look at `runtime.sql.tables`, which goes on changing."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TABLES = (
    "alarm_events",
    "alarms",
    "exports",
    "handles",
    "hospitals",
    "outbox",
    "positions",
    "reject_actions",
    "tokens",
    "write_log",
    "beds",
    "devices",
    "maintenance_windows",
    "patients",
    "wards",
    "associations",
    "limit_presets",
)


def upgrade() -> None:
    op.create_table(
        "alarm_events",
        sa.Column("event_id", sa.String(32), nullable=False),
        sa.Column("alarm_id", sa.String(32), nullable=False),
        sa.Column("stream_sequence", sa.BigInteger(), nullable=False),
        sa.Column("event_us", sa.BigInteger(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("event_id", name="pk_alarm_events"),
    )
    op.create_index("ix_alarm_events_alarm_id", "alarm_events", ["alarm_id"])

    op.create_table(
        "alarms",
        sa.Column("alarm_id", sa.String(32), nullable=False),
        sa.Column("hospital_id", sa.String(65), nullable=False),
        sa.Column("ward_id", sa.String(64), nullable=True),
        sa.Column("bed_id", sa.String(64), nullable=True),
        sa.Column("device_id", sa.String(64), nullable=True),
        sa.Column("handle", _ID, nullable=False),
        sa.Column("patient_key", sa.String(32), nullable=True),
        sa.Column("rule", sa.String(64), nullable=False),
        sa.Column("rule_version", sa.Integer(), nullable=False),
        sa.Column("alert_type", sa.String(2), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("latching", sa.Boolean(), nullable=False),
        sa.Column("live", sa.Boolean(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("metric", sa.String(64), nullable=True),
        sa.Column("value", sa.Float(), nullable=True),
        sa.Column("limit_value", sa.Float(), nullable=True),
        sa.Column("unit", sa.String(32), nullable=True),
        sa.Column("onset_us", sa.BigInteger(), nullable=False),
        sa.Column("last_event_us", sa.BigInteger(), nullable=False),
        sa.Column("ended_us", sa.BigInteger(), nullable=True),
        sa.Column("raised_us", sa.BigInteger(), nullable=False),
        sa.Column("stream_sequence", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=True),
        sa.Column("acknowledged_by", sa.String(200), nullable=True),
        sa.Column("acknowledged_us", sa.BigInteger(), nullable=True),
        sa.Column("paused_until_us", sa.BigInteger(), nullable=True),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.PrimaryKeyConstraint("alarm_id", name="pk_alarms"),
    )
    op.create_index("ix_alarms_handle_onset_us", "alarms", ["handle", "onset_us"])
    op.create_index("ix_alarms_hospital_id_raised_us", "alarms", ["hospital_id", "raised_us"])
    op.create_index("ix_alarms_patient_key", "alarms", ["patient_key"])
    op.create_index("ix_alarms_raised_us_alarm_id", "alarms", ["raised_us", "alarm_id"])
    op.create_index("ix_alarms_state_priority", "alarms", ["state", "priority"])

    op.create_table(
        "exports",
        sa.Column("id", _ID, autoincrement=True, nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("who", sa.String(200), nullable=False),
        sa.Column("lake_version", sa.BigInteger(), nullable=False),
        sa.Column("handles", sa.JSON(), nullable=True),
        sa.Column("from_us", sa.BigInteger(), nullable=True),
        sa.Column("until_us", sa.BigInteger(), nullable=True),
        sa.Column("query", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_exports"),
    )

    op.create_table(
        "handles",
        sa.Column("handle", _ID, autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.PrimaryKeyConstraint("handle", name="pk_handles"),
        sqlite_autoincrement=True,
    )

    op.create_table(
        "hospitals",
        sa.Column("id", sa.String(65), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("tier", sa.String(16), nullable=False),
        sa.Column("beds", sa.Integer(), nullable=False),
        sa.Column("shard", sa.Integer(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_hospitals"),
    )
    op.create_index("ix_hospitals_shard", "hospitals", ["shard"])

    op.create_table(
        "outbox",
        sa.Column("id", _ID, autoincrement=True, nullable=False),
        sa.Column("subject", sa.String(200), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("published_us", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_outbox_published_us", "outbox", ["published_us"])

    op.create_table(
        "positions",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_positions"),
    )

    op.create_table(
        "reject_actions",
        sa.Column("reject_id", sa.String(200), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("who", sa.String(200), nullable=False),
        sa.Column("receipt", sa.String(100), nullable=False),
        sa.PrimaryKeyConstraint("reject_id", name="pk_reject_actions"),
    )

    op.create_table(
        "tokens",
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("role", sa.String(32), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("revoked_us", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("name", name="pk_tokens"),
        sa.UniqueConstraint("sha256", name="uq_tokens_sha256"),
    )

    op.create_table(
        "write_log",
        sa.Column("id", _ID, autoincrement=True, nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("who", sa.String(200), nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("target", sa.String(200), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_write_log"),
    )

    op.create_table(
        "beds",
        sa.Column("hospital_id", sa.String(65), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("ward_id", sa.String(64), nullable=True),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.ForeignKeyConstraint(["hospital_id"], ["hospitals.id"], name="fk_beds_hospital_id"),
        sa.PrimaryKeyConstraint("hospital_id", "id", name="pk_beds"),
    )
    op.create_index("ix_beds_hospital_id_ward_id", "beds", ["hospital_id", "ward_id"])

    op.create_table(
        "devices",
        sa.Column("handle", _ID, autoincrement=False, nullable=False),
        sa.Column("device_id", sa.String(64), nullable=False),
        sa.Column("hospital_id", sa.String(65), nullable=False),
        sa.Column("model", sa.String(64), nullable=False),
        sa.Column("ward_id", sa.String(64), nullable=True),
        sa.Column("bed_id", sa.String(64), nullable=True),
        sa.Column("gateway_handle", _ID, nullable=True),
        sa.Column("token_sha256", sa.String(64), nullable=True),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.ForeignKeyConstraint(["handle"], ["handles.handle"], name="fk_devices_handle"),
        sa.ForeignKeyConstraint(["hospital_id"], ["hospitals.id"], name="fk_devices_hospital_id"),
        sa.PrimaryKeyConstraint("handle", name="pk_devices"),
        sa.UniqueConstraint("hospital_id", "device_id", name="uq_devices_hospital_id_device_id"),
        sa.UniqueConstraint("token_sha256", name="uq_devices_token_sha256"),
    )
    op.create_index("ix_devices_gateway_handle", "devices", ["gateway_handle"])
    op.create_index("ix_devices_hospital_id_ward_id", "devices", ["hospital_id", "ward_id"])

    op.create_table(
        "maintenance_windows",
        sa.Column("id", _ID, autoincrement=True, nullable=False),
        sa.Column("hospital_id", sa.String(65), nullable=False),
        sa.Column("device_handle", _ID, nullable=True),
        sa.Column("ward_id", sa.String(64), nullable=True),
        sa.Column("from_us", sa.BigInteger(), nullable=False),
        sa.Column("until_us", sa.BigInteger(), nullable=False),
        sa.Column("who", sa.String(200), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.ForeignKeyConstraint(["hospital_id"], ["hospitals.id"], name="fk_maintenance_windows_hospital_id"),
        sa.PrimaryKeyConstraint("id", name="pk_maintenance_windows"),
    )
    op.create_index("ix_maintenance_windows_hospital_id", "maintenance_windows", ["hospital_id"])

    op.create_table(
        "patients",
        sa.Column("patient_key", sa.String(32), nullable=False),
        sa.Column("handle", _ID, nullable=False),
        sa.Column("hospital_id", sa.String(65), nullable=False),
        sa.Column("ref", sa.String(64), nullable=False),
        sa.Column("name", sa.String(200), nullable=True),
        sa.Column("sex", sa.String(16), nullable=True),
        sa.Column("age_years", sa.Float(), nullable=True),
        sa.Column("pregnant", sa.Boolean(), nullable=False),
        sa.Column("spo2_scale", sa.Integer(), nullable=False),
        sa.Column("ward_id", sa.String(64), nullable=True),
        sa.Column("bed_id", sa.String(64), nullable=True),
        sa.Column("admitted_us", sa.BigInteger(), nullable=False),
        sa.Column("discharged_us", sa.BigInteger(), nullable=True),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.ForeignKeyConstraint(["handle"], ["handles.handle"], name="fk_patients_handle"),
        sa.ForeignKeyConstraint(["hospital_id"], ["hospitals.id"], name="fk_patients_hospital_id"),
        sa.PrimaryKeyConstraint("patient_key", name="pk_patients"),
        sa.UniqueConstraint("handle", name="uq_patients_handle"),
        sa.UniqueConstraint("hospital_id", "ref", name="uq_patients_hospital_id_ref"),
    )

    op.create_table(
        "wards",
        sa.Column("hospital_id", sa.String(65), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.ForeignKeyConstraint(["hospital_id"], ["hospitals.id"], name="fk_wards_hospital_id"),
        sa.PrimaryKeyConstraint("hospital_id", "id", name="pk_wards"),
    )

    op.create_table(
        "associations",
        sa.Column("id", _ID, autoincrement=True, nullable=False),
        sa.Column("device_handle", _ID, nullable=False),
        sa.Column("patient_key", sa.String(32), nullable=False),
        sa.Column("start_us", sa.BigInteger(), nullable=False),
        sa.Column("end_us", sa.BigInteger(), nullable=True),
        sa.Column("recorded_us", sa.BigInteger(), nullable=False),
        sa.Column("superseded_us", sa.BigInteger(), nullable=True),
        sa.Column("who", sa.String(200), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["device_handle"], ["devices.handle"], name="fk_associations_device_handle"),
        sa.ForeignKeyConstraint(["patient_key"], ["patients.patient_key"], name="fk_associations_patient_key"),
        sa.PrimaryKeyConstraint("id", name="pk_associations"),
    )
    op.create_index("ix_associations_device_handle_start_us", "associations", ["device_handle", "start_us"])
    op.create_index("ix_associations_patient_key", "associations", ["patient_key"])

    op.create_table(
        "limit_presets",
        sa.Column("patient_key", sa.String(32), nullable=False),
        sa.Column("metric", sa.String(64), nullable=False),
        sa.Column("limits", sa.JSON(), nullable=False),
        sa.Column("set_us", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.ForeignKeyConstraint(["patient_key"], ["patients.patient_key"], name="fk_limit_presets_patient_key"),
        sa.PrimaryKeyConstraint("patient_key", "metric", name="pk_limit_presets"),
    )


def downgrade() -> None:
    for name in reversed(_TABLES):
        op.drop_table(name)
