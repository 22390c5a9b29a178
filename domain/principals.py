"""Who acts, and what they were given. The words of everything that permits, refuses or records. Clauses 5.4a, 9.3b.

A `domain.ports.Sender` is the lean form in which doors know devices and gateways; it is no Principal.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from domain.errors import InvalidInput
from domain.ids import parse_hospital_id, parse_token


class Kind(StrEnum):
    USER = "user"  # a person
    SERVICE = "service"  # a program, or a display, with a token of its own


PLATFORM: Final = "vitalgrid"
"""What logs call the platform, where it writes of its own accord."""

WEBHOOK: Final = f"{PLATFORM}:webhook"
"""What the access log calls the receiver of the platform's webhook."""

OF_MACHINE: Final = "os:"
"""Before the account of this machine that gave an order."""


class Other(StrEnum):
    """Whom logs name beside users and tokens, each in a shape of its own."""

    PLATFORM = "platform"
    PATIENT_ACCOUNT = "patient-account"  # by its id, such as u-0123456789ab
    MACHINE_ACCOUNT = "machine-account"  # os:root
    DEVICE = "device"  # sz.h012/mon-7
    ADDRESS = "address"  # from where a sign-in failed: an IPv6 one has a ':' too


_SHAPES: Final = (
    (Other.PLATFORM, re.compile(f"{re.escape(PLATFORM)}|{re.escape(WEBHOOK)}")),
    (Other.PATIENT_ACCOUNT, re.compile(r"u-[0-9a-f]{12}")),
    (Other.ADDRESS, re.compile(r"[0-9]{1,3}(\.[0-9]{1,3}){3}")),
    (Other.MACHINE_ACCOUNT, re.compile(r".*:.*", re.DOTALL)),
    (Other.DEVICE, re.compile(r".*/.*", re.DOTALL)),
)


def other_of(name: str) -> Other | None:
    """Whom logs mean by this name, where that is no user and no token; letters' size and blanks around it make no other."""
    text = name.strip().casefold()
    return next((other for other, shape in _SHAPES if shape.fullmatch(text)), None)


def check_own_name(name: str) -> None:
    """Raise InvalidInput unless a user or token may be called so: in logs a name is one principal's."""
    other = other_of(name)
    if other is not None:
        raise InvalidInput(
            f"the name {name[:80]!r} is of the shape by which logs name a {other}: expected a name without ':' and '/' that "
            f"is not {PLATFORM!r}, no address and no id such as u-0123456789ab"
        )


@dataclass(frozen=True, slots=True)
class Principal:
    """Who acts. `id` is for life and never used again; `name` is what people call it, and no patient data but of a patient.

    `is_patient`: a patient's own account, whose name may tell who they are.
    """

    kind: Kind
    id: str
    name: str
    is_patient: bool = False

    @property
    def in_log(self) -> str:
        """What logs call it: a patient by the id, because what is in clear there stays for ever."""
        return self.id if self.is_patient else self.name


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record is, or a grant holds: a region, a district, a hospital or a ward.

    A grant's place says no more than its own text (`Place.parse`); of a record everything it lies in is known, its
    hospital's district too. `chain` brings both together.
    """

    region_id: str
    district_id: str | None = None
    hospital_id: str | None = None
    ward_id: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `sz`, `sz:futian`, `sz.h012` or `sz.h012/icu`; raises InvalidInput naming the part that is wrong."""
        if ":" in text:
            region_id, _, district_id = text.partition(":")
            return cls(parse_token(region_id, "region id"), parse_token(district_id, "district id"))
        hospital_id, slash, ward_id = text.partition("/")
        region_id, dot, _ = hospital_id.partition(".")
        if not dot and not slash:
            return cls(parse_token(text, "region id"))
        parse_hospital_id(hospital_id)
        return cls(region_id, hospital_id=hospital_id, ward_id=parse_token(ward_id, "ward id") if slash else None)

    def __str__(self) -> str:
        if self.hospital_id is not None:
            return self.hospital_id if self.ward_id is None else f"{self.hospital_id}/{self.ward_id}"
        return self.region_id if self.district_id is None else f"{self.region_id}:{self.district_id}"

    def chain(self) -> tuple[Place, ...]:
        """The places of which one must be a grant's for it to hold here: itself, then what it lies in, the region last."""
        region_id, hospital_id = self.region_id, self.hospital_id
        ward = [Place(region_id, hospital_id=hospital_id, ward_id=self.ward_id)] if self.ward_id else []
        hospital = [Place(region_id, hospital_id=hospital_id)] if hospital_id else []
        district = [Place(region_id, self.district_id)] if self.district_id else []
        return (*ward, *hospital, *district, Place(region_id))


class Role(StrEnum):
    """What a principal is to the platform; what each may do is said by the policies alone (`runtime/policies`)."""

    ADMINISTRATOR = "administrator"  # may everything: tokens of before roles were told apart have it
    HEALTH_COMMISSION = "health-commission"  # sees a region or district, no patient by name
    HOSPITAL_ADMINISTRATOR = "hospital-administrator"
    DEPARTMENT_HEAD = "department-head"
    DOCTOR = "doctor"
    NURSE = "nurse"
    BIOMEDICAL_ENGINEER = "biomedical-engineer"  # devices, maintenance, rejects
    PATIENT = "patient"  # sees what concerns themselves
    DATA_SCIENTIST = "data-scientist"
    CAPACITY_PLANNER = "capacity-planner"
    INTEGRATION = "integration"  # a program of a hospital that reports patients, devices and associations
    STATION = "station"  # a ward's display: alarms and live vitals of its place
    SCENARIO_RUNNER = "scenario-runner"  # what `vitalgrid scenario run` asks of a platform
    LOCAL_OPERATOR = "local-operator"  # what the command line asks on the machine itself
    PRIVACY_OFFICER = "privacy-officer"
    SYSTEM_ADMINISTRATOR = "system-administrator"  # the three that one person never holds together
    SECURITY_ADMINISTRATOR = "security-administrator"
    AUDIT_ADMINISTRATOR = "audit-administrator"


ADMINISTRATORS: Final = frozenset({
    Role.ADMINISTRATOR, Role.SYSTEM_ADMINISTRATOR, Role.SECURITY_ADMINISTRATOR, Role.AUDIT_ADMINISTRATOR,
})  # fmt: skip
"""Whoever has one of these has power over others' accounts, the platform itself, or the record of both."""


POWERFUL: Final = ADMINISTRATORS | {Role.LOCAL_OPERATOR, Role.PRIVACY_OFFICER}
"""Of these a password alone is too little, and their accounts are changed by whoever may give powers: whoever has one gives
rights, keeps the platform, or orders that a person be erased and sees any patient of the place by name.
"""

_REGIONAL: Final = ADMINISTRATORS | {Role.LOCAL_OPERATOR, Role.CAPACITY_PLANNER, Role.SCENARIO_RUNNER, Role.PATIENT}
"""What holds in the whole region unless another place is said; a patient's holds for the own record alone."""

PROGRAMS: Final = frozenset({
    *ADMINISTRATORS, Role.BIOMEDICAL_ENGINEER, Role.DATA_SCIENTIST, Role.CAPACITY_PLANNER, Role.INTEGRATION, Role.STATION,
    Role.SCENARIO_RUNNER, Role.LOCAL_OPERATOR,
})  # fmt: skip
"""What a program may be. The other roles are people's, who sign in by themselves: no token makes somebody a doctor."""


def place_of_role(role: Role, place: str | None, region: Place) -> Place:
    """Where a role is given. Raises InvalidInput for what is no place, and for none where the role is one at a place."""
    if place is not None:
        return Place.parse(place)
    if role not in _REGIONAL:
        raise InvalidInput(
            f"a {role} is one at a place: say which ward or hospital (place, --at), or {region} for the whole region"
        )
    return region


class Relation(StrEnum):
    """Which records of its place a grant reaches."""

    ANY = "any"
    CARE_TEAM = "care-team"  # of patients whom the principal treats
    SELF = "self"  # of the principal's own patient record


@dataclass(frozen=True, slots=True)
class Grant:
    """A role at a place and everywhere in it; `until_us`: it ends by itself then."""

    role: Role
    place: Place
    relation: Relation = Relation.ANY
    until_us: int | None = None


class Factor(StrEnum):
    """How a caller proved who it is."""

    PASSWORD = "password"  # noqa: S105 (a kind of proof)
    TOTP = "totp"
    TOKEN = "token"  # noqa: S105 (a kind of proof)


class Must(StrEnum):
    """What a caller has to do first: until then nothing else is permitted."""

    PASSWORD_CHANGE = "password-change"  # noqa: S105 (the name of a duty)
    SECOND_FACTOR = "second-factor"  # to set one up


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated principal and what it was given. Made once a session or token, not once a request."""

    principal: Principal
    grants: tuple[Grant, ...]
    session_id: str | None = None  # none: it came with a token of its own
    must: Must | None = None
    factors: frozenset[Factor] = frozenset()
    patient_key: str | None = None  # of a patient's own account
    treats: frozenset[str] = frozenset()  # patient keys of the care teams the principal is in
