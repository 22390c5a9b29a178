"""Cutting a device off that may be on a patient: who of the ward knows of it. Clauses 8.4d, 9.4.

The person is named by whoever isolates, and has to be one who answers the alarms of each patient concerned: an active
account with a clinician's role at the ward. The ward's alarm says that it was isolated; the write log keeps both names.
Why one call and no second signature: docs/decisions/0035-a-device-is-isolated-at-the-host.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from sqlalchemy import Engine

from domain.errors import InvalidInput, NotFound
from domain.permissions import Action, Authoriser, Located
from domain.principals import Caller, Factor, Role
from runtime.sql import locating, users
from runtime.sql.attached import NOBODY_KNOWS, Attached, Known, attached_to
from runtime.sql.isolations import isolate
from runtime.sql.records import Author, Row

_CLINICIANS: Final = frozenset({Role.DEPARTMENT_HEAD, Role.DOCTOR, Role.NURSE})


def isolate_knowingly(
    engine: Engine, authoriser: Authoriser, author: Author, device: Row, *, confirmed_by: str | None, revoke: bool
) -> Row:
    """As `runtime.sql.isolations.isolate`; InvalidInput for a named person who is not of the patients' wards."""
    known = who_knows(engine, authoriser, device, confirmed_by, author.now_us)
    return isolate(
        engine, author, device["handle"], confirmed_by=known.confirmed_by, known=known.patient_keys, revoke=revoke
    )  # fmt: skip


def who_knows(engine: Engine, authoriser: Authoriser, device: Row, confirmed_by: str | None, now_us: int) -> Known:
    """The person who was named, if one was, with the patients whom they know to be on the device, or on what it carries.

    InvalidInput for a person who is not of the patients' wards.
    """
    if confirmed_by is None:
        return NOBODY_KNOWS
    confirmed_by = users.parse_user_name(confirmed_by)
    attached = attached_to(engine, device["handle"], now_us)
    if attached:
        _check_person(engine, authoriser, confirmed_by, now_us, _located(engine, device, attached, now_us))
    return Known(confirmed_by, frozenset(one.patient_key for one in attached))


def _located(engine: Engine, device: Row, attached: list[Attached], now_us: int) -> list[Located]:
    found = (locating.readings_now(engine, device["hospital_id"], one.device_id, now_us) for one in attached)
    return [one for one in found if one is not None]


def _check_person(engine: Engine, authoriser: Authoriser, name: str, now_us: int, records: list[Located]) -> None:
    try:
        user, caller = users.get_user(engine, name, now_us=now_us), users.as_caller(engine, name, now_us=now_us)
    except NotFound:
        user, caller = None, None
    if user is None or caller is None or user["status"] != users.UserStatus.ACTIVE or not _answers(authoriser, caller, records):
        raise InvalidInput(
            f"confirmed_by {name!r} is no doctor, nurse or department head who answers alarms where the patient is: "
            "name one who does and knows that the device will be cut off"
        )


def _answers(authoriser: Authoriser, caller: Caller, records: list[Located]) -> bool:
    """Whether a person answers all these alarms by a clinician's role, signed in as they should be."""
    grants = tuple(grant for grant in caller.grants if grant.role in _CLINICIANS)
    clinician = replace(caller, grants=grants, factors=frozenset({Factor.PASSWORD, Factor.TOTP}))
    return all(authoriser.decide(clinician, Action.ALARM_ANSWER, record).is_allowed for record in records)
