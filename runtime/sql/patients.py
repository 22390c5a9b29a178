"""Patients. Names stay in this database; everywhere else a patient is an opaque key. Clause 8.1.

A key, and with it the patient's handle, is for life: who is admitted again under the same reference gets the same.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Engine, Select, insert, select

from domain.errors import Conflict, InvalidInput
from domain.labels import WITHHELD
from domain.messages import PatientAdmitted
from domain.permissions import NOWHERE, Reach
from runtime.data_keys import Owner
from runtime.sealing import patient_owner
from runtime.sql.associations import (
    Touched,
    associate,
    correct_association,
    end_association,
    end_spans,
    list_associations,
)
from runtime.sql.engine import reading, writing
from runtime.sql.erasures import came_back
from runtime.sql.grants import end_team
from runtime.sql.handles import take_handle
from runtime.sql.names import NamePart, names_of
from runtime.sql.places import add_places
from runtime.sql.records import (
    Author,
    Page,
    Row,
    change,
    check_fields,
    check_level,
    check_text,
    log_write,
    one,
    page,
    tell_hosts,
)
from runtime.sql.sealed import ERASED, open_patients, ref_indexes, sealer_of, shut_patients
from runtime.sql.tables import patients
from runtime.sql.users import end_accounts_of
from runtime.sql.within import PATIENTS, hospitals_named, within

__all__ = [
    "NewPatient", "Touched", "admit_patient", "admitted", "associate", "check_patient", "close_names", "correct_association",
    "destroy_erased_again", "discharge_patient", "end_association", "erase_patient", "get_patient", "get_patient_row",
    "list_associations", "list_patients", "tell_patient", "update_patient", "warm_names",
]  # fmt: skip

_FIELDS: Final = ("name", "sex", "age_years", "pregnant", "spo2_scale", "ward_id", "bed_id", "level")
_NAMED_AT_ONCE: Final = 1_000
_REF_CHARS: Final = 64
_NAME_CHARS: Final = 200
_SEX_CHARS: Final = 16
_OLDEST_YEARS: Final = 130


@dataclass(frozen=True, slots=True)
class NewPatient:
    """A patient to admit. `ref` is the hospital's own number, unique in it; `name` may be left out.

    `admitted_us` 0 means now.
    """

    ref: str
    name: str | None = None
    sex: str | None = None
    age_years: float | None = None
    pregnant: bool = False
    spo2_scale: int = 1
    ward_id: str | None = None
    bed_id: str | None = None
    admitted_us: int = 0


def admit_patient(
    engine: Engine, author: Author, hospital_id: str, patient: NewPatient, *, makes_wards: bool = True
) -> Row:  # fmt: skip
    """Admit a patient; one who was here before and has left comes back under the same key, with the facts given now.

    With `was_withheld`: whether their records were served to nobody until now.
    Raises NotFound (hospital, and ward without `makes_wards`), InvalidInput, Conflict while a patient of that reference is
    in the hospital.
    """
    facts: Row = {
        "name": patient.name, "sex": patient.sex, "age_years": patient.age_years, "pregnant": patient.pregnant,
        "spo2_scale": patient.spo2_scale, "ward_id": patient.ward_id, "bed_id": patient.bed_id,
    }  # fmt: skip
    check_patient({**facts, "ref": patient.ref})
    facts |= {"admitted_us": patient.admitted_us or author.now_us, "discharged_us": None}
    with writing(engine) as connection:
        indexes = ref_indexes(connection, hospital_id, [patient.ref])[0]
        same = select(patients).where(patients.c.hospital_id == hospital_id, patients.c.ref_index.in_(indexes))
        found = connection.execute(same).mappings().one_or_none()
        if found is None:
            row = {"patient_key": secrets.token_hex(16), "hospital_id": hospital_id, "ref": patient.ref, **facts, "version": 1}
            row["level"] = None
            row["handle"] = take_handle(connection, "patient")
            tell_patient(connection, author, row)
            _add_places(connection, row, makes_wards=makes_wards)
            connection.execute(insert(patients).values(shut_patients(connection, [row], are_new=True)[0]))
            log_write(connection, author, "patient.admit", row["patient_key"], about=_owner(row))
            return {**row, "erased": False, "was_withheld": False}
        before = dict(found)
        if before["discharged_us"] is None:
            raise Conflict(f"a patient with that reference is admitted to hospital {hospital_id!r} already")
        key = before["patient_key"]
        facts["level"] = came_back(connection, author, before)  # restricted no more: care goes on
        row = _change(connection, before, facts, version=None)
        tell_patient(connection, author, row)
        _add_places(connection, row, makes_wards=makes_wards)
        stay = {"last_admitted_us": before["admitted_us"], "last_discharged_us": before["discharged_us"]}
        log_write(connection, author, "patient.readmit", key, stay, about=_owner(row))
        return {**row, "was_withheld": before["level"] == WITHHELD}


def update_patient(
    engine: Engine, author: Author, patient_key: str, values: dict[str, Any], *, version: int | None, makes_wards: bool = True
) -> Row:
    """Change facts, ward and bed (a bed move).

    Raises InvalidInput for an unknown field, NotFound (patient, and ward without `makes_wards`), StaleVersion.
    """
    check_fields("patient", values, _FIELDS)
    check_patient(values)
    with writing(engine) as connection:
        row = _change(connection, get_patient_row(connection, patient_key), values, version=version)
        tell_patient(connection, author, row)
        if "ward_id" in values or "bed_id" in values:
            _add_places(connection, row, makes_wards=makes_wards)
        shown: Row = {name: values[name] for name in ("ward_id", "bed_id", "spo2_scale", "pregnant", "level") if name in values}
        log_write(connection, author, "patient.update", patient_key, {**shown, "fields": sorted(values)}, about=_owner(row))
        return row


def discharge_patient(engine: Engine, author: Author, patient_key: str, at_us: int, *, version: int | None) -> Row:
    """End a stay: the bed is free, devices come off at `at_us`, and from then on nobody treats the patient.

    Raises NotFound, StaleVersion, InvalidInput for a time before the admission, Conflict when discharged already.
    """
    with writing(engine) as connection:
        before = get_patient_row(connection, patient_key)
        if before["discharged_us"] is not None:
            raise Conflict(f"{_name(patient_key)} is discharged already")
        if at_us < before["admitted_us"]:
            raise InvalidInput(f"a discharge is not before the admission, {at_us} < {before['admitted_us']} (µs)")
        values = {"discharged_us": at_us, "bed_id": None}
        row = _change(connection, before, values, version=version)
        end_spans(connection, author, at_us, patient_key=patient_key)
        end_team(connection, author, patient_key, at_us)
        tell_patient(connection, author, row)
        log_write(connection, author, "patient.discharge", patient_key, {"at_us": at_us}, about=_owner(row))
        return row


def erase_patient(engine: Engine, author: Author, patient_key: str) -> Row:
    """Make name, reference and what was written about a patient unreadable, here and in every copy of this database.

    What has no name in it stays, under the opaque key: stays, spans, alarms, readings. The patient's own account is disabled
    and its session ended. A second time changes nothing.
    Raises NotFound, Conflict while the patient is in the hospital.
    """
    with writing(engine) as connection:
        before = get_patient_row(connection, patient_key)
        if before["discharged_us"] is None:
            raise Conflict(f"{_name(patient_key)} is in the hospital: discharge first")
        gone = {"name": None, "ref": None, "ref_index": f"{ERASED}/{patient_key}"}
        if before["ref"] is not None:
            key, what = {"patient_key": patient_key}, _name(patient_key)
            before = change(connection, patients, key, gone, version=None, what=what)
            log_write(connection, author, "patient.erase", patient_key)
        end_accounts_of(connection, author, patient_key)
        sealer = sealer_of(connection)
    sealer.data_keys.destroy([_owner(before).name])  # last: from here on nothing can be undone
    return get_patient(engine, patient_key)


def destroy_erased_again(engine: Engine) -> int:
    """Destroy the data keys of patients who were erased, where a restored folder of keys has them again; how many had."""
    with reading(engine) as connection:
        query = select(patients.c.patient_key).where(patients.c.ref.is_(None))
        names = [patient_owner("", key).name for key in connection.execute(query).scalars()]
        return sealer_of(connection).data_keys.destroy(names) if names else 0


def get_patient(engine: Engine, patient_key: str) -> Row:
    """With `erased`: whether their name, reference and notes were destroyed. Raises NotFound."""
    with reading(engine) as connection:
        return open_patients(connection, [get_patient_row(connection, patient_key)])[0]


def get_patient_row(connection: Connection, patient_key: str) -> Row:
    """As it is stored: name and reference sealed."""
    return one(connection, select(patients).where(patients.c.patient_key == patient_key), _name(patient_key))


def list_patients(  # noqa: PLR0913 (one filter each)
    engine: Engine, *, reach: Reach, clear: Reach = NOWHERE, limit: int, after: tuple[Any, ...] | None = None,
    hospital_id: str | None = None, ward_id: str | None = None, text: str | None = None, present_only: bool = False,
) -> Page:  # fmt: skip
    """Those within `reach` by key; `is_clear` of each that is within `clear`, too: it may be shown by name.

    `text` matches a part of the name or the reference, in any case, of those alone: a search by what is masked would tell it.
    """
    is_clear = within(clear, PATIENTS)
    query = select(patients, is_clear.label("is_clear")).where(within(reach, PATIENTS))
    if hospital_id is not None:
        query = query.where(patients.c.hospital_id == hospital_id)
    if ward_id is not None:
        query = query.where(patients.c.ward_id == ward_id)
    if present_only:
        query = query.where(patients.c.discharged_us.is_(None))
    if text is not None and clear.is_nothing:
        return Page([], None)
    with reading(engine) as connection:
        if text is None:
            found = page(connection, query, [patients.c.patient_key], limit=limit, after=after)
            return Page(open_patients(connection, found.rows), found.after)
        part = NamePart(text, hospitals_named(clear) if hospital_id is None else [hospital_id], ward_id, present_only)
        return _named(connection, query.where(is_clear), part, limit, None if after is None else after[0])


def _named(connection: Connection, query: Select[Any], part: NamePart, limit: int, after: str | None) -> Page:
    """A page of those whom `query` lets through of all who have such a name."""
    rows: list[Row] = []
    at_once = max(limit + 1, _NAMED_AT_ONCE)
    while len(rows) <= limit:
        keys = names_of(connection).keys(connection, part, after=after, limit=at_once)
        chosen = query.where(patients.c.patient_key.in_(keys)).order_by(patients.c.patient_key)
        rows += [dict(row) for row in connection.execute(chosen).mappings()]
        if len(keys) < at_once:
            break
        after = keys[-1]
    last = (rows[limit - 1]["patient_key"],) if len(rows) > limit else None
    return Page(open_patients(connection, rows[:limit]), last)


def warm_names(engine: Engine) -> int:
    """Read all names into memory, so that no search has to wait for it; returns how many. Raises Unavailable."""
    with reading(engine) as connection:
        names = names_of(connection)
        names.refresh(connection)
        return len(names)


def close_names(engine: Engine) -> None:
    """Whoever reads names into memory now ends: the process does."""
    names_of(engine).close()


def check_patient(values: Row) -> None:
    """Raise InvalidInput for a fact that cannot be; facts that are not there are not looked at. Quotes no name."""
    check_text(values.get("ref", "-"), "the reference of a patient", _REF_CHARS)
    check_text(values.get("name"), "the name of a patient", _NAME_CHARS)
    check_text(values.get("sex"), "the sex of a patient", _SEX_CHARS)
    age_years, spo2_scale = values.get("age_years"), values.get("spo2_scale", 1)
    if age_years is not None and not 0 <= age_years <= _OLDEST_YEARS:
        raise InvalidInput(f"age is {age_years} years, expected 0 to {_OLDEST_YEARS}")
    check_level("patients", values.get("level"))
    if spo2_scale not in (1, 2):
        raise InvalidInput(f"SpO2 scale is {spo2_scale}, expected 1, or 2 where it is prescribed")


def admitted(row: Row) -> PatientAdmitted:
    """What hosts need to know of a patient."""
    return PatientAdmitted(
        hospital_id=row["hospital_id"], patient_key=row["patient_key"], handle=row["handle"], age_years=row["age_years"],
        pregnant=row["pregnant"], spo2_scale=row["spo2_scale"], bed_id=row["bed_id"], ward_id=row["ward_id"],
        admitted_us=row["admitted_us"], discharged_us=row["discharged_us"],
    )  # fmt: skip


def tell_patient(connection: Connection, author: Author, row: Row) -> None:
    """Tell hosts what rules need to know of a patient; part of the caller's transaction."""
    tell_hosts(connection, author, row["hospital_id"], admitted(row))


def _add_places(connection: Connection, row: Row, *, makes_wards: bool) -> None:
    """Make the bed that is named, and the ward."""
    ward_id, bed_id = row["ward_id"], row["bed_id"]
    beds, wards = {bed_id: ward_id} if bed_id else {}, {ward_id} if ward_id else set()
    add_places(connection, row["hospital_id"], beds, wards, makes_wards=makes_wards)


def _change(connection: Connection, before: Row, values: Row, *, version: int | None) -> Row:
    """Change a row, as `records.change`; returns it opened. Raises Conflict for a patient whose data were erased."""
    if open_patients(connection, [before])[0]["erased"]:
        raise Conflict(f"the data of {_name(before['patient_key'])} were erased: admit them anew")
    whose = {name: before[name] for name in ("patient_key", "hospital_id")}
    sealed = {name: value for name, value in shut_patients(connection, [{**values, **whose}])[0].items() if name in values}
    key = {"patient_key": before["patient_key"]}
    row = change(connection, patients, key, sealed, version=version, what=_name(before["patient_key"]))
    return open_patients(connection, [row])[0]


def _owner(row: Row) -> Owner:
    return patient_owner(row["hospital_id"], row["patient_key"])


def _name(patient_key: str) -> str:
    return f"patient {patient_key!r}"
