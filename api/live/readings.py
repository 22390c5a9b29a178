"""The live stream of readings: rows of frames as they are stored in the stream, before any host has seen them.

What isolated devices say, which hosts refuse, is left out (`api.live.apart`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final
from weakref import WeakValueDictionary

import msgspec
import numpy as np
from numpy.typing import NDArray

from api.live.apart import Apart
from api.live.feed import Feed
from api.live.subscription import Subscription, sse
from api.times import UTC_ZONE
from domain import subjects
from domain.frames import decode_frame
from domain.messages import Control, DeviceAssociated, DeviceIsolated, DevicesRegistered, PatientAdmitted, decode_control
from domain.metrics import BY_ID
from domain.ports import Clock
from domain.quality import Validity
from domain.readings import ReadingBatch
from domain.traces import OfReceipt
from runtime.bus import Bus
from runtime.follower import StreamMessage

_METRIC_CODES: Final = {metric.id: metric.code for metric in BY_ID.values()}
_VALIDITIES: Final = {validity.value: validity.name.lower().replace("_", "-") for validity in Validity}
_SUBJECTS: Final = ("reading.*", "control.*")


class LiveReading(msgspec.Struct, frozen=True):
    """One row; `value` is null where nothing was measured."""

    device_id: str | None
    handle: int
    metric: str
    instance: int
    time: str
    value: float
    validity: str
    quality: int


@dataclass(frozen=True, slots=True)
class PreparedFrame:
    """`events`: what clients asked for of it so far, ready-made: those that want the same get the same bytes."""

    shard: int
    sequence: int
    arrival_us: int
    readings: ReadingBatch
    events: dict[Wanted, bytes | None] = field(default_factory=dict)

    def event_for(self, wanted: Wanted) -> bytes | None:
        if wanted not in self.events:
            rows = wanted.rows(self.readings)
            self.events[wanted] = _event(self, self.readings.take(rows), wanted.device_ids) if len(rows) else None
        return self.events[wanted]


class Wanted:
    """Which handles and metrics (none: all) a client asked for, with the device ids to show."""

    def __init__(self, device_ids: Mapping[int, str], metrics: frozenset[int]) -> None:
        self.device_ids = device_ids
        self.metrics = np.array(sorted(metrics), dtype=np.uint16)
        handles = np.fromiter(device_ids, dtype=np.int64, count=len(device_ids))
        self._first = int(handles.min(initial=2**32))
        # from the first to the last of them, which are near each other; the last place stands for all others
        self._is_wanted = np.zeros(max(int(handles.max(initial=0)) - self._first, 0) + 2, dtype=np.bool_)
        self._is_wanted[handles - self._first] = True

    def rows(self, readings: ReadingBatch) -> NDArray[np.intp]:
        at = readings.handle.astype(np.int64) - self._first
        beyond = len(self._is_wanted) - 1
        mask = self._is_wanted[np.where((at < 0) | (at > beyond), beyond, at)]
        if len(self.metrics):
            mask &= np.isin(readings.metric, self.metrics)
        return np.flatnonzero(mask)


@dataclass(frozen=True, slots=True)
class PreparedChange:
    """A device came to a patient, left one, or one of both was moved: at this place among the readings."""

    sequence: int
    handles: frozenset[int]
    patient_handles: frozenset[int] = frozenset()
    is_move: bool = False


@dataclass(frozen=True, slots=True)
class Watch:
    """When what a client may get has to be judged anew: its stream is ended at the very change, and it connects again.

    `raised`: handles of patients above their class; without `by_patient` only a device that comes to one of them counts.
    Changes up to `known` were known when the client was judged. `hidden`: handles that were asked for and are not shown, which
    any change may bring within reach.
    """

    known: int
    raised: frozenset[int]
    by_patient: bool
    by_ward: bool
    hidden: frozenset[int] = frozenset()

    def is_struck(self, change: PreparedChange, wanted: Wanted) -> bool:
        if change.sequence <= self.known:
            return False
        if not self.hidden.isdisjoint(change.handles):
            return True
        if wanted.device_ids.keys().isdisjoint(change.handles):
            return False
        return self.by_ward if change.is_move else self.by_patient or not self.raised.isdisjoint(change.patient_handles)


class WantedPool:
    """Clients that ask for the same get the same `Wanted`, so that what they get is made once for all of them."""

    def __init__(self) -> None:
        self._pool: WeakValueDictionary[tuple[frozenset[int], frozenset[int]], Wanted] = WeakValueDictionary()

    def get(self, device_ids: Mapping[int, str], metrics: frozenset[int]) -> Wanted:
        key = (frozenset(device_ids), metrics)
        wanted = self._pool.get(key)
        if wanted is None:
            wanted = self._pool[key] = Wanted(device_ids, metrics)
        return wanted


def prepare(message: StreamMessage, apart: Apart) -> PreparedFrame | PreparedChange | None:
    """Once for all clients. What is neither readings nor a change of whose they are concerns none of them.

    `apart` is told of orders to isolate, and takes what they are about out of the readings.
    """
    if message.subject.startswith("control."):
        control = decode_control(message.payload)
        if isinstance(control, DeviceIsolated):
            apart.heed(control, message.stored_us)
        return _change_of(message.sequence, control)
    frame = decode_frame(message.payload)
    _, shard = subjects.of_shard(message.subject)
    arrival_us = frame.header.arrival_us
    return PreparedFrame(shard, message.sequence, arrival_us, apart.without(frame.readings, arrival_us))


def _change_of(sequence: int, control: Control) -> PreparedChange | None:
    if isinstance(control, DeviceAssociated):
        return PreparedChange(sequence, frozenset((control.handle,)), frozenset(span.patient_handle for span in control.spans))
    if isinstance(control, PatientAdmitted):  # its own handle, for what is entered at the bedside and derived
        return PreparedChange(sequence, frozenset((control.handle,)), is_move=True)
    if isinstance(control, DevicesRegistered):
        return PreparedChange(sequence, frozenset(control.handles), is_move=True)
    return None


def reading_feed(bus: Bus, apart: Apart) -> Feed:
    return Feed(bus, subjects.READINGS_STREAM, _SUBJECTS, partial(prepare, apart=apart))


def reading_client(feed: Feed, clock: Clock, shards: list[int], wanted: Wanted, watch: Watch | None = None) -> Subscription:
    """A client of the readings that `wanted` names, until `watch` is struck; they come by `shards`.

    Each is a client of its shards' orders too, whatever it may see: an order that no client is told of is not heeded.
    """

    def select(prepared: PreparedFrame | PreparedChange) -> bytes | None:
        if isinstance(prepared, PreparedFrame):
            return prepared.event_for(wanted)
        if watch is not None and watch.is_struck(prepared, wanted):
            client.close()
        return None

    of_readings = frozenset(map(subjects.reading, shards))
    of_changes = frozenset(map(subjects.control, shards))
    client = Subscription(of_readings | of_changes, select, _heartbeat(feed, clock, of_readings))
    client.is_limited = watch is not None
    return client


def _event(frame: PreparedFrame, rows: ReadingBatch, device_ids: Mapping[int, str]) -> bytes:
    columns = (rows.handle, rows.metric, rows.instance, rows.time_us, rows.value, rows.quality)
    readings = [
        LiveReading(
            device_ids.get(handle), handle, _METRIC_CODES.get(metric, str(metric)), instance, UTC_ZONE.text(time_us),
            value, _VALIDITIES.get(quality & 0xF, "invalid"), quality,
        )
        for handle, metric, instance, time_us, value, quality in zip(*(c.tolist() for c in columns), strict=True)
    ]  # fmt: skip
    receipt = OfReceipt(frame.shard, frame.sequence)  # leads back to the message: GET /traces/{receipt}
    body = {
        "sequence": frame.sequence, "trace": str(receipt), "arrival": UTC_ZONE.text(frame.arrival_us), "readings": readings
    }  # fmt: skip
    return sse("readings", msgspec.json.encode(body), frame.sequence)


def _heartbeat(feed: Feed, clock: Clock, wanted: frozenset[str]) -> Callable[[], bytes]:
    """`high_water_us`: all that was stored in the stream up to then has been sent. Shards never heard of do not count."""

    def beat() -> bytes:
        times = [feed.stored_us[subject] for subject in wanted if subject in feed.stored_us]
        high_water_us = min(times, default=None)
        lag_ms = None if high_water_us is None else (clock.now_us() - high_water_us) / 1000
        body = {
            "high_water_us": high_water_us,
            "high_water": UTC_ZONE.maybe(high_water_us),
            "last_sequence": feed.last_sequence,
            "lag_ms": lag_ms,
            "connected": feed.is_connected,
        }
        return sse("heartbeat", msgspec.json.encode(body))

    return beat
