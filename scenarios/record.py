"""Records what flows through the stream, hospital by hospital, for `vitalgrid fleet replay`.

Who the devices and patients are is read from the control messages of the same stream, so a recording needs no
database and holds no names. Devices registered longer ago than the stream keeps its messages are left out, and
counted. So is whatever its caller may not see: handles that the API names (`POST /recordings`), and each device from when on
it is on one of these patients.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from domain import subjects
from domain.errors import NotFound
from domain.fleet_manifest import DeviceColumns, FleetManifest, HospitalManifest, PatientColumns, Tier
from domain.frames import decode_frame
from domain.messages import DeviceAssociated, DevicesRegistered, PatientAdmitted, decode_control
from domain.readings import ReadingBatch
from runtime.follower import StreamMessage
from sim.fleet import Gateway
from sim.recordings import recorded_rows, write_recording

_GATEWAY = "gateway@1"
_FROM_THE_BEGINNING_US = 1
_SUFFIX = "-rec"  # played back it is a hospital of its own: recorded patients share no monitor with present ones


class Recorded(msgspec.Struct, frozen=True):
    """One hospital's recording."""

    hospital_id: str
    folder: str
    devices: int
    patients: int
    readings: int
    left_out: int  # readings that its caller may not see


@dataclass
class _Device:
    device_id: str
    model: str
    ward_id: str | None
    bed_id: str | None
    hospital_id: str


@dataclass
class Recorder:
    """Give it every message of the stream, from its beginning; `recording` decides which readings are kept."""

    hospital_id: str | None = None
    recording: bool = False
    unknown: int = 0
    _devices: dict[int, _Device] = field(default_factory=dict)
    _patients: dict[int, PatientAdmitted] = field(default_factory=dict)
    _worn: dict[int, int] = field(default_factory=dict)  # device handle -> patient handle, the span that is open
    _batches: list[ReadingBatch] = field(default_factory=list)
    _left_out: set[int] = field(default_factory=set)  # handles
    _closed: NDArray[np.uint32] = field(default_factory=lambda: np.empty(0, np.uint32))  # the same
    _dropped: list[NDArray[np.uint32]] = field(default_factory=list)  # handles of the readings that were left out

    @property
    def readings(self) -> int:
        return sum(map(len, self._batches))

    def take(self, message: StreamMessage) -> None:
        if message.subject.startswith(subjects.control(0)[:-1]):
            self._learn(message.payload)
        elif self.recording:
            self._keep([decode_frame(message.payload).readings])

    def leave_out(self, handles: Iterable[int]) -> None:
        """No reading of these is recorded, nor what was heard of them so far."""
        self._close(handles)
        heard, self._batches = self._batches, []
        self._keep(heard)

    def _close(self, handles: Iterable[int]) -> None:
        self._left_out.update(handles)
        self._closed = np.fromiter(self._left_out, np.uint32, len(self._left_out))

    def _keep(self, batches: Iterable[ReadingBatch]) -> None:
        for batch in batches:
            is_closed = np.isin(batch.handle, self._closed)
            if is_closed.any():
                self._dropped.append(batch.handle[is_closed])
            if not is_closed.all():
                self._batches.append(batch.take(~is_closed))

    def _learn(self, payload: bytes) -> None:
        match decode_control(payload):
            case DevicesRegistered() as told:
                for row in zip(told.handles, told.device_ids, told.models, told.ward_ids, told.bed_ids, strict=True):
                    self._devices[row[0]] = _Device(*row[1:], told.hospital_id)
            case PatientAdmitted() as told:
                self._patients[told.handle] = told
            case DeviceAssociated() as told:
                open_spans = [span for span in told.spans if span.end_us is None]
                self._worn.pop(told.handle, None)
                if open_spans:
                    self._worn[told.handle] = open_spans[-1].patient_handle
                    if open_spans[-1].patient_handle in self._left_out:
                        self._close([told.handle])

    def save(self, folder: Path) -> list[Recorded]:
        """Write one recording a hospital: in `folder` itself when there is one, else in a folder each.

        Raises NotFound when nothing of a known device was heard.
        """
        readings = ReadingBatch.concat(self._batches)
        known = [handle for handle in set(readings.handle.tolist()) if handle in self._devices]
        self.unknown = len(set(readings.handle.tolist())) - len(known)
        hospitals = sorted({self._devices[handle].hospital_id for handle in known})
        if self.hospital_id is not None:
            hospitals = [hospital for hospital in hospitals if hospital == self.hospital_id]
        if not hospitals:
            left_out = f"; {count:,} readings were left out" if (count := sum(map(len, self._dropped))) else ""
            raise NotFound(
                f"nothing was recorded: no reading of a device known to the stream in {self.hospital_id or 'the region'}"
                f"{left_out}"
            )
        return [
            self._save_one(hospital, readings, folder if len(hospitals) == 1 else folder / hospital) for hospital in hospitals
        ]

    def _save_one(self, hospital_id: str, readings: ReadingBatch, folder: Path) -> Recorded:
        heard = {handle for handle in set(readings.handle.tolist()) if self._is_of(handle, hospital_id)}
        carriers = _carriers(readings, heard)
        gateways = sorted({source for source in carriers.values() if source in self._devices} - heard)
        handles = [*gateways, *sorted(heard)]
        manifest = self._manifest(hospital_id, handles, gateways, carriers)
        position = {handle: number for number, handle in enumerate(handles)}
        origin_us = int(readings.time_us[[self._is_of(h, hospital_id) for h in readings.handle.tolist()]].min())
        rows = recorded_rows(readings, {handle: position[handle] for handle in sorted(heard)}, origin_us)
        senders = tuple(Gateway(0, self._devices[handle].device_id, position[handle]) for handle in _senders(handles, carriers))
        write_recording(folder, manifest, rows.filter(pl.col("offset_us") >= 0), senders)
        people = len(manifest.hospitals[0].patients.refs)
        return Recorded(hospital_id, str(folder), len(heard), people, len(rows), self._left_out_in(hospital_id))

    def _left_out_in(self, hospital_id: str) -> int:
        """How many readings of a hospital's devices were left out."""
        theirs = np.array([handle for handle in self._left_out if self._is_of(handle, hospital_id)], np.uint32)
        return sum(int(np.isin(handles, theirs).sum()) for handles in self._dropped)

    def _is_of(self, handle: int, hospital_id: str) -> bool:
        device = self._devices.get(handle)
        return device is not None and device.hospital_id == hospital_id

    def _manifest(self, hospital_id: str, handles: list[int], gateways: list[int], carriers: dict[int, int]) -> FleetManifest:
        devices = [self._devices[handle] for handle in handles]
        senders = set(_senders(handles, carriers))
        columns = DeviceColumns(
            device_ids=[device.device_id for device in devices],
            models=[device.model for device in devices],
            ward_ids=[device.ward_id for device in devices],
            bed_ids=[device.bed_id for device in devices],
            gateway_ids=[
                self._devices[carriers[handle]].device_id if carriers.get(handle) in gateways else None for handle in handles
            ],
            with_token=[handle in senders for handle in handles],
        )
        people: dict[int, list[str]] = {}
        for handle in handles:
            patient = self._worn.get(handle)
            if patient in self._patients and patient not in self._left_out:
                people.setdefault(patient, []).append(self._devices[handle].device_id)
        facts = [self._patients[handle] for handle in people]
        patients = PatientColumns(
            refs=[f"rec-{number + 1:06}" for number in range(len(facts))], names=[None] * len(facts),
            ages_years=[fact.age_years for fact in facts], pregnant=[fact.pregnant for fact in facts],
            spo2_scales=[fact.spo2_scale for fact in facts], ward_ids=[fact.ward_id for fact in facts],
            bed_ids=[fact.bed_id for fact in facts], admitted_us=[_FROM_THE_BEGINNING_US] * len(facts),
            device_ids=list(people.values()),
        )  # fmt: skip
        hospital = HospitalManifest(
            f"{hospital_id}{_SUFFIX}", f"{hospital_id}, recorded", Tier.TERTIARY, max(1, len(facts)), columns, patients
        )
        return FleetManifest([hospital])


def _carriers(readings: ReadingBatch, heard: set[int]) -> dict[int, int]:
    """Device -> who sent its readings last."""
    return {
        handle: source
        for handle, source in zip(readings.handle.tolist(), readings.source.tolist(), strict=True)
        if handle in heard
    }


def _senders(handles: list[int], carriers: dict[int, int]) -> list[int]:
    """Those of `handles` that speak for themselves or for others, in order."""
    speaking = set(carriers.values())
    return [handle for handle in handles if handle in speaking]
