"""What may be done, to records where and how sensitive, and what the answer is. Clauses 7.2b, 9.3c, 9.4.

Words only: `runtime.authorisation` decides by policies, `api.permissions` says which action each route needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final, Protocol

from domain.principals import Caller, Place


class Action(StrEnum):
    """What a caller does, named `<resource>.<verb>`; each is one permission, listed and granted by this name."""

    PLACE_READ = "place.read"  # hospitals, wards, beds
    PLACE_MANAGE = "place.manage"
    HOSPITAL_MANAGE = "hospital.manage"  # a hospital as such: made, renamed, handed over, placed
    DEVICE_READ = "device.read"  # what a device is, and whether it works; no reading
    DEVICE_MANAGE = "device.manage"
    DEVICE_CREDENTIAL = "device.credential"  # tokens and certificates
    DEVICE_ISOLATE = "device.isolate"  # cut it off and keep what it sends apart, and undo that
    EXPOSURE_READ = "exposure.read"  # how open to attack devices are
    MESSAGE_TRACE = "message.trace"  # the way of one message through the platform; no value of it
    FLEET_REGISTER = "fleet.register"
    MAINTENANCE_READ = "maintenance.read"
    MAINTENANCE_MANAGE = "maintenance.manage"
    PATIENT_READ = "patient.read"
    PATIENT_MANAGE = "patient.manage"  # admission, transfer, discharge, corrections
    PATIENT_ERASE = "patient.erase"  # erase a person, or restrict what is kept of one
    OBSERVATION_ENTER = "observation.enter"
    PRESET_READ = "preset.read"
    PRESET_SET = "preset.set"
    ASSOCIATION_READ = "association.read"
    ASSOCIATION_MANAGE = "association.manage"
    READING_READ = "reading.read"
    STATISTICS_READ = "statistics.read"  # sums over many devices, nobody named
    ALARM_READ = "alarm.read"
    ALARM_ANSWER = "alarm.answer"  # acknowledge, pause audio
    CATALOGUE_READ = "catalogue.read"  # metrics and thing models: no record of anybody
    REJECT_READ = "reject.read"
    REJECT_RESUBMIT = "reject.resubmit"
    SCENARIO_READ = "scenario.read"
    SCENARIO_RUN = "scenario.run"
    HOST_READ = "host.read"
    HOST_MANAGE = "host.manage"
    OPERATION_READ = "operation.read"  # health, readiness, Prometheus numbers, storage
    USER_READ = "user.read"
    USER_MANAGE = "user.manage"
    GRANT_MANAGE = "grant.manage"
    TOKEN_READ = "token.read"  # noqa: S105 (a permission)
    TOKEN_MANAGE = "token.manage"  # noqa: S105 (a permission)
    LOG_READ = "log.read"  # tiles, proofs, checkpoints: commitments only
    AUDIT_READ = "audit.read"  # who did what: writes, exports, accesses
    RISK_READ = "risk.read"  # the register of data-security risks
    RISK_MANAGE = "risk.manage"
    SELF = "self"  # one's own account; every principal may


class Level(IntEnum):
    """Sensitivity of a record: the five levels of GB/T 39725-2020 6.2."""

    PUBLIC = 1
    SHARED = 2  # nobody can be identified: sums, equipment
    RESTRICTED = 3  # pseudonymous: readings by device, alarms without a patient
    IDENTIFYING = 4  # patients, and what is known of them
    STRICT = 5  # severe harm: HIV, psychiatry, genetics


class Purpose(StrEnum):
    """Why records are asked for: codes of HL7 v3 ActReason (PurposeOfUse)."""

    TREAT = "TREAT"  # treatment
    ETREAT = "ETREAT"  # emergency treatment
    HOPERAT = "HOPERAT"  # operation of the institution
    HRESCH = "HRESCH"  # research
    PUBHLTH = "PUBHLTH"  # public health
    PATRQT = "PATRQT"  # the patient asks


@dataclass(frozen=True, slots=True)
class Located:
    """A record as far as permission goes. `level` None: it bears no label, which is denied.

    `patient_key`: of the patient whom the record concerns, if any.
    """

    place: Place
    level: Level | None
    patient_key: str | None = None


class View(StrEnum):
    """How patients appear in an answer."""

    CLEAR = "clear"
    MASKED = "masked"


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether it is allowed, and how patients appear; by which policies (their ids), those that show names too."""

    is_allowed: bool
    policies: tuple[str, ...]
    view: View = View.MASKED


@dataclass(frozen=True, slots=True)
class Reach:
    """Where a caller may do one action: what a list may hold.

    A record is within when a place it lies in is named here, by itself or together with its patient, and its level is not
    above the one that stands there. Places are those of grants; patients are named by their keys.
    """

    levels: Mapping[Place, Level]
    patients: Mapping[tuple[Place, str], Level]

    @property
    def is_nothing(self) -> bool:
        return not self.levels and not self.patients

    def holds(self, record: Located) -> bool:
        """Whether `record` lies within."""
        if record.level is None:
            return False
        return any(record.level <= self._highest(place, record.patient_key) for place in record.place.chain())

    def _highest(self, place: Place, patient_key: str | None) -> int:
        of_patient = 0 if patient_key is None else self.patients.get((place, patient_key), 0)
        return max(of_patient, self.levels.get(place, 0))


class Authoriser(Protocol):
    """Judges by policies; denies what none permits. Never raises for a request that is typed: an error is a refusal."""

    def decide(
        self, caller: Caller, action: Action, record: Located, purpose: Purpose | None = None, *, unmask: bool = False
    ) -> Decision:
        """Whether `caller` may do `action` to `record`; without a purpose each grant's role has its own usual one.

        `unmask`: they ask to see patients by name, and have said why; whether that helps is for the policies to say.
        """
        ...

    def reach(
        self, caller: Caller, action: Action, purpose: Purpose | None = None, view: View = View.MASKED, *, unmask: bool = False
    ) -> Reach:
        """Where `caller` may do `action`; with `View.CLEAR` only where patients appear by name in the answer."""
        ...


NOWHERE: Final = Reach({}, {})


def everywhere(region_id: str) -> Reach:
    """All there is in a region: for what the platform itself asks."""
    return Reach({Place(region_id): Level.STRICT}, {})
