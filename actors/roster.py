"""Who is in a shard: devices and their channels, patients, and which device was on which patient when.

A device's channels lie side by side, in the order of its thing model, so the channel of a reading is
`base[device] + offset[model, metric] + instance`: three array look-ups for a whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.columns import Column, HandleIndex, Table, strings
from domain.ages import AgeBand, age_band
from domain.instants import NEVER_US
from domain.limits import LIMITS, LimitRule
from domain.messages import DeviceAssociated, DevicesRegistered, LimitsPreset, PatientAdmitted
from domain.metrics import MAX_ID, metric_of
from domain.thing_catalogue import THING_MODELS, thing_model
from domain.thing_models import Criticality, ThingModel

DEVICE_COLUMNS: Final = (
    Column("handle", np.uint32),
    Column("model", np.int16),
    Column("base", np.int32),
    Column("channels", np.int16),
    Column("last_arrival_us", np.int64, NEVER_US, "us"),
    Column("maintenance_from_us", np.int64, NEVER_US, "us"),
    Column("maintenance_until_us", np.int64, NEVER_US, "us"),
    Column("is_offline", np.bool_, False),
    Column("received_minute", np.int64),  # readings in the stream minute that is running
    Column("received_last_minute", np.int64),
    Column("span_count", np.int16),
)
CHANNEL_COLUMNS: Final = (
    Column("device", np.int32),
    Column("metric", np.uint16),
    Column("instance", np.uint8),
    Column("time_us", np.int64, NEVER_US, "us"),
    Column("arrival_us", np.int64, NEVER_US, "us"),
    Column("value", np.float64, np.nan),
    Column("quality", np.uint16),
    Column("received", np.int64),
    Column("is_usable", np.bool_, False),
    Column("was_usable", np.bool_, False),  # ever: a channel that never was is "not in use"
    Column("stale_after_us", np.int64, 2**62, "us"),
    Column("onset_us", np.int64, NEVER_US, "us", width=len(LimitRule)),
    Column("is_raised", np.bool_, False, width=len(LimitRule)),
    Column("change_from_us", np.int64, NEVER_US, "us"),  # the reading that the next one's rate is taken from
    Column("change_value", np.float64, np.nan),
)
PATIENT_COLUMNS: Final = (
    Column("handle", np.uint32),
    Column("band", np.uint8, AgeBand.ADULT),
    Column("age_years", np.float64, np.nan, "a"),
    Column("is_pregnant", np.bool_, False),
    Column("is_scale_2", np.bool_, False),
    Column("has_preset", np.bool_, False),
    Column("discharged_us", np.int64, 2**62, "us"),
)
NOBODY: Final = -1
AMBIGUOUS: Final = -2


def _offsets() -> NDArray[np.int16]:
    """offset[model, metric] of a metric's first channel within its device, -1 where the model lacks the metric."""
    offsets = np.full((len(THING_MODELS), MAX_ID + 1), -1, dtype=np.int16)
    for number, model in enumerate(THING_MODELS):
        at = 0
        for metric_id, channel in model.by_metric.items():
            offsets[number, metric_id] = at
            at += channel.instances
    return offsets


def _instances() -> NDArray[np.uint8]:
    counts = np.zeros((len(THING_MODELS), MAX_ID + 1), dtype=np.uint8)
    for number, model in enumerate(THING_MODELS):
        for metric_id, channel in model.by_metric.items():
            counts[number, metric_id] = channel.instances
    return counts


_OFFSETS: Final = _offsets()
_INSTANCES: Final = _instances()
_MODEL_NUMBER: Final = {model.id: number for number, model in enumerate(THING_MODELS)}
CHART_MODEL: Final = thing_model("patient-chart")
IS_VITAL: Final = np.array([model.criticality is Criticality.VITAL for model in THING_MODELS])
IS_PATIENT_BOUND: Final = np.array([model.patient_bound for model in THING_MODELS])


@dataclass(frozen=True, slots=True)
class _Span:
    patient: int
    start_us: int
    end_us: int


class Roster:
    """See module. Rows are never removed or moved; a row number is good for the life of the shard."""

    def __init__(self) -> None:
        self.devices = Table(DEVICE_COLUMNS)
        self.channels = Table(CHANNEL_COLUMNS)
        self.patients = Table(PATIENT_COLUMNS)
        self.device_ids: list[str] = []
        self.hospital_of_device: list[str] = []
        self.ward_of_device: list[str | None] = []
        self.bed_of_device: list[str | None] = []
        self.patient_keys: list[str] = []
        self.hospital_of_patient: list[str] = []
        self.ward_of_patient: list[str | None] = []
        self.bed_of_patient: list[str | None] = []
        self.hospital_ids: list[str] = []
        self._hospital_number = np.empty(0, dtype=np.int32)  # of each device row
        self._device_index = HandleIndex()
        self._patient_index = HandleIndex()
        self._spans: dict[int, tuple[list[_Span], int]] = {}  # device row -> spans, clock uncertainty
        self._presets: dict[tuple[int, int], tuple[float, float, float, float]] = {}
        self._frozen_spans: tuple[NDArray[Any], ...] | None = None

    # -- look-ups --------------------------------------------------------------------------------------------------

    def device_rows(self, handles: NDArray[np.uint32]) -> NDArray[np.int32]:
        return self._device_index.rows_of(handles)

    def patient_row(self, handle: int) -> int:
        return int(self._patient_index.rows_of(np.array([handle]))[0])

    def channel_rows(
        self, devices: NDArray[np.int32], metrics: NDArray[np.uint16], instances: NDArray[np.uint8]
    ) -> NDArray[np.int64]:
        """The channel of each reading; -1 where the device's model lacks the metric or the instance."""
        models = self.devices["model"][devices]
        known = metrics <= MAX_ID
        safe = np.where(known, metrics, 0)
        offsets = _OFFSETS[models, safe].astype(np.int64)
        fits = known & (offsets >= 0) & (instances < _INSTANCES[models, safe])
        rows: NDArray[np.int64] = np.where(fits, self.devices["base"][devices] + offsets + instances, -1)
        return rows

    def hospital_numbers(self, devices: NDArray[np.int32]) -> NDArray[np.int32]:
        """Index into `hospital_ids` for each device row."""
        numbers: NDArray[np.int32] = self._hospital_number[devices]
        return numbers

    def patients_at(self, devices: NDArray[np.int32], time_us: NDArray[np.int64]) -> NDArray[np.int64]:
        """The patient row of each device at each instant; NOBODY or AMBIGUOUS (too near a boundary to tell)."""
        found = np.full(len(devices), NOBODY, dtype=np.int64)
        has_spans = self.devices["span_count"][devices] > 0
        if not has_spans.any():
            return found
        device, start, end, patient, uncertainty = self._span_arrays()
        asked, at = devices[has_spans], time_us[has_spans]
        low = self._span_before(device, start, asked, at - uncertainty[asked])
        high = self._span_before(device, start, asked, at + uncertainty[asked])
        before = self._patient_in(low, asked, at - uncertainty[asked], device, end, patient)
        after = self._patient_in(high, asked, at + uncertainty[asked], device, end, patient)
        found[has_spans] = np.where(before == after, before, AMBIGUOUS)
        return found

    @staticmethod
    def _span_before(device: NDArray[Any], start: NDArray[Any], asked: NDArray[Any], at: NDArray[np.int64]) -> NDArray[np.intp]:
        """The last span of each device that started at or before `at` (one of another device where there is none)."""
        left = np.searchsorted(device, asked, side="left")
        right = np.searchsorted(device, asked, side="right")
        found = left - 1
        for _ in range(int((right - left).max(initial=0))):
            following = found + 1
            goes_on = (following < right) & (start[np.minimum(following, len(start) - 1)] <= at)
            if not goes_on.any():
                break
            found = np.where(goes_on, following, found)
        return np.where(found >= left, found, -1)

    @staticmethod
    def _patient_in(
        span: NDArray[np.intp], asked: NDArray[Any], at: NDArray[np.int64], device: NDArray[Any],
        end: NDArray[Any], patient: NDArray[Any],
    ) -> NDArray[np.int64]:  # fmt: skip
        safe = np.maximum(span, 0)
        inside = (span >= 0) & (device[safe] == asked) & (at < end[safe])
        result: NDArray[np.int64] = np.where(inside, patient[safe], NOBODY)
        return result

    def limits_of(self, metrics: NDArray[np.uint16], patients: NDArray[np.int64]) -> NDArray[np.float64]:
        """[n, 4] limits in force: the patient's preset, else the normal range of the age band, else the adult's."""
        bands = np.full(len(patients), int(AgeBand.ADULT))
        known = patients >= 0
        bands[known] = self.patients["band"][patients[known]]
        limits: NDArray[np.float64] = LIMITS[metrics, bands]
        if self._presets:
            for row in np.flatnonzero(known & np.isin(patients, list({p for p, _ in self._presets}))):
                preset = self._presets.get((int(patients[row]), int(metrics[row])))
                if preset is not None:
                    limits[row] = preset
        return limits

    def in_maintenance(self, devices: NDArray[np.int32], at_us: NDArray[np.int64] | int) -> NDArray[np.bool_]:
        table = self.devices
        inside: NDArray[np.bool_] = (table["maintenance_from_us"][devices] <= at_us) & (
            at_us < table["maintenance_until_us"][devices]
        )
        return inside

    def model_of(self, device: int) -> ThingModel:
        return THING_MODELS[int(self.devices["model"][device])]

    # -- changes ---------------------------------------------------------------------------------------------------

    def register(self, message: DevicesRegistered) -> None:
        """Add devices; known ones (same handle) get their new ward and bed only."""
        handles = np.array(message.handles, dtype=np.uint32)
        rows = self._device_index.rows_of(handles)
        for number in np.flatnonzero(rows >= 0):
            self.ward_of_device[rows[number]] = message.ward_ids[number]
            self.bed_of_device[rows[number]] = message.bed_ids[number]
        fresh = [int(number) for number in np.flatnonzero(rows < 0) if message.models[number] in _MODEL_NUMBER]
        if not fresh:
            return
        self._add_devices(message.hospital_id, handles[fresh], [_MODEL_NUMBER[message.models[n]] for n in fresh])
        self.device_ids += [message.device_ids[n] for n in fresh]
        self.ward_of_device += [message.ward_ids[n] for n in fresh]
        self.bed_of_device += [message.bed_ids[n] for n in fresh]

    def admit(self, message: PatientAdmitted) -> int:
        """Add a patient or take over changed facts; returns the patient's row. The patient's chart is a device."""
        row = self.patient_row(message.handle)
        if row < 0:
            row = self.patients.append(1, handle=message.handle).start
            self._patient_index.put(np.array([message.handle]), np.array([row]))
            self.patient_keys.append(message.patient_key)
            self.hospital_of_patient.append(message.hospital_id)
            self.ward_of_patient.append(None)
            self.bed_of_patient.append(None)
            self._add_devices(message.hospital_id, np.array([message.handle], np.uint32), [_MODEL_NUMBER[CHART_MODEL.id]])
            self.device_ids.append(f"chart-{message.patient_key[:12]}")
            self.ward_of_device.append(message.ward_id)
            self.bed_of_device.append(message.bed_id)
            self._set_spans(len(self.devices) - 1, [_Span(row, NEVER_US, 2**62)], 0)
        age = np.nan if message.age_years is None else message.age_years
        table = self.patients
        table["age_years"][row], table["band"][row] = age, age_band(age)
        table["is_pregnant"][row], table["is_scale_2"][row] = message.pregnant, message.spo2_scale == 2
        table["discharged_us"][row] = 2**62 if message.discharged_us is None else message.discharged_us
        self.ward_of_patient[row], self.bed_of_patient[row] = message.ward_id, message.bed_id
        return row

    def associate(self, message: DeviceAssociated) -> int:
        """Replace all spans of a device; returns its row, -1 when it is not here. Spans of unknown patients are left out."""
        device = int(self._device_index.rows_of(np.array([message.handle]))[0])
        if device < 0:
            return device
        spans = [
            _Span(patient, span.start_us, 2**62 if span.end_us is None else span.end_us)
            for span in message.spans
            if (patient := self.patient_row(span.patient_handle)) >= 0
        ]
        self._set_spans(device, sorted(spans, key=lambda span: span.start_us), message.clock_uncertainty_us)
        return device

    def preset(self, message: LimitsPreset) -> None:
        patient = self.patient_row(message.patient_handle)
        if patient < 0:
            return
        key = (patient, metric_of(message.metric).id)
        if message.limits is None:
            self._presets.pop(key, None)
        else:
            open_ends = (-np.inf, -np.inf, np.inf, np.inf)
            given = [end if limit is None else limit for limit, end in zip(message.limits, open_ends, strict=True)]
            self._presets[key] = (given[0], given[1], given[2], given[3])

    def maintain(self, device_rows: NDArray[Any], from_us: int, until_us: int) -> None:
        self.devices["maintenance_from_us"][device_rows] = from_us
        self.devices["maintenance_until_us"][device_rows] = until_us

    def devices_of_ward(self, hospital_id: str, ward_id: str) -> NDArray[np.intp]:
        return np.array(
            [
                row
                for row, (hospital, ward) in enumerate(zip(self.hospital_of_device, self.ward_of_device, strict=True))
                if hospital == hospital_id and ward == ward_id
            ],
            dtype=np.intp,
        )

    def _add_devices(self, hospital_id: str, handles: NDArray[np.uint32], models: list[int]) -> None:
        if hospital_id not in self.hospital_ids:
            self.hospital_ids.append(hospital_id)
        number = self.hospital_ids.index(hospital_id)
        counts = np.array([sum(c.instances for c in THING_MODELS[model].channels) for model in models])
        bases = len(self.channels) + np.r_[0, np.cumsum(counts)[:-1]]
        rows = self.devices.append(len(handles), handle=handles, model=models, base=bases, channels=counts)
        self._device_index.put(handles, np.arange(rows.start, rows.stop))
        self.hospital_of_device += [hospital_id] * len(handles)
        self._hospital_number = np.r_[self._hospital_number, np.full(len(handles), number, np.int32)]
        templates = [_channel_template(model) for model in models]
        if counts.sum():
            self.channels.append(
                int(counts.sum()),
                device=np.repeat(np.arange(rows.start, rows.stop), counts),
                metric=np.concatenate([t[0] for t in templates]),
                instance=np.concatenate([t[1] for t in templates]),
                stale_after_us=np.concatenate([t[2] for t in templates]),
            )

    def _set_spans(self, device: int, spans: list[_Span], uncertainty_us: int) -> None:
        self._spans[device] = (spans, uncertainty_us)
        self.devices["span_count"][device] = len(spans)
        self._frozen_spans = None

    def _span_arrays(self) -> tuple[NDArray[Any], ...]:
        """(device, start, end, patient) of all spans by device and start, and the clock uncertainty by device row."""
        if self._frozen_spans is None:
            rows = [(d, s.start_us, s.end_us, s.patient) for d in sorted(self._spans) for s in self._spans[d][0]]
            columns = np.array(rows, dtype=np.int64).reshape(-1, 4).T
            uncertainty = np.zeros(len(self.devices), dtype=np.int64)
            for device, (_, uncertainty_us) in self._spans.items():
                uncertainty[device] = uncertainty_us
            self._frozen_spans = (*columns, uncertainty)
        if len(self._frozen_spans[4]) < len(self.devices):
            grown = np.zeros(len(self.devices), dtype=np.int64)
            grown[: len(self._frozen_spans[4])] = self._frozen_spans[4]
            self._frozen_spans = (*self._frozen_spans[:4], grown)
        return self._frozen_spans

    # -- snapshots -------------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, pa.Table]:
        facts = msgspec.json.encode(
            {
                "spans": [
                    [device, uncertainty, [[s.patient, s.start_us, s.end_us] for s in spans]]
                    for device, (spans, uncertainty) in self._spans.items()
                ],
                "presets": [
                    [patient, metric, [None if np.isinf(v) else v for v in limits]]
                    for (patient, metric), limits in self._presets.items()
                ],
                "hospitals": self.hospital_ids,
            }
        )
        return {
            "devices": self.devices.snapshot(),
            "channels": self.channels.snapshot(),
            "patients": self.patients.snapshot(),
            "device_texts": strings(
                {"id": self.device_ids, "hospital": self.hospital_of_device, "ward": self.ward_of_device, "bed": self.bed_of_device}
            ),
            "patient_texts": strings(
                {"key": self.patient_keys, "hospital": self.hospital_of_patient, "ward": self.ward_of_patient,
                 "bed": self.bed_of_patient}
            ),
            "roster_facts": pa.table({"json": [facts.decode()]}),
        }  # fmt: skip

    def restore(self, tables: dict[str, pa.Table]) -> None:
        for name, table in (("devices", self.devices), ("channels", self.channels), ("patients", self.patients)):
            table.restore(tables[name])
        texts = {name: column.to_pylist() for name, column in zip(
            tables["device_texts"].column_names, tables["device_texts"].columns, strict=True)}  # fmt: skip
        self.device_ids, self.hospital_of_device = texts["id"], texts["hospital"]
        self.ward_of_device, self.bed_of_device = texts["ward"], texts["bed"]
        texts = {name: column.to_pylist() for name, column in zip(
            tables["patient_texts"].column_names, tables["patient_texts"].columns, strict=True)}  # fmt: skip
        self.patient_keys, self.hospital_of_patient = texts["key"], texts["hospital"]
        self.ward_of_patient, self.bed_of_patient = texts["ward"], texts["bed"]
        facts = msgspec.json.decode(tables["roster_facts"].column("json")[0].as_py())
        self.hospital_ids = facts["hospitals"]
        numbers = {hospital_id: number for number, hospital_id in enumerate(self.hospital_ids)}
        self._hospital_number = np.array([numbers[h] for h in self.hospital_of_device], dtype=np.int32)
        self._device_index.put(self.devices["handle"], np.arange(len(self.devices)))
        self._patient_index.put(self.patients["handle"], np.arange(len(self.patients)))
        self._spans = {d: ([_Span(*span) for span in spans], uncertainty) for d, uncertainty, spans in facts["spans"]}
        ends = (-np.inf, -np.inf, np.inf, np.inf)
        self._presets = {
            (p, m): tuple(end if v is None else v for v, end in zip(limits, ends, strict=True))  # type: ignore[misc]
            for p, m, limits in facts["presets"]
        }
        self._frozen_spans = None


_TEMPLATES: dict[int, tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = {}


def _channel_template(model: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """(metric, instance, stale_after_us) of a model's channels, in the order in which they lie side by side."""
    if model not in _TEMPLATES:
        rows = [
            (metric_id, instance, min(channel.stale_after_s * 1e6, 2.0**62))
            for metric_id, channel in THING_MODELS[model].by_metric.items()
            for instance in range(channel.instances)
        ]
        columns = list(zip(*rows, strict=True)) or [(), (), ()]
        _TEMPLATES[model] = (
            np.array(columns[0], np.uint16), np.array(columns[1], np.uint8), np.array(columns[2], np.int64),
        )  # fmt: skip
    return _TEMPLATES[model]
