"""What lies within a reach, as conditions of SQL: the one place where lists are cut to what a caller may see.

`runtime.authorisation` says where that is (`domain.permissions.Reach`); here nothing is judged. A record is within where
`Reach.holds` would say so: tests compare both. Clauses 7.2b, 9.3c.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import Connection, Engine, Select, and_, false, func, literal, or_, select, true
from sqlalchemy.sql.elements import ColumnElement

from domain.labels import LABELS
from domain.permissions import Level, Reach
from domain.principals import Place
from runtime.sql.engine import reading
from runtime.sql.identity_tables import grants, users
from runtime.sql.tables import alarms, beds, devices, hospitals, maintenance_windows, patients, tokens, wards

Condition = ColumnElement[bool]


@dataclass(frozen=True)
class Kind:
    """Where records of a kind say their hospital, ward and patient, and which of them are at most at a level."""

    hospital: ColumnElement[Any]
    ward: ColumnElement[Any] | None
    at_most: Callable[[Level], Condition]
    patient: ColumnElement[Any] | None = None


def within(reach: Reach, kind: Kind) -> Condition:
    """The condition that a record is within `reach`."""
    terms = [and_(_inside(place, kind), kind.at_most(highest)) for place, highest in reach.levels.items()]
    if kind.patient is not None:
        keys: dict[tuple[Place, Level], list[str]] = {}
        for (place, key), highest in reach.patients.items():
            keys.setdefault((place, highest), []).append(key)
        terms += [
            and_(kind.patient.in_(sorted(some)), _inside(place, kind), kind.at_most(highest))
            for (place, highest), some in keys.items()
        ]
    return or_(false(), *terms)


def hospitals_named(reach: Reach) -> list[str]:
    """All of a reach that is in some hospitals; none, when it goes beyond them: then every hospital is looked at."""
    found = {place.hospital_id for place in (*reach.levels, *(place for place, _ in reach.patients))}
    return sorted(hospital_id for hospital_id in found if hospital_id is not None) if None not in found else []


def _inside(place: Place, kind: Kind) -> Condition:
    if place.hospital_id is not None:
        of_hospital = kind.hospital == place.hospital_id
        if place.ward_id is None:
            return of_hospital
        return false() if kind.ward is None else and_(of_hospital, kind.ward == place.ward_id)
    if place.district_id is not None:
        return kind.hospital.in_(_of_district(place))
    return kind.hospital.startswith(f"{place.region_id}.", autoescape=True)


def _of_district(place: Place) -> Any:
    in_region = hospitals.c.id.startswith(f"{place.region_id}.", autoescape=True)
    return select(hospitals.c.id).where(hospitals.c.district == place.district_id, in_region)


def all_at(level: Level) -> Callable[[Level], Condition]:
    """Records that are all of one level."""
    return lambda highest: true() if level <= highest else false()


def _raised(level: Level, raised: ColumnElement[Any]) -> Callable[[Level], Condition]:
    """Records of a level, some of which are raised above it."""

    def at_most(highest: Level) -> Condition:
        return false() if highest < level else or_(raised.is_(None), raised <= highest)

    return at_most


def _alarms_at_most(highest: Level) -> Condition:
    """As sensitive as its patient, if it has one: `domain.labels.of_readings`."""
    if highest < LABELS["readings"]:
        return false()
    if highest < LABELS["patients"]:
        return alarms.c.patient_key.is_(None)
    above = select(patients.c.patient_key).where(patients.c.level > highest)
    return or_(alarms.c.patient_key.is_(None), alarms.c.patient_key.not_in(above))


_OF_DEVICE: Final = select(devices.c.ward_id).where(devices.c.handle == maintenance_windows.c.device_handle).scalar_subquery()

HOSPITALS: Final = Kind(hospitals.c.id, None, all_at(LABELS["hospitals"]))
WARDS: Final = Kind(wards.c.hospital_id, wards.c.id, all_at(LABELS["wards"]))
BEDS: Final = Kind(beds.c.hospital_id, beds.c.ward_id, all_at(LABELS["beds"]))
DEVICES: Final = Kind(devices.c.hospital_id, devices.c.ward_id, _raised(LABELS["devices"], devices.c.level))
WINDOWS: Final = Kind(
    maintenance_windows.c.hospital_id,
    func.coalesce(maintenance_windows.c.ward_id, _OF_DEVICE),
    all_at(LABELS["maintenance_windows"]),
)
PATIENTS: Final = Kind(
    patients.c.hospital_id, patients.c.ward_id, _raised(LABELS["patients"], patients.c.level), patients.c.patient_key
)
ALARMS: Final = Kind(alarms.c.hospital_id, alarms.c.ward_id, _alarms_at_most, alarms.c.patient_key)
COUNTED_ALARMS: Final = Kind(alarms.c.hospital_id, alarms.c.ward_id, all_at(LABELS["statistics"]))  # sums name nobody


def is_all(connection: Connection, reach: Reach, level: Level) -> bool:
    """Whether all records of a level are within, of every hospital there is."""
    places = frozenset(place for place, highest in reach.levels.items() if highest >= level)
    if not any(place == Place(place.region_id) for place in places):
        return False
    return connection.execute(_beyond(places)).first() is None  # a region that is another one holds nothing here


@lru_cache(maxsize=256)
def _beyond(places: frozenset[Place]) -> Select[Any]:
    """The first hospital that is in none of these places. Kept: every question to the readings asks this."""
    hospital = Kind(hospitals.c.id, None, all_at(Level.PUBLIC))
    return select(hospitals.c.id).where(~or_(false(), *(_inside(place, hospital) for place in places))).limit(1)


def hospitals_within(engine: Engine, reach: Reach, level: Level) -> frozenset[str] | None:
    """Hospitals of which all records of a level are within; None: the region's all, and what belongs to none of them."""
    with reading(engine) as connection:
        if is_all(connection, reach, level):
            return None
        query = select(hospitals.c.id).where(within(reach, Kind(hospitals.c.id, None, all_at(level))))
        return frozenset(connection.execute(query).scalars())


# --- accounts: where something was given is said in one text ---


def tokens_within(reach: Reach, region_id: str) -> Condition:
    """Tokens whose role holds within."""
    return _named_within(reach, LABELS["tokens"], func.coalesce(tokens.c.place, region_id))


def users_within(reach: Reach, region_id: str) -> Condition:
    """Users all of whose grants are within; who was given nothing belongs to the region."""
    mine = and_(grants.c.principal_id == users.c.id, grants.c.ended_us.is_(None))
    beyond = select(grants.c.id).where(mine, ~_named_within(reach, LABELS["users"], grants.c.place)).exists()
    has_any = select(grants.c.id).where(mine).exists()
    return and_(~beyond, or_(has_any, _named_within(reach, LABELS["users"], literal(region_id))))


def _named_within(reach: Reach, level: Level, text: ColumnElement[Any]) -> Condition:
    """Places by their texts (`domain.principals.Place`)."""
    return or_(false(), *(_is_in(place, text) for place, highest in reach.levels.items() if level <= highest))


def _is_in(place: Place, text: ColumnElement[Any]) -> Condition:
    itself = text == str(place)
    if place.ward_id is not None:
        return itself
    if place.hospital_id is not None:
        return or_(itself, text.startswith(f"{place}/", autoescape=True))
    if place.district_id is not None:
        of_district = _of_district(place).correlate(None).subquery()
        is_ward = text.startswith(of_district.c.id.concat("/"))
        return or_(itself, select(of_district.c.id).where(or_(text == of_district.c.id, is_ward)).exists())
    below = [text.startswith(f"{place.region_id}{mark}", autoescape=True) for mark in (".", ":")]
    return or_(itself, *below)
