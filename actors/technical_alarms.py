"""When signals are lost: one technical alarm a device, patients nobody watches, and mass outages as one alarm.

Everything here runs on the arrival time of the stream, at ticks, so that a replay decides alike. A channel that never
delivered is not in use and never alarms. Clauses 6.2c, 6.3f, 9.2c.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.columns import Column, Table
from actors.roster import IS_PATIENT_BOUND, IS_VITAL, NOBODY, Roster
from domain.alarms import (
    AlarmEvent,
    AlarmSubject,
    AlertType,
    Phase,
    Priority,
    alarm_id_of,
    event_id_of,
)  # fmt: skip
from domain.instants import NEVER_US
from domain.metrics import BY_ID, METRICS, Group

RULE_VERSION: Final = 1
DEVICE_RULE: Final = "signal-lost"
PATIENT_RULE: Final = "patient-not-monitored"
OUTAGE_RULE: Final = "mass-outage"

_HOLD_US: Final = 3_000_000  # a mass outage is seen as one before its devices are announced singly
_OUTAGE_WINDOW_US: Final = 10_000_000
_OUTAGE_LEAST: Final = 5
_OUTAGE_SHARE: Final = 0.2
_OUTAGE_OVER_SHARE: Final = 0.8  # ends when this share of its members is back
_RISES_US: Final = ((300_000_000, Priority.HIGH), (60_000_000, Priority.MEDIUM), (0, Priority.LOW))
_VITAL_METRICS: Final = np.isin(np.arange(max(BY_ID) + 1), [m.id for m in METRICS if m.group is Group.VITAL])

COLUMNS: Final = (
    Column("lost_since_us", np.int64, NEVER_US, "us"),
    Column("priority", np.int8, -1),  # of the alarm that is up; -1: none
    Column("outage", np.int32, -1),  # number of the mass outage the device belongs to
)
PATIENT_COLUMNS: Final = (Column("unmonitored_since_us", np.int64, NEVER_US, "us"),)
OUTAGE_COLUMNS: Final = (
    Column("hospital", np.int32), Column("onset_us", np.int64), Column("members", np.int32),
    Column("is_open", np.bool_, True),
)  # fmt: skip


class TechnicalAlarms:
    """One row a device, one a patient, one an outage."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self.devices = Table(COLUMNS)
        self.patients = Table(PATIENT_COLUMNS)
        self.outages = Table(OUTAGE_COLUMNS)

    def tick(self, now_us: int) -> list[AlarmEvent]:
        """What is lost, back, or more urgent at stream time `now_us`."""
        self._keep_up()
        lost_channels = self._lost_channels(now_us)
        lost = np.zeros(len(self.devices), dtype=np.bool_)
        lost[np.unique(self._roster.channels["device"][lost_channels])] = True
        everyone = np.arange(len(self.devices), dtype=np.int32)
        lost &= ~self._roster.in_maintenance(everyone, now_us)
        since = self.devices["lost_since_us"]
        since[lost & (since == NEVER_US)] = now_us
        events = self._outages(lost, now_us)
        events += self._announce(lost, lost_channels, now_us)
        events += self._unmonitored(lost_channels, now_us)
        since[~lost] = NEVER_US
        return events

    def snapshot(self) -> dict[str, pa.Table]:
        self._keep_up()
        return {
            "technical_devices": self.devices.snapshot(),
            "technical_patients": self.patients.snapshot(),
            "technical_outages": self.outages.snapshot(),
        }

    def restore(self, tables: dict[str, pa.Table]) -> None:
        self.devices.restore(tables["technical_devices"])
        self.patients.restore(tables["technical_patients"])
        self.outages.restore(tables["technical_outages"])

    def _keep_up(self) -> None:
        for table, rows in ((self.devices, self._roster.devices.rows), (self.patients, self._roster.patients.rows)):
            if rows > len(table):
                table.append(rows - len(table))

    def _lost_channels(self, now_us: int) -> NDArray[np.intp]:
        """Channels that delivered once and are now stale, unusable, or of a device that said goodbye."""
        channels = self._roster.channels
        used = channels["was_usable"]
        stale = now_us - np.maximum(channels["arrival_us"], 0) > channels["stale_after_us"]
        offline = self._roster.devices["is_offline"][channels["device"]]
        return np.flatnonzero(used & (stale | offline | ~channels["is_usable"]))

    def _announce(self, lost: NDArray[np.bool_], lost_channels: NDArray[np.intp], now_us: int) -> list[AlarmEvent]:
        """Raise, raise higher, or end the one technical alarm of each device."""
        since, priority = self.devices["lost_since_us"], self.devices["priority"]
        in_outage = self.devices["outage"] >= 0
        wished = np.full(len(lost), -1, dtype=np.int8)
        waited = now_us - since
        for after_us, level in reversed(_RISES_US):
            wished[lost & (waited >= max(after_us, _HOLD_US))] = level
        is_vital = IS_VITAL[self._roster.devices["model"]]
        wished = np.where(is_vital, wished, np.minimum(wished, Priority.MEDIUM))
        wished[in_outage] = np.where(priority[in_outage] >= 0, priority[in_outage], -1)
        wished[~lost] = -1
        events = []
        device_of = self._roster.channels["device"][lost_channels]
        for device in np.flatnonzero(wished != priority):
            row = int(device)
            names = sorted({BY_ID[int(m)].code for m in self._roster.channels["metric"][lost_channels[device_of == device]]})
            events.append(self._device_event(row, int(wished[row]), names, now_us))
        priority[:] = wished
        return events

    def _device_event(self, device: int, wished: int, metrics: list[str], now_us: int) -> AlarmEvent:
        before = int(self.devices["priority"][device])
        phase = Phase.START if before < 0 else Phase.END if wished < 0 else Phase.ESCALATE
        onset_us = int(self.devices["lost_since_us"][device])
        what = f"no valid signal: {', '.join(metrics)}" if wished >= 0 else "signal is back"
        roster = self._roster
        patient = int(roster.patients_at(np.array([device], np.int32), np.array([now_us]))[0])
        subject = AlarmSubject(
            hospital_id=roster.hospital_of_device[device], ward_id=roster.ward_of_device[device],
            bed_id=roster.bed_of_device[device], device_id=roster.device_ids[device],
            handle=int(roster.devices["handle"][device]),
            patient_key=roster.patient_keys[patient] if patient >= 0 else None,
        )  # fmt: skip
        scope = f"device:{subject.hospital_id}/{subject.device_id}"
        priority = Priority(wished if wished >= 0 else before)
        return _event(scope, DEVICE_RULE, phase, priority, subject, onset_us, now_us, f"Device {subject.device_id}: {what}")

    def _outages(self, lost: NDArray[np.bool_], now_us: int) -> list[AlarmEvent]:
        """Many devices of a hospital lost within a short time are one alarm with members."""
        roster, table = self._roster, self.devices
        fresh = lost & (now_us - table["lost_since_us"] <= _OUTAGE_WINDOW_US) & (table["outage"] < 0)
        events = []
        hospital_of = roster.hospital_numbers(np.arange(len(lost), dtype=np.int32))
        for number, hospital_id in enumerate(roster.hospital_ids):
            mine = hospital_of == number
            members = np.flatnonzero(mine & fresh)
            delivered = int((mine & (roster.devices["last_arrival_us"] != NEVER_US)).sum())
            if len(members) < max(_OUTAGE_LEAST, _OUTAGE_SHARE * delivered):
                continue
            outage = self.outages.append(1, hospital=number, onset_us=now_us, members=len(members)).start
            table["outage"][members] = outage
            events.append(self._outage_event(outage, hospital_id, members, Phase.START, now_us))
        for outage in np.flatnonzero(self.outages["is_open"]):
            members = np.flatnonzero(table["outage"] == outage)
            back = int((~lost[members]).sum())
            if len(members) and back >= _OUTAGE_OVER_SHARE * len(members):
                hospital_id = roster.hospital_ids[int(self.outages["hospital"][outage])]
                events.append(self._outage_event(int(outage), hospital_id, members, Phase.END, now_us))
                self.outages["is_open"][outage] = False
                table["outage"][members] = -1
                still = members[lost[members]]
                table["lost_since_us"][still] = now_us  # those left behind are announced singly from now on
        return events

    def _outage_event(self, outage: int, hospital_id: str, members: NDArray[np.intp], phase: Phase, now_us: int) -> AlarmEvent:
        onset_us = int(self.outages["onset_us"][outage])
        ids = tuple(self._roster.device_ids[int(row)] for row in members)
        text = f"{len(ids)} devices lost at once" if phase is Phase.START else f"most of {len(ids)} lost devices are back"
        subject = AlarmSubject(hospital_id=hospital_id)
        return _event(f"hospital:{hospital_id}", OUTAGE_RULE, phase, Priority.HIGH, subject, onset_us, now_us, text, ids)

    def _unmonitored(self, lost_channels: NDArray[np.intp], now_us: int) -> list[AlarmEvent]:
        """Patients whose every vital channel in use is lost: nobody watches them, whatever each device says."""
        channels, roster = self._roster.channels, self._roster
        bound = IS_PATIENT_BOUND[roster.devices["model"][channels["device"]]]
        used = np.flatnonzero(channels["was_usable"] & _VITAL_METRICS[channels["metric"]] & bound)
        if not len(used):
            return []
        devices = channels["device"][used]
        patients = roster.patients_at(devices, np.full(len(used), now_us, dtype=np.int64))
        quiet = roster.in_maintenance(devices, now_us)
        watched = (patients > NOBODY) & (roster.patients["discharged_us"][np.maximum(patients, 0)] > now_us)
        is_lost = np.isin(used, lost_channels) & ~quiet
        has_any = np.zeros(len(self.patients), dtype=np.bool_)
        has_live = np.zeros(len(self.patients), dtype=np.bool_)
        has_any[patients[watched]] = True
        has_live[patients[watched & ~is_lost]] = True
        since = self.patients["unmonitored_since_us"]
        start = has_any & ~has_live & (since == NEVER_US)
        over = (since != NEVER_US) & (has_live | ~has_any)
        since[start] = now_us
        events = [self._patient_event(int(row), Phase.START, now_us) for row in np.flatnonzero(start)]
        events += [self._patient_event(int(row), Phase.END, now_us) for row in np.flatnonzero(over)]
        since[over] = NEVER_US
        return events

    def _patient_event(self, patient: int, phase: Phase, now_us: int) -> AlarmEvent:
        roster = self._roster
        subject = AlarmSubject(
            hospital_id=roster.hospital_of_patient[patient], ward_id=roster.ward_of_patient[patient],
            bed_id=roster.bed_of_patient[patient], patient_key=roster.patient_keys[patient],
            handle=int(roster.patients["handle"][patient]),
        )  # fmt: skip
        text = "Patient not monitored: all vital signs are lost" if phase is Phase.START else "Patient is monitored again"
        onset_us = int(self.patients["unmonitored_since_us"][patient])
        scope = f"patient:{subject.patient_key}"
        return _event(scope, PATIENT_RULE, phase, Priority.HIGH, subject, onset_us, now_us, text)


def _event(  # noqa: PLR0913, PLR0917 (one field of the record each)
    scope: str, rule: str, phase: Phase, priority: Priority, subject: AlarmSubject, onset_us: int, now_us: int, text: str,
    members: tuple[str, ...] = (),
) -> AlarmEvent:  # fmt: skip
    alarm_id = alarm_id_of(scope, rule, RULE_VERSION, onset_us)
    return AlarmEvent(
        event_id=event_id_of(alarm_id, phase, now_us), alarm_id=alarm_id, phase=phase, alert_type=AlertType.TECHNICAL,
        priority=priority, rule=rule, rule_version=RULE_VERSION, subject=subject, onset_us=onset_us, event_us=now_us,
        arrival_us=now_us, text=text, members=members,
    )  # fmt: skip
