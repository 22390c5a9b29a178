"""Which device was on which patient when: valid in time, looked up by event time, never guessed near a boundary.

A device's spans are replaced as a whole, so a correction is the same message as the first association. Spans may name
patients who are admitted later. Clause 6.1d.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.kinds import AMBIGUOUS, FOREVER_US, NOBODY
from actors.roster import Roster
from domain.instants import NEVER_US
from domain.messages import DeviceAssociated

_CERTAIN: Final = 0


@dataclass(frozen=True, slots=True)
class _Spans:
    """All spans by (device row, start); span k of device d is at `first[d] + k`."""

    first: NDArray[np.int64]
    count: NDArray[np.int64]
    uncertainty_us: NDArray[np.int64]
    start_us: NDArray[np.int64]
    end_us: NDArray[np.int64]
    patient: NDArray[np.int64]


class Associations:
    """Spans by device handle, as told; arrays by device row, made when they are asked for."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._told: dict[int, tuple[int, list[tuple[int, int, int]]]] = {}  # handle -> (uncertainty, [(patient handle, …)])
        self._frozen: _Spans | None = None

    def associate(self, message: DeviceAssociated) -> None:
        """Take the spans of one device in place of what was known of it."""
        spans = [(s.patient_handle, s.start_us, FOREVER_US if s.end_us is None else s.end_us) for s in message.spans]
        self._set(message.handle, message.clock_uncertainty_us, sorted(spans, key=lambda span: span[1]))

    def admit(self, patient_handle: int, discharged_us: int) -> None:
        """A patient's own chart belongs to the patient, until discharge."""
        self._set(patient_handle, _CERTAIN, [(patient_handle, NEVER_US, discharged_us)])

    def refresh(self, handles: list[int]) -> None:
        """Devices were registered: spans told before hold for them from now on."""
        for handle in handles:
            if handle in self._told:
                self._set(handle, *self._told[handle])
        self._frozen = None

    def patients_at(self, devices: NDArray[Any], time_us: NDArray[np.int64]) -> NDArray[np.int64]:
        """The patient row of each device at each event time; NOBODY or AMBIGUOUS (too near a boundary to tell)."""
        found = np.full(len(devices), NOBODY, dtype=np.int64)
        asked = np.flatnonzero(self._roster.devices["span_count"][devices]) if len(devices) else np.empty(0, np.intp)
        if len(asked):
            spans = self._spans()
            rows, at = devices[asked], time_us[asked]
            uncertainty = spans.uncertainty_us[rows]
            before = self._lookup(spans, rows, at - uncertainty)
            after = self._lookup(spans, rows, at + uncertainty)
            found[asked] = np.where(before == after, before, AMBIGUOUS)
        return found

    def patient_of(self, device: int, time_us: int) -> int:
        return int(self.patients_at(np.array([device]), np.array([time_us], np.int64))[0])

    def end_of(self, device: int, patient: int, from_us: int) -> int | None:
        """When `patient`, who was on `device` at `from_us` or after, left it; None while that lasts.

        When no span remembers the patient there (a correction took it away), that is `from_us` itself.
        """
        spans = self._spans()
        first, count = int(spans.first[device]), int(spans.count[device])
        ends = [
            int(spans.end_us[row])
            for row in range(first, first + count)
            if spans.patient[row] == patient and spans.end_us[row] > from_us
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
        self._frozen = None

    def _set(self, handle: int, uncertainty_us: int, spans: list[tuple[int, int, int]]) -> None:
        self._told[handle] = (uncertainty_us, spans)
        self._frozen = None
        device = self._roster.device_row(handle)
        if device >= 0:
            self._roster.devices["span_count"][device] = len(spans)

    @staticmethod
    def _lookup(spans: _Spans, devices: NDArray[Any], at_us: NDArray[np.int64]) -> NDArray[np.int64]:
        """The patient at exactly `at_us`: a binary search among each device's own spans, all devices at once."""
        low, high = spans.first[devices] - 1, spans.first[devices] + spans.count[devices]
        for _ in range(int(spans.count[devices].max(initial=0)).bit_length()):
            middle = (low + high) // 2
            inside = middle > low
            started = inside & (spans.start_us[np.where(inside, middle, 0)] <= at_us)
            low, high = np.where(started, middle, low), np.where(inside & ~started, middle, high)
        found = low >= spans.first[devices]
        low = np.where(found, low, 0)
        patients: NDArray[np.int64] = np.where(found & (at_us < spans.end_us[low]), spans.patient[low], NOBODY)
        return patients

    def _spans(self) -> _Spans:
        if self._frozen is None:
            self._frozen = self._freeze()
        return self._frozen

    def _freeze(self) -> _Spans:
        devices = len(self._roster.devices)
        first, count, uncertainty = (np.zeros(devices, dtype=np.int64) for _ in range(3))
        rows: list[tuple[int, int, int]] = []
        for handle, (uncertainty_us, spans) in self._told.items():
            device = self._roster.device_row(handle)
            if device >= 0:
                first[device], count[device], uncertainty[device] = len(rows), len(spans), uncertainty_us
                rows += [(start, end, self._roster.patient_row(patient)) for patient, start, end in spans]
                self._roster.devices["span_count"][device] = len(spans)
        start_us, end_us, patient = np.array(rows or [(0, 0, NOBODY)], dtype=np.int64).T.copy()
        return _Spans(first, count, uncertainty, start_us, end_us, patient)
