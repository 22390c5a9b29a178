"""Rings of batch stamps: when a process took, acknowledged or applied what. Bounded, in memory, one row a batch.

A stamp costs about a microsecond for each frame or turn, nothing for each reading. They end with their process: whoever
asks later is told that it is not known any more. Clause 9.2a.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from domain.traces import FrameStamp

_FRAMES: Final = 65_536  # some minutes of a busy door, hours of a quiet one: 2.6 MB
_TURNS: Final = 65_536


class _Ring:
    """Rows of whole numbers; the oldest make room."""

    def __init__(self, rows: int, columns: int) -> None:
        self._rows = np.zeros((rows, columns), dtype=np.int64)
        self._written = 0

    def note(self, *values: int) -> None:
        self._rows[self._written % len(self._rows)] = values
        self._written += 1

    def newest(self, *bounds: tuple[int, int, int]) -> list[int] | None:
        """The newest row whose columns lie within `bounds` (column, least, greatest)."""
        held = self._rows[: min(self._written, len(self._rows))]
        fits = np.ones(len(held), dtype=np.bool_)
        for column, least, greatest in bounds:
            fits &= (held[:, column] >= least) & (held[:, column] <= greatest)
        found = np.flatnonzero(fits)
        if not len(found):
            return None
        age = (self._written - 1 - found) % len(self._rows)
        return [int(value) for value in held[found[age.argmin()]]]


class FrameStamps:
    """Of an Intake: its frames, by their sequence in the stream."""

    def __init__(self, kept: int = _FRAMES) -> None:
        self._ring = _Ring(kept, 5)

    def note(self, sequence: int, arrival_us: int, acknowledged_us: int, readings: int, submissions: int) -> None:
        self._ring.note(sequence, arrival_us, acknowledged_us, readings, submissions)

    def find(self, sequence: int) -> FrameStamp | None:
        found = self._ring.newest((0, sequence, sequence))
        return None if found is None else FrameStamp(*found[1:])


@dataclass(frozen=True, slots=True)
class TurnStamp:
    """The turn of a host that took a message, and many others perhaps."""

    began_us: int
    ended_us: int
    readings: int


class TurnStamps:
    """Of a host: its turns, by shard and the messages that each took."""

    def __init__(self, kept: int = _TURNS) -> None:
        self._ring = _Ring(kept, 6)

    def note(self, shard: int, after: int, last: int, began_us: int, ended_us: int, readings: int) -> None:
        """A turn took the messages of (after, last]."""
        self._ring.note(shard, after + 1, last, began_us, ended_us, readings)

    def find(self, shard: int, sequence: int) -> TurnStamp | None:
        """The newest turn that took a message: after a restart that of the replay."""
        found = self._ring.newest((0, shard, shard), (1, 0, sequence), (2, sequence, 2**62))
        return None if found is None else TurnStamp(*found[3:])
