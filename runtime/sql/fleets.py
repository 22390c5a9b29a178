"""Register a whole fleet in one call and one transaction: hospitals, devices, patients and who wears what.

Registering the same manifest again is safe: what exists (the same hospital, device id and model, patient reference)
is reused with its handle and key; devices that are to have a token get a new one, because the old cannot be shown.
"""

from __future__ import annotations

import secrets
from typing import Any

from sqlalchemy import Connection, Engine, insert, select, update

from domain.errors import Conflict, InvalidInput
from domain.fleet_manifest import DeviceColumns, FleetManifest, FleetRegistered, HospitalManifest, HospitalRegistered
from domain.messages import AssociationSpan, DeviceAssociated, PatientAdmitted
from domain.thing_catalogue import thing_model
from runtime.sql.devices import NewDevice, add_devices, new_token, take_handles
from runtime.sql.engine import writing
from runtime.sql.places import add_hospital, add_places, find_hospital
from runtime.sql.records import Author, Row, log_write, tell_hosts
from runtime.sql.tables import associations, devices, patients


def register_fleet(engine: Engine, author: Author, manifest: FleetManifest, *, shards: int) -> FleetRegistered:
    """All of the manifest, or nothing. Raises InvalidInput, NotFound or Conflict naming what is wrong first."""
    for hospital in manifest.hospitals:
        _check_columns(hospital)
    with writing(engine) as connection:
        registered = [_hospital(connection, author, hospital, shards) for hospital in manifest.hospitals]
        log_write(connection, author, "fleet.register", ", ".join(h.hospital_id for h in manifest.hospitals)[:200])
    return FleetRegistered(registered)


def _hospital(connection: Connection, author: Author, wanted: HospitalManifest, shards: int) -> HospitalRegistered:
    row = find_hospital(connection, wanted.hospital_id)
    if row is None:
        row = add_hospital(
            connection, author, hospital_id=wanted.hospital_id, name=wanted.name, tier=wanted.tier, bed_count=wanted.beds,
            shards=shards,
        )  # fmt: skip
    handles, tokens = _devices(connection, author, wanted.hospital_id, wanted.devices)
    people = _patients(connection, author, wanted, handles)
    return HospitalRegistered(
        hospital_id=wanted.hospital_id, shard=row["shard"], handles=[handles[i] for i in wanted.devices.device_ids],
        tokens=tokens, patient_keys=[p["patient_key"] for p in people], patient_handles=[p["handle"] for p in people],
    )  # fmt: skip


def _devices(
    connection: Connection, author: Author, hospital_id: str, wanted: DeviceColumns
) -> tuple[dict[str, int], dict[str, str]]:
    known = {
        row.device_id: (row.handle, row.model)
        for row in connection.execute(
            select(devices.c.device_id, devices.c.handle, devices.c.model).where(devices.c.hospital_id == hospital_id)
        )
    }
    rows = [
        NewDevice(*columns)
        for columns in zip(
            wanted.device_ids, wanted.models, wanted.ward_ids, wanted.bed_ids, wanted.gateway_ids, wanted.with_token,
            strict=True,
        )
    ]  # fmt: skip
    tokens: dict[str, str] = {}
    for row in rows:
        if row.device_id in known:
            handle, model = known[row.device_id]
            if thing_model(row.model).id != model:
                raise Conflict(f"device {row.device_id!r} exists as a {model}, the manifest calls it {row.model}")
            if row.with_token:
                tokens[row.device_id], digest = new_token()
                connection.execute(update(devices).where(devices.c.handle == handle).values(token_sha256=digest))
    fresh = [row for row in rows if row.device_id not in known]
    fresh.sort(key=lambda row: row.gateway_id is not None)  # gateways before what they carry
    handles = {device_id: handle for device_id, (handle, _) in known.items()}
    for report in add_devices(connection, author, hospital_id, fresh) if fresh else []:
        assert report.handle is not None
        handles[report.device_id] = report.handle
        if report.token is not None:
            tokens[report.device_id] = report.token
    return handles, tokens


def _patients(connection: Connection, author: Author, hospital: HospitalManifest, handles: dict[str, int]) -> list[Row]:
    wanted = hospital.patients
    if not wanted.refs:
        return []
    known = {
        row["ref"]: dict(row)
        for row in connection.execute(select(patients).where(patients.c.hospital_id == hospital.hospital_id)).mappings()
    }
    fresh = [number for number, ref in enumerate(wanted.refs) if ref not in known]
    add_places(
        connection, hospital.hospital_id,
        {bed: ward for bed, ward in zip(wanted.bed_ids, wanted.ward_ids, strict=True) if bed},
        {ward for ward in wanted.ward_ids if ward},
    )  # fmt: skip
    first = take_handles(connection, len(fresh), "patient") if fresh else 0
    made = [_patient_row(hospital, number, first + at, author) for at, number in enumerate(fresh)]
    if made:
        connection.execute(insert(patients), made)
    for row in made:
        tell_hosts(connection, author, hospital.hospital_id, PatientAdmitted(
            hospital_id=row["hospital_id"], patient_key=row["patient_key"], handle=row["handle"],
            age_years=row["age_years"], pregnant=row["pregnant"], spo2_scale=row["spo2_scale"], bed_id=row["bed_id"],
            ward_id=row["ward_id"], admitted_us=row["admitted_us"],
        ))  # fmt: skip
    by_ref = known | {row["ref"]: row for row in made}
    _wear(connection, author, hospital, [by_ref[wanted.refs[number]] for number in fresh], fresh, handles)
    return [by_ref[ref] for ref in wanted.refs]


def _patient_row(hospital: HospitalManifest, number: int, handle: int, author: Author) -> Row:
    wanted = hospital.patients
    return {
        "patient_key": secrets.token_hex(16), "handle": handle, "hospital_id": hospital.hospital_id,
        "ref": wanted.refs[number], "name": wanted.names[number], "sex": None, "age_years": wanted.ages_years[number],
        "pregnant": wanted.pregnant[number], "spo2_scale": wanted.spo2_scales[number], "ward_id": wanted.ward_ids[number],
        "bed_id": wanted.bed_ids[number], "admitted_us": wanted.admitted_us[number] or author.now_us,
        "discharged_us": None, "version": 1,
    }  # fmt: skip


def _wear(
    connection: Connection, author: Author, hospital: HospitalManifest, people: list[Row], numbers: list[int],
    handles: dict[str, int],
) -> None:  # fmt: skip
    """Associate the devices of new patients. Raises Conflict for a device that is on somebody already."""
    spans: list[dict[str, Any]] = []
    for row, number in zip(people, numbers, strict=True):
        for device_id in hospital.patients.device_ids[number]:
            if device_id not in handles:
                raise InvalidInput(f"device {device_id!r} of patient {number + 1} of the manifest is unknown")
            spans.append({
                "device_handle": handles[device_id], "patient_key": row["patient_key"], "start_us": row["admitted_us"],
                "end_us": None, "recorded_us": author.now_us, "superseded_us": None, "who": author.who,
                "reason": author.reason,
            })  # fmt: skip
    if not spans:
        return
    worn = [span["device_handle"] for span in spans]
    open_now = select(associations.c.device_handle).where(
        associations.c.superseded_us.is_(None), associations.c.end_us.is_(None)
    )
    busy = set(connection.execute(open_now).scalars()) & set(worn)
    if busy or len(set(worn)) != len(worn):
        raise Conflict(f"a device is on one patient at a time: handles {sorted(busy)[:5] or 'named twice in the manifest'}")
    connection.execute(insert(associations), spans)
    handle_of = {row["patient_key"]: row["handle"] for row in people}
    for span in spans:
        believed = [AssociationSpan(handle_of[span["patient_key"]], span["start_us"])]
        tell_hosts(
            connection, author, hospital.hospital_id, DeviceAssociated(hospital.hospital_id, span["device_handle"], believed)
        )


def _check_columns(hospital: HospitalManifest) -> None:
    for what, columns in (("devices", hospital.devices), ("patients", hospital.patients)):
        lengths = {name: len(getattr(columns, name)) for name in columns.__struct_fields__}
        if len(set(lengths.values())) > 1:
            raise InvalidInput(f"the {what} of {hospital.hospital_id} are columns of unequal length: {lengths}")
