"""A second opinion on who may do what: plain Python, written from the roles' descriptions and not from the policies.

It knows of no Cedar. Tests compare it with `runtime.authorisation` on random requests, and take it for the truth of what
each route ought to answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from domain.permissions import Action, Located, Purpose, View
from domain.principals import Caller, Factor, Grant, Relation, Role

EVERYBODY: Final = {Action.SELF, Action.CATALOGUE_READ}
SAFETY: Final = {  # at level 5 with one factor too
    Action.ALARM_READ, Action.ALARM_ANSWER, Action.PATIENT_MANAGE, Action.OBSERVATION_ENTER, Action.ASSOCIATION_MANAGE,
}  # fmt: skip
ANY: Final = frozenset(Purpose)
TREATING: Final = frozenset({Purpose.TREAT, Purpose.ETREAT})
CLINICIANS: Final = {Role.DEPARTMENT_HEAD, Role.DOCTOR, Role.NURSE}
ADMINISTRATORS: Final = {Role.SYSTEM_ADMINISTRATOR, Role.SECURITY_ADMINISTRATOR, Role.AUDIT_ADMINISTRATOR}
KNOW_NAMES: Final = {*CLINICIANS, Role.PATIENT, Role.INTEGRATION, Role.SCENARIO_RUNNER, Role.ADMINISTRATOR}


@dataclass(frozen=True)
class Right:
    """Actions up to a level; `of_treated`: up to level 5 of a patient whom the caller treats."""

    actions: frozenset[Action]
    highest: int
    purposes: frozenset[Purpose]
    of_treated: bool


def right(actions: str, highest: int = 5, purposes: Iterable[Purpose] = ANY, *, of_treated: bool = False) -> Right:
    return Right(frozenset(map(Action, actions.split())), highest, frozenset(purposes), of_treated)


NURSE: Final = (
    right("patient.read patient.manage observation.enter preset.read reading.read", 4, TREATING, of_treated=True),
    right("association.read association.manage", 4, TREATING, of_treated=True),
    right("alarm.read alarm.answer", 5, TREATING),
    right("place.read device.read maintenance.read statistics.read"),
)
DOCTOR: Final = (*NURSE, right("preset.set", 4, TREATING, of_treated=True))

RIGHTS: Final[Mapping[Role, tuple[Right, ...]]] = {
    Role.ADMINISTRATOR: (right(" ".join(Action)),),
    Role.HEALTH_COMMISSION: (
        right("place.read"),
        right("device.read maintenance.read statistics.read alarm.read log.read", 3, (Purpose.PUBHLTH, Purpose.HOPERAT)),
    ),
    Role.HOSPITAL_ADMINISTRATOR: (
        right("place.read place.manage device.read device.manage maintenance.read maintenance.manage"),
        right("statistics.read user.read exposure.read"),
        right("reading.read alarm.read", 3),
    ),
    Role.DEPARTMENT_HEAD: (*DOCTOR, right("place.manage")),
    Role.DOCTOR: DOCTOR,
    Role.NURSE: NURSE,
    Role.BIOMEDICAL_ENGINEER: (
        right("place.read device.read device.manage device.credential maintenance.read maintenance.manage"),
        right("reject.read reject.resubmit statistics.read operation.read"),
        right("device.isolate exposure.read message.trace"),
        right("reading.read alarm.read", 3),
    ),
    Role.PATIENT: (
        right("patient.read reading.read alarm.read preset.read association.read audit.read", 5, (Purpose.PATRQT,)),
    ),
    Role.DATA_SCIENTIST: (
        right("place.read"),
        right("device.read reading.read alarm.read statistics.read", 3, (Purpose.HRESCH, Purpose.PUBHLTH)),
    ),
    Role.CAPACITY_PLANNER: (
        right("place.read device.read statistics.read scenario.read scenario.run host.read operation.read"),
    ),
    Role.INTEGRATION: (
        right("place.read device.read device.manage"),
        right("patient.read patient.manage observation.enter", 5, (*TREATING, Purpose.HOPERAT)),
        right("association.read association.manage", 5, (*TREATING, Purpose.HOPERAT)),
    ),
    Role.STATION: (
        right("place.read device.read"),
        right("alarm.read alarm.answer reading.read association.read", 5, TREATING),
    ),
    Role.SCENARIO_RUNNER: (
        right("place.read"),
        right("fleet.register device.read device.credential", 4),
        right("patient.read patient.manage association.read association.manage", 4),
        right("reading.read statistics.read alarm.read operation.read", 4),
    ),
    Role.LOCAL_OPERATOR: (
        right("place.read hospital.manage scenario.read scenario.run host.read host.manage operation.read"),
        right("user.read user.manage grant.manage token.read token.manage log.read"),
        right("device.read device.credential device.isolate exposure.read message.trace risk.read"),
    ),
    Role.PRIVACY_OFFICER: (
        right("place.read"),
        right("audit.read log.read user.read patient.read association.read", 4, (Purpose.HOPERAT,)),
        right("patient.erase", 5, (Purpose.HOPERAT,)),
        right("risk.read risk.manage"),
    ),
    Role.SYSTEM_ADMINISTRATOR: (
        right("place.read place.manage hospital.manage device.read fleet.register maintenance.read statistics.read"),
        right("scenario.read scenario.run host.read host.manage operation.read"),
        right("exposure.read message.trace risk.read"),
    ),
    Role.SECURITY_ADMINISTRATOR: (
        right("place.read user.read user.manage grant.manage token.read token.manage operation.read"),
        right("device.read device.isolate exposure.read message.trace risk.read risk.manage"),
    ),
    Role.AUDIT_ADMINISTRATOR: (
        right("audit.read log.read user.read token.read operation.read"),
        right("message.trace risk.read"),
    ),
}  # fmt: skip

USUAL: Final[Mapping[Role, Purpose]] = {
    Role.ADMINISTRATOR: Purpose.HOPERAT,
    Role.HEALTH_COMMISSION: Purpose.PUBHLTH,
    Role.HOSPITAL_ADMINISTRATOR: Purpose.HOPERAT,
    Role.DEPARTMENT_HEAD: Purpose.TREAT,
    Role.DOCTOR: Purpose.TREAT,
    Role.NURSE: Purpose.TREAT,
    Role.BIOMEDICAL_ENGINEER: Purpose.HOPERAT,
    Role.PATIENT: Purpose.PATRQT,
    Role.DATA_SCIENTIST: Purpose.HRESCH,
    Role.CAPACITY_PLANNER: Purpose.HOPERAT,
    Role.INTEGRATION: Purpose.TREAT,
    Role.STATION: Purpose.TREAT,
    Role.SCENARIO_RUNNER: Purpose.HOPERAT,
    Role.LOCAL_OPERATOR: Purpose.HOPERAT,
    Role.PRIVACY_OFFICER: Purpose.HOPERAT,
    Role.SYSTEM_ADMINISTRATOR: Purpose.HOPERAT,
    Role.SECURITY_ADMINISTRATOR: Purpose.HOPERAT,
    Role.AUDIT_ADMINISTRATOR: Purpose.HOPERAT,
}


def is_allowed(caller: Caller, action: Action, record: Located, purpose: Purpose | None, now_us: int) -> bool:
    if record.level is None or (caller.must is not None and action is not Action.SELF):
        return False
    return action in EVERYBODY or bool(_allowing(caller, action, record, purpose, now_us))


def view(
    caller: Caller, action: Action, record: Located, purpose: Purpose | None, now_us: int, *, unmask: bool = False
) -> View:
    """How patients appear: masked too where nothing is allowed. `unmask`: asked for by name, with a reason."""
    if action in EVERYBODY or not is_allowed(caller, action, record, purpose, now_us):
        return View.MASKED
    allowing = _allowing(caller, action, record, purpose, now_us)
    if unmask and any(grant.role is Role.PRIVACY_OFFICER for grant in allowing):
        return View.CLEAR
    return View.CLEAR if any(_knows_name(grant, caller, record, purpose) for grant in allowing) else View.MASKED


def _allowing(caller: Caller, action: Action, record: Located, purpose: Purpose | None, now_us: int) -> list[Grant]:
    """The caller's grants by which the action is allowed."""
    live = [grant for grant in caller.grants if grant.until_us is None or grant.until_us > now_us]
    powers = {grant.role for grant in live} & ADMINISTRATORS
    usable = [grant for grant in live if not (grant.role in ADMINISTRATORS and len(powers) >= 2)]
    return [grant for grant in usable if _allows(grant, caller, action, record, purpose)]


def _allows(grant: Grant, caller: Caller, action: Action, record: Located, purpose: Purpose | None) -> bool:
    assert record.level is not None
    if not _holds_for(grant, caller, record):
        return False
    is_display = grant.role is Role.STATION and action is Action.READING_READ
    if record.level == 5 and Factor.TOTP not in caller.factors and action not in SAFETY and not is_display:
        return False
    return any(
        action in may.actions
        and (purpose or USUAL[grant.role]) in may.purposes
        and (record.level <= may.highest or (may.of_treated and record.patient_key in caller.treats))
        for may in RIGHTS[grant.role]
    )


def _holds_for(grant: Grant, caller: Caller, record: Located) -> bool:
    """Whether the record is in the grant's place, and one of those it is for."""
    if grant.place not in record.place.chain():
        return False
    is_own = record.patient_key is not None and record.patient_key == caller.patient_key
    if (grant.relation is Relation.SELF or grant.role is Role.PATIENT) and not is_own:
        return False
    return grant.relation is not Relation.CARE_TEAM or record.patient_key in caller.treats


def _knows_name(grant: Grant, caller: Caller, record: Located, purpose: Purpose | None) -> bool:
    """Of a grant by which the action is allowed."""
    if grant.role not in KNOW_NAMES or (record.level == 5 and Factor.TOTP not in caller.factors):
        return False
    if grant.role in CLINICIANS:
        is_near = record.level != 5 or record.patient_key in caller.treats
        return is_near and (purpose or USUAL[grant.role]) in TREATING
    return True
