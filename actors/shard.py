"""The cell of a shard: devices, patients and their rules as one pure state machine over columns.

Given the stream's messages in order it returns what to keep, what to notify and what to refuse; it calls no clock, no
bus and no Ray. What it returns does not depend on how the stream is cut into batches: a replay cuts differently and must
decide alike. Stream time is the greatest arrival time seen; timers run on it, at ticks, and never on the wall clock
(`stream_clock`).
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors import freshness
from actors.anomalies import Anomalies
from actors.associations import Associations
from actors.clock_alarms import ClockAlarms
from actors.device_alarms import DeviceAlarms
from actors.duplicates import RecentReadings
from actors.early_warning import EarlyWarning, ScoreCounts
from actors.effects import Effects
from actors.hand_overs import HandOvers
from actors.hospital_state import State, part_of, together
from actors.isolations import Isolations
from actors.limit_alarms import LimitAlarms
from actors.ordering import place, timing
from actors.presets import Presets
from actors.roster import Roster
from actors.screening import screen
from actors.security_alarms import SecurityAlarms
from actors.shard_answers import Answers
from actors.signals import Signals
from actors.source_clocks import ClockCorrection, SourceClocks
from actors.stream_clock import StreamClock
from actors.technical_alarms import TechnicalAlarms
from actors.turn import Notices, Turn
from actors.unmonitored import Unmonitored
from analytics.robust_z import RobustZ
from domain.alarms import AlarmEvent
from domain.errors import RejectedInput
from domain.ids import NO_HANDLE, Address
from domain.messages import (
    Control,
    DeviceAssociated,
    DeviceEvent,
    DeviceIsolated,
    DevicesRegistered,
    FreshnessQuery,
    HandOver,
    HandOverStep,
    LatestQuery,
    LimitsPreset,
    MaintenanceSet,
    PatientAdmitted,
    SecurityNotice,
)
from domain.ports import Scorer
from domain.quality import Mark
from domain.readings import ReadingBatch
from domain.thing_models import PRESENCE

__all__ = ["Effects", "ShardCell"]

ISOLATED: Final = "isolated"
OFFLINE: Final = "offline"
ONLINE: Final = "online"
_OWN: Final = ("cell", "hand_overs", "score_counts")  # of a snapshot: what says nothing of hospitals
# reason -> the column that names what has no place here, and the words for it
_REFUSALS: Final = {
    "unknown-device": ("handle", "handles {} that are not registered in this shard"),
    "unknown-metric": ("metric", "metrics {} that the devices' thing models lack"),
    ISOLATED: ("handle", "handles {} that are isolated, or came by a gateway that is"),
}


class Part(Protocol):
    """A part of the cell that has state of its own."""

    def snapshot(self) -> dict[str, pa.Table]: ...
    def restore(self, tables: dict[str, pa.Table]) -> None: ...


class ShardCell:
    """See module. Not thread-safe: one turn at a time. `scorer`: the detector of anomalies, robust z by default."""

    def __init__(self, shard: int, live_horizon_us: int = 60_000_000, scorer: Scorer | None = None) -> None:
        self.shard = shard
        self._time = StreamClock()
        self._live_horizon_us = live_horizon_us
        self._roster = Roster()
        self._associations = Associations(self._roster)
        self._presets = Presets(self._roster)
        self._recent = RecentReadings(self._roster)
        self._clocks = SourceClocks(self._roster)
        self._limits = LimitAlarms(self._roster, self._associations, self._presets)
        self._technical = TechnicalAlarms(self._roster, self._associations)
        self._unmonitored = Unmonitored(self._roster, self._associations)
        self._clock_alarms = ClockAlarms(self._roster)
        self._told = DeviceAlarms(self._roster, self._associations, live_horizon_us)
        self._noticed = SecurityAlarms(self._roster, live_horizon_us)
        self._isolations = Isolations(self._roster, self._associations)
        self._early = EarlyWarning(self._roster, live_horizon_us)
        self._anomalies = Anomalies(self._roster, scorer or RobustZ())
        self.hand_overs = HandOvers(shard)
        self._answers = Answers(self._roster, self._associations, self._early)

    @property
    def now_us(self) -> int:
        """Stream time."""
        return self._time.now_us

    @property
    def clock_us(self) -> int:
        """What the platform's clock said at stream time: less, while it catches up after having been set back."""
        return self._time.clock_us

    @property
    def device_count(self) -> int:
        return len(self._roster.devices)

    @property
    def channel_count(self) -> int:
        return len(self._roster.channels)

    @property
    def score_counts(self) -> ScoreCounts:
        """NEWS2 instants evaluated so far: complete, partial, not computable."""
        return self._early.counts

    def hospital_ids(self) -> list[str]:
        return self._roster.hospital_ids

    def hospital_of(self, handles: NDArray[np.uint32]) -> pa.DictionaryArray:
        """The hospital of each handle of this shard, for the lake."""
        numbers = self._roster.devices["hospital"][self._roster.device_rows(handles)]
        return pa.DictionaryArray.from_arrays(pa.array(numbers), pa.array(self._roster.hospital_ids, pa.string()))

    def step(self, readings: ReadingBatch, arrival_us: NDArray[np.int64]) -> Effects:
        """Take readings in stream order; `arrival_us` is aligned with them."""
        if not len(readings):
            return Effects()
        stream_us = self._time.reach(arrival_us)
        clock_us = self._time.clock_of(arrival_us, stream_us)
        devices = self._roster.device_rows(readings.handle)
        channels = self._roster.channel_rows(devices, readings.metric, readings.instance)
        isolated = self._isolations.refused(devices, readings.source)
        misfits = self._misfits(readings.handle, devices, channels, isolated)
        rejected = [refused(readings.take(at), reason) for reason, at in misfits]
        row = np.flatnonzero((channels >= 0) & ~isolated)
        known = readings if len(row) == len(readings) else readings.take(row)
        doubles, doubtful = self._recent.take(known)
        if doubles.any():
            row, doubtful, known = row[~doubles], doubtful[~doubles], known.take(~doubles)
        screened = screen(known, self._roster.devices["model"][devices[row]])
        clock = self._clocks.take(screened, stream_us[row], clock_us[row])
        turn = self._place(screened, row, devices[row], channels[row], (stream_us[row], clock_us[row]), clock, doubtful)
        notices = Notices()
        self._limits.step(turn, notices)
        self._early.step(turn, notices)
        self._anomalies.step(turn, notices)
        alarms, derived, derived_by = notices.in_order()
        derived_us = stream_us[derived_by]
        self._place_derived(derived, derived_us)
        return Effects(
            alarms, turn.readings, stream_us[row], clock, derived, derived_us, rejected, [at for _, at in misfits],
            int(doubles.sum()),
        )  # fmt: skip

    def tick(self, now_us: int) -> Effects:
        """Stream time goes on to `now_us`: silence is noticed, scores settle, what no reading ends is ended."""
        if self._time.tick(now_us):
            self._set_back()
        signals = self._signals()
        alarms = self._limits.settle(self.clock_us)
        alarms += self._technical.tick(signals, self.now_us, self.clock_us)
        alarms += self._unmonitored.tick(signals, self.now_us, self.clock_us)
        alarms += self._clock_alarms.tick(self.now_us, self.clock_us)
        alarms += self._told.settle(self.clock_us) + self._isolations.settle(self.clock_us)
        alarms += self._noticed.tick(self.clock_us)
        notices = Notices()
        self._early.tick(self.now_us, self.clock_us, notices)
        scores, derived, _ = notices.in_order()
        derived_us = np.full(len(derived), self.now_us)
        self._place_derived(derived, derived_us)
        return Effects(alarms=[*alarms, *scores], derived=derived, derived_arrival_us=derived_us)

    def apply_control(self, message: Control, arrival_us: int) -> Effects:
        """Take a registration, association, preset, maintenance window, isolation, device event or security notice. Idempotent.

        Raises RejectedInput for an event of a device that is not here (`unknown-device`), that is isolated or brought by
        one that is (`isolated`), or that its thing model does not say (`unknown-event`).
        """
        self._time.reach(np.array([arrival_us], dtype=np.int64))
        if isinstance(message, HandOver):
            return self._hand_over(message)
        if self.hand_overs.is_gone(message):
            return Effects()  # another shard follows ours for it
        return Effects(alarms=self._heed(message))

    def _heed(self, message: Control) -> list[AlarmEvent]:
        alarms: list[AlarmEvent] = []
        match message:
            case DevicesRegistered():
                self._roster.register(message, self.clock_us)
                self._associations.refresh(message.handles)
            case PatientAdmitted():
                patient = self._roster.admit(message, self.clock_us)
                self._associations.admit(message.handle, int(self._roster.patients["discharged_us"][patient]))
            case DeviceAssociated():
                self._associations.associate(message)
                device = self._roster.device_row(message.handle)
                alarms = self._limits.settle(self.clock_us, device) if device >= 0 else []
                alarms += self._isolations.settle(self.clock_us)
            case LimitsPreset():
                self._presets.preset(message)
            case MaintenanceSet():
                self._roster.maintain(message)
                alarms = self._limits.settle(self.clock_us) + self._told.settle(self.clock_us)
            case DeviceIsolated():
                alarms = self._isolations.take(message, self.clock_us)
            case DeviceEvent():
                alarms = self._hear(message)
            case SecurityNotice():
                alarms = self._noticed.hear(message, self.clock_us)
        return alarms

    def take_over(self, message: HandOver, state: State, arrival_us: int) -> None:
        """At the cut of a hospital that comes here: go on with it from `state`, which its former shard gave away there."""
        self._time.reach(np.array([arrival_us], dtype=np.int64))
        own = self.snapshot()
        others = [hospital for hospital in self.hospital_ids() if hospital != message.hospital_id]
        if len(others) < len(self.hospital_ids()):
            own = part_of(own, others)  # told of it by the directory, before the stream came to the cut
        self._take(together(own, state))
        self._recent.settle()
        self.hand_overs.cut(message, np.empty(0, np.uint32))

    def arrived(self, handles: NDArray[np.uint32], from_shard: int) -> NDArray[np.bool_]:
        """Which readings that come by another shard's subject are of hospitals that came here from there."""
        devices = self._roster.device_rows(handles)
        ours = [number for number, one in enumerate(self.hospital_ids()) if one in self.hand_overs.arrived_from(from_shard)]
        of = self._roster.devices["hospital"][devices] if len(self._roster.devices) else np.full(len(devices), -1)
        return (devices >= 0) & np.isin(of, ours)

    def answer(self, query: LatestQuery | FreshnessQuery) -> pa.Table:
        """Answer a question to the shard; see the query's docstring for the columns."""
        if isinstance(query, LatestQuery):
            return self._answers.latest(query, self._signals())
        return self._answers.freshness(query, self._signals(), self.now_us)

    def describe(self, address: Address) -> dict[str, Any]:
        """The present state of one actor. Raises NotFound when it is not in this shard."""
        return self._answers.describe(address, self._signals(), self.now_us)

    def name_of(self, handle: int) -> tuple[str, str] | None:
        """Hospital and device id of a device of this shard."""
        row = self._roster.device_row(handle)
        return None if row < 0 else (self._roster.hospital_of_device(row), self._roster.device_ids[row])

    def handle_of(self, address: Address) -> int:
        """The handle of a device or patient; NO_HANDLE for other kinds. Raises NotFound when it is not in this shard."""
        return self._answers.handle_of(address)

    def snapshot(self) -> dict[str, pa.Table]:
        """A copy of everything; `restore` of it behaves exactly as a cell that never stopped."""
        tables: dict[str, pa.Table] = {}
        for part in (*self._parts(), self.hand_overs):
            tables |= part.snapshot()
        tables["cell"] = self._time.snapshot()
        return tables

    def restore(self, tables: dict[str, pa.Table]) -> None:
        """Take the state of a snapshot, in place of whatever is here."""
        self._take(tables)
        self.hand_overs.restore(tables)
        self._time.restore(tables["cell"])

    def _take(self, tables: State) -> None:
        for part in self._parts():
            part.restore(tables)

    def _parts(self) -> tuple[Part, ...]:
        """What knows of hospitals and all that is in them; the roster first, which the others build on."""
        return (
            self._roster, self._associations, self._presets, self._recent, self._limits, self._early, self._anomalies,
            self._told, self._noticed, self._isolations,
        )  # fmt: skip

    def _set_back(self) -> None:
        """The platform's clock was ahead: nothing that is known can have happened after what it says now.

        What had been given a later time (by doors, to readings without one) would hide all that comes until then.
        """
        latest_us = self.clock_us
        for table, names in (
            (self._roster.channels, ("time_us", "ruled_time_us")),
            (self._roster.devices, ("last_time_us",)),
            (self._roster.patients, ("input_time_us", "instant_us")),
        ):
            for name in names:
                np.minimum(table[name], latest_us, out=table[name])
        self._limits.set_back(latest_us)
        self._told.set_back(latest_us)
        self._noticed.set_back(latest_us)

    def _place(
        self, readings: ReadingBatch, row: NDArray[np.intp], devices: NDArray[np.int32], channels: NDArray[np.int32],
        times: tuple[NDArray[np.int64], NDArray[np.int64]], clock: ClockCorrection, doubtful: NDArray[np.bool_],
    ) -> Turn:  # fmt: skip
        """Write readings into their channels and devices, and find whose they were. `times`: stream's and clock's."""
        stream_us, clock_us = times
        time_us, quality = timing(readings, clock_us, clock.offset_us, self._live_horizon_us)
        feeds, marks = place(self._roster.channels, channels, readings.with_columns(quality=quality), time_us, stream_us)
        quality |= marks
        quality[doubtful] |= np.uint16(Mark.POSSIBLE_DUPLICATE)
        freshness.note(self._roster.devices, devices, readings.source, time_us, stream_us)
        patients = self._associations.patients_at(devices, readings.time_us + clock.offset_us, clock.uncertainty_us)
        marked = readings.with_columns(quality=quality)
        return Turn(marked, row, devices, channels, time_us, stream_us, clock_us, patients, feeds)

    def _place_derived(self, derived: ReadingBatch, stream_us: NDArray[np.int64]) -> None:
        """Scores are readings of the patient's chart: shown as its latest values like any other."""
        if len(derived):
            channels = self._roster.channel_rows(self._roster.device_rows(derived.handle), derived.metric, derived.instance)
            place(self._roster.channels, channels, derived, derived.time_us, stream_us)

    def check_event(self, message: DeviceEvent) -> int:
        """The row of the device of an event. Raises RejectedInput as `apply_control`."""
        device = self._roster.device_row(message.handle)
        if device < 0:
            raise RejectedInput("unknown-device", f"an event of handle {message.handle}, which is not registered in this shard")
        told_by_door = message.event in PRESENCE and message.brought_by == NO_HANDLE
        for row in () if told_by_door else (device, self._roster.device_row(message.brought_by)):
            if row >= 0 and self._roster.devices["is_isolated"][row]:
                raise RejectedInput(ISOLATED, f"an event of handle {message.handle}: it, or what brought it, is isolated")
        if message.event in PRESENCE:
            return device
        self._roster.model_of(device).check_event(message.event)
        return device

    def _hear(self, message: DeviceEvent) -> list[AlarmEvent]:
        """A device that goes offline is silent at once, and so is all that it sends for others."""
        device = self.check_event(message)
        self._roster.hear(device, message.event, message.at_us)
        table = self._roster.devices
        if message.event not in (OFFLINE, ONLINE):
            return self._told.hear(device, message, self.clock_us)
        table["is_offline"][table["last_source"] == message.handle] = message.event == OFFLINE
        table["is_offline"][device] = message.event == OFFLINE
        return []

    def _hand_over(self, message: HandOver) -> Effects:
        """As the shard that is told: expect a hospital, give one away, or be done with it."""
        match message.step:
            case HandOverStep.PREPARE if message.to_shard == self.shard:
                self.hand_overs.prepare(message)
            case HandOverStep.SETTLE:
                self._settle(message)
            case HandOverStep.CUT if message.from_shard == self.shard and not self.hand_overs.is_done(message):
                state = self.snapshot()
                given = part_of(state, [message.hospital_id])
                self._take(part_of(state, [one for one in self.hospital_ids() if one != message.hospital_id]))
                self.hand_overs.cut(message, given["devices"]["handle"].to_numpy())
                return Effects(given=(message.number, {name: table for name, table in given.items() if name not in _OWN}))
        return Effects()

    def _settle(self, message: HandOver) -> None:
        """A cut that was lost with the stream's files is made good: the directory has the hospital elsewhere."""
        if message.from_shard == self.shard and message.hospital_id in self.hospital_ids():
            self._take(part_of(self.snapshot(), [one for one in self.hospital_ids() if one != message.hospital_id]))
        self.hand_overs.settle(message)

    def _misfits(
        self, handles: NDArray[np.uint32], devices: NDArray[np.int32], channels: NDArray[np.int32], isolated: NDArray[np.bool_]
    ) -> list[tuple[str, NDArray[np.intp]]]:
        """Which readings have no place here, by the reason. Those of a hospital that has gone have one elsewhere."""
        unknown = np.flatnonzero(devices < 0)
        unknown = unknown[~self.hand_overs.are_gone(handles[unknown])]
        strange = np.flatnonzero((devices >= 0) & (channels < 0) & ~isolated)
        found = (("unknown-device", unknown), (ISOLATED, np.flatnonzero(isolated)), ("unknown-metric", strange))
        return [(reason, at) for reason, at in found if len(at)]

    def _signals(self) -> Signals:
        return Signals(self._roster, self.now_us, self._time.watching_since_us)


def refused(readings: ReadingBatch, reason: str) -> tuple[ReadingBatch, str, str]:
    """Readings refused for `reason`, with the sentence that says so."""
    column, why = _REFUSALS[reason]
    named = np.unique(getattr(readings, column))[:5].tolist()
    return readings, reason, f"{len(readings)} readings of {why.format(named)}"
