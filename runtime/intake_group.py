"""What one group commit is made of: submissions, the frames that carry them, and who waits for which."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from domain.errors import RejectedInput
from domain.frames import MAX_ROWS
from domain.ports import Receipt, Sender
from domain.readings import ReadingBatch
from domain.thing_models import Lane

Part = tuple[int, ReadingBatch | bytes, int]  # shard, readings as columns or packed records, how many


class Submission:
    """Readings of one sender, and the future it waits on: done when every frame with its rows is acknowledged."""

    __slots__ = (
        "arrival_us", "counts_anew", "deadline", "digest", "frames_left", "future", "is_waiting", "lane", "line", "parts",
        "rows", "shard",
    )  # fmt: skip

    def __init__(
        self, lane: Lane, parts: Sequence[Part], rows: int, future: asyncio.Future[Receipt], arrival_us: int = 0
    ) -> None:
        self.lane = lane
        self.parts = parts
        self.rows = rows
        self.future = future
        self.arrival_us = arrival_us  # of which readings have their time that state none
        self.line = self.digest = 0  # as `runtime.replays` knows it
        self.counts_anew = False
        self.frames_left = 0
        self.is_waiting = False
        self.deadline: asyncio.TimerHandle | None = None  # until which it waits for room
        self.shard = parts[0][0]  # the one whose host decides whether there is room

    def stop_waiting(self) -> None:
        """It goes, or is given up. A deadline left behind would keep its readings in memory until then."""
        self.is_waiting = False
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None

    def stored(self, receipt: Receipt) -> None:
        self.frames_left -= 1
        if not self.frames_left and not self.future.done():
            self.future.set_result(Receipt(receipt.shard, receipt.stream_sequence, self.rows, self.counts_anew))

    def failed(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


@dataclass(slots=True)
class GroupFrame:
    """One frame in the making: rows of many submissions for one shard."""

    shard: int
    sequence: int
    arrival_us: int
    packed: list[bytes] = field(default_factory=list)
    batches: list[ReadingBatch] = field(default_factory=list)
    submissions: list[Submission] = field(default_factory=list)
    rows: int = 0

    def add(self, submission: Submission, data: ReadingBatch | bytes, rows: int) -> None:
        if isinstance(data, bytes):
            self.packed.append(data)
        else:
            self.batches.append(data)
        self.submissions.append(submission)
        self.rows += rows
        submission.frames_left += 1

    def all_batches(self) -> list[ReadingBatch]:
        """All rows as columns, the packed ones first: each sender's stay in order."""
        return [ReadingBatch.from_rows(b"".join(self.packed)), *self.batches] if self.packed else self.batches


def pieces(data: ReadingBatch | bytes, count: int) -> Iterable[tuple[ReadingBatch | bytes, int]]:
    """The readings of one submission in pieces that fit a frame; nearly always one."""
    if count <= MAX_ROWS:
        return ((data, count),)
    batch = ReadingBatch.from_rows(data) if isinstance(data, bytes) else data
    pieces = [batch.take(slice(start, start + MAX_ROWS)) for start in range(0, count, MAX_ROWS)]
    return [(piece, len(piece)) for piece in pieces]


def own_readings_error(sender: Sender, readings: ReadingBatch) -> RejectedInput | None:
    if not len(readings):
        return RejectedInput("empty-message", "the message holds no reading: expected one or more")
    foreign = readings.handle != sender.handle
    if foreign.any():
        handle = int(readings.handle[foreign.argmax()])
        return foreign_device(handle)
    return None


def foreign_device(handle: int) -> RejectedInput:
    return RejectedInput("unknown-device", f"device handle {handle} is not the sender's own: only a gateway speaks for others")


def unknown_device(handle: int, sender: Sender) -> RejectedInput:
    return RejectedInput("unknown-device", f"device handle {handle} is not one of hospital {sender.hospital_id}")
