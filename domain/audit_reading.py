"""Events of the access log read again: whom each concerns, and a line about it for people. Clauses 6.1b, 9.3e."""

from __future__ import annotations

import base64
import contextlib
from dataclasses import dataclass
from typing import Final

import msgspec

from domain.accesses import DETAIL, OURS, PATIENT, PATIENT_KEY, QUERY, REASON, RECORD, WARD, Outcome
from domain.errors import InvalidInput
from domain.failed_sign_ins import USER_SYSTEM
from domain.instants import parse_rfc3339

ERASE: Final = "patient.erase"  # the write by which a patient's data are gone
CERTIFIED: Final = "patient.erased"  # the write that names the certificate
_OF_ERASURE: Final = "patient.eras"


class _Code(msgspec.Struct):
    code: str
    system: str = ""


class _Identifier(msgspec.Struct):
    value: str
    system: str = ""


class _Named(msgspec.Struct):
    display: str | None = None
    reference: str | None = None
    identifier: _Identifier | None = None


class _Agent(msgspec.Struct):
    who: _Named
    requestor: bool = False


class _Detail(msgspec.Struct):
    type: str
    valueString: str  # noqa: N815 (FHIR's name)


class _Entity(msgspec.Struct):
    what: _Named | None = None
    role: _Code | None = None
    description: str | None = None
    query: str | None = None
    detail: list[_Detail] = []


class _Read(msgspec.Struct):
    """What is read again of an event; `who`, `target` and so on are of writes of before they were AuditEvents."""

    recorded: str = ""
    outcome: str = ""
    subtype: list[_Code] = []
    agent: list[_Agent] = []
    entity: list[_Entity] = []
    outcomeDesc: str | None = None  # noqa: N815 (FHIR's name)
    who: str | None = None
    target: str = ""
    action: str = ""
    reason: str | None = None


class _Certified(msgspec.Struct):
    certificate: str


_decode: Final = msgspec.json.Decoder(_Read).decode
_decode_certified: Final = msgspec.json.Decoder(_Certified).decode


@dataclass(frozen=True, slots=True)
class Concerned:
    """Who did what an event tells of, and whose records it was about: names of principals, keys of patients.

    Of sign-ins that failed the address that they came from, and the ids of the accounts that they were for.
    """

    principals: frozenset[str]
    patients: frozenset[str]


def concerned(event: bytes) -> Concerned:
    """Whom an event of the access log concerns; nobody, when it is none of ours."""
    try:
        read = _decode(event)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Concerned(frozenset(), frozenset())
    principals = {agent.who.display for agent in read.agent if agent.requestor} | {read.who}
    references = {entity.what.reference for entity in read.entity if entity.what is not None}
    patients = {reference.removeprefix(PATIENT) for reference in references if reference and reference.startswith(PATIENT)}
    patients.update(PATIENT_KEY.findall(read.target))
    named = (entity.what.identifier for entity in read.entity if entity.what is not None and entity.what.identifier is not None)
    principals |= {identifier.value for identifier in named if identifier.system == USER_SYSTEM}
    return Concerned(frozenset(name for name in principals if name), frozenset(patients))


@dataclass(frozen=True, slots=True)
class Said:
    """An event in a line for people: who, did what to what, why. `why` may be sealed."""

    who: str
    action: str
    target: str
    why: str = ""
    status: str = ""

    @property
    def what(self) -> str:
        return f"{self.action} {self.target}" + (f": {self.status}" if self.status else "")


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer that somebody got, or a stream that they were let into. `asked`: path and query, as far as they are kept."""

    who: str
    at_us: int
    action: str
    route: str
    asked: str
    place: str | None
    patients: frozenset[str]


def answered(event: bytes) -> Answered | None:
    """The answer that an event of the access log tells of; None, when it tells of a write, of a refusal or of nothing."""
    try:
        read = _decode(event)
        asked = next((one for one in read.entity if one.role is not None and one.role.code in (RECORD, QUERY)), None)
        who = next((agent.who.display for agent in read.agent if agent.requestor), None)
        action = next((code.code for code in read.subtype if code.system == f"{OURS}action"), None)
        if asked is None or who is None or action is None or read.outcome != Outcome.SUCCESS:
            return None
        identifier = asked.what.identifier.value if asked.what is not None and asked.what.identifier is not None else ""
        text = base64.b64decode(asked.query).decode() if asked.query is not None else identifier
        place = next((detail.valueString for detail in asked.detail if detail.type == "place"), None)
        at_us = parse_rfc3339(read.recorded)
    except (msgspec.MsgspecError, ValueError, RecursionError, InvalidInput):
        return None
    return Answered(who, at_us, action, asked.description or "", text, place, concerned(event).patients)


def said(event: bytes) -> Said | None:
    """An event of the access log for people; None, when it is none of ours."""
    try:
        read = _decode(event)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if read.who is not None:
        return Said(read.who, read.action, read.target, read.reason or "")
    who = next((agent.who.display for agent in read.agent if agent.requestor), None)
    action = next((code.code for code in read.subtype if code.system.startswith(OURS)), None)
    asked = next((one for one in read.entity if one.role is not None and one.role.code in (RECORD, QUERY)), None)
    if who is None or action is None or asked is None:
        return None
    named = asked.what.identifier.value if asked.what is not None and asked.what.identifier is not None else None
    why = next((detail.valueString for detail in asked.detail if detail.type == REASON), "")
    return Said(who, action, named or asked.description or "", why, read.outcomeDesc or "")


def erased_by(event: bytes) -> frozenset[str]:
    """Patients (their keys) of whom a write says that they are erased: of a row of the write log, and of nothing else."""
    found = said(event)
    return concerned(event).patients if found is not None and found.action == ERASE else frozenset()


def is_of_erasure(event: bytes) -> bool:
    """Whether a write tells of an erasure itself: who asked for it, and that it was done."""
    found = said(event)
    return found is not None and found.action.startswith(_OF_ERASURE)


def certificate_in(event: bytes) -> str | None:
    """The SHA-256 of the certificate that a write names: of one that tells that an erasure is certified."""
    found = said(event)
    if found is None or found.action != CERTIFIED:
        return None
    texts = [detail.valueString for entity in _decode(event).entity for detail in entity.detail if detail.type == DETAIL]
    for text in texts:
        with contextlib.suppress(msgspec.MsgspecError):
            return _decode_certified(text).certificate
    return None


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for protected records, as far as it can be counted."""

    who: str
    kind: str  # of the principal (`domain.principals.Kind`)
    action: str
    outcome: str
    at_us: int
    wards: frozenset[str]  # whose records were shown, as `Place` writes them
    view: str | None
    patients: frozenset[str]


class _Access(msgspec.Struct):
    recorded: str
    outcome: str
    subtype: list[_Code] = []
    agent: list[_Agent] = []
    entity: list[_Entity] = []


_decode_access: Final = msgspec.json.Decoder(_Access).decode
_ACTION: Final = f"{OURS}action"


def asked(event: bytes) -> Asked | None:
    """What an access was; None for any other event."""
    try:
        read = _decode_access(event)
        at_us = parse_rfc3339(read.recorded)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, InvalidInput):
        return None
    who = next((agent.who for agent in read.agent if agent.requestor), None)
    action = next((code.code for code in read.subtype if code.system == _ACTION), None)
    if who is None or who.display is None or action is None:
        return None
    details = {detail.type: detail.valueString for entity in read.entity for detail in entity.detail}
    references = [entity.what.reference for entity in read.entity if entity.what is not None and entity.what.reference]
    patients = frozenset(one.removeprefix(PATIENT) for one in references if one.startswith(PATIENT))
    kind = (who.identifier.system if who.identifier is not None else "").removeprefix(OURS)
    return Asked(who.display, kind, action, read.outcome, at_us, _wards(read), details.get("view"), patients)


def _wards(read: _Access) -> frozenset[str]:
    """A place is a ward's, a hospital's or a larger one."""
    details = (detail for entity in read.entity for detail in entity.detail)
    return frozenset(one.valueString for one in details if one.type in (WARD, "place") and "/" in one.valueString)
