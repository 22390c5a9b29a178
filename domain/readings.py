"""Readings as columns: what the whole reading path carries.

A `ReadingBatch` is one numpy array a column, all of one length; it is never a list of objects.
`SCHEMA` is its Arrow form, version 1: columns are only ever appended, never renamed, retyped or reordered.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from domain.errors import InvalidInput

SCHEMA: Final = pa.schema(
    [
        pa.field("handle", pa.uint32(), nullable=False),
        pa.field("instance", pa.uint8(), nullable=False),
        pa.field("metric", pa.uint16(), nullable=False),
        pa.field("time_us", pa.int64(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("quality", pa.uint16(), nullable=False),
        pa.field("source", pa.uint32(), nullable=False),
        pa.field("sequence", pa.uint64(), nullable=False),
        pa.field("raw_value", pa.float64(), nullable=False),
        pa.field("raw_unit", pa.uint16(), nullable=False),
    ]
)
DTYPES: Final[Mapping[str, np.dtype[Any]]] = {field.name: np.dtype(field.type.to_pandas_dtype()) for field in SCHEMA}
ROW: Final = np.dtype(list(DTYPES.items()))  # one reading as a packed record of the columns, little endian
pack_row: Final = struct.Struct("<IBHqdHIQdH").pack  # the bytes of one ROW, from its values in order
NO_SEQUENCE = 0  # the source sent no sequence; sequences start at 1


@dataclass(frozen=True, slots=True)
class ReadingBatch:
    """Columns of readings.

    handle: the device (or patient, for derived scores); instance: which of several alike, 0 when there is one;
    metric: id in `domain.metrics`; time_us: event time as the device states it, UTC microseconds;
    value: in the metric's unit, NaN where nothing was measured; quality: see `domain.quality`;
    source: handle of who sent it (gateway, device, scorer); sequence: that source's running number, 0 if none;
    raw_value, raw_unit: as sent, where another unit was converted (NaN and 0 otherwise).
    """

    handle: NDArray[np.uint32]
    instance: NDArray[np.uint8]
    metric: NDArray[np.uint16]
    time_us: NDArray[np.int64]
    value: NDArray[np.float64]
    quality: NDArray[np.uint16]
    source: NDArray[np.uint32]
    sequence: NDArray[np.uint64]
    raw_value: NDArray[np.float64]
    raw_unit: NDArray[np.uint16]

    @classmethod
    def of(cls, **columns: ArrayLike) -> Self:
        """A batch from arrays, lists or scalars (broadcast to the longest).

        `handle`, `metric`, `time_us` and `value` are required; the rest defaults to instance 0, quality 0
        (valid, real, measured), source = handle, no sequence, no raw value.
        Raises InvalidInput for an unknown or missing column, or columns of unequal length.
        """
        unknown = set(columns) - set(DTYPES)
        missing = {"handle", "metric", "time_us", "value"} - set(columns)
        if unknown or missing:
            raise InvalidInput(f"reading columns {sorted(unknown)} are unknown and {sorted(missing)} are missing")
        defaults: dict[str, ArrayLike] = {
            "instance": 0, "quality": 0, "source": columns["handle"],
            "sequence": NO_SEQUENCE, "raw_value": np.nan, "raw_unit": 0,
        }  # fmt: skip
        arrays = {name: np.atleast_1d(np.asarray({**defaults, **columns}[name], dtype)) for name, dtype in DTYPES.items()}
        length = max(map(len, arrays.values())) if all(map(len, arrays.values())) else 0
        if any(len(array) not in (1, length) for array in arrays.values()):
            raise InvalidInput(f"reading columns differ in length: { {n: len(a) for n, a in arrays.items()} }")
        return cls(**{n: np.ascontiguousarray(np.broadcast_to(a[:length], (length,))) for n, a in arrays.items()})

    @classmethod
    def empty(cls) -> Self:
        return cls(**{name: np.empty(0, dtype) for name, dtype in DTYPES.items()})

    @classmethod
    def from_rows(cls, data: bytes) -> Self:
        """From packed `ROW` records, as `pack_row` makes them: the cheap way for single readings, one by one."""
        rows = np.frombuffer(data, ROW)
        return cls(**{name: np.ascontiguousarray(rows[name]) for name in DTYPES})

    @classmethod
    def concat(cls, batches: Iterable[ReadingBatch]) -> Self:
        """All rows of `batches` in order."""
        parts = list(batches)
        if not parts:
            return cls.empty()
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in DTYPES})

    @classmethod
    def from_arrow(cls, batch: pa.RecordBatch | pa.Table) -> Self:
        """From Arrow columns of `SCHEMA` (extra columns are ignored). Zero-copy where Arrow allows: treat as read-only."""
        return cls(**{name: batch.column(name).to_numpy(zero_copy_only=False).astype(dtype, copy=False)
                      for name, dtype in DTYPES.items()})  # fmt: skip

    def to_arrow(self) -> pa.RecordBatch:
        return pa.record_batch([pa.array(getattr(self, name)) for name in DTYPES], schema=SCHEMA)

    def __len__(self) -> int:
        return len(self.handle)

    def take(self, rows: NDArray[Any] | slice) -> ReadingBatch:
        """The rows at `rows`: an index array, a boolean mask or a slice."""
        return ReadingBatch(**{name: getattr(self, name)[rows] for name in DTYPES})

    def with_columns(self, **columns: NDArray[Any]) -> ReadingBatch:
        """A copy with some columns replaced; dtypes are those of `SCHEMA`."""
        kept = {name: getattr(self, name) for name in DTYPES}
        return ReadingBatch(**kept | {name: np.asarray(array, DTYPES[name]) for name, array in columns.items()})


@dataclass(frozen=True, slots=True)
class EncodedBatch(ReadingBatch):
    """A batch with the bytes of a frame that hold just these rows (`domain.frames`). What is made of it is a plain batch."""

    body: bytes
