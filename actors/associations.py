"""Which device was on which patient when: valid in time, looked up by corrected event time, never guessed near a boundary.

A device's spans are replaced as a whole, so a correction is the same message as the first association. Spans may name
patients who are admitted later. Clause 6.1d.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.columns import Column, Table
from actors.kinds import AMBIGUOUS, FOREVER_US, NOBODY
from actors.roster import Roster
from domain.compiled import Int32s, Int64s, OutInt64s, compiled
from domain.instants import NEVER_US
from domain.messages import DeviceAssociated

_CERTAIN: Final = 0


_SPAN_COLUMNS: Final = (
    Column("start_us", np.int64, 0, "us"),
    Column("end_us", np.int64, 0, "us"),
    Column("patient", np.int64, NOBODY),
)
_OF_DEVICE: Final = (
    Column("first", np.int64),  # span k of a device is at `first` + k, by start
    Column("count", np.int64),
    Column("uncertainty_us", np.int64, 0, "us"),
)
_MOST_UNUSED: Final = 1_000  # spans that were replaced, beyond as many as are in use


class Associations:
    """Spans by device handle, as told; and in arrays by device row, where many are looked up at once."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._told: dict[int, tuple[int, list[tuple[int, int, int]]]] = {}  # handle -> (uncertainty, [(patient handle, …)])
        self._spans = Table(_SPAN_COLUMNS)
        self._of_device = Table(_OF_DEVICE)
        self._unused = 0
        self._unknown: set[int] = set()  # patients named before they were admitted

    def associate(self, message: DeviceAssociated) -> None:
        """Take the spans of one device in place of what was known of it."""
        spans = [(s.patient_handle, s.start_us, FOREVER_US if s.end_us is None else s.end_us) for s in message.spans]
        self._set(message.handle, message.clock_uncertainty_us, sorted(spans, key=lambda span: span[1]))

    def admit(self, patient_handle: int, discharged_us: int) -> None:
        """A patient's own chart belongs to the patient, until discharge."""
        if patient_handle in self._unknown:
            self._lay_out()
        self._set(patient_handle, _CERTAIN, [(patient_handle, NEVER_US, discharged_us)])

    def refresh(self, handles: list[int]) -> None:
        """Devices were registered: spans told before hold for them from now on."""
        for handle in handles:
            if handle in self._told:
                self._place(handle)

    def patients_at(
        self, devices: NDArray[Any], time_us: NDArray[np.int64], uncertainty_us: NDArray[np.int64] | int = 0
    ) -> NDArray[np.int64]:
        """The patient row of each device at each time; NOBODY or AMBIGUOUS (too near a boundary to tell).

        `uncertainty_us`: of each time, beyond what the association says of the device's clock.
        """
        found, uncertainty = np.empty(len(devices), np.int64), np.broadcast_to(uncertainty_us, len(devices))
        _find(
            devices.astype(np.int32, copy=False), time_us, np.ascontiguousarray(uncertainty, np.int64),
            self._roster.devices["span_count"], self._of_device["first"], self._of_device["uncertainty_us"],
            self._spans["start_us"], self._spans["end_us"], self._spans["patient"], NOBODY, AMBIGUOUS, found,
        )  # fmt: skip
        return found

    def patient_of(self, device: int, time_us: int) -> int:
        return int(self.patients_at(np.array([device]), np.array([time_us], np.int64))[0])

    def end_of(self, device: int, patient: int, from_us: int) -> int | None:
        """When `patient`, who was on `device` at `from_us` or after, left it; None while that lasts.

        When no span remembers the patient there (a correction took it away), that is `from_us` itself.
        """
        if device >= len(self._of_device):
            return from_us
        spans, own = self._spans, self._of_device.view(device)
        ends = [
            int(spans["end_us"][row])
            for row in range(own.first, own.first + own.count)
            if spans["patient"][row] == patient and spans["end_us"][row] > from_us
        ]
        end_us = min(ends, default=from_us)
        return None if end_us >= FOREVER_US else end_us

    def snapshot(self) -> dict[str, pa.Table]:
        rows = [
            (handle, uncertainty, *span) for handle, (uncertainty, spans) in self._told.items() for span in spans or [(0, 0, 0)]
        ]
        names = ("handle", "uncertainty_us", "patient_handle", "start_us", "end_us")
        return {"spans": pa.table({name: pa.array([row[at] for row in rows], pa.int64()) for at, name in enumerate(names)})}

    def restore(self, tables: dict[str, pa.Table]) -> None:
        self._told = {}
        for row in tables["spans"].to_pylist():
            _, spans = self._told.setdefault(row["handle"], (row["uncertainty_us"], []))
            if row["patient_handle"]:
                spans.append((row["patient_handle"], row["start_us"], row["end_us"]))
        self._lay_out()

    def _set(self, handle: int, uncertainty_us: int, spans: list[tuple[int, int, int]]) -> None:
        self._told[handle] = (uncertainty_us, spans)
        self._place(handle)

    def _place(self, handle: int) -> None:
        """Write a device's spans behind all others; those it had before are left unused, until they are too many."""
        device = self._roster.device_row(handle)
        if device < 0:
            return
        uncertainty_us, spans = self._told[handle]
        if device >= len(self._of_device):
            self._of_device.append(len(self._roster.devices) - len(self._of_device))
        spans = _without_seams(spans)
        patients = [self._roster.patient_row(patient) for patient, _, _ in spans]
        self._unknown.update(patient for (patient, _, _), row in zip(spans, patients, strict=True) if row < 0)
        self._unused += int(self._of_device["count"][device])
        self._of_device["first"][device], self._of_device["count"][device] = len(self._spans), len(spans)
        self._of_device["uncertainty_us"][device] = uncertainty_us
        self._roster.devices["span_count"][device] = len(spans)
        if spans:
            self._spans.append(len(spans), start_us=[s[1] for s in spans], end_us=[s[2] for s in spans], patient=patients)
        if 2 * self._unused > len(self._spans) + _MOST_UNUSED:
            self._lay_out()

    def _lay_out(self) -> None:
        """Write all spans anew, side by side."""
        self._spans, self._of_device = Table(_SPAN_COLUMNS), Table(_OF_DEVICE)
        self._unused, self._unknown = 0, set()
        for handle in self._told:
            self._place(handle)


@compiled
def _find(
    device: Int32s, time_us: Int64s, uncertainty_us: Int64s, span_count: Int32s, first: Int64s, of_device_us: Int64s,
    start_us: Int64s, end_us: Int64s, patient: Int64s, nobody: int, ambiguous: int, found: OutInt64s,
) -> None:  # fmt: skip
    """A binary search among the device's own spans for the earliest and the latest that the time may be."""
    for i in range(len(device)):
        found[i] = nobody
        count = span_count[device[i]]
        if count == 0:
            continue
        base, reach_us = first[device[i]], of_device_us[device[i]] + uncertainty_us[i]
        places = (-1, -1)
        for side in range(2):
            at_us = time_us[i] + (reach_us if side else -reach_us)
            span = base - 1 + np.searchsorted(start_us[base : base + count], at_us, side="right")
            is_within = span >= base and at_us < end_us[span]
            place = 2 * span + is_within if span >= base else -1  # a number for each span and each gap
            found[i] = patient[span] if is_within else nobody
            places = (places[1], place)
        if places[0] != places[1]:
            found[i] = ambiguous


def _without_seams(spans: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Spans of one patient that meet are one; empty ones are none."""
    joined: list[tuple[int, int, int]] = []
    for patient, start_us, end_us in spans:
        if end_us <= start_us:
            continue
        if joined and joined[-1][0] == patient and joined[-1][2] >= start_us:
            joined[-1] = (patient, joined[-1][1], max(joined[-1][2], end_us))
        else:
            joined.append((patient, start_us, end_us))
    return joined
