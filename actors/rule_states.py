"""What limit rules remember of channels: of the few where something is pending or raised, and of no others.

A row holds one channel's rules. Channels come and go, their rows are used again; outwardly a channel without a row is
one where nothing is pending. In a snapshot rows are in the order of their channels, whatever order they came in.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.columns import Column, Table, larger
from actors.kinds import RULES
from domain.instants import NEVER_US

_NONE: Final = -1
_COLUMNS: Final = (
    Column("channel", np.int32, _NONE),
    Column("onset_us", np.int64, NEVER_US, "us", width=RULES),
    Column("is_raised", np.bool_, False, width=RULES),
    Column("is_ambiguous", np.bool_, False, width=RULES),  # raised when the patient could not be told
    Column("is_unpaged", np.bool_, False, width=RULES),  # raised, and told of by late readings alone: nobody was paged
)
_SNAPSHOT: Final = "rule_states"


class RuleStates:
    """Arrays [n, RULES] of any channels at once: `onset_us`, `is_raised`, `is_ambiguous`, `is_unpaged`."""

    def __init__(self) -> None:
        self._table = Table(_COLUMNS)
        self._row_of = np.empty(0, dtype=np.int32)  # by channel
        self._free: list[int] = []

    def rows_by_channel(self, channels: int) -> NDArray[np.int32]:
        """By channel, for at least so many: not negative where something is pending or raised."""
        self._reserve(channels)
        return self._row_of

    def of(self, name: str, channels: NDArray[Any]) -> NDArray[Any]:
        """A column of these channels, a copy."""
        rows = self._rows(channels)
        found = np.full((len(rows), RULES), NEVER_US if name == "onset_us" else False)
        there = np.flatnonzero(rows != _NONE)
        found[there] = self._table[name][rows[there]]
        return found

    def raised(self) -> NDArray[np.intp]:
        """Channels with a raised rule, in ascending order."""
        channels = self._table["channel"][self._table["is_raised"].any(axis=1)]
        return np.sort(channels[channels != _NONE]).astype(np.intp)

    def put(
        self, channels: NDArray[Any], onset_us: NDArray[np.int64], is_raised: NDArray[np.bool_],
        is_ambiguous: NDArray[np.bool_], is_unpaged: NDArray[np.bool_],
    ) -> None:  # fmt: skip
        """Set the rules of distinct channels; one with no onset at all has nothing pending any more."""
        stirs = (onset_us != NEVER_US).any(axis=1)
        self.clear(channels[~stirs])
        rows = self._taken(channels[stirs])
        new = {"onset_us": onset_us, "is_raised": is_raised, "is_ambiguous": is_ambiguous, "is_unpaged": is_unpaged}
        for name, values in new.items():
            self._table[name][rows] = values[stirs]

    def clear(self, channels: NDArray[Any]) -> None:
        """Forget all rules of these channels."""
        rows = self._rows(channels)
        there = rows[rows != _NONE]
        for column in _COLUMNS:
            self._table[column.name][there] = column.default
        self._row_of[channels[rows != _NONE]] = _NONE
        self._free += there.tolist()

    def set_back(self, latest_us: int) -> None:
        """Bound the onsets of what is pending; what is raised is known by its onset."""
        onset_us, raised = self._table["onset_us"], self._table["is_raised"]
        np.minimum(onset_us, latest_us, out=onset_us, where=~raised)

    def snapshot(self) -> dict[str, pa.Table]:
        kept = self._table.snapshot()
        used = np.flatnonzero(self._table["channel"] != _NONE)
        return {_SNAPSHOT: kept.take(pa.array(used[np.argsort(self._table["channel"][used])]))}

    def restore(self, tables: dict[str, pa.Table]) -> None:
        """Take the rows of `snapshot`, in place of whatever is here."""
        self._table.restore(tables[_SNAPSHOT])
        self._row_of, self._free = np.empty(0, dtype=np.int32), []
        channels = self._table["channel"]
        if len(channels):
            self._reserve(int(channels.max()) + 1)
            self._row_of[channels] = np.arange(len(channels))

    def _rows(self, channels: NDArray[Any]) -> NDArray[np.int32]:
        self._reserve(int(channels.max(initial=_NONE)) + 1)
        rows: NDArray[np.int32] = self._row_of[channels]
        return rows

    def _taken(self, channels: NDArray[Any]) -> NDArray[np.int32]:
        """The rows of these channels, new ones for those that have none."""
        rows = self._rows(channels)
        fresh = channels[rows == _NONE]
        reused = self._free[len(self._free) - min(len(self._free), len(fresh)) :]
        del self._free[len(self._free) - len(reused) :]
        added = self._table.append(len(fresh) - len(reused))
        self._row_of[fresh] = [*reused, *range(added.start, added.stop)]
        self._table["channel"][self._row_of[fresh]] = fresh
        return self._rows(channels)

    def _reserve(self, channels: int) -> None:
        if channels > len(self._row_of):
            grown = np.full(larger(len(self._row_of), channels), _NONE, dtype=np.int32)
            grown[: len(self._row_of)] = self._row_of
            self._row_of = grown
