"""What a message brought: the whole outcome of one turn of a shard, for its host to keep, notify and refuse."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.source_clocks import ClockCorrection
from domain.alarms import AlarmEvent
from domain.readings import ReadingBatch


@dataclass(frozen=True, slots=True)
class Effects:
    """`stored`: the input's readings less proven doubles, with marks; `derived`: scores; `rejected`: (rows, reason, detail).

    `stored_arrival_us` and `stored_clock` (what was added to event times to find the patient) are aligned with `stored`,
    `derived_arrival_us` (stream time of what brought them) with `derived`, and `rejected_at` with `rejected`: the places
    in the input of the rows that were refused. `given`: the state of a hospital that goes to another shard, and the number
    of its hand-over.
    """

    alarms: list[AlarmEvent] = field(default_factory=list)
    stored: ReadingBatch = field(default_factory=ReadingBatch.empty)
    stored_arrival_us: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    stored_clock: ClockCorrection = field(default_factory=lambda: ClockCorrection.none(0))
    derived: ReadingBatch = field(default_factory=ReadingBatch.empty)
    derived_arrival_us: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    rejected: list[tuple[ReadingBatch, str, str]] = field(default_factory=list)
    rejected_at: list[NDArray[np.intp]] = field(default_factory=list)
    duplicates: int = 0
    given: tuple[int, dict[str, pa.Table]] | None = None
