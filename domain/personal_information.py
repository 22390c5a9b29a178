"""What the platform keeps of persons: of whom, what, for which purpose and on which legal basis. Clause 9.3, GB/T 35273.

One entry for each kind of record in `domain.retention.RULES` in which somebody can be told; the others are named as
OF_NOBODY, and a guard compares both with the rules. How long, how sensitive and who reads it come from the rules, the
labels and the policies. The legal bases are those of the Personal Information Protection Law, article 13; that a hospital's
use of them is lawful is the operator's to answer for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from domain.permissions import Action


@dataclass(frozen=True, slots=True)
class Personal:
    """`read`: the action by which people see it over the API; None where nobody does."""

    whose: str
    what: str
    purpose: str
    basis: str
    read: Action | None = None


_CARE: Final = "care of the patient"
_CONTRACT: Final = "13 (2): performance of the contract of treatment; sensitive, so with the patient's separate consent (29)"
_DUTY: Final = "13 (3): duties of the law"
_STAFF: Final = "13 (2): management of staff"
_LOGGED: Final = "showing who did what"
_PATIENT: Final = "patients"

INVENTORY: Final[Mapping[str, Personal]] = {
    "patients": Personal(
        _PATIENT, "hospital's reference and name (sealed), sex, age, ward, bed, times of the stay", _CARE, _CONTRACT,
        Action.PATIENT_READ,
    ),
    "associations": Personal(
        _PATIENT, "which device was on them and when, by opaque key", _CARE, _CONTRACT, Action.ASSOCIATION_READ
    ),
    "limit_presets": Personal(_PATIENT, "limits of alarms, by opaque key", _CARE, _CONTRACT, Action.PRESET_READ),
    "care_teams": Personal("patients, staff", "who treats whom", _CARE, _CONTRACT, Action.PATIENT_READ),
    "alarms": Personal(_PATIENT, "alarms, by opaque key; notes (sealed)", _CARE, _CONTRACT, Action.ALARM_READ),
    "alarm_events": Personal(
        "patients, staff", "what became of an alarm, and who answered it", _CARE, _CONTRACT, Action.ALARM_READ
    ),
    "readings": Personal(
        _PATIENT, "vital signs and scores under a number; whose, the associations say", _CARE, _CONTRACT, Action.READING_READ
    ),
    "rollups": Personal(_PATIENT, "sums of the same", _CARE, _CONTRACT, Action.READING_READ),
    "READINGS": Personal(_PATIENT, "readings, and what rules need of patients by opaque key", _CARE, _CONTRACT),
    "ALARMS": Personal(_PATIENT, "alarms on their way to the desk", _CARE, _CONTRACT),
    "REJECTS": Personal(_PATIENT, "messages that could not be taken", _CARE, _CONTRACT, Action.REJECT_READ),
    "snapshots": Personal(_PATIENT, "newest readings and open alarms, by opaque key", _CARE, _CONTRACT),
    "outbox": Personal(_PATIENT, "what is told to hosts of patients, by opaque key", _CARE, _CONTRACT),
    "data keys": Personal(_PATIENT, "the key that opens name, reference and notes", _CARE, _CONTRACT),
    "exports": Personal("patients, staff", "who took which readings away", _LOGGED, _DUTY, Action.AUDIT_READ),
    "erasures": Personal(
        "patients, staff", "requests by opaque key, reason (sealed with the person's key), certificate",
        "proving that a person was erased", _DUTY, Action.PATIENT_ERASE,
    ),
    "legal_holds": Personal(
        "patients, staff", "what is kept for a court or an office, and why (sealed)", "keeping evidence", _DUTY,
        Action.PATIENT_ERASE,
    ),
    "users": Personal(
        "staff, patients with an account", "name, digest of the password, last sign-in", "letting in whom it is for", _STAFF,
        Action.USER_READ,
    ),
    "sessions": Personal(
        "staff, patients with an account", "address, factors, times", "letting in whom it is for", _STAFF, Action.USER_READ
    ),
    "ended_sessions": Personal("staff, patients with an account", "that a session ended, and why", _LOGGED, _STAFF),
    "second_factors": Personal("staff", "seed of the second factor (sealed)", "letting in whom it is for", _STAFF),
    "grants": Personal("staff", "who may do what where", "letting in whom it is for", _STAFF, Action.USER_READ),
    "password_history": Personal("staff, patients with an account", "digests of former passwords", "letting in whom it is for",
                                 _STAFF),
    "recovery_codes": Personal("staff", "digests of codes", "letting in whom it is for", _STAFF),
    "tokens": Personal(
        "staff", "name of a program and of who made it, role, last use", "letting in whom it is for", _STAFF, Action.TOKEN_READ
    ),
    "bus_certificates": Personal("staff", "who had a program's certificate made", _LOGGED, _DUTY, Action.TOKEN_READ),
    "write_log": Personal(
        "patients, staff", "every change: who, what, why (sealed), patients by opaque key", _LOGGED, _DUTY,
        Action.AUDIT_READ,
    ),
    "access log": Personal(
        "patients, staff", "every change and access: who, whom, when, why (sealed)", _LOGGED, _DUTY, Action.AUDIT_READ
    ),
    "AUDIT": Personal("patients, staff", "the same, on its way into the log", _LOGGED, _DUTY),
    "accesses": Personal("patients, staff", "the same, on its way into the log", _LOGGED, _DUTY),
    "reject_actions": Personal("staff", "who answered which reject", _LOGGED, _DUTY, Action.REJECT_READ),
    "maintenance_windows": Personal("staff", "who had a device serviced, and why (sealed)", _LOGGED, _DUTY,
                                    Action.MAINTENANCE_READ),
    "isolations": Personal(
        "staff", "who cut a device off, who of the ward knew of it, and why (sealed)", _LOGGED, _DUTY, Action.EXPOSURE_READ
    ),
    "device_certificates": Personal("staff", "who had a certificate made", _LOGGED, _DUTY, Action.DEVICE_CREDENTIAL),
    "claim_codes": Personal("staff", "who had a code made", _LOGGED, _DUTY, Action.DEVICE_CREDENTIAL),
    "risks": Personal("staff", "who sees to a risk; whom a rule found", "finding misuse of data", _DUTY, Action.RISK_READ),
    "risk_events": Personal("staff", "who judged a risk, and why (sealed)", "finding misuse of data", _DUTY, Action.RISK_READ),
}  # fmt: skip
OF_NOBODY: Final = frozenset({
    "hospitals", "wards", "beds", "devices", "handles", "hand_overs", "positions", "sightings", "security_events",
    "credential_uses", "service_access", "reports",
})  # fmt: skip
