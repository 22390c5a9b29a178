"""Patients and which device was on whom, when. Names stay in this database; everywhere else a patient is an opaque key."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, Engine, func, insert, or_, select, update

from domain.errors import Conflict, InvalidInput
from domain.messages import AssociationSpan, DeviceAssociated, PatientAdmitted
from runtime.sql.devices import take_handle
from runtime.sql.engine import reading, writing
from runtime.sql.places import add_places
from runtime.sql.records import Author, Page, Row, change, log_write, one, page, tell_hosts
from runtime.sql.tables import alarms, associations, devices, exports, patients

_FACTS: Final = ("name", "sex", "age_years", "pregnant", "spo2_scale", "ward_id", "bed_id", "discharged_us")


@dataclass(frozen=True, slots=True)
class NewPatient:
    """A patient to admit. `ref` is the hospital's own number, unique in it; `name` may be left out."""

    ref: str
    name: str | None = None
    sex: str | None = None
    age_years: float | None = None
    pregnant: bool = False
    spo2_scale: int = 1
    ward_id: str | None = None
    bed_id: str | None = None
    admitted_us: int = 0


@dataclass(frozen=True, slots=True)
class Touched:
    """What a correction touches: alarms notified, and exports made, of the device in the window that changed its owner."""

    handle: int
    from_us: int
    until_us: int | None
    patient_keys: list[str] = field(default_factory=list)
    alarm_ids: list[str] = field(default_factory=list)
    export_ids: list[int] = field(default_factory=list)


def admit_patient(engine: Engine, author: Author, hospital_id: str, patient: NewPatient) -> Row:
    """Admit a patient. Raises NotFound (hospital), InvalidInput, Conflict when the reference is taken."""
    with writing(engine) as connection:
        return add_patient(connection, author, hospital_id, patient)


def add_patient(connection: Connection, author: Author, hospital_id: str, patient: NewPatient) -> Row:
    """As `admit_patient`, within the caller's transaction."""
    _check(patient.age_years, patient.spo2_scale)
    same = select(patients.c.patient_key).where(patients.c.hospital_id == hospital_id, patients.c.ref == patient.ref)
    if connection.execute(same).first() is not None:
        raise Conflict(f"a patient with that reference is admitted to hospital {hospital_id!r} already")
    row: Row = {
        "patient_key": secrets.token_hex(16), "handle": take_handle(connection, "patient"), "hospital_id": hospital_id,
        "ref": patient.ref, "name": patient.name, "sex": patient.sex, "age_years": patient.age_years,
        "pregnant": patient.pregnant, "spo2_scale": patient.spo2_scale, "ward_id": patient.ward_id,
        "bed_id": patient.bed_id, "admitted_us": patient.admitted_us or author.now_us, "discharged_us": None, "version": 1,
    }  # fmt: skip
    _place(connection, row)
    connection.execute(insert(patients).values(row))
    _announce(connection, author, row)
    log_write(connection, author, "patient.admit", row["patient_key"])
    return row


def update_patient(engine: Engine, author: Author, patient_key: str, values: dict[str, Any], *, version: int | None) -> Row:
    """Change facts, ward and bed (a bed move). Raises InvalidInput for an unknown field, NotFound, Conflict."""
    unknown = sorted(set(values) - set(_FACTS))
    if unknown:
        raise InvalidInput(f"patient fields {unknown} cannot be changed: expected some of {', '.join(_FACTS)}")
    _check(values.get("age_years"), values.get("spo2_scale", 1))
    with writing(engine) as connection:
        row = change(connection, patients, {"patient_key": patient_key}, values, version=version, what=_name(patient_key))
        _place(connection, row)
        _announce(connection, author, row)
        log_write(connection, author, "patient.update", patient_key)
        return row


def discharge_patient(engine: Engine, author: Author, patient_key: str, at_us: int, *, version: int | None) -> Row:
    """End a stay: open associations end at `at_us`. Raises NotFound, Conflict when discharged already."""
    with writing(engine) as connection:
        before = get_patient_row(connection, patient_key)
        if before["discharged_us"] is not None:
            raise Conflict(f"{_name(patient_key)} is discharged already")
        values = {"discharged_us": at_us, "bed_id": None}
        row = change(connection, patients, {"patient_key": patient_key}, values, version=version, what=_name(patient_key))
        for span in _current(connection, patient_key=patient_key):
            if span["end_us"] is None:
                _replace(connection, author, span, {"end_us": max(at_us, span["start_us"])})
                _tell_spans(connection, author, span["device_handle"])
        _announce(connection, author, row)
        log_write(connection, author, "patient.discharge", patient_key)
        return row


def get_patient(engine: Engine, patient_key: str) -> Row:
    """Raises NotFound."""
    with reading(engine) as connection:
        return get_patient_row(connection, patient_key)


def get_patient_row(connection: Connection, patient_key: str) -> Row:
    return one(connection, select(patients).where(patients.c.patient_key == patient_key), _name(patient_key))


def list_patients(
    engine: Engine, *, limit: int, after: tuple[Any, ...] | None = None, hospital_id: str | None = None,
    ward_id: str | None = None, text: str | None = None, present_only: bool = False,
) -> Page:  # fmt: skip
    """By key. `text` matches a part of the name or the reference, in any case."""
    query = select(patients)
    if hospital_id is not None:
        query = query.where(patients.c.hospital_id == hospital_id)
    if ward_id is not None:
        query = query.where(patients.c.ward_id == ward_id)
    if present_only:
        query = query.where(patients.c.discharged_us.is_(None))
    if text is not None:
        parts = [func.lower(column).contains(text.lower(), autoescape=True) for column in (patients.c.name, patients.c.ref)]
        query = query.where(or_(*parts))
    with reading(engine) as connection:
        return page(connection, query, [patients.c.patient_key], limit=limit, after=after)


def associate(engine: Engine, author: Author, handle: int, patient_key: str, start_us: int, end_us: int | None = None) -> Row:
    """Put a device on a patient from `start_us` on. Raises NotFound, InvalidInput, Conflict (two patients at a time)."""
    with writing(engine) as connection:
        return add_association(connection, author, handle, patient_key, start_us, end_us)


def add_association(
    connection: Connection, author: Author, handle: int, patient_key: str, start_us: int, end_us: int | None = None
) -> Row:
    """As `associate`, within the caller's transaction."""
    patient = get_patient_row(connection, patient_key)
    device = one(connection, select(devices).where(devices.c.handle == handle), f"device with handle {handle}")
    if patient["hospital_id"] != device["hospital_id"]:
        raise Conflict(f"device {device['device_id']!r} and the patient are not in the same hospital")
    span = {"device_handle": handle, "patient_key": patient_key, "start_us": start_us, "end_us": end_us}
    _check_span(connection, span)
    row = _record(connection, author, span)
    _tell_spans(connection, author, handle)
    log_write(connection, author, "association.start", f"{device['device_id']} -> {patient_key}")
    return row


def end_association(engine: Engine, author: Author, association_id: int, end_us: int) -> Row:
    """End a span that is open. Raises NotFound, InvalidInput, Conflict when it is not current."""
    return correct_association(engine, author, association_id, end_us=end_us)[0]


def correct_association(
    engine: Engine, author: Author, association_id: int, *, patient_key: str | None = None, start_us: int | None = None,
    end_us: int | None = None, withdraw: bool = False,
) -> tuple[Row, Touched]:  # fmt: skip
    """Change a span afterwards, or withdraw it; says what that touches and deletes nothing that was shown.

    The old span stays readable "as known then". Raises NotFound, InvalidInput, Conflict.
    """
    with writing(engine) as connection:
        old = one(connection, select(associations).where(associations.c.id == association_id), f"association {association_id}")
        if old["superseded_us"] is not None:
            raise Conflict(f"association {association_id} was corrected before: correct the span that replaced it")
        given = {"patient_key": patient_key, "start_us": start_us, "end_us": end_us}
        new = None if withdraw else _replace(connection, author, old, {k: v for k, v in given.items() if v is not None})
        if withdraw:
            _supersede(connection, author, old)
        _tell_spans(connection, author, old["device_handle"])
        log_write(connection, author, "association.correct", str(association_id))
        return new or {**old, "superseded_us": author.now_us}, _touched(connection, old, new)


def list_associations(
    engine: Engine, *, handle: int | None = None, patient_key: str | None = None, known_at_us: int | None = None
) -> list[Row]:
    """Spans by start; those believed now, or at `known_at_us`."""
    with reading(engine) as connection:
        return _current(connection, handle=handle, patient_key=patient_key, known_at_us=known_at_us)


def associations_of(engine: Engine, handles_wanted: list[int] | None = None, hospital_id: str | None = None) -> list[Row]:
    """Current spans for a point-in-time join: device_handle, patient_key, start_us, end_us."""
    query = select(
        associations.c.device_handle, associations.c.patient_key, associations.c.start_us, associations.c.end_us
    ).where(associations.c.superseded_us.is_(None))
    if handles_wanted is not None:
        query = query.where(associations.c.device_handle.in_(handles_wanted))
    if hospital_id is not None:
        query = query.join(devices, devices.c.handle == associations.c.device_handle)
        query = query.where(devices.c.hospital_id == hospital_id)
    with reading(engine) as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def _current(
    connection: Connection, *, handle: int | None = None, patient_key: str | None = None, known_at_us: int | None = None
) -> list[Row]:
    query = select(associations).order_by(associations.c.start_us, associations.c.id)
    if known_at_us is None:
        query = query.where(associations.c.superseded_us.is_(None))
    else:
        still = or_(associations.c.superseded_us.is_(None), associations.c.superseded_us > known_at_us)
        query = query.where(associations.c.recorded_us <= known_at_us, still)
    if handle is not None:
        query = query.where(associations.c.device_handle == handle)
    if patient_key is not None:
        query = query.where(associations.c.patient_key == patient_key)
    return [dict(row) for row in connection.execute(query).mappings()]


def _check_span(connection: Connection, span: Row) -> None:
    if span["end_us"] is not None and span["end_us"] <= span["start_us"]:
        raise InvalidInput(f"an association ends after it starts, not {span['end_us']} <= {span['start_us']} (µs)")
    end = 2**63 - 1 if span["end_us"] is None else span["end_us"]
    for other in _current(connection, handle=span["device_handle"]):
        other_end = 2**63 - 1 if other["end_us"] is None else other["end_us"]
        if other["id"] != span.get("id") and span["start_us"] < other_end and other["start_us"] < end:
            raise Conflict(
                f"device with handle {span['device_handle']} is on a patient in that time already "
                f"(association {other['id']}): end that one first, a device is on one patient at a time"
            )


def _replace(connection: Connection, author: Author, old: Row, values: dict[str, Any]) -> Row:
    new = {name: old[name] for name in ("device_handle", "patient_key", "start_us", "end_us")} | values
    _check_span(connection, {**new, "id": old["id"]})
    _supersede(connection, author, old)
    return _record(connection, author, new)


def _supersede(connection: Connection, author: Author, old: Row) -> None:
    connection.execute(update(associations).where(associations.c.id == old["id"]).values(superseded_us=author.now_us))


def _record(connection: Connection, author: Author, span: Row) -> Row:
    values = {**span, "recorded_us": author.now_us, "who": author.who, "reason": author.reason}
    key = connection.execute(insert(associations).values(values)).inserted_primary_key
    assert key is not None
    return {"id": key[0], **values, "superseded_us": None}


def _tell_spans(connection: Connection, author: Author, handle: int) -> None:
    query = (
        select(associations.c.start_us, associations.c.end_us, patients.c.handle)
        .join(patients, patients.c.patient_key == associations.c.patient_key)
        .where(associations.c.device_handle == handle, associations.c.superseded_us.is_(None))
        .order_by(associations.c.start_us)
    )
    spans = [AssociationSpan(patient, start_us, end_us) for start_us, end_us, patient in connection.execute(query)]
    hospital_id = connection.execute(select(devices.c.hospital_id).where(devices.c.handle == handle)).scalar_one()
    tell_hosts(connection, author, hospital_id, DeviceAssociated(hospital_id, handle, spans))


def _touched(connection: Connection, old: Row, new: Row | None) -> Touched:
    """The whole window of both spans is looked at: an alarm outside what moved is listed rather than one missed."""
    spans = [span for span in (old, new) if span is not None]
    from_us = min(span["start_us"] for span in spans)
    ends = [span["end_us"] for span in spans]
    until_us = None if None in ends else max(ends)
    raised = select(alarms.c.alarm_id).where(alarms.c.handle == old["device_handle"], alarms.c.last_event_us >= from_us)
    shown = select(exports.c.id, exports.c.handles, exports.c.from_us, exports.c.until_us)
    if until_us is not None:
        raised = raised.where(alarms.c.onset_us < until_us)
    made = [
        row.id
        for row in connection.execute(shown)
        if (row.handles is None or old["device_handle"] in row.handles)
        and (row.until_us is None or row.until_us > from_us)
        and (until_us is None or row.from_us is None or row.from_us < until_us)
    ]
    keys = sorted({span["patient_key"] for span in spans})
    alarm_ids = list(connection.execute(raised.order_by(alarms.c.onset_us)).scalars())
    return Touched(old["device_handle"], from_us, until_us, keys, alarm_ids, made)


def _announce(connection: Connection, author: Author, row: Row) -> None:
    tell_hosts(connection, author, row["hospital_id"], PatientAdmitted(
        hospital_id=row["hospital_id"], patient_key=row["patient_key"], handle=row["handle"], age_years=row["age_years"],
        pregnant=row["pregnant"], spo2_scale=row["spo2_scale"], bed_id=row["bed_id"], ward_id=row["ward_id"],
        admitted_us=row["admitted_us"], discharged_us=row["discharged_us"],
    ))  # fmt: skip


def _place(connection: Connection, row: Row) -> None:
    ward_id, bed_id = row["ward_id"], row["bed_id"]
    add_places(connection, row["hospital_id"], {bed_id: ward_id} if bed_id else {}, {ward_id} if ward_id else set())


def _check(age_years: float | None, spo2_scale: int) -> None:
    if age_years is not None and not 0 <= age_years <= 130:
        raise InvalidInput(f"age is {age_years} years, expected 0 to 130")
    if spo2_scale not in (1, 2):
        raise InvalidInput(f"SpO2 scale is {spo2_scale}, expected 1, or 2 where it is prescribed")


def _name(patient_key: str) -> str:
    return f"patient {patient_key!r}"
