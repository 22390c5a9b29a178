"""Limits preset for one patient, and maintenance windows of devices and wards."""

from __future__ import annotations

from sqlalchemy import Engine, delete, insert, select
from sqlalchemy.sql.elements import ColumnElement

from domain.errors import InvalidInput, NotFound
from domain.messages import LimitsPreset, MaintenanceSet
from domain.metrics import metric_of
from runtime.sql.engine import reading, writing
from runtime.sql.patients import get_patient_row
from runtime.sql.records import Author, Row, change, log_write, one, shard_of, tell_hosts
from runtime.sql.tables import devices, limit_presets, maintenance_windows, wards

PresetLimits = tuple[float | None, float | None, float | None, float | None]


def set_preset(engine: Engine, author: Author, patient_key: str, metric: str, limits: PresetLimits) -> Row:
    """Set (very low, low, high, very high), None where there is none. Raises InvalidInput when they do not rise, NotFound."""
    given = [limit for limit in limits if limit is not None]
    if not given or given != sorted(given):
        raise InvalidInput(
            f"limits {limits} of {metric_of(metric).code} must rise from very low to very high, with one at least"
        )
    with writing(engine) as connection:
        patient = get_patient_row(connection, patient_key)
        connection.execute(delete(limit_presets).where(*_key(patient_key, metric)))
        row = {"patient_key": patient_key, "metric": metric, "limits": list(limits), "set_us": author.now_us, "version": 1}
        connection.execute(insert(limit_presets).values(row))
        message = LimitsPreset(patient["hospital_id"], patient["handle"], metric, limits)
        tell_hosts(connection, author, patient["hospital_id"], message)
        log_write(connection, author, "preset.set", f"{patient_key}/{metric}")
        return row


def remove_preset(engine: Engine, author: Author, patient_key: str, metric: str) -> None:
    """Go back to the normal range by age. Raises NotFound when none is set."""
    with writing(engine) as connection:
        patient = get_patient_row(connection, patient_key)
        if not connection.execute(delete(limit_presets).where(*_key(patient_key, metric))).rowcount:
            raise NotFound(f"no limits of {metric!r} are preset for patient {patient_key!r}")
        tell_hosts(
            connection, author, patient["hospital_id"], LimitsPreset(patient["hospital_id"], patient["handle"], metric, None)
        )
        log_write(connection, author, "preset.remove", f"{patient_key}/{metric}")


def list_presets(engine: Engine, patient_key: str) -> list[Row]:
    query = select(limit_presets).where(limit_presets.c.patient_key == patient_key).order_by(limit_presets.c.metric)
    with reading(engine) as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def start_maintenance(
    engine: Engine, author: Author, hospital_id: str, *, from_us: int, until_us: int, handle: int | None = None,
    ward_id: str | None = None,
) -> Row:  # fmt: skip
    """No alarms from a device, or a whole ward, in [from_us, until_us). Raises InvalidInput, NotFound."""
    if (handle is None) == (ward_id is None):
        raise InvalidInput("a maintenance window is for a device or for a ward: give one of the two")
    if until_us <= from_us:
        raise InvalidInput(f"a maintenance window ends after it starts, not {until_us} <= {from_us} (µs)")
    with writing(engine) as connection:
        shard_of(connection, hospital_id)
        if handle is not None:
            query = select(devices.c.handle).where(devices.c.handle == handle, devices.c.hospital_id == hospital_id)
            one(connection, query, f"device with handle {handle} of hospital {hospital_id!r}")
        else:
            query = select(wards.c.id).where(wards.c.hospital_id == hospital_id, wards.c.id == ward_id)
            one(connection, query, f"ward {ward_id!r} of hospital {hospital_id!r}")
        row = {
            "hospital_id": hospital_id, "device_handle": handle, "ward_id": ward_id, "from_us": from_us,
            "until_us": until_us, "who": author.who, "reason": author.reason, "version": 1,
        }  # fmt: skip
        key = connection.execute(insert(maintenance_windows).values(row)).inserted_primary_key
        assert key is not None
        tell_hosts(connection, author, hospital_id, MaintenanceSet(hospital_id, from_us, until_us, handle or 0, ward_id))
        log_write(connection, author, "maintenance.start", f"{hospital_id}: {handle or ward_id}")
        return {"id": key[0], **row}


def end_maintenance(engine: Engine, author: Author, window_id: int, *, version: int | None = None) -> Row:
    """End a window now. Raises NotFound, Conflict."""
    with writing(engine) as connection:
        what = f"maintenance window {window_id}"
        values = {"until_us": author.now_us}
        row = change(connection, maintenance_windows, {"id": window_id}, values, version=version, what=what)
        message = MaintenanceSet(row["hospital_id"], row["from_us"], author.now_us, row["device_handle"] or 0, row["ward_id"])
        tell_hosts(connection, author, row["hospital_id"], message)
        log_write(connection, author, "maintenance.end", str(window_id))
        return row


def list_maintenance(engine: Engine, hospital_id: str, *, open_at_us: int | None = None) -> list[Row]:
    """Windows of a hospital by start; those open at an instant if one is given."""
    table = maintenance_windows
    query = select(table).where(table.c.hospital_id == hospital_id).order_by(table.c.from_us, table.c.id)
    if open_at_us is not None:
        query = query.where(table.c.from_us <= open_at_us, table.c.until_us > open_at_us)
    with reading(engine) as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def _key(patient_key: str, metric: str) -> tuple[ColumnElement[bool], ...]:
    return (limit_presets.c.patient_key == patient_key, limit_presets.c.metric == metric)
