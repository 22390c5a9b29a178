"""Signals that are lost: one technical alarm a device, rising with time, and mass outages as one alarm. Clauses 6.2c, 9.2c.

Judged at ticks, on the arrival time of the stream, so that a replay decides alike:

- A channel that never gave a usable, real value is not in use and never alarms. One that did is lost when it is stale
  (silent longer than its modality allows) or its newest reading is unusable (calibrating and ongoing are no fault).
- A device is *silent* when nothing at all came for longer than its quickest channel in use allows (a monitor that
  stops is silent although its cuff need not have spoken yet), or when it or its sender said `offline`, at once.
- A device with lost channels raises one alarm that names them: LOW after a settle time, MEDIUM after 60 s, HIGH after
  300 s for life signs and life support, MEDIUM at most for all else. It ends when all are back.
- When at least 5 devices and 20 % of a hospital's live ones fall silent within 10 s, that is one alarm of the hospital
  with its members, in place of single ones; it ends when 80 % of them are back, and the rest is told singly.
- An isolated device has an alarm that says so (`isolations`), in place of this one.
- A patient-bound device that came off its patient and is on nobody waits for the next: nobody's signal is lost.
- Where the stream itself stood still, nothing could arrive: silence counts from when it went on.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from actors.alarm_writing import Alarm, about_device, device_scope, hospital_scope, known, name_of
from actors.associations import Associations
from actors.kinds import CHART_NUMBER, IS_PATIENT_BOUND, IS_VITAL_MODEL, NOBODY
from actors.roster import Roster
from actors.signals import Signals
from domain.alarms import AlarmEvent, AlarmSubject, AlertType, KnownInput, Phase, Priority
from domain.instants import NEVER_US
from domain.metrics import BY_ID

DEVICE_RULE: Final = "technical.signal-lost"
OUTAGE_RULE: Final = "technical.mass-outage"
RULE_VERSION: Final = 1
SETTLE_US: Final = 3_000_000  # a mass outage is seen as one before its devices are announced singly
RISES: Final = ((SETTLE_US, Priority.LOW), (60_000_000, Priority.MEDIUM), (300_000_000, Priority.HIGH))
BLIND_US: Final = 5_000_000  # ticks come every second: a longer pause is the platform's own
OUTAGE_WINDOW_US: Final = 10_000_000
OUTAGE_LEAST: Final = 5
OUTAGE_SHARE: Final = 0.2
OUTAGE_OVER_SHARE: Final = 0.8
_NOTHING_SAID: Final = -1


class TechnicalAlarms:
    """Keeps its state in the roster's device columns `fault_*`, `silent_since_us`, `in_outage`, and the hospital table."""

    def __init__(self, roster: Roster, associations: Associations) -> None:
        self._roster = roster
        self._associations = associations

    def tick(self, signals: Signals, now_us: int, clock_us: int) -> list[AlarmEvent]:
        """What is lost, back, or more urgent at stream time `now_us`, when the platform's clock says `clock_us`."""
        table = self._roster.devices
        every = np.arange(len(table))
        watched = (
            (table["model"] != CHART_NUMBER) & ~table["is_isolated"] & ~self._roster.in_maintenance(every, clock_us)
            & ~self._waits(every, clock_us)
        )  # fmt: skip
        faulty = watched & (signals.per_device(signals.lost) > 0)
        silent = watched & signals.silent
        for name, flags in (("fault_since_us", faulty), ("silent_since_us", silent)):
            since = table[name]
            since[flags & (since == NEVER_US)] = now_us
        events = self._outages(silent, watched & (signals.per_device(signals.used) > 0), now_us)
        events += self._announce(faulty, signals.lost, now_us)
        table["fault_since_us"][~faulty], table["silent_since_us"][~silent] = NEVER_US, NEVER_US
        return events

    def _waits(self, devices: NDArray[np.intp], now_us: int) -> NDArray[np.bool_]:
        """Which of these are patient-bound, were put on somebody once and are surely on nobody now."""
        table = self._roster.devices
        waits: NDArray[np.bool_] = IS_PATIENT_BOUND[table["model"][devices]] & (table["span_count"][devices] > 0)
        worn = devices[waits]
        waits[waits] = self._associations.patients_at(worn, np.full(len(worn), now_us, dtype=np.int64)) == NOBODY
        return waits

    def _announce(self, faulty: NDArray[np.bool_], lost: NDArray[np.bool_], now_us: int) -> list[AlarmEvent]:
        """Raise, raise higher, restate or end the one technical alarm of each device."""
        table = self._roster.devices
        waited = now_us - np.where(faulty, table["fault_since_us"], now_us)
        due = np.full(len(faulty), _NOTHING_SAID, dtype=np.int8)
        for after_us, priority in RISES:
            due[faulty & (waited >= after_us)] = priority
        due = np.where(IS_VITAL_MODEL[table["model"]], due, np.minimum(due, Priority.MEDIUM))
        due[table["in_outage"]] = _NOTHING_SAID
        said, named = table["fault_priority"], self._fingerprints(lost)
        restated = (due > _NOTHING_SAID) & (named != table["fault_channels"])
        events = []
        for device in np.flatnonzero((due != said) | restated).tolist():
            priority = Priority(max(due[device], said[device]))
            events.append(self._device_notice(device, priority, int(due[device]), self._lost_of(device, lost), now_us))
        table["fault_channels"][:] = np.where(due > _NOTHING_SAID, named, 0)
        table["fault_priority"][:] = due
        return events

    def _fingerprints(self, lost: NDArray[np.bool_]) -> NDArray[np.uint64]:
        """Which of each device's channels are lost: a bit each (no thing model has more than 64)."""
        channels, fingerprints = np.flatnonzero(lost), np.zeros(len(self._roster.devices), dtype=np.uint64)
        devices = self._roster.channels["device"][channels]
        offsets = (channels - self._roster.devices["base"][devices]).astype(np.uint64)
        np.bitwise_or.at(fingerprints, devices, np.uint64(1) << offsets)
        return fingerprints

    def _lost_of(self, device: int, lost: NDArray[np.bool_]) -> list[int]:
        base, count = self._roster.channels_of(device)
        return [base + offset for offset in np.flatnonzero(lost[base : base + count]).tolist()]

    def _device_notice(self, device: int, priority: Priority, due: int, channels: list[int], now_us: int) -> AlarmEvent:
        roster, said = self._roster, int(self._roster.devices["fault_priority"][device])
        if said == _NOTHING_SAID:
            phase = Phase.START
        else:
            phase = Phase.END if due == _NOTHING_SAID else Phase.ESCALATE if due > said else Phase.UPDATE
        subject = about_device(roster, device, self._associations.patient_of(device, now_us))
        onset_us = int(roster.devices["fault_since_us"][device])
        names = ", ".join(name_of(roster, channel) for channel in channels)
        text = f"Device {roster.device_ids[device]}: no valid signal of {names}"
        if phase is Phase.END:
            text = f"Device {roster.device_ids[device]}: {self._why_over(device, now_us)}"
        inputs = tuple(self._input(channel, now_us) for channel in channels)
        return Alarm(device_scope(roster, device), DEVICE_RULE, RULE_VERSION, AlertType.TECHNICAL, subject, onset_us).notice(
            phase, priority, text, event_us=now_us, arrival_us=now_us, inputs=inputs
        )

    def _why_over(self, device: int, now_us: int) -> str:
        if self._roster.devices["in_outage"][device]:
            return "part of an outage of the hospital"
        if self._roster.devices["is_isolated"][device]:
            return "isolated, which is an alarm of its own"
        if self._roster.in_maintenance(np.array([device]), now_us)[0]:
            return "under maintenance"
        return "on no patient any more" if self._waits(np.array([device]), now_us)[0] else "all signals are back"

    def _input(self, channel: int, now_us: int) -> KnownInput:
        row = self._roster.channels.view(channel)
        stale = now_us - row.arrival_us > row.stale_after_us or bool(self._roster.devices["is_offline"][row.device])
        note = "stale" if stale else "invalid"
        return known(BY_ID[row.metric].code, row.value, row.time_us, now_us, row.quality, used=False, note=note)

    def _outages(self, silent: NDArray[np.bool_], in_use: NDArray[np.bool_], now_us: int) -> list[AlarmEvent]:
        """Many devices of a hospital silent within a short time are one alarm with members."""
        table = self._roster.devices
        fresh = silent & (now_us - np.where(silent, table["silent_since_us"], 0) <= OUTAGE_WINDOW_US) & ~table["in_outage"]
        if not fresh.any() and not table["in_outage"].any():
            return []
        hospitals = len(self._roster.hospital_ids)
        falls = np.bincount(table["hospital"][fresh], minlength=hospitals)
        alive = np.bincount(table["hospital"][in_use & ~silent], minlength=hospitals)
        is_open = self._roster.hospitals["outage_onset_us"] != NEVER_US
        many = falls >= np.maximum(OUTAGE_LEAST, OUTAGE_SHARE * (alive + falls))
        events = []
        for hospital in np.flatnonzero(is_open | many).tolist():
            mine = table["hospital"] == hospital
            events += self._outage(hospital, mine & fresh, mine, silent, now_us)
        return events

    def _outage(
        self, hospital: int, falls: NDArray[np.bool_], mine: NDArray[np.bool_], silent: NDArray[np.bool_], now_us: int
    ) -> list[AlarmEvent]:
        """Open, extend or end one hospital's outage."""
        table, row = self._roster.devices, self._roster.hospitals
        was_open = row["outage_onset_us"][hospital] != NEVER_US
        if falls.any():
            table["in_outage"][falls] = True
        members = mine & table["in_outage"]
        if not was_open:
            row["outage_onset_us"][hospital] = now_us
            row["outage_members"][hospital] = int(members.sum())
            return [self._outage_notice(hospital, Phase.START, members, now_us, "fell silent at once")]
        row["outage_members"][hospital] = int(members.sum())
        if (members & ~silent).sum() >= OUTAGE_OVER_SHARE * members.sum():
            event = self._outage_notice(hospital, Phase.END, members, now_us, "had fallen silent; most are back")
            row["outage_onset_us"][hospital], row["outage_members"][hospital] = NEVER_US, 0
            table["in_outage"][members] = False
            table["fault_since_us"][members & silent] = now_us  # who is left behind raises an alarm of its own from here
            return [event]
        if falls.any():
            return [self._outage_notice(hospital, Phase.UPDATE, members, now_us, "are silent, more than before")]
        return []

    def _outage_notice(self, hospital: int, phase: Phase, members: NDArray[np.bool_], now_us: int, what: str) -> AlarmEvent:
        hospital_id = self._roster.hospital_ids[hospital]
        ids = tuple(self._roster.device_ids[row] for row in np.flatnonzero(members).tolist())
        onset_us = int(self._roster.hospitals["outage_onset_us"][hospital])
        alarm = Alarm(
            hospital_scope(hospital_id), OUTAGE_RULE, RULE_VERSION, AlertType.TECHNICAL, AlarmSubject(hospital_id), onset_us
        )
        text = f"{len(ids)} devices of {hospital_id} {what}"
        return alarm.notice(phase, Priority.HIGH, text, event_us=now_us, arrival_us=now_us, members=ids)
