"""How sensitive each kind of record is: GB/T 39725-2020, five levels. Clause 9.3a.

One level for all that a table, a stream or the lake holds; `patients.level` and `devices.level` raise one record above
its class. A reading is RESTRICTED until a patient is known to it (`of_readings`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from domain.permissions import Level

LABELS: Final[Mapping[str, Level]] = {
    # the business database
    "hospitals": Level.SHARED,
    "hand_overs": Level.SHARED,
    "wards": Level.SHARED,
    "beds": Level.SHARED,
    "handles": Level.SHARED,
    "devices": Level.SHARED,
    "sightings": Level.SHARED,  # of devices at doors
    "isolations": Level.SHARED,  # of devices; how many patients, not who
    "maintenance_windows": Level.SHARED,
    "device_certificates": Level.RESTRICTED,
    "claim_codes": Level.RESTRICTED,
    "credential_uses": Level.SHARED,
    "patients": Level.IDENTIFYING,
    "associations": Level.IDENTIFYING,
    "limit_presets": Level.IDENTIFYING,
    "alarms": Level.IDENTIFYING,
    "alarm_events": Level.IDENTIFYING,
    "care_teams": Level.IDENTIFYING,
    "exports": Level.IDENTIFYING,  # a question may hold a part of a name
    "write_log": Level.RESTRICTED,  # patients by their keys
    "outbox": Level.IDENTIFYING,
    "reject_actions": Level.RESTRICTED,
    "positions": Level.SHARED,
    "security_events": Level.SHARED,  # devices and addresses: nobody can be told by them
    "users": Level.RESTRICTED,
    "password_history": Level.STRICT,
    "sessions": Level.RESTRICTED,
    "second_factors": Level.STRICT,
    "recovery_codes": Level.STRICT,
    "ended_sessions": Level.RESTRICTED,
    "grants": Level.RESTRICTED,
    "tokens": Level.RESTRICTED,
    "service_access": Level.RESTRICTED,
    "bus_certificates": Level.RESTRICTED,
    "erasures": Level.IDENTIFYING,
    "legal_holds": Level.IDENTIFYING,
    "risks": Level.RESTRICTED,
    "risk_events": Level.RESTRICTED,
    # streams of the bus
    "READINGS": Level.IDENTIFYING,  # frames, and what hosts have to know of patients
    "ALARMS": Level.IDENTIFYING,
    "REJECTS": Level.RESTRICTED,
    "AUDIT": Level.IDENTIFYING,
    # the lake
    "readings": Level.RESTRICTED,
    # what is kept nowhere as a record
    "catalogue": Level.PUBLIC,
    "statistics": Level.SHARED,
    "operation": Level.SHARED,
    "scenarios": Level.SHARED,
    "log": Level.PUBLIC,  # commitments, which tell nothing
}


WITHHELD: Final = 9  # what `patients.level` says of somebody whose records are kept and served to nobody


def label_of(kind: str, raised: int | None = None) -> Level | None:
    """The level of a record of this kind; `raised` is what its own row says. None, which is denied: it is withheld."""
    if raised is None:
        return LABELS[kind]
    return None if raised >= WITHHELD else max(LABELS[kind], Level(raised))


def of_readings(patient_level: int | None, *, has_patient: bool, device_level: int | None = None) -> Level | None:
    """The level of a device's readings: those of its patient, while it has one."""
    levels = [LABELS["readings"], label_of("devices", device_level)]
    if has_patient:
        levels.append(label_of("patients", patient_level))
    known = [level for level in levels if level is not None]
    return max(known) if len(known) == len(levels) else None
