"""Where records are, how sensitive, and of which patient: what a permission needs to know, with one SELECT each.

Clauses 7.2b, 9.3c. A record that does not exist is None: whether that may be told is the caller's to decide.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Engine, Select, bindparam, select
from sqlalchemy.sql.elements import ColumnElement

from domain.labels import WITHHELD, label_of, of_readings
from domain.permissions import Located
from domain.principals import Place
from runtime.sql.engine import reading
from runtime.sql.identity_tables import grants, users
from runtime.sql.life_tables import erasures
from runtime.sql.sealed import ref_indexes
from runtime.sql.tables import alarms, associations, beds, devices, hospitals, maintenance_windows, patients, tokens

_CHUNK: Final = 500
_DISTRICT: Final = hospitals.c.district.label("district")
# what every question about a device or its readings asks is made once: to build it takes longer than the answer
_DEVICE: Final = (devices.c.hospital_id, devices.c.device_id, devices.c.ward_id, devices.c.level, _DISTRICT)
_IN_HOSPITAL: Final = devices.join(hospitals, hospitals.c.id == devices.c.hospital_id)
_DEVICES: Final = (
    select(*_DEVICE)
    .select_from(_IN_HOSPITAL)
    .where(devices.c.hospital_id == bindparam("hospital"), devices.c.device_id.in_(bindparam("devices", expanding=True)))
)
_NOW: Final = bindparam("now_us", type_=associations.c.start_us.type)
_WORN: Final = (
    (associations.c.device_handle == devices.c.handle) & associations.c.superseded_us.is_(None)
    & (associations.c.start_us <= _NOW) & (associations.c.end_us.is_(None) | (associations.c.end_us > _NOW))
)  # fmt: skip
_WORN_NOW: Final = (
    select(*_DEVICE, patients.c.patient_key, patients.c.level.label("patient_level"))
    .select_from(
        _IN_HOSPITAL.outerjoin(associations, _WORN).outerjoin(patients, patients.c.patient_key == associations.c.patient_key)
    )
    .where(devices.c.hospital_id == bindparam("hospital"), devices.c.device_id == bindparam("device"))
)
_WARDS: Final = (
    select(devices.c.hospital_id, devices.c.ward_id)
    .distinct()
    .where(devices.c.handle.in_(bindparam("handles", expanding=True)), devices.c.ward_id.is_not(None))
)


def place_in(district_id: str | None, hospital_id: str, ward_id: str | None = None) -> Place:
    """A place of a hospital whose district is known."""
    return Place(hospital_id.partition(".")[0], district_id, hospital_id, ward_id)


def place_of(engine: Engine, hospital_id: str, ward_id: str | None = None) -> Place:
    """Of a hospital or a ward; one that does not exist lies in its region, and in nothing else."""
    with reading(engine) as connection:
        query = select(_DISTRICT).where(hospitals.c.id == hospital_id)
        return place_in(connection.execute(query).scalar_one_or_none(), hospital_id, ward_id)


def districts_of(engine: Engine, hospital_ids: Collection[str]) -> dict[str, str | None]:
    """The district of each of these hospitals that exist."""
    found: dict[str, str | None] = {}
    wanted = sorted(hospital_ids)
    with reading(engine) as connection:
        for start in range(0, len(wanted), _CHUNK):
            query = select(hospitals.c.id, _DISTRICT).where(hospitals.c.id.in_(wanted[start : start + _CHUNK]))
            found |= {row.id: row.district for row in connection.execute(query)}
    return found


def bed(engine: Engine, hospital_id: str, bed_id: str) -> Located | None:
    query = select(beds.c.ward_id, _DISTRICT).select_from(beds.join(hospitals, hospitals.c.id == beds.c.hospital_id))
    row = _first(engine, query.where(beds.c.hospital_id == hospital_id, beds.c.id == bed_id))
    return None if row is None else Located(place_in(row.district, hospital_id, row.ward_id), label_of("beds"))


def device(engine: Engine, hospital_id: str, device_id: str) -> Located | None:
    """What a device is; of its readings see `readings_now`."""
    row = _first(engine, _DEVICES, {"hospital": hospital_id, "devices": [device_id]})
    return None if row is None else Located(_place(row), label_of("devices", row.level))


def readings_now(engine: Engine, hospital_id: str, device_id: str, now_us: int) -> Located | None:
    """What a device measures now: of the patient it is on, if it is on one."""
    row = _first(engine, _WORN_NOW, {"hospital": hospital_id, "device": device_id, "now_us": now_us})
    if row is None:
        return None
    level = of_readings(row.patient_level, has_patient=row.patient_key is not None, device_level=row.level)
    return Located(_place(row), level, row.patient_key)


def places_of_devices(engine: Engine, named: Collection[tuple[str, str]]) -> dict[tuple[str, str], Place]:
    """Where these devices (hospital, device) stand; without those that do not exist."""
    return {name: found.place for name, found in located_devices(engine, named).items()}


def wards_of_devices(engine: Engine, handles: Collection[int]) -> set[tuple[str, str]]:
    """The wards (hospital, ward) in which these devices are."""
    found: set[tuple[str, str]] = set()
    wanted = sorted(handles)
    with reading(engine) as connection:
        for start in range(0, len(wanted), _CHUNK):
            part = {"handles": wanted[start : start + _CHUNK]}
            found.update((row.hospital_id, row.ward_id) for row in connection.execute(_WARDS, part))
    return found


def located_devices(engine: Engine, named: Collection[tuple[str, str]]) -> dict[tuple[str, str], Located]:
    """As `device`, of many; without those that do not exist."""
    ids: dict[str, list[str]] = {}
    for hospital_id, device_id in named:
        ids.setdefault(hospital_id, []).append(device_id)
    found: dict[tuple[str, str], Located] = {}
    with reading(engine) as connection:
        for hospital_id, device_ids in ids.items():
            for start in range(0, len(device_ids), _CHUNK):
                part = {"hospital": hospital_id, "devices": device_ids[start : start + _CHUNK]}
                found |= {
                    (row.hospital_id, row.device_id): Located(_place(row), label_of("devices", row.level))
                    for row in connection.execute(_DEVICES, part)
                }
    return found


def patient(engine: Engine, patient_key: str) -> Located | None:
    row = _first(engine, _patients(patients.c.patient_key == patient_key))
    return None if row is None else _of_patient(row)


def patient_of_ref(engine: Engine, hospital_id: str, ref: str) -> Located | None:
    """The patient whom a hospital knows by this number, found as `patients.admit_patient` does: numbers are sealed.

    As sensitive as they are once they are admitted: what was withheld of them is no more then.
    """
    with reading(engine) as connection:
        looked_for: tuple[str, ...] = ()
        while looked_for != (indexes := ref_indexes(connection, hospital_id, [ref])[0]):  # again: the key was rotated meanwhile
            query = _patients(patients.c.hospital_id == hospital_id, patients.c.ref_index.in_(indexes))
            if (row := connection.execute(query).first()) is not None:
                return _but_for_withholding(connection, row)
            looked_for = indexes
        return None


def patients_of_refs(engine: Engine, hospital_id: str, refs: Sequence[str]) -> list[Located]:
    """As `patient_of_ref`, of many; without those whom the hospital does not know."""
    if not refs:
        return []
    with reading(engine) as connection:
        rows = connection.execute(_patients(patients.c.hospital_id == hospital_id).add_columns(patients.c.ref_index)).all()
        named = ref_indexes(connection, hospital_id, refs) if rows else []
        wanted = {index for under_each in named for index in under_each}
        return [_but_for_withholding(connection, row) for row in rows if row.ref_index in wanted]


def patient_to_erase(engine: Engine, patient_key: str) -> Located | None:
    """A patient as sensitive as but for what withholds their records: for whoever asked for that, or may."""
    with reading(engine) as connection:
        row = connection.execute(_patients(patients.c.patient_key == patient_key)).first()
        return None if row is None else _but_for_withholding(connection, row)


def association(engine: Engine, association_id: int) -> Located | None:
    """At the patient's place, and as sensitive as the patient."""
    spans = associations.join(patients, patients.c.patient_key == associations.c.patient_key)
    row = _first(engine, _patients(associations.c.id == association_id, of=spans))
    return None if row is None else _of_patient(row)


def alarm(engine: Engine, alarm_id: str) -> Located | None:
    """Where it was raised; as sensitive as its patient, if it has one."""
    columns = (alarms.c.hospital_id, alarms.c.ward_id, alarms.c.patient_key, _DISTRICT, patients.c.level)
    joined = alarms.outerjoin(hospitals, hospitals.c.id == alarms.c.hospital_id)
    joined = joined.outerjoin(patients, patients.c.patient_key == alarms.c.patient_key)
    row = _first(engine, select(*columns).select_from(joined).where(alarms.c.alarm_id == alarm_id))
    if row is None:
        return None
    level = of_readings(row.level, has_patient=row.patient_key is not None)
    return Located(_place(row), level, row.patient_key)


def maintenance_window(engine: Engine, window_id: int) -> Located | None:
    """At its ward, or where its device stands."""
    joined = maintenance_windows.join(hospitals, hospitals.c.id == maintenance_windows.c.hospital_id)
    joined = joined.outerjoin(devices, devices.c.handle == maintenance_windows.c.device_handle)
    columns = (
        maintenance_windows.c.hospital_id,
        maintenance_windows.c.ward_id,
        devices.c.ward_id.label("of_device"),
        _DISTRICT,
    )
    row = _first(engine, select(*columns).select_from(joined).where(maintenance_windows.c.id == window_id))
    if row is None:
        return None
    place = place_in(row.district, row.hospital_id, row.ward_id or row.of_device)
    return Located(place, label_of("maintenance_windows"))


def user(engine: Engine, name: str) -> list[Place]:
    """Where a user was given something that was not taken back; nowhere, for one who does not exist."""
    query = select(grants.c.place).join(users, users.c.id == grants.c.principal_id)
    with reading(engine) as connection:
        held = connection.execute(query.where(users.c.name == name, grants.c.ended_us.is_(None)).distinct()).scalars().all()
    return located_places(engine, [Place.parse(place) for place in held])


def token(engine: Engine, name: str, region_id: str) -> Place:
    """Where the role of a token holds; in the region, for one that does not exist."""
    row = _first(engine, select(tokens.c.place).where(tokens.c.name == name))
    place = Place(region_id) if row is None or row.place is None else Place.parse(row.place)
    return located_places(engine, [place])[0]


def located_places(engine: Engine, places: Collection[Place]) -> list[Place]:
    """The same places, with the districts of their hospitals."""
    districts = districts_of(engine, {place.hospital_id for place in places if place.hospital_id})
    return [
        place_in(districts.get(place.hospital_id), place.hospital_id, place.ward_id) if place.hospital_id else place
        for place in places
    ]


def _patients(*which: ColumnElement[bool], of: Any = patients) -> Select[Any]:
    columns = (
        patients.c.handle,
        patients.c.patient_key,
        patients.c.hospital_id,
        patients.c.ward_id,
        patients.c.level,
        _DISTRICT,
    )
    return select(*columns).select_from(of.join(hospitals, hospitals.c.id == patients.c.hospital_id)).where(*which)


def _of_patient(row: Any) -> Located:
    return Located(_place(row), label_of("patients", row.level), row.patient_key)


def _but_for_withholding(connection: Connection, row: Any) -> Located:
    if row.level != WITHHELD:
        return _of_patient(row)
    before = select(erasures.c.level_before).where(erasures.c.patient_key == row.patient_key)
    level = connection.execute(before.order_by(erasures.c.id.desc()).limit(1)).scalar_one_or_none()
    return Located(_place(row), label_of("patients", level), row.patient_key)


def _place(row: Any) -> Place:
    return place_in(row.district, row.hospital_id, row.ward_id)


def _first(engine: Engine, query: Select[Any], values: Mapping[str, Any] | None = None) -> Any:
    with reading(engine) as connection:
        return connection.execute(query, values).first()
