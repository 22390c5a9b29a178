"""Limits preset for one patient, and maintenance windows of devices and wards. Clauses 6.3f, 9.2c."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection, Engine, delete, insert, select
from sqlalchemy.sql.elements import ColumnElement

from domain.errors import Conflict, InvalidInput, NotFound
from domain.limits import check_preset
from domain.messages import LimitsPreset, MaintenanceSet
from domain.permissions import Reach
from runtime.data_keys import Owner
from runtime.sealing import hospital_owner, patient_owner
from runtime.sql.engine import reading, writing
from runtime.sql.patients import get_patient_row
from runtime.sql.records import Author, Row, change, log_write, one, shard_of, tell_hosts
from runtime.sql.sealed import open_texts, place_of_window, shut_text
from runtime.sql.tables import devices, limit_presets, maintenance_windows, patients, wards
from runtime.sql.within import WINDOWS, within

_CHUNK: Final = 500

PresetLimits = tuple[float | None, float | None, float | None, float | None]


def set_preset(
    engine: Engine, author: Author, patient_key: str, metric: str, limits: PresetLimits, *, version: int | None = None
) -> Row:
    """Set (very low, low, high, very high), None where there is none.

    Raises InvalidInput for an unknown metric or limits that do not rise, NotFound, StaleVersion.
    """
    check_preset(metric, limits)
    key, what = {"patient_key": patient_key, "metric": metric}, f"preset of {metric} for patient {patient_key!r}"
    values: Row = {"limits": list(limits), "set_us": author.now_us}
    with writing(engine) as connection:
        patient = get_patient_row(connection, patient_key)
        before = connection.execute(select(limit_presets.c.version).where(*_key(patient_key, metric))).first()
        if before is None and version is None:
            row: Row = {**key, **values, "version": 1}
            connection.execute(insert(limit_presets).values(row))
        else:
            row = change(connection, limit_presets, key, values, version=version, what=what)
        message = LimitsPreset(patient["hospital_id"], patient["handle"], metric, limits)
        tell_hosts(connection, author, patient["hospital_id"], message)
        log_write(connection, author, "preset.set", f"{patient_key}/{metric}", {"limits": list(limits)}, about=_about(patient))
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
        log_write(connection, author, "preset.remove", f"{patient_key}/{metric}", about=_about(patient))


def list_presets(engine: Engine, patient_key: str) -> list[Row]:
    query = select(limit_presets).where(limit_presets.c.patient_key == patient_key).order_by(limit_presets.c.metric)
    with reading(engine) as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def limits_of_patients(engine: Engine, patient_keys: list[str]) -> tuple[list[Row], list[Row]]:
    """What limits go by: (patient_key, age_years) and (patient_key, metric, limits) of these patients."""
    ages: list[Row] = []
    presets: list[Row] = []
    with reading(engine) as connection:
        for start in range(0, len(patient_keys), _CHUNK):
            part = patient_keys[start : start + _CHUNK]
            of_age = select(patients.c.patient_key, patients.c.age_years).where(patients.c.patient_key.in_(part))
            of_limits = select(limit_presets.c.patient_key, limit_presets.c.metric, limit_presets.c.limits)
            ages += [dict(row) for row in connection.execute(of_age).mappings()]
            chosen = of_limits.where(limit_presets.c.patient_key.in_(part))
            presets += [dict(row) for row in connection.execute(chosen).mappings()]
    return ages, presets


def start_maintenance(
    engine: Engine, author: Author, hospital_id: str, *, from_us: int, until_us: int, handle: int | None = None,
    ward_id: str | None = None,
) -> Row:  # fmt: skip
    """No alarms from a device, or a whole ward, in [from_us, until_us).

    Raises InvalidInput, NotFound, and Conflict while another window of it is open or planned: hosts hold one of each,
    and a later one would silently end an earlier one.
    """
    if (handle is None) == (ward_id is None):
        raise InvalidInput("a maintenance window is for a device or for a ward: give one of the two")
    if until_us <= max(from_us, author.now_us):
        raise InvalidInput(f"a maintenance window ends after it starts and after now, not at {until_us} (µs)")
    row: Row = {
        "hospital_id": hospital_id, "device_handle": handle, "ward_id": ward_id, "from_us": from_us,
        "until_us": until_us, "who": author.who, "reason": author.reason, "version": 1,
    }  # fmt: skip
    with writing(engine) as connection:
        what = _target(connection, hospital_id, handle, ward_id)
        table = maintenance_windows
        other = select(table.c.id).where(
            table.c.hospital_id == hospital_id, table.c.device_handle == handle, table.c.ward_id == ward_id,
            table.c.until_us > author.now_us, table.c.until_us > table.c.from_us,
        )  # fmt: skip
        if (found := connection.execute(other).scalars().first()) is not None:
            raise Conflict(f"{what} has maintenance window {found} already: end that one first")
        owner = hospital_owner(hospital_id, "maintenance")
        sealed = shut_text(connection, owner, place_of_window(row), author.reason)
        key = connection.execute(insert(table).values({**row, "reason": sealed})).inserted_primary_key
        assert key is not None
        row = {"id": int(key[0]), **row}
        _tell_window(connection, author, row)
        log_write(connection, author, "maintenance.start", f"{hospital_id}: {handle or ward_id}", _span(row))
        return row


def end_maintenance(engine: Engine, author: Author, window_id: int, *, version: int | None = None) -> Row:
    """End a window now; one that has not begun never does. Raises NotFound, StaleVersion, Conflict when it is over."""
    with writing(engine) as connection:
        what = f"maintenance window {window_id}"
        before = one(connection, select(maintenance_windows).where(maintenance_windows.c.id == window_id), what)
        if before["until_us"] <= max(author.now_us, before["from_us"]):
            raise Conflict(f"{what} is over already: it ended at {before['until_us']} (µs)")
        values = {"until_us": max(author.now_us, before["from_us"])}
        row = change(connection, maintenance_windows, {"id": window_id}, values, version=version, what=what)
        _tell_window(connection, author, row)
        log_write(connection, author, "maintenance.end", str(window_id), _span(row))
        return _opened(connection, [row])[0]


def list_maintenance(engine: Engine, hospital_id: str, *, reach: Reach, open_at_us: int | None = None) -> list[Row]:
    """Windows of a hospital within `reach` by start; those open at an instant if one is given."""
    table = maintenance_windows
    inside = within(reach, WINDOWS)
    query = select(table).where(table.c.hospital_id == hospital_id, inside).order_by(table.c.from_us, table.c.id)
    if open_at_us is not None:
        query = query.where(table.c.from_us <= open_at_us, table.c.until_us > open_at_us)
    with reading(engine) as connection:
        return _opened(connection, [dict(row) for row in connection.execute(query).mappings()])


def _target(connection: Connection, hospital_id: str, handle: int | None, ward_id: str | None) -> str:
    """What a window is for, in words. Raises NotFound."""
    shard_of(connection, hospital_id)
    if handle is not None:
        query = select(devices.c.handle).where(devices.c.handle == handle, devices.c.hospital_id == hospital_id)
        what = f"device with handle {handle} of hospital {hospital_id!r}"
    else:
        query = select(wards.c.id).where(wards.c.hospital_id == hospital_id, wards.c.id == ward_id)
        what = f"ward {ward_id!r} of hospital {hospital_id!r}"
    one(connection, query, what)
    return what


def _tell_window(connection: Connection, author: Author, row: Row) -> None:
    message = MaintenanceSet(row["hospital_id"], row["from_us"], row["until_us"], row["device_handle"] or 0, row["ward_id"])
    tell_hosts(connection, author, row["hospital_id"], message)


def _opened(connection: Connection, windows: list[Row]) -> list[Row]:
    return open_texts(connection, windows, "reason", [place_of_window(row) for row in windows])


def _about(patient: Row) -> Owner:
    return patient_owner(patient["hospital_id"], patient["patient_key"])


def _span(row: Row) -> dict[str, Any]:
    return {"from_us": row["from_us"], "until_us": row["until_us"]}


def _key(patient_key: str, metric: str) -> tuple[ColumnElement[bool], ...]:
    return (limit_presets.c.patient_key == patient_key, limit_presets.c.metric == metric)
