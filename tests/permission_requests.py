"""Random callers and records of a small region, biased to those about which there is something to decide."""

from __future__ import annotations

from random import Random
from typing import Final, NamedTuple

from domain.permissions import Action, Level, Located, Purpose
from domain.principals import Caller, Factor, Grant, Kind, Must, Place, Principal, Relation, Role

NOW_US: Final = 1_800_000_000_000_000
REGION: Final = Place("sz")
DISTRICTS: Final = {"sz.h001": "futian", "sz.h002": "futian", "sz.h003": "nanshan"}
GRANTED: Final = [
    *map(Place.parse, ("sz", "sz:futian", "sz:nanshan", "sz.h001", "sz.h001/icu", "sz.h001/w01", "sz.h002", "sz.h003/icu")),
    *map(Place.parse, ("gz", "gz.h001")),
]
PATIENTS: Final = ("p-1", "p-2", "p-3")
ROLES: Final = list(Role)
ACTIONS: Final = list(Action)


class Request(NamedTuple):
    caller: Caller
    action: Action
    record: Located
    purpose: Purpose | None


def place_of(hospital_id: str | None, ward_id: str | None = None) -> Place:
    """The place of a record, with all that is known of it."""
    return Place("sz", hospital_id and DISTRICTS[hospital_id], hospital_id, ward_id)


RECORDS: Final = [
    Place("sz"), Place("sz", "futian"), Place("gz", None, "gz.h001"),
    *(place_of(hospital_id, ward_id) for hospital_id in DISTRICTS for ward_id in (None, "icu", "w01")),
]  # fmt: skip


def caller_of(*grants: Grant, patient_key: str | None = None, treats: tuple[str, ...] = (), **rest) -> Caller:
    return Caller(Principal(Kind.USER, "u-1", "li"), grants, patient_key=patient_key, treats=frozenset(treats), **rest)


def random_caller(chance: Random) -> Caller:
    grants = [_grant(chance) for _ in range(chance.choice((0, 1, 1, 1, 2, 3)))]
    factors = [factor for factor in Factor if chance.random() < 0.5]
    return caller_of(
        *grants,
        patient_key=chance.choice((None, None, *PATIENTS)),
        treats=tuple(key for key in PATIENTS if chance.random() < 0.3),
        factors=frozenset(factors),
        must=Must.PASSWORD_CHANGE if chance.random() < 0.03 else None,
    )


def random_request(chance: Random) -> Request:
    level = None if chance.random() < 0.03 else chance.choice(list(Level))
    record = Located(chance.choice(RECORDS), level, chance.choice((None, *PATIENTS)))
    purpose = None if chance.random() < 0.6 else chance.choice(list(Purpose))
    return Request(random_caller(chance), chance.choice(ACTIONS), record, purpose)


def _grant(chance: Random) -> Grant:
    relation = Relation.ANY if chance.random() < 0.7 else chance.choice(list(Relation))
    until_us = None if chance.random() < 0.8 else NOW_US + chance.choice((-1, 0, 1))
    place = REGION if chance.random() < 0.4 else chance.choice(GRANTED)
    return Grant(chance.choice(ROLES), place, relation, until_us)
