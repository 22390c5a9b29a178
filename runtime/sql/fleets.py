"""Register a whole fleet in one call and one transaction: hospitals, devices, patients and who wears what.

Registering the same manifest again is safe: what exists (the same hospital; device id and model; patient reference)
is reused with its handle and key, and stays as it is. A device that exists gets a new token if the manifest asks for
one with `with_token`, because the old cannot be shown; its old token stops working. So one that is on a patient, or carries
what is, gets none, and all is refused, unless it is meant (`even_on_patients`).
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, bindparam, insert, select, update

from domain.errors import Conflict, InvalidInput
from domain.fleet_manifest import DeviceColumns, FleetManifest, FleetRegistered, HospitalManifest, HospitalRegistered
from domain.labels import WITHHELD
from domain.permissions import Located
from domain.thing_catalogue import thing_model
from runtime.sql import locating
from runtime.sql.associations import add_spans
from runtime.sql.attached import cut_off_by_tokens, on_patients
from runtime.sql.devices import RETIRED, NewDevice, add_devices
from runtime.sql.engine import writing
from runtime.sql.handles import take_handles
from runtime.sql.patients import admitted, check_patient
from runtime.sql.places import add_hospital, add_places, find_hospital
from runtime.sql.records import Author, Row, log_write, tell_hosts
from runtime.sql.sealed import ref_indexes, shut_patients
from runtime.sql.shard_loads import ShardLoads
from runtime.sql.tables import devices, patients
from runtime.tokens import new_token


@dataclass(frozen=True, slots=True)
class Met:
    """What a manifest names that exists: devices it wants new tokens of (hospital, device), and patients."""

    devices: dict[tuple[str, str], Located]
    patients: tuple[Located, ...]


class _OnlyTried(Exception):
    """Rolls a dry run back."""


def met_by(engine: Engine, manifest: FleetManifest) -> Met:
    """What needs a permission of its own, because it is there already. Raises InvalidInput for columns that do not fit."""
    _check_columns(manifest)
    named = [(one.hospital_id, device_id) for one in manifest.hospitals for device_id in _with_token(one)]
    people = [
        patient for one in manifest.hospitals
        for patient in locating.patients_of_refs(engine, one.hospital_id, one.patients.refs)
    ]  # fmt: skip
    return Met(locating.located_devices(engine, named), tuple(people))


def register_fleet(
    engine: Engine, author: Author, manifest: FleetManifest, *, shards: int, dry_run: bool = False, met: Met | None = None
) -> FleetRegistered:
    """All of the manifest, or nothing. Raises InvalidInput, NotFound or Conflict naming what is wrong first.

    `met`: what may be reused, for callers who need a permission for it: more that exists by now is a Conflict.
    A patient whose records are withheld is one always: nothing is told of them.

    PatientAttached, a Conflict too, says whom new tokens would cut off.

    With `dry_run` nothing is kept, and the answer holds no handles, keys or tokens: only the shards, as they would be.
    """
    _check_columns(manifest)
    registered: list[HospitalRegistered] = []
    try:  # a dry run does it all, so that it finds whatever the run itself would find, and is rolled back
        with writing(engine) as connection:
            loads = ShardLoads(connection, shards)
            _check_met(connection, manifest, met)
            worn = [one for hospital in manifest.hospitals for one in _cut_off(connection, author, hospital)]
            if worn and not manifest.even_on_patients:
                raise cut_off_by_tokens(worn)
            registered += [_hospital(connection, author, hospital, loads) for hospital in manifest.hospitals]
            ids = [hospital.hospital_id for hospital in manifest.hospitals]
            detail = {"hospitals": ids} | ({"even_on_patients": len(worn)} if worn else {})
            log_write(connection, author, "fleet.register", ", ".join(ids), detail)
            if dry_run:
                raise _OnlyTried
    except _OnlyTried:
        registered = [HospitalRegistered(hospital.hospital_id, hospital.shard, [], {}, [], []) for hospital in registered]
    return FleetRegistered(registered)


def _cut_off(connection: Connection, author: Author, wanted: HospitalManifest) -> list[str]:
    """The devices on patients that new tokens of this manifest would cut off."""
    asked = _with_token(wanted)
    here = select(devices.c.device_id, devices.c.handle).where(
        devices.c.hospital_id == wanted.hospital_id, devices.c.token_digest.is_not(None)
    )
    handles = [handle for device_id, handle in connection.execute(here) if device_id in asked]
    return [f"{wanted.hospital_id}/{device_id}" for device_id in on_patients(connection, handles, author.now_us)]


def _hospital(connection: Connection, author: Author, wanted: HospitalManifest, loads: ShardLoads) -> HospitalRegistered:
    row = find_hospital(connection, wanted.hospital_id)
    if row is None:
        row = add_hospital(
            connection, author, hospital_id=wanted.hospital_id, name=wanted.name, tier=wanted.tier, bed_count=wanted.beds,
            shard=loads.place(len(wanted.devices.device_ids)),
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
    """Handles of all devices of the hospital, and the tokens that were issued."""
    query = select(devices.c.device_id, devices.c.handle, devices.c.model, devices.c.status)
    known = {row.device_id: row for row in connection.execute(query.where(devices.c.hospital_id == hospital_id))}
    rows = [
        NewDevice(*columns)
        for columns in zip(
            wanted.device_ids, wanted.models, wanted.ward_ids, wanted.bed_ids, wanted.gateway_ids, wanted.with_token,
            strict=True,
        )
    ]  # fmt: skip
    here = [row for row in rows if row.device_id in known]
    for row in here:
        is_now = known[row.device_id]
        if thing_model(row.model).id != is_now.model or is_now.status == RETIRED:
            raise Conflict(
                f"device {row.device_id!r} exists as a {is_now.model}, {is_now.status}; the manifest says {row.model}"
            )
    handles = {device_id: row.handle for device_id, row in known.items()}
    tokens = _new_tokens(connection, author, {row.device_id: handles[row.device_id] for row in here if row.with_token})
    fresh = [row for row in rows if row.device_id not in known]
    fresh.sort(key=lambda row: row.gateway_id is not None)  # gateways before what they carry
    for report in add_devices(connection, author, hospital_id, fresh) if fresh else []:
        assert report.handle is not None
        handles[report.device_id] = report.handle
        if report.token is not None:
            tokens[report.device_id] = report.token
    return handles, tokens


def _new_tokens(connection: Connection, author: Author, handles: dict[str, int]) -> dict[str, str]:
    """Tokens in place of the old for devices that exist."""
    issued = {device_id: new_token() for device_id in handles}
    rows = [{"of": handles[device_id], "digest": digest} for device_id, (_, digest) in issued.items()]
    if rows:
        made = {"token_made_us": author.now_us, "token_made_by": author.who}
        values = {"token_digest": bindparam("digest"), "version": devices.c.version + 1} | made
        connection.execute(update(devices).where(devices.c.handle == bindparam("of")).values(values), rows)
    return {device_id: token for device_id, (token, _) in issued.items()}


def _patients(connection: Connection, author: Author, hospital: HospitalManifest, handles: dict[str, int]) -> list[Row]:
    """The patients of the manifest, in its order."""
    wanted = hospital.patients
    if not wanted.refs:
        return []
    by_ref = _known(connection, hospital.hospital_id, wanted.refs)
    fresh = [number for number, ref in enumerate(wanted.refs) if ref not in by_ref]
    beds = {bed: ward for bed, ward in zip(wanted.bed_ids, wanted.ward_ids, strict=True) if bed}
    add_places(connection, hospital.hospital_id, beds, {ward for ward in wanted.ward_ids if ward})
    first = take_handles(connection, len(fresh), "patient") if fresh else 0
    made = [_patient_row(hospital, number, first + at, author) for at, number in enumerate(fresh)]
    if made:
        connection.execute(insert(patients), shut_patients(connection, made, are_new=True))
        tell_hosts(connection, author, hospital.hospital_id, *(admitted(row) for row in made))
        add_spans(connection, author, _spans(hospital, made, fresh, handles))
    by_ref |= {row["ref"]: row for row in made}
    return [by_ref[ref] for ref in wanted.refs]


def _known(connection: Connection, hospital_id: str, refs: Sequence[str]) -> dict[str, Row]:
    """The patients whom the hospital knows by these numbers. Raises Conflict where the records of one are withheld."""
    query = select(patients.c.ref_index, patients.c.patient_key, patients.c.handle, patients.c.level)
    here = connection.execute(query.where(patients.c.hospital_id == hospital_id)).mappings()
    by_index: dict[str, Row] = {row["ref_index"]: dict(row) for row in here}
    indexes = zip(refs, ref_indexes(connection, hospital_id, refs), strict=True) if by_index else ()
    by_ref = {ref: by_index[index] for ref, under_each in indexes for index in under_each if index in by_index}
    for number, ref in enumerate(refs, start=1):
        if ref in by_ref and by_ref[ref]["level"] == WITHHELD:
            raise Conflict(f"the records of patient {number} of the manifest of hospital {hospital_id!r} are withheld")
    return by_ref


def _patient_row(hospital: HospitalManifest, number: int, handle: int, author: Author) -> Row:
    wanted = hospital.patients
    row = {
        "patient_key": secrets.token_hex(16), "handle": handle, "hospital_id": hospital.hospital_id,
        "ref": wanted.refs[number], "name": wanted.names[number], "sex": None, "age_years": wanted.ages_years[number],
        "pregnant": wanted.pregnant[number], "spo2_scale": wanted.spo2_scales[number], "ward_id": wanted.ward_ids[number],
        "bed_id": wanted.bed_ids[number], "admitted_us": wanted.admitted_us[number] or author.now_us,
        "discharged_us": None, "version": 1,
    }  # fmt: skip
    check_patient(row)
    return row


def _spans(hospital: HospitalManifest, people: list[Row], numbers: list[int], handles: dict[str, int]) -> list[dict[str, Any]]:
    """Who of the new patients wears what, from admission on."""
    spans: list[dict[str, Any]] = []
    for row, number in zip(people, numbers, strict=True):
        for device_id in hospital.patients.device_ids[number]:
            if device_id not in handles:
                where = f"hospital {hospital.hospital_id!r}"
                raise InvalidInput(f"device {device_id!r} of patient {number + 1} of the manifest is not one of {where}")
            spans.append({
                "device_handle": handles[device_id], "patient_key": row["patient_key"], "start_us": row["admitted_us"],
                "end_us": None,
            })  # fmt: skip
    return spans


def _with_token(hospital: HospitalManifest) -> set[str]:
    columns = zip(hospital.devices.device_ids, hospital.devices.with_token, strict=True)
    return {device_id for device_id, with_token in columns if with_token}


def _check_met(connection: Connection, manifest: FleetManifest, met: Met | None) -> None:
    """Raises Conflict for what came to exist since `met` was found."""
    if met is None:
        return
    keys = {patient.patient_key for patient in met.patients}
    for hospital in manifest.hospitals:
        here = select(devices.c.device_id).where(devices.c.hospital_id == hospital.hospital_id)
        asked = {device_id for device_id in _with_token(hospital) if (hospital.hospital_id, device_id) not in met.devices}
        known = _known(connection, hospital.hospital_id, hospital.patients.refs) if hospital.patients.refs else {}
        is_more = bool(asked) and any(device_id in asked for device_id in connection.execute(here).scalars())
        if is_more or any(row["patient_key"] not in keys for row in known.values()):
            raise Conflict(f"somebody registers devices or patients of hospital {hospital.hospital_id!r} as well: try again")


def _check_columns(manifest: FleetManifest) -> None:
    for hospital in manifest.hospitals:
        _check_columns_of(hospital)


def _check_columns_of(hospital: HospitalManifest) -> None:
    for what, columns in (("devices", hospital.devices), ("patients", hospital.patients)):
        lengths = {name: len(getattr(columns, name)) for name in columns.__struct_fields__}
        if len(set(lengths.values())) > 1:
            raise InvalidInput(f"the {what} of {hospital.hospital_id} are columns of unequal length: {lengths}")
    if len(set(hospital.patients.refs)) < len(hospital.patients.refs):
        raise InvalidInput(f"two patients of {hospital.hospital_id} have the same reference")
