"""How alarms are written: whom they are about, their scope, what was known. Opaque keys only, never a name."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from actors.kinds import AMBIGUOUS, NOBODY
from actors.roster import Roster
from domain.alarms import AlarmEvent, AlarmSubject, AlertType, KnownInput, Phase, Priority, alarm_id_of, event_id_of
from domain.metrics import BY_ID

WHOLE_DEVICE: Final = -1


@dataclass(frozen=True, slots=True)
class Alarm:
    """What all notices of one alarm share. The id is that of scope, id rule, version and onset; `rule` is how it stands."""

    scope: str
    id_rule: str
    rule_version: int
    alert_type: AlertType
    subject: AlarmSubject
    onset_us: int

    def notice(
        self,
        phase: Phase,
        priority: Priority,
        text: str,
        *,
        event_us: int,
        arrival_us: int,
        rule: str | None = None,
        **more: Any,
    ) -> AlarmEvent:
        """One notification about it; `more` are further fields of AlarmEvent."""
        alarm_id = alarm_id_of(self.scope, self.id_rule, self.rule_version, self.onset_us)
        return AlarmEvent(
            event_id=event_id_of(alarm_id, phase, event_us), alarm_id=alarm_id, phase=phase, alert_type=self.alert_type,
            priority=priority, rule=rule or self.id_rule, rule_version=self.rule_version, subject=self.subject,
            onset_us=self.onset_us, event_us=event_us, arrival_us=arrival_us, text=text, **more,
        )  # fmt: skip


def device_scope(roster: Roster, device: int) -> str:
    return f"device:{roster.hospital_of_device(device)}/{roster.device_ids[device]}"


def channel_scope(roster: Roster, channel: int) -> str:
    metric = BY_ID[int(roster.channels["metric"][channel])].code
    device = int(roster.channels["device"][channel])
    return f"{device_scope(roster, device)}#{metric}.{int(roster.channels['instance'][channel])}"


def patient_scope(roster: Roster, patient: int) -> str:
    return f"patient:{roster.hospital_of_patient(patient)}/{roster.patient_keys[patient]}"


def hospital_scope(hospital_id: str) -> str:
    return f"hospital:{hospital_id}"


def about_device(roster: Roster, device: int, patient: int = NOBODY, channel: int = WHOLE_DEVICE) -> AlarmSubject:
    """A device or one channel of it; `patient` is a row, NOBODY or AMBIGUOUS."""
    is_channel = channel != WHOLE_DEVICE
    return AlarmSubject(
        hospital_id=roster.hospital_of_device(device), ward_id=roster.ward_of_device[device],
        bed_id=roster.bed_of_device[device], device_id=roster.device_ids[device],
        handle=int(roster.devices["handle"][device]),
        patient_key=roster.patient_keys[patient] if patient >= 0 else None, patient_ambiguous=patient == AMBIGUOUS,
        metric=BY_ID[int(roster.channels["metric"][channel])].code if is_channel else None,
        instance=int(roster.channels["instance"][channel]) if is_channel else 0,
    )  # fmt: skip


def about_patient(roster: Roster, patient: int, metric: str | None = None) -> AlarmSubject:
    return AlarmSubject(
        hospital_id=roster.hospital_of_patient(patient), ward_id=roster.ward_of_patient[patient],
        bed_id=roster.bed_of_patient[patient], handle=int(roster.patients["handle"][patient]),
        patient_key=roster.patient_keys[patient], metric=metric,
    )  # fmt: skip


def known(metric: str, value: float, time_us: int, arrival_us: int, quality: int, **more: Any) -> KnownInput:
    """One input of a decision, with its age when the decision was taken."""
    age_s = (arrival_us - time_us) / 1e6
    return KnownInput(metric, None if math.isnan(value) else value, time_us, age_s, quality, **more)


def name_of(roster: Roster, channel: int) -> str:
    """A channel in words: `spo2`, or `spo2.1` for the second of several alike."""
    instance = int(roster.channels["instance"][channel])
    code = BY_ID[int(roster.channels["metric"][channel])].code
    return f"{code}.{instance}" if instance else code
