"""The cell of a shard: devices, patients and their rules as one pure state machine over columns.

Given the stream's messages in order it returns what to keep, what to notify and what to refuse; it calls no clock,
no bus and no Ray. What it returns does not depend on how the stream is cut into batches: a replay cuts differently
and must decide alike.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.columns import occurrence
from actors.early_warning import EarlyWarning, ScoreCounts
from actors.limit_alarms import LimitAlarms
from actors.recent import RecentReadings
from actors.roster import Roster
from actors.shard_answers import describe_actor, freshness, latest
from actors.technical_alarms import TechnicalAlarms
from domain.alarms import AlarmEvent
from domain.ids import Address
from domain.messages import (
    Control,
    DeviceAssociated,
    DeviceEvent,
    DevicesRegistered,
    FreshnessQuery,
    LatestQuery,
    LimitsPreset,
    MaintenanceSet,
    PatientAdmitted,
)  # fmt: skip
from domain.quality import Mark, is_usable
from domain.readings import ReadingBatch

_AHEAD_US: Final = 5_000_000  # an event time further ahead of its arrival comes from a clock that is off
_MINUTE_US: Final = 60_000_000


@dataclass(frozen=True, slots=True)
class Effects:
    """What a message brought. `stored` are the input's readings less proven doubles, with marks; `derived` are scores."""

    alarms: list[AlarmEvent] = field(default_factory=list)
    stored: ReadingBatch = field(default_factory=ReadingBatch.empty)
    stored_arrival_us: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    derived: ReadingBatch = field(default_factory=ReadingBatch.empty)
    rejected: list[tuple[ReadingBatch, str, str]] = field(default_factory=list)
    duplicates: int = 0


class ShardCell:
    """See module. Not thread-safe: one turn at a time."""

    def __init__(self, shard: int, live_horizon_us: int = 60_000_000) -> None:
        self.shard = shard
        self._live_horizon_us = live_horizon_us
        self._roster = Roster()
        self._recent = RecentReadings()
        self._limits = LimitAlarms(self._roster, live_horizon_us)
        self._technical = TechnicalAlarms(self._roster)
        self._early = EarlyWarning(self._roster, live_horizon_us)
        self.now_us = 0

    @property
    def device_count(self) -> int:
        return len(self._roster.devices)

    @property
    def channel_count(self) -> int:
        return len(self._roster.channels)

    @property
    def score_counts(self) -> ScoreCounts:
        return self._early.counts

    def hospital_ids(self) -> list[str]:
        return self._roster.hospital_ids

    def hospital_of(self, handles: NDArray[np.uint32]) -> pa.DictionaryArray:
        """The hospital of each handle of this shard, for the lake."""
        numbers = self._roster.hospital_numbers(self._roster.device_rows(handles))
        return pa.DictionaryArray.from_arrays(pa.array(numbers), pa.array(self._roster.hospital_ids, pa.string()))

    def step(self, readings: ReadingBatch, arrival_us: NDArray[np.int64]) -> Effects:
        """Take readings in stream order; `arrival_us` is aligned with them."""
        self.now_us = max(self.now_us, int(arrival_us.max(initial=0)))
        devices = self._roster.device_rows(readings.handle)
        channels = np.full(len(readings), -1, dtype=np.int64)
        known = devices >= 0
        channels[known] = self._roster.channel_rows(devices[known], readings.metric[known], readings.instance[known])
        rejected = _refuse(readings, devices, channels)
        fits = channels >= 0
        doubles = self._recent.are_doubles(readings.take(fits))
        chosen = np.flatnonzero(fits)[~doubles]
        batch, devices, channels = readings.take(chosen), devices[chosen], channels[chosen]
        arrival_us = arrival_us[chosen]
        batch, in_order = self._place(batch, devices, channels, arrival_us)
        patients = self._roster.patients_at(devices, batch.time_us)
        alarms = self._limits.step(batch.take(in_order), channels[in_order], patients[in_order], arrival_us[in_order])
        scores, derived = self._early.step(batch, patients, arrival_us)
        self._place_derived(derived)
        return Effects([*alarms, *scores], batch, arrival_us, derived, rejected, int(doubles.sum()))

    def tick(self, now_us: int) -> Effects:
        """Stream time goes on to `now_us`: silence is noticed, scores settle, the minute turns."""
        if now_us // _MINUTE_US != self.now_us // _MINUTE_US:
            table = self._roster.devices
            is_next = now_us // _MINUTE_US == self.now_us // _MINUTE_US + 1
            table["received_last_minute"][:] = table["received_minute"] if is_next else 0
            table["received_minute"][:] = 0
        self.now_us = max(self.now_us, now_us)
        alarms = self._technical.tick(self.now_us)
        scores, derived = self._early.tick(self.now_us)
        self._place_derived(derived)
        return Effects(alarms=[*alarms, *scores], derived=derived)

    def apply_control(self, message: Control, arrival_us: int) -> Effects:
        """Take a registration, association, preset, maintenance window or device event."""
        self.now_us = max(self.now_us, arrival_us)
        match message:
            case DevicesRegistered():
                self._roster.register(message)
            case PatientAdmitted():
                self._roster.admit(message)
            case DeviceAssociated():
                return Effects(alarms=self._associate(message))
            case LimitsPreset():
                self._roster.preset(message)
            case MaintenanceSet():
                return Effects(alarms=self._maintain(message))
            case DeviceEvent():
                self._hear(message)
        return Effects()

    def answer(self, query: LatestQuery | FreshnessQuery) -> pa.Table:
        """Answer a question to the shard; see the query's docstring for the columns."""
        if isinstance(query, LatestQuery):
            return latest(self._roster, query, self.now_us)
        return freshness(self._roster, query, self.now_us)

    def describe(self, address: Address) -> dict[str, Any]:
        """The present state of one actor. Raises NotFound when it is not in this shard."""
        return describe_actor(self._roster, self._early, address, self.now_us)

    def snapshot(self) -> dict[str, pa.Table]:
        """A copy of everything; `restore` of it behaves exactly as a cell that never stopped."""
        return {
            **self._roster.snapshot(),
            **self._technical.snapshot(),
            "early_warning": self._early.snapshot(),
            "recent": self._recent.snapshot(),
            "cell": pa.table({"now_us": [self.now_us]}),
        }

    def restore(self, tables: dict[str, pa.Table]) -> None:
        """Take the state of a snapshot, in place of whatever is here."""
        self._roster.restore(tables)
        self._technical.restore(tables)
        self._early.restore(tables["early_warning"])
        self._recent.restore(tables["recent"])
        self.now_us = tables["cell"].column("now_us")[0].as_py()

    def _place(
        self, batch: ReadingBatch, devices: NDArray[np.int32], channels: NDArray[np.int64], arrival_us: NDArray[np.int64]
    ) -> tuple[ReadingBatch, NDArray[np.bool_]]:
        """Write readings into their channels, newest event time wins; returns them with marks, and which were in order."""
        quality = batch.quality.copy()
        quality[arrival_us - batch.time_us > self._live_horizon_us] |= np.uint16(Mark.LATE)
        quality[batch.time_us - arrival_us > _AHEAD_US] |= np.uint16(Mark.CLOCK_SKEWED)
        in_order = np.ones(len(batch), dtype=np.bool_)
        rounds = occurrence(channels)
        for number in range(int(rounds.max(initial=-1)) + 1):
            rows = np.flatnonzero(rounds == number)
            newest = self._roster.channels["time_us"][channels[rows]]
            older = batch.time_us[rows] < newest
            same = batch.time_us[rows] == newest
            quality[rows[older]] |= np.uint16(Mark.OUT_OF_ORDER)
            quality[rows[same]] |= np.uint16(Mark.CONFLICT)
            in_order[rows[older]] = False
            self._write(batch, quality, rows[~older], channels[rows[~older]], arrival_us)
        np.add.at(self._roster.channels["received"], channels, 1)
        table = self._roster.devices
        np.add.at(table["received_minute"], devices, 1)
        np.maximum.at(table["last_arrival_us"], devices, arrival_us)
        table["is_offline"][devices] = False
        return batch.with_columns(quality=quality), in_order

    def _write(
        self, batch: ReadingBatch, quality: NDArray[np.uint16], rows: NDArray[np.intp], channels: NDArray[np.int64],
        arrival_us: NDArray[np.int64],
    ) -> None:  # fmt: skip
        table = self._roster.channels
        usable = is_usable(quality[rows])
        table["time_us"][channels], table["arrival_us"][channels] = batch.time_us[rows], arrival_us[rows]
        table["value"][channels], table["quality"][channels] = batch.value[rows], quality[rows]
        table["is_usable"][channels] = usable
        table["was_usable"][channels] |= usable

    def _place_derived(self, derived: ReadingBatch) -> None:
        """Scores are readings of the patient's chart: shown as its latest values like any other."""
        if not len(derived):
            return
        devices = self._roster.device_rows(derived.handle)
        channels = self._roster.channel_rows(devices, derived.metric, derived.instance)
        last = np.flatnonzero(np.r_[channels[1:] != channels[:-1], True])
        self._write(derived, derived.quality, last, channels[last], np.full(len(derived), self.now_us))

    def _channels_of(self, devices: NDArray[Any]) -> NDArray[np.intp]:
        return np.flatnonzero(np.isin(self._roster.channels["device"], devices))

    def _associate(self, message: DeviceAssociated) -> list[AlarmEvent]:
        """A device that changes patients ends what it raised: the next patient starts with a clean state."""
        now = np.array([self.now_us])
        device = self._roster.device_rows(np.array([message.handle], np.uint32))
        before = self._roster.patients_at(device, now) if device[0] >= 0 else None
        self._roster.associate(message)
        if before is None or self._roster.patients_at(device, now)[0] == before[0]:
            return []
        return self._limits.end_all(self._channels_of(device), self.now_us, self.now_us, "the device changed patients")

    def _maintain(self, message: MaintenanceSet) -> list[AlarmEvent]:
        if message.ward_id is not None:
            devices: NDArray[Any] = self._roster.devices_of_ward(message.hospital_id, message.ward_id)
        else:
            rows = self._roster.device_rows(np.array([message.handle], np.uint32))
            devices = rows[rows >= 0]
        self._roster.maintain(devices, message.from_us, message.until_us)
        if not message.from_us <= self.now_us < message.until_us:
            return []
        return self._limits.end_all(self._channels_of(devices), self.now_us, self.now_us, "under maintenance")

    def _hear(self, message: DeviceEvent) -> None:
        rows = self._roster.device_rows(np.array([message.handle], np.uint32))
        if rows[0] >= 0 and message.event in ("offline", "online"):
            self._roster.devices["is_offline"][rows] = message.event == "offline"


def _refuse(
    readings: ReadingBatch, devices: NDArray[np.int32], channels: NDArray[np.int64]
) -> list[tuple[ReadingBatch, str, str]]:
    refused = []
    strangers = devices < 0
    if strangers.any():
        handles = np.unique(readings.handle[strangers])[:5].tolist()
        detail = f"{int(strangers.sum())} readings of handles {handles} that are not registered in this shard"
        refused.append((readings.take(strangers), "unknown-device", detail))
    misfits = ~strangers & (channels < 0)
    if misfits.any():
        pairs = sorted(set(zip(readings.handle[misfits].tolist(), readings.metric[misfits].tolist(), strict=True)))[:5]
        detail = f"{int(misfits.sum())} readings of (handle, metric) {pairs} that the devices' thing models do not have"
        refused.append((readings.take(misfits), "unknown-metric", detail))
    return refused
