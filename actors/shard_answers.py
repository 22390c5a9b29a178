"""Answers of a shard: latest values, freshness, and the state of one actor in words."""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.associations import Associations
from actors.early_warning import EarlyWarning
from actors.freshness import received_per_minute
from actors.kinds import NOBODY
from actors.roster import Roster
from actors.signals import Signals
from domain.errors import NotFound
from domain.ids import NO_HANDLE, ActorKind, Address
from domain.instants import NEVER_US
from domain.messages import FreshnessQuery, LatestQuery
from domain.metrics import BY_ID
from domain.quality import describe as describe_quality

CHANNEL_STATES: Final = ("not-in-use", "live", "stale", "invalid")
_DEVICE_STATES: Final = ("isolated", "never", "silent", "stale", "live")


class Answers:
    """Reads the tables of a shard; changes nothing."""

    def __init__(self, roster: Roster, associations: Associations, early: EarlyWarning) -> None:
        self._roster = roster
        self._associations = associations
        self._early = early

    def latest(self, query: LatestQuery, signals: Signals) -> pa.Table:
        """The newest reading of each channel that ever delivered."""
        channels = self._roster.channels
        rows = self._channels_of(self._chosen_devices(query.handles, query.hospital_id))
        chosen = channels["time_us"][rows] != NEVER_US
        if query.metrics:
            chosen &= np.isin(channels["metric"][rows], np.array(query.metrics, np.uint16))
        rows = rows[chosen]
        handles = self._roster.devices["handle"][channels["device"][rows]]
        names = ("instance", "metric", "time_us", "arrival_us", "value", "quality")
        states = pa.array(CHANNEL_STATES).take(pa.array(_channel_states(signals, rows)))
        return pa.table({"handle": handles, **{name: channels[name][rows] for name in names}, "state": states})

    def freshness(self, query: FreshnessQuery, signals: Signals, now_us: int) -> pa.Table:
        """Expected against received readings of each device over the last full minute of stream time.

        Expected is what the thing model promises of the channels in use; of a device that never delivered, of all.
        `clock_offset_us` is of the device as a sender.
        `isolated`: cut off by order; `silent`: all channels in use are stale, or it said goodbye; `stale`: some are.
        """
        devices = self._roster.devices
        rows = self._chosen_devices(query.handles, query.hospital_id)
        used, stale = (signals.per_device(flags)[rows] for flags in (signals.used, signals.stale))
        never = devices["last_arrival_us"][rows] == NEVER_US
        isolated = devices["is_isolated"][rows]
        state = np.select([isolated, never, (used > 0) & (stale == used), stale > 0], [0, 1, 2, 3], 4)
        return pa.table({
            "handle": devices["handle"][rows],
            "expected_per_min": self._expected(signals.used)[rows],
            "received_per_min": received_per_minute(devices, rows, now_us),
            "last_arrival_us": devices["last_arrival_us"][rows],
            "clock_offset_us": devices["clock_offset_us"][rows],
            "state": pa.array(_DEVICE_STATES).take(pa.array(state)),
        })  # fmt: skip

    def describe(self, address: Address, signals: Signals, now_us: int) -> dict[str, Any]:
        """One actor's state. Raises NotFound for one that is not here."""
        match address.kind:
            case ActorKind.DEVICE:
                return self._device(address, signals, now_us)
            case ActorKind.PATIENT:
                return self._patient(address, now_us)
            case ActorKind.BED:
                return self._bed(address, now_us)
            case ActorKind.HOSPITAL:
                return self._hospital(address, signals, now_us)

    def handle_of(self, address: Address) -> int:
        """The handle of a device or patient; NO_HANDLE for other kinds. Raises NotFound for one that is not here."""
        match address.kind:
            case ActorKind.DEVICE:
                return int(self._roster.devices["handle"][self._find_device(address)])
            case ActorKind.PATIENT:
                return int(self._roster.patients["handle"][self._find_patient(address)])
            case _:
                return NO_HANDLE

    def _chosen_devices(self, handles: list[int], hospital_id: str | None) -> NDArray[np.intp]:
        """The rows of some devices, in order of row; of all, where nothing is named."""
        devices = self._roster.devices
        rows = np.arange(len(devices))
        if handles:
            found = np.unique(self._roster.device_rows(np.array(handles, np.uint32)))
            rows = found[found >= 0].astype(np.intp)
        if hospital_id is not None:
            known = hospital_id in self._roster.hospital_ids
            rows = rows[devices["hospital"][rows] == self._roster.hospital_ids.index(hospital_id)] if known else rows[:0]
        return rows

    def _channels_of(self, devices: NDArray[np.intp]) -> NDArray[np.intp]:
        """The rows of all channels of these devices: each device's lie side by side."""
        first, count = self._roster.devices["base"][devices].astype(np.intp), self._roster.devices["channels"][devices]
        before = np.cumsum(count) - count
        rows: NDArray[np.intp] = np.repeat(first - before, count) + np.arange(int(count.sum()))
        return rows

    def _expected(self, used: NDArray[np.bool_]) -> NDArray[np.float64]:
        channels, count = self._roster.channels, len(self._roster.devices)
        promised = np.bincount(channels["device"], channels["per_minute"], count)
        in_use = np.bincount(channels["device"], channels["per_minute"] * used, count)
        has_any = np.bincount(channels["device"], used, count) > 0
        expected: NDArray[np.float64] = np.where(has_any, in_use, promised)
        return expected

    def _device(self, address: Address, signals: Signals, now_us: int) -> dict[str, Any]:
        row = self._find_device(address)
        device = self._roster.devices.view(row)
        patient = self._associations.patient_of(row, now_us)
        channels = self._channels_of(np.array([row]))
        states = _channel_states(signals, channels)
        return {
            "address": str(address),
            "handle": device.handle,
            "model": self._roster.model_of(row).id,
            "ward_id": self._roster.ward_of_device[row],
            "bed_id": self._roster.bed_of_device[row],
            "patient_key": self._roster.patient_keys[patient] if patient > NOBODY else None,
            "last_arrival_us": None if device.last_arrival_us == NEVER_US else device.last_arrival_us,
            "last_event": self._roster.event_of_device[row],
            "is_offline": device.is_offline,
            "is_isolated": device.is_isolated,
            "in_maintenance": bool(self._roster.in_maintenance(np.array([row]), now_us)[0]),
            "in_outage": device.in_outage,
            "clock_offset_s": device.clock_offset_us / 1e6 if device.clock_minute >= 0 else None,
            "clock_uncertainty_s": device.clock_uncertainty_us / 1e6 if device.clock_minute >= 0 else None,
            "at_us": now_us,
            "channels": [
                self._channel(channel, CHANNEL_STATES[state])
                for channel, state in zip(channels.tolist(), states.tolist(), strict=True)
            ],
        }

    def _channel(self, channel: int, state: str) -> dict[str, Any]:
        row = self._roster.channels.view(channel)
        metric, has_any = BY_ID[row.metric], row.time_us != NEVER_US
        return {
            "metric": metric.code,
            "instance": row.instance,
            "unit": metric.unit,
            "state": state,
            "value": None if math.isnan(row.value) else row.value,
            "time_us": row.time_us if has_any else None,
            "arrival_us": row.arrival_us if has_any else None,
            "quality": describe_quality(row.quality) if has_any else None,
            "received": row.received,
        }

    def _patient(self, address: Address, now_us: int) -> dict[str, Any]:
        row = self._find_patient(address)
        patient = self._roster.patients.view(row)
        devices = np.arange(len(self._roster.devices))
        mine = np.flatnonzero(self._associations.patients_at(devices, np.full(len(devices), now_us, np.int64)) == row)
        return {
            "address": str(address),
            "handle": patient.handle,
            "ward_id": self._roster.ward_of_patient[row],
            "bed_id": self._roster.bed_of_patient[row],
            "devices": [self._roster.device_ids[device] for device in mine.tolist() if device != patient.device],
            "is_monitored": not patient.lost_is_raised,
            "early_warning": msgspec.to_builtins(self._early.describe(row, now_us)),
            "at_us": now_us,
        }

    def _bed(self, address: Address, now_us: int) -> dict[str, Any]:
        roster, bed = self._roster, address.local_id
        devices = [
            roster.device_ids[row]
            for row, bed_id in enumerate(roster.bed_of_device)
            if bed_id == bed and roster.hospital_of_device(row) == address.hospital_id
        ]
        patients = [
            roster.patient_keys[row]
            for row, bed_id in enumerate(roster.bed_of_patient)
            if bed_id == bed and roster.hospital_of_patient(row) == address.hospital_id
        ]
        if not devices and not patients:
            raise NotFound(f"{address} has no device and no patient")
        return {"address": str(address), "devices": devices, "patients": patients, "at_us": now_us}

    def _hospital(self, address: Address, signals: Signals, now_us: int) -> dict[str, Any]:
        if address.hospital_id not in self._roster.hospital_ids:
            raise NotFound(f"{address} is not known to its shard")
        number = self._roster.hospital_ids.index(address.hospital_id)
        mine = self._chosen_devices([], address.hospital_id)
        counts = np.bincount(_channel_states(signals, self._channels_of(mine)), minlength=len(CHANNEL_STATES))
        row = self._roster.hospitals.view(number)
        return {
            "address": str(address),
            "devices": len(mine),
            "patients": int((self._roster.patients["hospital"] == number).sum()),
            "channels": dict(zip(CHANNEL_STATES, counts.tolist(), strict=True)),
            "outage_since_us": None if row.outage_onset_us == NEVER_US else row.outage_onset_us,
            "devices_in_outage": row.outage_members,
            "at_us": now_us,
        }

    def _find_device(self, address: Address) -> int:
        for row, device_id in enumerate(self._roster.device_ids):
            if device_id == address.local_id and self._roster.hospital_of_device(row) == address.hospital_id:
                return row
        raise NotFound(f"{address} is not known to its shard")

    def _find_patient(self, address: Address) -> int:
        for row, key in enumerate(self._roster.patient_keys):
            if key == address.local_id and self._roster.hospital_of_patient(row) == address.hospital_id:
                return row
        raise NotFound(f"{address} is not known to its shard")


def _channel_states(signals: Signals, channels: NDArray[np.intp]) -> NDArray[np.int64]:
    """Index into CHANNEL_STATES of each channel."""
    used, stale, invalid = signals.of(channels)
    return np.select([~used, stale, invalid], [0, 2, 3], 1)
