"""Who is in a shard: devices and their channels, patients, hospitals; found by one array look-up from a handle.

Rows are never removed or moved: a row number is good for the life of the shard. Every change is idempotent.
"""

from __future__ import annotations

import sys
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.columns import HandleIndex, Table, strings
from actors.kinds import (
    CHANNEL_COLUMNS,
    CHANNEL_COUNTS,
    CHANNEL_TEMPLATES,
    CHART_MODEL,
    DEVICE_COLUMNS,
    FOREVER_US,
    HOSPITAL_COLUMNS,
    INSTANCES,
    MODEL_NUMBER,
    OFFSETS,
    PATIENT_COLUMNS,
)
from domain.ages import age_band
from domain.compiled import Int16s, Int32s, Int32s2D, OutInt32s, UInt8s, UInt8s2D, UInt16s, compiled
from domain.instants import NEVER_US
from domain.messages import DevicesRegistered, MaintenanceSet, PatientAdmitted
from domain.thing_catalogue import THING_MODELS
from domain.thing_models import ThingModel

_NO_WINDOW: Final = (NEVER_US, NEVER_US)


class Roster:
    """The tables of a shard, and the texts that no arithmetic touches, row by row beside them."""

    def __init__(self) -> None:
        self.devices = Table(DEVICE_COLUMNS)
        self.channels = Table(CHANNEL_COLUMNS)
        self.patients = Table(PATIENT_COLUMNS)
        self.hospitals = Table(HOSPITAL_COLUMNS)
        self.hospital_ids: list[str] = []
        self.device_ids: list[str] = []
        self.ward_of_device: list[str | None] = []
        self.bed_of_device: list[str | None] = []
        self.event_of_device: list[str | None] = []  # the last thing it said
        self.patient_keys: list[str] = []
        self.ward_of_patient: list[str | None] = []
        self.bed_of_patient: list[str | None] = []
        self._ward_windows: dict[tuple[str, str], tuple[int, int]] = {}
        self._maintained_until_us = NEVER_US  # the end of the last window there ever was
        self._device_index = HandleIndex()
        self._patient_index = HandleIndex()

    # -- look-ups --------------------------------------------------------------------------------------------------

    def device_rows(self, handles: NDArray[np.uint32]) -> NDArray[np.int32]:
        """The row of each handle, -1 where it is not of this shard."""
        return self._device_index.rows_of(handles)

    def device_row(self, handle: int) -> int:
        return self._device_index.row_of(handle)

    def patient_row(self, handle: int) -> int:
        return self._patient_index.row_of(handle)

    def channel_rows(
        self, devices: NDArray[np.int32], metrics: NDArray[np.uint16], instances: NDArray[np.uint8]
    ) -> NDArray[np.int32]:
        """The channel of each reading; -1 where the device is unknown or its model lacks the metric or the instance."""
        rows = np.empty(len(devices), dtype=np.int32)
        table = self.devices
        _channels(devices, metrics, instances, table["model"], table["base"], INSTANCES, OFFSETS, rows)
        return rows

    def channels_of(self, device: int) -> tuple[int, int]:
        """The first channel of a device, and how many it has."""
        return int(self.devices["base"][device]), int(self.devices["channels"][device])

    def hospital_of_device(self, device: int) -> str:
        return self.hospital_ids[int(self.devices["hospital"][device])]

    def hospital_of_patient(self, patient: int) -> str:
        return self.hospital_ids[int(self.patients["hospital"][patient])]

    def model_of(self, device: int) -> ThingModel:
        return THING_MODELS[int(self.devices["model"][device])]

    def in_maintenance(self, devices: NDArray[Any], at_us: NDArray[np.int64] | int) -> NDArray[np.bool_]:
        """Whether each device, or its ward, is under maintenance at that arrival time."""
        if not len(devices) or np.min(at_us) >= self._maintained_until_us:
            return np.zeros(len(devices), dtype=np.bool_)
        table = self.devices
        own = (table["maintenance_from_us"][devices] <= at_us) & (at_us < table["maintenance_until_us"][devices])
        ward = (table["ward_maintenance_from_us"][devices] <= at_us) & (at_us < table["ward_maintenance_until_us"][devices])
        inside: NDArray[np.bool_] = own | ward
        return inside

    # -- changes ---------------------------------------------------------------------------------------------------

    def register(self, message: DevicesRegistered, at_us: int) -> None:
        """Add devices; one already here (same handle) gets its new ward and bed, its model stays."""
        handles = np.array(message.handles, dtype=np.uint32)
        rows = self._device_index.rows_of(handles)
        for number in np.flatnonzero(rows >= 0).tolist():
            self._move(int(rows[number]), message.hospital_id, message.ward_ids[number], message.bed_ids[number])
        fresh = [n for n in np.flatnonzero(rows < 0).tolist() if message.models[n] in MODEL_NUMBER]
        if fresh:
            self._add_devices(
                message.hospital_id,
                handles[fresh],
                [message.device_ids[n] for n in fresh],
                [MODEL_NUMBER[message.models[n]] for n in fresh],
                at_us,
            )
            for n in fresh:
                self._move(self.device_row(message.handles[n]), message.hospital_id, message.ward_ids[n], message.bed_ids[n])

    def admit(self, message: PatientAdmitted, at_us: int) -> int:
        """Add a patient, with a chart as a device of its own, or take over changed facts; returns the patient's row."""
        row = self.patient_row(message.handle)
        if row < 0:
            row = self._add_patient(message, at_us)
        table, age = self.patients, np.nan if message.age_years is None else message.age_years
        table["age_years"][row], table["band"][row] = age, age_band(age)
        table["is_pregnant"][row], table["is_scale_2"][row] = message.pregnant, message.spo2_scale == 2
        table["admitted_us"][row] = message.admitted_us
        table["discharged_us"][row] = FOREVER_US if message.discharged_us is None else message.discharged_us
        self.ward_of_patient[row], self.bed_of_patient[row] = message.ward_id, message.bed_id
        self._move(int(table["device"][row]), message.hospital_id, message.ward_id, message.bed_id)
        return row

    def maintain(self, message: MaintenanceSet) -> None:
        """Set the one maintenance window of a device or ward; it replaces an earlier one."""
        self._maintained_until_us = max(self._maintained_until_us, message.until_us)
        if message.ward_id is not None:
            self._ward_windows[message.hospital_id, message.ward_id] = (message.from_us, message.until_us)
            for device, ward_id in enumerate(self.ward_of_device):
                if ward_id == message.ward_id and self.hospital_of_device(device) == message.hospital_id:
                    self._set_ward_window(device, (message.from_us, message.until_us))
        device = self.device_row(message.handle)
        if device >= 0:
            self.devices["maintenance_from_us"][device] = message.from_us
            self.devices["maintenance_until_us"][device] = message.until_us

    def hear(self, device: int, event: str, at_us: int) -> None:
        """Remember a device's last event."""
        self.event_of_device[device] = event
        self.devices["last_event_us"][device] = at_us

    def _move(self, device: int, hospital_id: str, ward_id: str | None, bed_id: str | None) -> None:
        ward_id = None if ward_id is None else sys.intern(ward_id)  # many devices stand in one ward
        self.ward_of_device[device], self.bed_of_device[device] = ward_id, bed_id
        self._set_ward_window(device, self._ward_windows.get((hospital_id, ward_id or ""), _NO_WINDOW))

    def _set_ward_window(self, device: int, window: tuple[int, int]) -> None:
        self.devices["ward_maintenance_from_us"][device], self.devices["ward_maintenance_until_us"][device] = window

    def _add_patient(self, message: PatientAdmitted, at_us: int) -> int:
        handles = np.array([message.handle], dtype=np.uint32)
        chart = self._add_devices(
            message.hospital_id, handles, [f"chart-{message.patient_key}"], [MODEL_NUMBER[CHART_MODEL.id]], at_us
        )
        row: int = self.patients.append(
            1, handle=message.handle, device=chart, hospital=self._hospital_number(message.hospital_id)
        ).start
        self._patient_index.put(handles, np.array([row]))
        self.patient_keys.append(message.patient_key)
        self.ward_of_patient.append(None)
        self.bed_of_patient.append(None)
        return row

    def _add_devices(
        self, hospital_id: str, handles: NDArray[np.uint32], device_ids: list[str], models: list[int], at_us: int
    ) -> int:
        """Append devices and, side by side, their channels; returns the first row."""
        hospital = self._hospital_number(hospital_id)
        counts = CHANNEL_COUNTS[models]
        bases = len(self.channels) + np.cumsum(counts) - counts
        rows = self.devices.append(
            len(handles),
            handle=handles, model=models, hospital=hospital, base=bases, channels=counts, registered_us=at_us,
        )  # fmt: skip
        self._device_index.put(handles, np.arange(rows.start, rows.stop))
        self.device_ids += device_ids
        for texts in (self.ward_of_device, self.bed_of_device, self.event_of_device):
            texts.extend([None] * len(handles))
        names = CHANNEL_TEMPLATES[models[0]]
        self.channels.append(
            int(counts.sum()),
            device=np.repeat(np.arange(rows.start, rows.stop), counts),
            **{name: np.concatenate([CHANNEL_TEMPLATES[model][name] for model in models]) for name in names},
        )
        return int(rows.start)

    def _hospital_number(self, hospital_id: str) -> int:
        if hospital_id not in self.hospital_ids:
            self.hospital_ids.append(hospital_id)
            self.hospitals.append(1)
        return self.hospital_ids.index(hospital_id)

    # -- snapshots -------------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, pa.Table]:
        windows = self._ward_windows
        return {
            "devices": self.devices.snapshot(),
            "channels": self.channels.snapshot(),
            "patients": self.patients.snapshot(),
            "hospitals": self.hospitals.snapshot(),
            "hospital_texts": strings({"id": self.hospital_ids}),
            "device_texts": strings({
                "id": self.device_ids, "ward": self.ward_of_device, "bed": self.bed_of_device, "event": self.event_of_device,
            }),
            "patient_texts": strings({
                "key": self.patient_keys, "ward": self.ward_of_patient, "bed": self.bed_of_patient,
            }),
            "ward_windows": pa.table({
                "hospital": pa.array([hospital for hospital, _ in windows], pa.string()),
                "ward": pa.array([ward for _, ward in windows], pa.string()),
                "from_us": pa.array([start for start, _ in windows.values()], pa.int64()),
                "until_us": pa.array([end for _, end in windows.values()], pa.int64()),
            }),
        }  # fmt: skip

    def restore(self, tables: dict[str, pa.Table]) -> None:
        """Take the rows of `snapshot`, in place of whatever is here."""
        for name in ("devices", "channels", "patients", "hospitals"):
            getattr(self, name).restore(tables[name])
        self.hospital_ids = tables["hospital_texts"]["id"].to_pylist()
        texts = tables["device_texts"]
        self.device_ids, self.event_of_device = texts["id"].to_pylist(), texts["event"].to_pylist()
        self.ward_of_device, self.bed_of_device = texts["ward"].to_pylist(), texts["bed"].to_pylist()
        texts = tables["patient_texts"]
        self.patient_keys = texts["key"].to_pylist()
        self.ward_of_patient, self.bed_of_patient = texts["ward"].to_pylist(), texts["bed"].to_pylist()
        self._ward_windows = {
            (row["hospital"], row["ward"]): (row["from_us"], row["until_us"]) for row in tables["ward_windows"].to_pylist()
        }
        ends = [self.devices[name].max(initial=NEVER_US) for name in ("maintenance_until_us", "ward_maintenance_until_us")]
        self._maintained_until_us = max(map(int, (*ends, *(until for _, until in self._ward_windows.values()))))
        self._device_index, self._patient_index = HandleIndex(), HandleIndex()
        self._device_index.put(self.devices["handle"], np.arange(len(self.devices)))
        self._patient_index.put(self.patients["handle"], np.arange(len(self.patients)))


@compiled
def _channels(
    devices: Int32s, metrics: UInt16s, instances: UInt8s, model: Int16s, base: Int32s, has_instances: UInt8s2D,
    offsets: Int32s2D, rows: OutInt32s,
) -> None:  # fmt: skip
    for i in range(len(devices)):
        device, metric = devices[i], metrics[i]
        rows[i] = -1
        if device >= 0 and metric < has_instances.shape[1] and instances[i] < has_instances[model[device], metric]:
            rows[i] = base[device] + offsets[model[device], metric] + instances[i]
