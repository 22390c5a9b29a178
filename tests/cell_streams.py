"""Streams for tests of cells: what a host would hand to a ShardCell, message by message, and all that comes back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.shard import Effects, ShardCell
from actors.source_clocks import ClockCorrection
from domain.alarms import AlarmEvent, Phase
from domain.messages import AssociationSpan, Control, DeviceAssociated, DevicesRegistered, PatientAdmitted
from domain.metrics import metric_of
from domain.quality import Mode, Origin, Validity, pack
from domain.readings import ReadingBatch

HOSPITAL = "sz.h001"
S = 1_000_000  # a second in µs
T0 = 1_790_000_000 * S  # an instant to count from
UNUSABLE = pack(Validity.NOT_AVAILABLE)
ENTERED = pack(origin=Origin.ENTERED)
TEST_MODE = pack(mode=Mode.TEST)


def at(seconds: float) -> int:
    """µs of an instant `seconds` after T0."""
    return T0 + round(seconds * S)


def registered(models: dict[int, str], hospital_id: str = HOSPITAL, ward_id: str = "icu") -> DevicesRegistered:
    """Devices by handle, called `dev-<handle>`."""
    count = len(models)
    names = [f"dev-{handle}" for handle in models]
    return DevicesRegistered(hospital_id, list(models), names, list(models.values()), [ward_id] * count, [None] * count)


def admitted(handle: int, age_years: float | None = 60, **facts: Any) -> PatientAdmitted:
    return PatientAdmitted(HOSPITAL, f"p{handle}", handle, age_years=age_years, **facts)


def associated(device: int, *spans: tuple[int, float, float | None], uncertainty_s: float = 2) -> DeviceAssociated:
    """Spans of (patient handle, from s, until s or None)."""
    told = [AssociationSpan(patient, at(start), None if end is None else at(end)) for patient, start, end in spans]
    return DeviceAssociated(HOSPITAL, device, told, clock_uncertainty_us=round(uncertainty_s * S))


def readings(
    device: int | Sequence[int], metric: str, times_s: Sequence[float], values: Sequence[float], **columns: Any
) -> ReadingBatch:
    """Readings of one metric of a device, or of several at one time; `columns` are further columns of the batch."""
    times = np.array([at(time_s) for time_s in times_s], dtype=np.int64)
    return ReadingBatch.of(handle=device, metric=metric_of(metric).id, time_us=times, value=np.array(values, float), **columns)


@dataclass
class Frame:
    """Readings with their arrival; by default each arrives when it happened."""

    batch: ReadingBatch
    arrival_us: NDArray[np.int64]

    @classmethod
    def of(cls, batch: ReadingBatch, arrival_s: float | None = None) -> Frame:
        arrival = batch.time_us if arrival_s is None else np.full(len(batch), at(arrival_s), dtype=np.int64)
        return cls(batch, arrival.astype(np.int64))


@dataclass
class Tick:
    at_us: int


@dataclass
class Told:
    message: Control
    at_us: int


Message = Frame | Tick | Told


@dataclass
class Heard:
    """Everything a cell said, concatenated."""

    alarms: list[AlarmEvent] = field(default_factory=list)
    stored: list[ReadingBatch] = field(default_factory=list)
    stored_arrival_us: list[NDArray[np.int64]] = field(default_factory=list)
    stored_clock: list[ClockCorrection] = field(default_factory=list)
    derived: list[ReadingBatch] = field(default_factory=list)
    rejected: list[tuple[ReadingBatch, str, str]] = field(default_factory=list)
    duplicates: int = 0

    def add(self, effects: Effects) -> Effects:
        self.alarms += effects.alarms
        self.stored.append(effects.stored)
        self.stored_arrival_us.append(effects.stored_arrival_us)
        self.stored_clock.append(effects.stored_clock)
        self.derived.append(effects.derived)
        self.rejected += effects.rejected
        self.duplicates += effects.duplicates
        return effects

    def clocks(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What all stored readings were corrected by: (offsets, uncertainties)."""
        parts = [ClockCorrection.none(0), *self.stored_clock]
        return np.concatenate([part.offset_us for part in parts]), np.concatenate([part.uncertainty_us for part in parts])

    def rules(self, phase: Phase | None = None) -> list[str]:
        return [event.rule for event in self.alarms if phase in (None, event.phase)]

    def of_rule(self, rule: str) -> list[AlarmEvent]:
        return [event for event in self.alarms if event.rule == rule]


class Desk:
    """A cell under test, with short words for what is told to it, and all it said."""

    def __init__(self, cell: ShardCell | None = None) -> None:
        self.cell = cell or ShardCell(0)
        self.heard = Heard()

    def tell(self, *messages: Control, at_s: float = 0) -> Effects:
        for message in messages:
            effects = self.heard.add(self.cell.apply_control(message, at(at_s)))
        return effects

    def read(self, batch: ReadingBatch, arrival_s: float | None = None) -> Effects:
        frame = Frame.of(batch, arrival_s)
        return self.heard.add(self.cell.step(frame.batch, frame.arrival_us))

    def tick(self, at_s: float) -> Effects:
        return self.heard.add(self.cell.tick(at(at_s)))

    def tick_through(self, from_s: int, until_s: int, every_s: int = 1) -> list[AlarmEvent]:
        """Ticks in (from_s, until_s], at most 5 s apart; what they said."""
        return [event for second in range(from_s + every_s, until_s + 1, every_s) for event in self.tick(second).alarms]


def play(cell: ShardCell, messages: Iterable[Message]) -> Heard:
    """Hand messages to the cell one after the other."""
    heard = Heard()
    for message in messages:
        match message:
            case Frame():
                heard.add(cell.step(message.batch, message.arrival_us))
            case Tick():
                heard.add(cell.tick(message.at_us))
            case Told():
                heard.add(cell.apply_control(message.message, message.at_us))
    return heard


def recut(messages: Iterable[Message], cuts: Iterable[int]) -> list[Message]:
    """The same stream with frames merged where they are neighbours and cut anew at row numbers `cuts`."""
    wanted, result = sorted(set(cuts)), list[Message]()
    row, run = 0, list[Frame]()

    def flush() -> None:
        nonlocal row
        if not run:
            return
        batch = ReadingBatch.concat([frame.batch for frame in run])
        arrival_us = np.concatenate([frame.arrival_us for frame in run])
        edges = [0, *(cut - row for cut in wanted if row < cut < row + len(batch)), len(batch)]
        for start, stop in pairwise(edges):
            result.append(Frame(batch.take(slice(start, stop)), arrival_us[start:stop]))
        row += len(batch)
        run.clear()

    for message in messages:
        if isinstance(message, Frame):
            run.append(message)
        else:
            flush()
            result.append(message)
    flush()
    return result


def assert_same_batches(left: list[ReadingBatch], right: list[ReadingBatch]) -> None:
    first, second = ReadingBatch.concat(left), ReadingBatch.concat(right)
    for name in first.__slots__:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)


def assert_same_heard(left: Heard, right: Heard) -> None:
    assert left.alarms == right.alarms
    assert left.duplicates == right.duplicates
    assert_same_batches(left.stored, right.stored)
    assert_same_batches(left.derived, right.derived)
    for reason in {reason for _, reason, _ in [*left.rejected, *right.rejected]}:
        assert_same_batches([rows for rows, why, _ in left.rejected if why == reason],
                            [rows for rows, why, _ in right.rejected if why == reason])  # fmt: skip
    np.testing.assert_array_equal(np.concatenate(left.stored_arrival_us), np.concatenate(right.stored_arrival_us))
    for mine, other in zip(left.clocks(), right.clocks(), strict=True):
        np.testing.assert_array_equal(mine, other)


def assert_same_tables(left: dict[str, pa.Table], right: dict[str, pa.Table]) -> None:
    """Equal to the last bit, NaN being equal to NaN."""
    assert left.keys() == right.keys()
    for name, table in left.items():
        assert table.column_names == right[name].column_names, name
        for column in table.column_names:
            mine, other = table[column].to_pylist(), right[name][column].to_pylist()
            assert _comparable(mine) == _comparable(other), f"{name}.{column}"


def _comparable(values: Any) -> Any:
    if isinstance(values, list):
        return [_comparable(value) for value in values]
    return "NaN" if isinstance(values, float) and math.isnan(values) else values
