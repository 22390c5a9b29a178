"""One held shard: its cell, its place in the stream, and what it has not yet committed.

The runner turns stream messages into turns of the cell. Runs of frames become one vectorised step; a control
message or a tick ends the run, because it must be seen at its place. It does no I/O but decode: the host that owns
it publishes, commits and snapshots.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.hospital_state import State
from actors.shard import ISOLATED, Effects, ShardCell, refused
from actors.source_clocks import ClockCorrection
from domain import subjects
from domain.alarms import AlarmEvent
from domain.errors import IntegrityViolation, RejectedInput
from domain.frames import Frame, decode_frame, encode_frame
from domain.messages import DeviceEvent, HandOver, HandOverStep, ShardHeld, decode_control
from domain.readings import ReadingBatch
from gateways.events_json import encode_event
from gateways.formats import EVENTS, FRAME
from runtime.follower import Follower, StreamMessage
from runtime.lake_schema import lake_rows

logger = logging.getLogger(__name__)

_POISON_TRIES: Final = 2
_MOST_ALONE: Final = 300  # in a turn; each may cost as much as a thousand readings


@dataclass(frozen=True, slots=True)
class Refusal:
    """A message or readings of it that a host could not use. Its sequence and reason name it, in every replay alike.

    `subject`: where it was found, or, of what may be sent again as it is, the topic of a door that takes it. Of that is known
    whose it is, too: `hospital_id`, and the `principal` who may say it. `part`: names it among several of one sequence.
    """

    sequence: int
    subject: str
    reason: str
    detail: str
    payload: bytes
    hospital_id: str | None = None
    principal: str | None = None
    part: str = ""


@dataclass(slots=True)
class TurnResult:
    """What one turn brought: alarms to notify, rows to keep (by stream sequence), refusals, and counts."""

    alarms: list[AlarmEvent] = field(default_factory=list)
    rows: list[tuple[int, pa.Table]] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    readings: int = 0
    duplicates: int = 0
    alone: int = 0  # messages that were taken one by one
    given: list[tuple[int, int, State]] = field(default_factory=list)  # number of a hand-over, sequence of its cut, the state


class ShardRunner:
    """See module. `applied`: sequence of the last message the cell has seen; `committed`: what the lake holds."""

    def __init__(
        self,
        shard: int,
        epoch: int,
        cell: ShardCell,
        *,
        applied: int,
        committed: int,
        suspects: dict[int, int] | None = None,
    ) -> None:
        self.shard = shard
        self.epoch = epoch
        self.cell = cell
        self.applied = applied
        self.committed = committed
        self.high_water_us = cell.clock_us  # of its state, until it goes on: a shard that is stuck is seen to be behind
        self.inbox: deque[StreamMessage] = deque()
        self.inbox_bytes = 0
        self.segment: list[pa.Table] = []
        self.segment_rows = 0
        self.follower: Follower | None = None
        self.snapshot_us = 0
        self.suspects = suspects if suspects is not None else {}  # stream sequence -> times it broke a turn
        self.followed = self.wanted()  # what its inbox holds messages of
        self.awaited: int | None = None  # the hand-over whose state the next message needs
        self.arrivals: dict[int, State] = {}  # what came of those, by number
        self.giving = 0  # states of hospitals that are not in safety yet: no snapshot may go ahead of them
        self._in_hand: list[int] = []

    def wanted(self) -> list[str]:
        """The subjects to follow: its own, and those of shards from which a hospital comes."""
        shards = [self.shard, *self.cell.hand_overs.sources()]
        return [subject for shard in shards for subject in (subjects.reading(shard), subjects.control(shard))]

    def receive(self, message: StreamMessage) -> None:
        self.inbox.append(message)
        self.inbox_bytes += len(message.payload)

    def forget_inbox(self) -> None:
        """What was received is received again, with what other subjects have between."""
        self.inbox.clear()
        self.inbox_bytes = 0

    @property
    def lag(self) -> int:
        """Messages that wait here or in the stream."""
        return len(self.inbox) + (self.follower.pending if self.follower else 0)

    def held(self) -> ShardHeld:
        return ShardHeld(
            shard=self.shard, epoch=self.epoch, applied=self.applied, committed=self.committed, lag=self.lag,
            high_water_us=self.high_water_us, devices=self.cell.device_count, channels=self.cell.channel_count,
        )  # fmt: skip

    def turn(self, most_readings: int) -> TurnResult:
        """Take waiting messages, up to about `most_readings` or a few hundred others, through the cell.

        After an unexpected exception the cell may be half changed: the host calls `blame`, restores the shard from
        its snapshot and hands the suspects on to the new runner. A turn ends early where other subjects are `wanted` than
        are followed, and where the state of a hospital is `awaited`.
        """
        result = TurnResult()
        while self.inbox and result.readings < most_readings and result.alone < _MOST_ALONE:
            self._take_run(result, most_readings)
            if self.awaited is not None or self.wanted() != self.followed:
                break
        return result

    def blame(self) -> None:
        """Remember the messages in hand as suspects after a turn broke; from now on they are taken one at a time."""
        for sequence in self._in_hand:
            self.suspects[sequence] = self.suspects.get(sequence, 0) + 1

    def _take_run(self, result: TurnResult, most_readings: int) -> None:
        """Frames up to the next control message, tick or suspect; then that message alone."""
        frames: list[tuple[int, Frame]] = []
        rows = 0
        while self.inbox and rows < most_readings:
            message = self.inbox[0]
            kind, shard = subjects.of_shard(message.subject)
            if message.sequence in self.suspects or kind != subjects.READING:
                break
            if frames and frames[-1][0] <= self.committed < message.sequence:
                break  # a replay may not mix rows that the lake has with rows that it lacks
            frame = self._decode(message, result) if shard == self.shard else self._ours(message, shard)
            if frame is None:
                self._done(message)
                continue
            if frame.header.rows == 0:
                break
            frames.append((message.sequence, frame))
            rows += frame.header.rows
            self.inbox.popleft()
            self.inbox_bytes -= len(message.payload)
        if frames:
            self._step(frames, result)
        elif self.inbox:
            self._take_alone(self.inbox[0], result)

    def _take_alone(self, message: StreamMessage, result: TurnResult) -> None:
        kind, shard = subjects.of_shard(message.subject)
        hand_over = self._arrival(message) if kind == subjects.CONTROL and shard != self.shard else None
        if hand_over is not None and hand_over.number not in self.arrivals:
            self.awaited = hand_over.number
            return
        self._in_hand = [message.sequence]
        result.alone += 1
        if self.suspects.get(message.sequence, 0) >= _POISON_TRIES:
            detail = f"message {message.sequence} of shard {self.shard} broke {_POISON_TRIES} turns and is set aside"
            result.refusals.append(Refusal(message.sequence, message.subject, "poison-message", detail, message.payload))
        elif hand_over is not None:
            self.cell.take_over(hand_over, self.arrivals.pop(hand_over.number), message.stored_us)
        elif kind == subjects.CONTROL and shard == self.shard:
            self._apply_control(message, result)
        elif kind == subjects.CONTROL:
            self._apply_control_of_others(message, shard, result)
        else:
            self._apply_frame_alone(message, shard, result)
        self.suspects.pop(message.sequence, None)
        self._done(message)

    def _apply_control(self, message: StreamMessage, result: TurnResult) -> None:
        try:
            effects = self.cell.apply_control(decode_control(message.payload), message.stored_us)
        except RejectedInput as error:
            result.refusals.append(self._refusal(message, error))
            return
        self._absorb(message.sequence, effects, result)

    def _refusal(self, message: StreamMessage, error: RejectedInput) -> Refusal:
        """Of a control message. An event of an isolated device is kept so that it can be said again."""
        if error.reason == ISOLATED:
            event = decode_control(message.payload)
            assert isinstance(event, DeviceEvent)
            named = self.cell.name_of(event.brought_by) or self.cell.name_of(event.handle)
            assert named is not None
            return Refusal(
                message.sequence, EVENTS.topic, error.reason, error.detail, encode_event(event), named[0], "/".join(named)
            )
        return Refusal(message.sequence, message.subject, error.reason, error.detail, message.payload)

    def _apply_control_of_others(self, message: StreamMessage, shard: int, result: TurnResult) -> None:
        """A message among those of a shard from which a hospital came. What is not of that hospital is the other's."""
        try:
            control = decode_control(message.payload)
        except RejectedInput:
            return
        if isinstance(control, HandOver):
            is_ours = control.step is HandOverStep.SETTLE and control.to_shard == self.shard
        else:
            is_ours = control.hospital_id in self.cell.hand_overs.arrived_from(shard)
        if is_ours:
            self._apply_control(message, result)

    def _arrival(self, message: StreamMessage) -> HandOver | None:
        """The hand-over to this shard that another shard's message makes; None for any other message."""
        try:
            control = decode_control(message.payload)
        except RejectedInput:
            return None
        if not isinstance(control, HandOver) or (control.step, control.to_shard) != (HandOverStep.CUT, self.shard):
            return None
        return None if self.cell.hand_overs.is_done(control) else control

    def _ours(self, message: StreamMessage, shard: int) -> Frame | None:
        """Of a frame of another shard what is of hospitals that came here from there; None where nothing is."""
        try:
            frame = decode_frame(message.payload)
        except (RejectedInput, IntegrityViolation):
            return None  # the other shard refuses it
        if not frame.header.rows:
            return None
        ours = self.cell.arrived(frame.readings.handle, shard)
        return Frame(replace(frame.header, rows=int(ours.sum())), frame.readings.take(ours)) if ours.any() else None

    def _apply_frame_alone(self, message: StreamMessage, shard: int, result: TurnResult) -> None:
        frame = self._decode(message, result) if shard == self.shard else self._ours(message, shard)
        if frame is None:
            return
        if frame.header.rows:
            self._step([(message.sequence, frame)], result)
        else:
            self._absorb(message.sequence, self.cell.tick(frame.header.arrival_us), result)
            self.high_water_us = self.cell.clock_us

    def _decode(self, message: StreamMessage, result: TurnResult) -> Frame | None:
        try:
            return decode_frame(message.payload)
        except RejectedInput as error:
            reason, detail = error.reason, error.detail
        except IntegrityViolation as error:
            reason, detail = "damaged-frame", str(error)
            logger.error("a stored frame is damaged", extra={"shard": self.shard, "sequence": message.sequence})
        result.refusals.append(Refusal(message.sequence, message.subject, reason, detail, message.payload))
        return None

    def _step(self, frames: list[tuple[int, Frame]], result: TurnResult) -> None:
        self._in_hand = [sequence for sequence, _ in frames]
        batch = ReadingBatch.concat([frame.readings for _, frame in frames])
        arrival_us = np.repeat(
            np.array([frame.header.arrival_us for _, frame in frames], dtype=np.int64),
            [frame.header.rows for _, frame in frames],
        )
        effects = self.cell.step(batch, arrival_us)
        result.readings += len(batch)
        last = frames[-1][0]
        self.high_water_us = self.cell.clock_us
        self._absorb(last, effects, result)
        self._refuse(frames, effects, result)
        self.applied = last

    def _absorb(self, sequence: int, effects: Effects, result: TurnResult) -> None:
        if effects.given is not None:
            result.given.append((effects.given[0], sequence, effects.given[1]))
            self.giving += 1
        result.alarms.extend(effects.alarms)
        result.duplicates += effects.duplicates
        for rows, arrival_us, clock in (
            (effects.stored, effects.stored_arrival_us, effects.stored_clock),
            (effects.derived, effects.derived_arrival_us, ClockCorrection.none(len(effects.derived))),
        ):
            if len(rows):
                self._keep(sequence, self._table(rows, arrival_us, clock), result)

    def _refuse(self, frames: list[tuple[int, Frame]], effects: Effects, result: TurnResult) -> None:
        """One refusal a frame and reason: a replay that cuts the stream into other runs refuses the same.

        Of what was isolated one a device and sender, each a frame that they could send again.
        """
        ends = np.cumsum([frame.header.rows for _, frame in frames])
        for (rows, reason, _), at in zip(effects.rejected, effects.rejected_at, strict=True):
            of_frame = np.searchsorted(ends, at, side="right")
            for number in np.unique(of_frame).tolist():
                sequence, frame = frames[number]
                part = rows.take(of_frame == number)
                if reason == ISOLATED:
                    result.refusals += self._isolated(sequence, part, frame.header.arrival_us)
                    continue
                _, _, detail = refused(part, reason)
                payload = encode_frame(part, source=0, sequence=0, arrival_us=frame.header.arrival_us)
                result.refusals.append(Refusal(sequence, subjects.reading(self.shard), reason, detail, payload))

    def _isolated(self, sequence: int, rows: ReadingBatch, arrival_us: int) -> Iterator[Refusal]:
        pairs = np.unique(np.stack([rows.handle, rows.source], axis=1), axis=0)
        for handle, source in pairs.tolist():
            part, reason, detail = refused(rows.take((rows.handle == handle) & (rows.source == source)), ISOLATED)
            named = self.cell.name_of(source) or self.cell.name_of(handle)
            assert named is not None
            payload = encode_frame(part, source=0, sequence=0, arrival_us=arrival_us)
            yield Refusal(sequence, FRAME.topic, reason, detail, payload, named[0], "/".join(named), f"{handle}-{source}")

    def _keep(self, sequence: int, table: pa.Table, result: TurnResult) -> None:
        """Rows go to the lake once: a replay of what it already holds only rebuilds state."""
        if sequence > self.committed:
            result.rows.append((sequence, table))
            self.segment.append(table)
            self.segment_rows += table.num_rows

    def _table(self, rows: ReadingBatch, arrival_us: NDArray[np.int64], clock: ClockCorrection) -> pa.Table:
        hospital = self.cell.hospital_of(rows.handle)
        return lake_rows(rows, arrival_us, hospital, clock.offset_us, clock.uncertainty_us)

    def _done(self, message: StreamMessage) -> None:
        self.applied = message.sequence
        self.inbox.popleft()
        self.inbox_bytes -= len(message.payload)

    def take_segment(self) -> list[pa.Table]:
        """Hand over the rows gathered since the last call."""
        segment, self.segment, self.segment_rows = self.segment, [], 0
        return segment
