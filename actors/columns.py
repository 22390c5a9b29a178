"""Actors are columns: typed arrays that grow together, one row an actor.

A kind declares its columns once; the table makes the arrays, grows them, copies them for a snapshot and
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

from domain.compiled import Int32s, OutInt32s, UInt32s, compiled

_FIRST_CAPACITY: Final = 256
_LARGE: Final = 1 << 15  # rows from which on doubling wastes more memory than it saves time
_PAGE_BITS: Final = 10
_PAGE: Final = 1 << _PAGE_BITS


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

    @property
    def capacity(self) -> int:
        """How many rows there is room for."""
        return len(next(iter(self._arrays.values())))

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
        if rows <= self.capacity:
            return
        capacity = larger(self.capacity, rows)
        for column in self._columns:
            array = _blank(column, capacity)
            old = self._arrays[column.name]
            array[: len(old)] = old
            self._arrays[column.name] = array


class HandleIndex:
    """Handle -> row of a table, by two array look-ups.

    Handles are the region's, and a shard has few of them, mostly in stretches: so the index has pages, and a page only
    where a handle of the shard is. Page 0 is the blank one.
    """

    def __init__(self) -> None:
        self._page_of = np.zeros(1, dtype=np.int32)
        self._rows = np.full(_PAGE, -1, dtype=np.int32)  # of all pages, one behind the other

    def put(self, handles: NDArray[Any], rows: NDArray[Any]) -> None:
        pages = np.unique(handles >> _PAGE_BITS).astype(np.intp)
        if not len(pages):
            return
        if pages[-1] >= len(self._page_of):
            grown = np.zeros(larger(len(self._page_of), int(pages[-1]) + 1), dtype=np.int32)
            grown[: len(self._page_of)] = self._page_of
            self._page_of = grown
        fresh = pages[self._page_of[pages] == 0]
        first = len(self._rows) // _PAGE
        self._page_of[fresh] = np.arange(first, first + len(fresh))
        self._rows = np.concatenate([self._rows, np.full(len(fresh) * _PAGE, -1, dtype=np.int32)])
        self._rows[self._page_of[handles >> _PAGE_BITS].astype(np.intp) << _PAGE_BITS | handles & _PAGE - 1] = rows

    def row_of(self, handle: int) -> int:
        """The row of one handle, -1 where it is not here."""
        page = handle >> _PAGE_BITS
        return int(self._rows[self._page_of[page] << _PAGE_BITS | handle & _PAGE - 1]) if page < len(self._page_of) else -1

    def rows_of(self, handles: NDArray[np.uint32]) -> NDArray[np.int32]:
        """The row of each handle, -1 where it is not here."""
        rows = np.empty(len(handles), dtype=np.int32)
        _look_up(handles, self._page_of, self._rows, rows)
        return rows


@compiled
def _look_up(handles: UInt32s, page_of: Int32s, rows: Int32s, found: OutInt32s) -> None:
    for i in range(len(handles)):
        page = handles[i] >> _PAGE_BITS
        found[i] = rows[page_of[page] << _PAGE_BITS | handles[i] & _PAGE - 1] if page < len(page_of) else -1


def larger(capacity: int, least: int) -> int:
    """The next capacity of arrays that must hold `least` rows: twice the last, of large ones an eighth more."""
    return max(least, capacity + (capacity >> 3 if capacity > _LARGE else capacity), _FIRST_CAPACITY)


def group_starts(keys: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a new key begins, in keys whose equals stand together."""
    starts = np.ones(len(keys), dtype=np.bool_)
    np.not_equal(keys[1:], keys[:-1], out=starts[1:])
    return starts


def group_ends(starts: NDArray[np.bool_]) -> NDArray[np.intp]:
    """The last row of each group."""
    return np.flatnonzero(np.append(starts[1:], True)[: len(starts)])


def strings(values: Mapping[str, list[Any]]) -> pa.Table:
    """Text attributes of a kind (ids, which no arithmetic touches) as a snapshot table."""
    return pa.table({name: pa.array(column, pa.string()) for name, column in values.items()})


def _blank(column: Column, rows: int) -> NDArray[Any]:
    shape = rows if column.width == 1 else (rows, column.width)
    return np.full(shape, column.default, dtype=column.dtype)
