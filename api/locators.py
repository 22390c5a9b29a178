"""From a request's path or query to what it is about: the records' places, levels and patients. One SELECT each.

A locator reads no parameter that its handler does not heed in the same way: what it would judge, the handler would not
show. A guard compares the two (`tests/unit/api/test_permissions.py`).

Records with opaque keys (patients, alarms, associations, windows, rejects) are out of reach as if they did not exist; of
what the caller named by its place (hospitals, wards, devices) the refusal says which permission is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

from fastapi import Query

from api.asking import Asking, Target, of_places
from api.device_names import split_device
from api.services import Backend, Behind
from domain.errors import InvalidInput, NotFound
from domain.ids import parse_hospital_id
from domain.labels import LABELS, label_of
from domain.permissions import Action, Located
from domain.principals import Place
from runtime.sql import grants, holds, locating, watching

Hospital = Annotated[str | None, Query()]
Hospitals = Annotated[list[str] | None, Query()]
Ward = Annotated[str | None, Query()]


def in_region(kind: str) -> Callable[..., Any]:
    """A locator: what belongs to the region as a whole."""

    async def region(behind: Behind) -> Target:
        return Target.at(Place(behind.services.region_id), LABELS[kind])

    return region


# --- places, named by the caller ---


def of_hospital(kind: str = "hospitals") -> Callable[..., Any]:
    """A locator: something of the hospital in the path as a whole."""

    async def hospital(hospital_id: str, behind: Behind) -> Target:
        return await in_hospital(behind, kind, hospital_id)

    return hospital


async def of_ward(hospital_id: str, ward_id: str, behind: Behind) -> Target:
    return await in_hospital(behind, "wards", hospital_id, ward_id)


async def in_hospital(behind: Backend, kind: str, hospital_id: str, ward_id: str | None = None) -> Target:
    """Records of a kind at a place that the caller named."""
    place = await behind.read(locating.place_of, behind.engine, hospital_id, ward_id)
    return Target.at(place, LABELS[kind])


async def of_bed(hospital_id: str, bed_id: str, behind: Behind) -> Target:
    """In its ward. One that does not exist is looked for in its hospital."""
    found = await behind.read(locating.bed, behind.engine, hospital_id, bed_id)
    if found is None:
        found = (await in_hospital(behind, "beds", hospital_id)).records[0]
    return Target((found,), named=f"bed {hospital_id}/{bed_id}")


async def moved_to(behind: Backend, target: Target, ward_id: str | None) -> Target:
    """The same record where it is to be: in another ward of its hospital, or in none."""
    (record,) = target.records
    place = await behind.read(locating.place_of, behind.engine, str(record.place.hospital_id), ward_id)
    return Target((replace(record, place=place),))


async def makes_wards(behind: Backend, who: Asking, hospital_id: str) -> bool:
    """Whether the caller may make wards of a hospital. Whoever registers fleets makes hospitals with all that is in them."""
    (record,) = (await in_hospital(behind, "wards", hospital_id)).records
    return any(who.may(action, record) for action in (Action.PLACE_MANAGE, Action.FLEET_REGISTER))


# --- devices ---


async def of_device(hospital_id: str, device_id: str, behind: Behind) -> Target:
    """What a device is. One that does not exist is looked for in its hospital."""
    found = await behind.read(locating.device, behind.engine, hospital_id, device_id)
    return await _of_device(behind, found, hospital_id, device_id)


async def of_devices(behind: Backend, hospital_id: str, device_ids: list[str]) -> Target:
    """Devices that the caller named; of those that do not exist their hospital."""
    pairs = [(hospital_id, device_id) for device_id in device_ids]
    found = await behind.read(locating.located_devices, behind.engine, pairs)
    records = [*found.values()]
    if len(found) < len(set(pairs)):
        records += (await in_hospital(behind, "devices", hospital_id)).records
    return Target(tuple(records), named=f"devices of {hospital_id}")


async def of_device_readings(hospital_id: str, device_id: str, behind: Behind) -> Target:
    """What a device measures now."""
    return await _of_device(behind, await readings_now(behind, hospital_id, device_id), hospital_id, device_id)


async def _of_device(behind: Backend, found: Located | None, hospital_id: str, device_id: str) -> Target:
    if found is None:  # told to those alone who may see that hospital's
        found = (await in_hospital(behind, "devices", hospital_id)).records[0]
    return Target((found,), named=f"device {hospital_id}/{device_id}")


async def readings_now(behind: Backend, hospital_id: str, device_id: str) -> Located | None:
    now_us = behind.services.clock.now_us()
    return await behind.read(locating.readings_now, behind.engine, hospital_id, device_id, now_us)


# --- what a list is asked for: the places that its filter names ---


async def near_hospital(hospital_id: str, behind: Behind) -> tuple[Place, ...]:
    """The hospital in the path."""
    return (await behind.read(locating.place_of, behind.engine, hospital_id),)


async def near_query(behind: Behind, hospital: Hospital = None) -> tuple[Place, ...]:
    """The hospital in the query."""
    return await near_ward(behind, hospital)


async def near_ward(behind: Behind, hospital: Hospital = None, ward: Ward = None) -> tuple[Place, ...]:
    """The hospital, or the ward of it, in the query."""
    return () if hospital is None else (await behind.read(locating.place_of, behind.engine, hospital, ward),)


async def near_hospitals(behind: Behind, hospital: Hospitals = None) -> tuple[Place, ...]:
    """The hospitals in the query."""
    return await _in_each(behind, hospital)


async def _in_each(behind: Backend, hospital: list[str] | None, ward: str | None = None) -> tuple[Place, ...]:
    wanted = [parse_hospital_id(one) for one in hospital or ()]
    districts = await behind.read(locating.districts_of, behind.engine, wanted) if wanted else {}
    return tuple(locating.place_in(districts.get(one), one, ward) for one in wanted)


async def near_readings(
    behind: Behind, device: Hospitals = None, hospital: Hospitals = None, ward: Ward = None
) -> tuple[Place, ...]:
    """The devices, hospitals and wards that a filter of readings names. Handles and patients have opaque keys."""
    named = await _in_each(behind, hospital, ward)
    pairs = [split_device(name) for name in device or ()]
    if not pairs:
        return named
    found = await behind.read(locating.places_of_devices, behind.engine, pairs)
    missing = sorted({hospital_id for hospital_id, device_id in pairs if (hospital_id, device_id) not in found})
    return (*named, *found.values(), *await _in_each(behind, missing))


async def near_device(behind: Behind, device: Hospital = None) -> tuple[Place, ...]:
    """Where the device in the query stands; of one that does not exist its hospital."""
    if device is None:
        return ()
    hospital_id, device_id = split_device(device)
    found = await behind.read(locating.device, behind.engine, hospital_id, device_id)
    return (await behind.read(locating.place_of, behind.engine, hospital_id) if found is None else found.place,)


async def near_device_or_hospital(behind: Behind, hospital: Hospital = None, device: Hospital = None) -> tuple[Place, ...]:
    """The hospital, and where the device stands, in the query."""
    return (*await near_query(behind, hospital), *await near_device(behind, device))


# --- by the hospital and ward that are asked for ---


def of_list(kind: str) -> Callable[..., Any]:
    """A locator: records of a kind in the hospital that the query names, or in the whole region."""

    async def listed(behind: Behind, hospital: Hospital = None) -> Target:
        return await in_query(behind, kind, hospital)

    return listed


async def in_query(behind: Backend, kind: str, hospital_id: str | None, ward_id: str | None = None) -> Target:
    if hospital_id is None:
        return Target.at(Place(behind.services.region_id), LABELS[kind])
    return await in_hospital(behind, kind, hospital_id, ward_id)


# --- what has an opaque key ---


async def of_patient(patient_key: str, behind: Behind) -> Target:
    found = await behind.read(locating.patient, behind.engine, patient_key)
    return _opaque(found, f"patient {patient_key!r} is unknown")


async def of_patient_to_erase(patient_key: str, behind: Behind) -> Target:
    """A patient, whether their records are withheld or not."""
    found = await behind.read(locating.patient_to_erase, behind.engine, patient_key)
    return _opaque(found, f"patient {patient_key!r} is unknown")


async def of_hold(hold_id: int, behind: Behind) -> Target:
    """In the hospital of what it holds."""
    unknown = f"hold {hold_id} is unknown"
    row = await behind.read(holds.find_hold, behind.engine, hold_id)
    return Target((await in_hospital(behind, "legal_holds", row["hospital_id"])).records, unknown)


async def of_alarm(alarm_id: str, behind: Behind) -> Target:
    return _opaque(await behind.read(locating.alarm, behind.engine, alarm_id), f"alarm {alarm_id!r} is unknown")


async def of_association(association_id: int, behind: Behind) -> Target:
    found = await behind.read(locating.association, behind.engine, association_id)
    return _opaque(found, f"association {association_id} is unknown")


async def of_window(window_id: int, behind: Behind) -> Target:
    found = await behind.read(locating.maintenance_window, behind.engine, window_id)
    return _opaque(found, f"maintenance window {window_id} is unknown")


async def of_reject(sequence: int, behind: Behind) -> Target:
    """In the hospital of its sender; of unknown ones in the region."""
    kept = await behind.rejects.get(sequence)
    unknown = f"reject {sequence} is unknown"
    hospital_id = kept.reject.hospital_id
    target = await in_query(behind, "REJECTS", hospital_id)
    return Target(target.records, unknown)


def _opaque(found: Located | None, unknown: str) -> Target:
    if found is None:
        raise NotFound(unknown)
    return Target((found,), unknown)


async def worn_by(behind: Backend, hospital_id: str, device_id: str) -> Target:
    """On whom a device is, or was."""
    found = await behind.read(locating.device, behind.engine, hospital_id, device_id)
    place = await behind.read(locating.place_of, behind.engine, hospital_id) if found is None else found.place
    level = label_of("associations", None if found is None else found.level)
    return Target((Located(place, level),), named=f"device {hospital_id}/{device_id}")


# --- users and tokens ---


async def of_user(name: str, behind: Behind) -> Target:
    """Wherever a user was given something; who was given nothing belongs to the region."""
    places = await behind.read(locating.user, behind.engine, name)
    return of_places(places or [Place(behind.services.region_id)], LABELS["users"], named=f"user {name!r}")


async def of_session(session_id: str, behind: Behind) -> Target:
    """Wherever its user was given something."""
    unknown = f"session {session_id!r} is unknown"
    row = await behind.read(watching.find_session, behind.engine, session_id)
    if row is None:
        raise NotFound(unknown)
    return Target((await of_user(row["name"], behind)).records, unknown)


async def of_grant(name: str, grant_id: int, behind: Behind) -> Target:
    row = await behind.read(grants.grant_in_force, behind.engine, name, grant_id)
    target = of_places(await places_of(behind, [Place.parse(row["place"])]), LABELS["grants"])
    return Target(target.records, f"grant {grant_id} of user {name!r} is unknown")


async def of_token(name: str, behind: Behind) -> Target:
    place = await behind.read(locating.token, behind.engine, name, behind.services.region_id)
    return of_places([place], LABELS["tokens"], named=f"token {name!r}")


async def places_of(behind: Backend, places: list[Place]) -> list[Place]:
    """Places that the caller named, with their districts. Raises InvalidInput for one of another region."""
    region_id = behind.services.region_id
    for place in places:
        if place.region_id != region_id:
            raise InvalidInput(f"place {str(place)!r} is not of this region: expected one of {region_id!r}")
    return await behind.read(locating.located_places, behind.engine, places)
