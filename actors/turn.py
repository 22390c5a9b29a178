"""One turn's readings, placed: which channel and device each belongs to, and whose it was."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from domain.alarms import AlarmEvent
from domain.quality import Mark, has_mark
from domain.readings import ReadingBatch


@dataclass(frozen=True, slots=True)
class Turn:
    """Readings that were taken, in stream order; all columns are aligned.

    row: place in the turn's input, which orders what is notified; time_us: event time that rules go by (`ordering.timing`),
    never ahead of its arrival (a clock that runs ahead would else block its channel); arrival_us: stream time, never going
    back; clock_us: what the platform's clock said then, against which others' times are held (`stream_clock`); patient: a
    patient's row, NOBODY or AMBIGUOUS; feeds: whether it may feed rules (`ordering.place`).
    """

    readings: ReadingBatch
    row: NDArray[np.intp]
    device: NDArray[np.int32]
    channel: NDArray[np.int32]
    time_us: NDArray[np.int64]
    arrival_us: NDArray[np.int64]
    clock_us: NDArray[np.int64]
    patient: NDArray[np.int64]
    feeds: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.row)

    def is_live(self, rows: NDArray[Any] | int) -> NDArray[np.bool_]:
        """Whether what these readings raise may page: neither late nor sent as catching up."""
        live: NDArray[np.bool_] = ~has_mark(self.readings.quality[rows], Mark.LATE | Mark.BACKFILL)
        return live


@dataclass(slots=True)
class Notices:
    """What a turn has to say, each with the input row that made it so: sorted by row, any cut of the stream says alike."""

    alarms: list[tuple[int, AlarmEvent]] = field(default_factory=list)
    derived: list[tuple[NDArray[np.intp], ReadingBatch]] = field(default_factory=list)

    def in_order(self) -> tuple[list[AlarmEvent], ReadingBatch, NDArray[np.intp]]:
        """Alarms and derived readings by row, and the rows of the latter; what one row brought keeps its order."""
        alarms = [event for _, event in sorted(self.alarms, key=lambda notice: notice[0])]
        rows = np.concatenate([np.empty(0, np.intp), *(rows for rows, _ in self.derived)])
        order = np.argsort(rows, kind="stable")
        return alarms, ReadingBatch.concat([batch for _, batch in self.derived]).take(order), rows[order]
