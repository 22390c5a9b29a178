"""Actors are columns: typed arrays that grow together, one row an actor.

A kind declares its columns once; the table makes the arrays, grows them by doubling, copies them for a snapshot and
takes them back. A single actor is a view of one row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray

_FIRST_CAPACITY: Final = 256


@dataclass(frozen=True, slots=True)
class Column:
    """One attribute of a kind. `width` > 1 makes a row of that many values (the four limits of a channel)."""

    name: str
    dtype: DTypeLike
    default: Any = 0
    unit: str = ""
    width: int = 1


class Table:
    """Arrays of equal length. `table["name"]` is the live array of all rows: writing into it changes the actors."""

    def __init__(self, columns: tuple[Column, ...]) -> None:
        self._columns = columns
        self._arrays: dict[str, NDArray[Any]] = {column.name: _blank(column, 0) for column in columns}
        self.rows = 0

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._arrays[name][: self.rows]

    def __len__(self) -> int:
        return self.rows

    def append(self, count: int, **values: Any) -> slice:
        """Add `count` rows, with arrays or scalars for some columns and defaults for the rest; returns where they are."""
        start, self.rows = self.rows, self.rows + count
        self._grow(self.rows)
        new = slice(start, self.rows)
        for name, value in values.items():
            self._arrays[name][new] = value
        return new

    def view(self, row: int) -> SimpleNamespace:
        """The attributes of one row, as plain values. A copy: changing it changes nothing."""
        return SimpleNamespace(**{column.name: self._arrays[column.name][row].tolist() for column in self._columns})

    def snapshot(self) -> pa.Table:
        """A copy of all rows as Arrow columns; a wide column becomes a fixed-size list."""
        arrays = {}
        for column in self._columns:
            flat = pa.array(self[column.name].reshape(-1).copy())
            arrays[column.name] = flat if column.width == 1 else pa.FixedSizeListArray.from_arrays(flat, column.width)
        return pa.table(arrays)

    def restore(self, table: pa.Table) -> None:
        """Take the rows of a snapshot. Columns it lacks (an older version's) get their defaults."""
        self.rows = table.num_rows
        for column in self._columns:
            array = _blank(column, max(self.rows, _FIRST_CAPACITY))
            if column.name in table.column_names and self.rows:
                stored = table.column(column.name).combine_chunks()
                values = stored.flatten() if column.width > 1 else stored
                array[: self.rows] = values.to_numpy(zero_copy_only=False).reshape(array[: self.rows].shape)
            self._arrays[column.name] = array

    def _grow(self, rows: int) -> None:
        capacity = len(next(iter(self._arrays.values())))
        if rows <= capacity:
            return
        capacity = max(rows, 2 * capacity, _FIRST_CAPACITY)
        for column in self._columns:
            array = _blank(column, capacity)
            old = self._arrays[column.name]
            array[: len(old)] = old
            self._arrays[column.name] = array


class HandleIndex:
    """Handle -> row of a table, by one array look-up."""

    def __init__(self) -> None:
        self._rows = np.full(_FIRST_CAPACITY, -1, dtype=np.int32)

    def put(self, handles: NDArray[Any], rows: NDArray[Any]) -> None:
        highest = int(handles.max(initial=0))
        if highest >= len(self._rows):
            grown = np.full(max(highest + 1, 2 * len(self._rows)), -1, dtype=np.int32)
            grown[: len(self._rows)] = self._rows
            self._rows = grown
        self._rows[handles] = rows

    def row_of(self, handle: int) -> int:
        """The row of one handle, -1 where it is not here."""
        return int(self._rows[handle]) if handle < len(self._rows) else -1

    def rows_of(self, handles: NDArray[Any]) -> NDArray[np.int32]:
        """The row of each handle, -1 where it is not here."""
        known = handles < len(self._rows)
        rows: NDArray[np.int32] = np.where(known, self._rows[np.where(known, handles, 0)], -1).astype(np.int32)
        return rows


def group_starts(keys: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a new key begins, in keys whose equals stand together."""
    starts = np.ones(len(keys), dtype=np.bool_)
    np.not_equal(keys[1:], keys[:-1], out=starts[1:])
    return starts


def group_ends(starts: NDArray[np.bool_]) -> NDArray[np.intp]:
    """The last row of each group."""
    return np.flatnonzero(np.append(starts[1:], True)[: len(starts)])


def occurrence(keys: NDArray[Any]) -> NDArray[np.intp]:
    """For each element of keys whose equals stand together, how many equal ones stand before it: the round in which a
    sequential rule may see it.
    """
    starts = np.flatnonzero(group_starts(keys))
    rounds: NDArray[np.intp] = np.arange(len(keys)) - np.repeat(starts, np.diff(starts, append=len(keys)))
    return rounds


def strings(values: Mapping[str, list[Any]]) -> pa.Table:
    """Text attributes of a kind (ids, which no arithmetic touches) as a snapshot table."""
    return pa.table({name: pa.array(column, pa.string()) for name, column in values.items()})


def _blank(column: Column, rows: int) -> NDArray[Any]:
    shape = rows if column.width == 1 else (rows, column.width)
    return np.full(shape, column.default, dtype=column.dtype)
