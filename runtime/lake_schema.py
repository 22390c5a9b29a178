"""What the telemetry lake holds: columns, their stored types, and the questions one can put to it.

`clock_offset_us` and `clock_uncertainty_us` are what the cell added to the event time, and how far it held that to be
wrong, when it asked whose the reading was: a later join by them decides alike. Tables are older than these two columns:
they are nullable on disk, and a missing or null one reads as 0.

In memory a row has the domain's types (`ROWS`); on disk Delta knows no unsigned integers, so each is stored in the
next wider signed one (`STORED`) and cast back on read. The order of rows inside a file is `FILE_ORDER`; the order of
rows in an answer is `ANSWER_ORDER`, a total order but for rows equal in every one of its columns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from domain.errors import Conflict, IntegrityViolation, InvalidInput
from domain.quality import USABLE_VALIDITIES, Mark
from domain.readings import SCHEMA, ReadingBatch

ROWS: Final = pa.schema(
    [
        pa.field("hospital", pa.dictionary(pa.int32(), pa.string()), nullable=False),  # few texts, many rows
        *[pa.field(f.name, f.type, nullable=f.name == "raw_value") for f in SCHEMA],
        pa.field("arrival_us", pa.int64(), nullable=False),
        pa.field("clock_offset_us", pa.int64(), nullable=False),
        pa.field("clock_uncertainty_us", pa.int64(), nullable=False),
    ]
)
ADDED_LATER: Final = ("clock_offset_us", "clock_uncertainty_us")  # columns that older tables and files lack
STREAM_SEQUENCE: Final = "stream_sequence"  # int64; beside the lake's columns in the hot tail
HELD_ROWS: Final = ROWS.append(pa.field(STREAM_SEQUENCE, pa.int64(), nullable=False))
_PLAIN: Final = ROWS.set(0, pa.field("hospital", pa.string(), nullable=False))
TAIL_ROWS: Final = HELD_ROWS.set(0, _PLAIN.field(0))  # as answers of the tail travel

_WIDER: Final = {
    pa.uint8(): pa.int16(), pa.uint16(): pa.int32(), pa.uint32(): pa.int64(), pa.uint64(): pa.int64(),
}  # fmt: skip
FILE_SCHEMA: Final = pa.schema(
    [pa.field(f.name, _WIDER.get(f.type, f.type), f.nullable or f.name in ADDED_LATER) for f in _PLAIN]
)
TABLE_SCHEMA: Final = FILE_SCHEMA.append(pa.field("day", pa.date32(), nullable=False))

POLARS_ROWS: Final[dict[str, pl.DataType | type[pl.DataType]]] = dict(pl.DataFrame(_PLAIN.empty_table()).schema)
FILE_ORDER: Final = ("hospital", "handle", "metric", "time_us")
ANSWER_ORDER: Final = ("handle", "metric", "instance", "time_us", "arrival_us", "source", "sequence", "value")
HOUR_US: Final = 3_600_000_000
REPEAT: Final = int(Mark.POSSIBLE_DUPLICATE)
PRUNING_COLUMNS: Final = ("hospital", "handle", "metric", "time_us", "quality")  # whose least and greatest each commit states


class Fenced(IntegrityViolation):
    """The shard was given to another host: a higher epoch is in the lake. The writer must stop writing this shard."""

    code = "fenced"

    def __init__(self, shard: int, epoch: int, newer_epoch: int) -> None:
        super().__init__(f"shard {shard} is held under epoch {newer_epoch}; a commit under epoch {epoch} is refused")
        self.shard, self.epoch, self.newer_epoch = shard, epoch, newer_epoch


class PositionMoved(Conflict):
    """The lake is not where the writer believes. `position` tells where it is: everything up to there is committed."""

    code = "position-moved"

    def __init__(self, shard: int, expected: int, position: int) -> None:
        super().__init__(f"the lake holds shard {shard} up to stream sequence {position}, the commit expected {expected}")
        self.shard, self.expected, self.position = shard, expected, position


@dataclass(frozen=True, slots=True)
class Advance:
    """A shard's step: the commit carries every row of its stream in (from_sequence, to_sequence], written under `epoch`."""

    from_sequence: int
    to_sequence: int
    epoch: int

    def __post_init__(self) -> None:
        if not 0 <= self.from_sequence <= self.to_sequence or self.epoch < 0:
            raise InvalidInput(f"a shard goes from 0 <= from <= to under an epoch >= 0, not {self}")


@dataclass(frozen=True, slots=True)
class LakeView:
    """One version of the lake. `positions`: shard -> stream sequence up to which it holds everything; 0 if not in it."""

    version: int
    positions: dict[int, int]
    epochs: dict[int, int]


@dataclass(frozen=True, slots=True)
class ReadingCursor:
    """Where a page ended: its last row's channel and time, and how many rows of that very channel and time were given."""

    handle: int
    metric: int
    instance: int
    time_us: int
    given: int


@dataclass(frozen=True, slots=True)
class ReadingQuery:
    """Which readings: of these devices, metrics and hospitals (None: all), with from_us <= event time < until_us.

    `value_above`/`value_below` are strict; with either, or with `usable_only`, readings that carry no measurement
    (NaN, invalid, not available, …) are left out. Answers come in ANSWER_ORDER, or its reverse when `descending`,
    at most `limit` rows, going on behind `after`.
    """

    handles: list[int] | None = None
    metrics: list[int] | None = None
    hospitals: list[str] | None = None
    from_us: int | None = None
    until_us: int | None = None
    limit: int | None = None
    descending: bool = False
    value_above: float | None = None
    value_below: float | None = None
    usable_only: bool = False
    after: ReadingCursor | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise InvalidInput(f"limit is {self.limit}, expected at least 1")
        if self.from_us is not None and self.until_us is not None and self.from_us > self.until_us:
            raise InvalidInput(f"the time range ends before it starts: from {self.from_us} until {self.until_us} (µs)")

    @property
    def is_search(self) -> bool:
        """Whether only values beyond a threshold are asked for."""
        return self.value_above is not None or self.value_below is not None

    def without_page(self) -> ReadingQuery:
        """The same rows, not cut into pages."""
        return replace(self, limit=None, after=None)


def lake_rows(
    readings: ReadingBatch, arrival_us: NDArray[np.int64], hospital: Any,
    clock_offset_us: NDArray[np.int64] | int = 0, clock_uncertainty_us: NDArray[np.int64] | int = 0,
) -> pa.Table:  # fmt: skip
    """Rows for the lake. `arrival_us`, `hospital`: one a row; hospital ids as an Arrow (string, dictionary) or numpy array."""
    given = {name: getattr(readings, name) for name in SCHEMA.names} | {
        "hospital": hospital,
        "arrival_us": arrival_us,
        "clock_offset_us": np.broadcast_to(clock_offset_us, len(readings)),
        "clock_uncertainty_us": np.broadcast_to(clock_uncertainty_us, len(readings)),
    }
    return pa.Table.from_arrays([_as_field(given[field.name], field) for field in ROWS], schema=ROWS)


def _as_field(values: Any, field: pa.Field) -> pa.Array:
    array = pa.array(values) if isinstance(values, np.ndarray) else values
    return array if array.type.equals(field.type) else array.cast(field.type)


def tail_rows(readings: ReadingBatch, arrival_us: NDArray[np.int64], hospital: Any, sequence: NDArray[np.int64]) -> pa.Table:
    """As `lake_rows`, with the stream sequence that each row came by."""
    rows = lake_rows(readings, arrival_us, hospital)
    return rows.append_column(TAIL_ROWS.field(STREAM_SEQUENCE), pa.array(sequence, pa.int64()))


def to_rows(table: pa.Table) -> pa.Table:
    """The columns of `ROWS`, in their order and types, of a table that has them among others; raises InvalidInput."""
    if table.schema.equals(ROWS):
        return table
    missing = sorted(set(ROWS.names) - set(table.column_names))
    if missing:
        raise InvalidInput(f"rows for the lake lack the columns {missing}")
    return table.select(ROWS.names).cast(ROWS)


def from_stored(name: str) -> pl.Expr:
    """The expression that gives column `name` its domain type back."""
    if name == "sequence":
        return pl.col(name).reinterpret(signed=False)
    if name in ADDED_LATER:
        return pl.col(name).fill_null(0)
    return pl.col(name).cast(POLARS_ROWS[name])


def is_usable() -> pl.Expr:
    """Where a reading carries a measurement."""
    return pl.col("value").is_not_nan() & (pl.col("quality") & 0xF).is_in([int(v) for v in USABLE_VALIDITIES])


def is_marked() -> pl.Expr:
    """Where ingest marked a reading as the possible repeat of an earlier one."""
    return (pl.col("quality") >= REPEAT) & ((pl.col("quality") & REPEAT) != 0)
