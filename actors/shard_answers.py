"""Answers of a shard: latest values, freshness, and the state of one actor in words."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.early_warning import EarlyWarning
from actors.roster import NOBODY, Roster
from domain.errors import NotFound
from domain.ids import ActorKind, Address
from domain.instants import NEVER_US
from domain.messages import FreshnessQuery, LatestQuery
from domain.metrics import BY_ID
from domain.quality import describe as describe_quality
from domain.thing_catalogue import THING_MODELS
from domain.thing_models import Modality

CHANNEL_STATES: Final = ("not-in-use", "live", "stale", "invalid")
_NOT_IN_USE, _LIVE, _STALE, _INVALID = range(4)
_EXPECTED_PER_MIN: Final = np.array(
    [
        sum(60 / c.period_s * c.instances for c in model.channels if c.modality is not Modality.ON_EVENT)
        for model in THING_MODELS
    ]
)
_SLOWEST_S: Final = np.array([max((c.period_s for c in model.channels), default=60.0) for model in THING_MODELS])


def channel_states(roster: Roster, now_us: int) -> NDArray[np.int8]:
    """Index into CHANNEL_STATES of every channel at stream time `now_us`."""
    channels = roster.channels
    stale = now_us - np.maximum(channels["arrival_us"], 0) > channels["stale_after_us"]
    stale |= roster.devices["is_offline"][channels["device"]]
    states = np.where(stale, _STALE, np.where(channels["is_usable"], _LIVE, _INVALID))
    states[~channels["was_usable"]] = _NOT_IN_USE
    return states.astype(np.int8)


def latest(roster: Roster, query: LatestQuery, now_us: int) -> pa.Table:
    """The newest reading of each channel that ever delivered."""
    channels = roster.channels
    chosen = channels["time_us"] != NEVER_US
    if query.handles:
        chosen &= np.isin(roster.devices["handle"][channels["device"]], np.array(query.handles, np.uint32))
    if query.metrics:
        chosen &= np.isin(channels["metric"], np.array(query.metrics, np.uint16))
    if query.hospital_id is not None:
        chosen &= _of_hospital(roster, query.hospital_id)[channels["device"]]
    rows = np.flatnonzero(chosen)
    names = pa.array(CHANNEL_STATES)
    return pa.table(
        {
            "handle": roster.devices["handle"][channels["device"][rows]],
            **{name: channels[name][rows] for name in ("instance", "metric", "time_us", "arrival_us", "value", "quality")},
            "state": names.take(pa.array(channel_states(roster, now_us)[rows])),
        }
    )


def freshness(roster: Roster, query: FreshnessQuery, now_us: int) -> pa.Table:
    """Expected against received readings of each device over the last full minute of stream time."""
    devices = roster.devices
    chosen = np.ones(len(devices), dtype=np.bool_)
    if query.handles:
        chosen &= np.isin(devices["handle"], np.array(query.handles, np.uint32))
    if query.hospital_id is not None:
        chosen &= _of_hospital(roster, query.hospital_id)
    rows = np.flatnonzero(chosen)
    silence_us = now_us - np.maximum(devices["last_arrival_us"][rows], 0)
    slowest_us = _SLOWEST_S[devices["model"][rows]] * 1e6
    never = devices["last_arrival_us"][rows] == NEVER_US
    state = np.select(
        [never, devices["is_offline"][rows], silence_us > 10 * slowest_us, silence_us > 3 * slowest_us + 15e6],
        ["never", "silent", "silent", "stale"],
        "live",
    )
    return pa.table(
        {
            "handle": devices["handle"][rows],
            "expected_per_min": _EXPECTED_PER_MIN[devices["model"][rows]],
            "received_per_min": devices["received_last_minute"][rows],
            "last_arrival_us": devices["last_arrival_us"][rows],
            "state": pa.array(state.tolist(), pa.string()),
        }
    )


def describe_actor(roster: Roster, early: EarlyWarning, address: Address, now_us: int) -> dict[str, Any]:
    """One actor's state. Raises NotFound for one that is not here."""
    match address.kind:
        case ActorKind.DEVICE:
            return _device(roster, _find(roster.device_ids, roster.hospital_of_device, address), now_us)
        case ActorKind.PATIENT:
            return _patient(roster, early, _find(roster.patient_keys, roster.hospital_of_patient, address), now_us)
        case ActorKind.BED:
            return _bed(roster, address)
        case ActorKind.HOSPITAL:
            return _hospital(roster, address.hospital_id, now_us)


def _find(ids: list[str], hospitals: list[str], address: Address) -> int:
    for row, (local_id, hospital_id) in enumerate(zip(ids, hospitals, strict=True)):
        if local_id == address.local_id and hospital_id == address.hospital_id:
            return row
    raise NotFound(f"{address} is not known to its shard")


def _device(roster: Roster, row: int, now_us: int) -> dict[str, Any]:
    device = roster.devices.view(row)
    model = THING_MODELS[device.model]
    states = channel_states(roster, now_us)
    patient = int(roster.patients_at(np.array([row], np.int32), np.array([now_us]))[0])
    return {
        "address": f"device:{roster.hospital_of_device[row]}/{roster.device_ids[row]}",
        "handle": device.handle,
        "model": model.id,
        "ward_id": roster.ward_of_device[row],
        "bed_id": roster.bed_of_device[row],
        "patient_key": roster.patient_keys[patient] if patient > NOBODY else None,
        "last_arrival_us": None if device.last_arrival_us == NEVER_US else device.last_arrival_us,
        "is_offline": device.is_offline,
        "in_maintenance": device.maintenance_from_us <= now_us < device.maintenance_until_us,
        "at_us": now_us,
        "channels": [
            _channel(roster, channel, CHANNEL_STATES[states[channel]])
            for channel in range(device.base, device.base + device.channels)
        ],
    }


def _channel(roster: Roster, channel: int, state: str) -> dict[str, Any]:
    row = roster.channels.view(channel)
    metric = BY_ID[row.metric]
    has_any = row.time_us != NEVER_US
    return {
        "metric": metric.code,
        "instance": row.instance,
        "unit": metric.unit,
        "state": state,
        "value": row.value if has_any and row.value == row.value else None,
        "time_us": row.time_us if has_any else None,
        "arrival_us": row.arrival_us if has_any else None,
        "quality": describe_quality(row.quality) if has_any else None,
        "received": row.received,
    }


def _patient(roster: Roster, early: EarlyWarning, row: int, now_us: int) -> dict[str, Any]:
    patient = roster.patients.view(row)
    devices = np.arange(len(roster.devices), dtype=np.int32)
    mine = np.flatnonzero(roster.patients_at(devices, np.full(len(devices), now_us)) == row)
    return {
        "address": f"patient:{roster.hospital_of_patient[row]}/{roster.patient_keys[row]}",
        "handle": patient.handle,
        "ward_id": roster.ward_of_patient[row],
        "bed_id": roster.bed_of_patient[row],
        "devices": [roster.device_ids[int(device)] for device in mine],
        "early_warning": early.describe(row),
        "at_us": now_us,
    }


def _bed(roster: Roster, address: Address) -> dict[str, Any]:
    devices = [
        roster.device_ids[row]
        for row, bed in enumerate(roster.bed_of_device)
        if bed == address.local_id and roster.hospital_of_device[row] == address.hospital_id
    ]
    patients = [
        roster.patient_keys[row]
        for row, bed in enumerate(roster.bed_of_patient)
        if bed == address.local_id and roster.hospital_of_patient[row] == address.hospital_id
    ]
    if not devices and not patients:
        raise NotFound(f"{address} has no device and no patient")
    return {"address": str(address), "devices": devices, "patients": patients}


def _hospital(roster: Roster, hospital_id: str, now_us: int) -> dict[str, Any]:
    mine = _of_hospital(roster, hospital_id)
    states = channel_states(roster, now_us)[mine[roster.channels["device"]]]
    counts = np.bincount(states, minlength=len(CHANNEL_STATES))
    return {
        "address": f"hospital:{hospital_id}/{hospital_id}",
        "devices": int(mine.sum()),
        "patients": sum(1 for hospital in roster.hospital_of_patient if hospital == hospital_id),
        "channels": {name: int(count) for name, count in zip(CHANNEL_STATES, counts, strict=True)},
        "at_us": now_us,
    }


def _of_hospital(roster: Roster, hospital_id: str) -> NDArray[np.bool_]:
    if hospital_id not in roster.hospital_ids:
        return np.zeros(len(roster.devices), dtype=np.bool_)
    number = roster.hospital_ids.index(hospital_id)
    mine: NDArray[np.bool_] = roster.hospital_numbers(np.arange(len(roster.devices), dtype=np.int32)) == number
    return mine
