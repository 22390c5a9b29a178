"""Devices that are cut off by order: what they say is refused, and their ward is told. Clauses 8.4d, 9.4.

- Readings and events of an isolated device are refused whoever brings them, and so are those an isolated gateway brings:
  from the order's place in the stream on, so that a replay refuses the same. A shard that is known again from the
  directory knows of the order before its place: what the stream still has of before is refused there too, in the lake or not.
- Each isolated device is one technical alarm until it is released, HIGH for one that watches or keeps alive a patient,
  MEDIUM for any other that is on one, LOW for one that is on nobody as far as is known. When its patient leaves it the
  alarm ends; when somebody comes (a correction) another one starts. A gateway's patients are told for each device.
- Maintenance makes none of it quiet.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.alarm_writing import Alarm, about_device, device_scope
from actors.associations import Associations
from actors.kinds import AMBIGUOUS, IS_VITAL_MODEL, NOBODY
from actors.roster import Roster
from domain.alarms import AlarmEvent, AlertType, Phase, Priority
from domain.ids import NO_HANDLE
from domain.instants import NEVER_US, to_rfc3339
from domain.messages import DeviceIsolated

DEVICE_RULE: Final = "technical.device-isolated"
GATEWAY_RULE: Final = "technical.gateway-isolated"
RULE_VERSION: Final = 1
_SOON_US: Final = 5_000_000  # whom it is on is asked a little ahead: a patient who was just put on it is certain by then
_SOMEBODY: Final = -1  # in place of a patient's handle: nobody can tell whose it is
_TABLE: Final = "isolations"
_TEXTS: Final = ("by", "confirmed_by", "gateway")


@dataclass(slots=True)
class _CutOff:
    """One device under one isolation. `gateway`: the isolated one behind which it is; None: it is meant itself.

    `patient`: the handle of whom its alarm is about, NO_HANDLE for nobody; `onset_us`: of that alarm, NEVER_US without one.
    """

    by: str
    since_us: int
    confirmed_by: str | None = None
    gateway: str | None = None
    is_told: bool = False
    patient: int = NO_HANDLE
    onset_us: int = NEVER_US


class Isolations:
    """See module. Keeps a row for each device under each isolation, and the roster's `is_isolated`."""

    def __init__(self, roster: Roster, associations: Associations) -> None:
        self._roster = roster
        self._associations = associations
        self._cut_off: dict[tuple[int, int], _CutOff] = {}  # by device row and number of the isolation

    def refused(self, devices: NDArray[np.int32], sources: NDArray[np.uint32]) -> NDArray[np.bool_]:
        """Which readings are of an isolated device, or came by an isolated gateway. `devices`: their rows."""
        if not self._cut_off:
            return np.zeros(len(devices), dtype=np.bool_)
        flags = np.append(self._roster.devices["is_isolated"], False)  # the last is of row -1
        refused: NDArray[np.bool_] = (devices >= 0) & (flags[devices] | flags[self._roster.device_rows(sources)])
        return refused

    def take(self, message: DeviceIsolated, now_us: int) -> list[AlarmEvent]:
        """Cut a device off, or take it back; what that raises or ends."""
        device = self._roster.device_row(message.handle)
        if device < 0:
            return []
        if message.is_over:
            events = self._release(message.number, now_us)
        else:
            gateway = self._roster.device_ids[device]
            order = (message.by, message.since_us, message.confirmed_by)
            self._cut_off.setdefault((device, message.number), _CutOff(*order))
            for row in sorted({self._roster.device_row(handle) for handle in message.carried} - {NOBODY}):
                self._cut_off.setdefault((row, message.number), _CutOff(*order, gateway))
            events = self.settle(now_us)
        meant = any(row == device and one.gateway is None for (row, _), one in self._cut_off.items())
        self._roster.devices["is_isolated"][device] = meant
        return events

    def settle(self, now_us: int) -> list[AlarmEvent]:
        """Tell whose ward has not been told, and follow who is on these devices.

        Each as of its order where stream time is not there yet: the directory tells of orders before any time is known.
        """
        events: list[AlarmEvent] = []
        for (device, _), one in self._in_order():
            at_us = max(now_us, one.since_us)
            patient = self._patient(device, at_us)
            if one.is_told and patient == one.patient:
                continue
            if one.onset_us != NEVER_US:
                events.append(self._notice(device, one, Phase.END, at_us, "is isolated, and its patient is no longer on it"))
                one.onset_us = NEVER_US
            if patient != NO_HANDLE or not (one.is_told or one.gateway):
                one.onset_us = at_us if one.is_told else one.since_us
            one.is_told, one.patient = True, patient
            if one.onset_us != NEVER_US:
                events.append(self._notice(device, one, Phase.START, at_us))
        return events

    def _release(self, number: int, now_us: int) -> list[AlarmEvent]:
        over = [(key, one) for key, one in self._in_order() if key[1] == number]
        for key, _ in over:
            del self._cut_off[key]
        return [
            self._notice(device, one, Phase.END, now_us, "is not cut off any more")
            for (device, _), one in over
            if one.onset_us != NEVER_US
        ]

    def _in_order(self) -> list[tuple[tuple[int, int], _CutOff]]:
        return sorted(self._cut_off.items(), key=lambda item: item[0])

    def _patient(self, device: int, now_us: int) -> int:
        row = self._associations.patient_of(device, now_us + _SOON_US)
        return _SOMEBODY if row == AMBIGUOUS else NO_HANDLE if row == NOBODY else int(self._roster.patients["handle"][row])

    def _priority(self, device: int, one: _CutOff) -> Priority:
        if one.patient == NO_HANDLE:
            return Priority.LOW
        return Priority.HIGH if IS_VITAL_MODEL[self._roster.devices["model"][device]] else Priority.MEDIUM

    def _notice(self, device: int, one: _CutOff, phase: Phase, now_us: int, why: str = "") -> AlarmEvent:
        roster, patient = self._roster, one.patient
        row = {NO_HANDLE: NOBODY, _SOMEBODY: AMBIGUOUS}.get(patient)
        subject = about_device(roster, device, roster.patient_row(patient) if row is None else row)
        rule = DEVICE_RULE if one.gateway is None else GATEWAY_RULE
        alarm = Alarm(device_scope(roster, device), rule, RULE_VERSION, AlertType.TECHNICAL, subject, one.onset_us)
        return alarm.notice(
            phase, self._priority(device, one), self._text(device, one, why), event_us=max(now_us, one.onset_us),
            arrival_us=now_us,
        )  # fmt: skip

    def _text(self, device: int, one: _CutOff, why: str) -> str:
        name = f"Device {self._roster.device_ids[device]}"
        cut = "is isolated" if one.gateway is None else f"is cut off: its gateway {one.gateway} is isolated"
        if why:
            return f"{name} {why}"
        on = "nobody is known to be on it" if one.patient == NO_HANDLE else "its patient is not watched by it"
        who = one.by if one.confirmed_by is None else f"{one.by} (known to {one.confirmed_by})"
        return f"{name} {cut}, by {who} since {to_rfc3339(one.since_us)}: {on}"

    def snapshot(self) -> dict[str, pa.Table]:
        keys, rows = list(self._cut_off), list(self._cut_off.values())
        columns: dict[str, Any] = {
            field.name: pa.array([getattr(row, field.name) for row in rows], _type_of(field.name)) for field in fields(_CutOff)
        }
        numbers = {"device": [device for device, _ in keys], "number": [number for _, number in keys]}
        return {_TABLE: pa.table({name: pa.array(values, pa.int64()) for name, values in numbers.items()} | columns)}

    def restore(self, tables: dict[str, pa.Table]) -> None:
        """Take the rows of `snapshot`; one of before there were isolations has none."""
        rows = tables[_TABLE].to_pylist() if _TABLE in tables else []
        self._cut_off = {(row.pop("device"), row.pop("number")): _CutOff(**row) for row in rows}


def _type_of(name: str) -> pa.DataType:
    return pa.string() if name in _TEXTS else pa.bool_() if name == "is_told" else pa.int64()
