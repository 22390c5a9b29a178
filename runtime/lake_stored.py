"""Rows as the lake stores them: sorted, in signed types, by day."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from domain.compiled import Int64s, OutInt32s, OutInt64s, UInt16s, UInt32s, compiled
from domain.instants import DAY_US
from runtime.lake_schema import FILE_SCHEMA, ROWS, to_rows

_KEY_BITS: Final = 63


def to_stored(rows: pa.Table) -> pl.DataFrame:
    """Rows as they are stored: signed, raw_value null where there is none, with `day`, in (day, FILE_ORDER) order."""
    rows = to_rows(rows).combine_chunks()
    hospitals, hospital = _ranked(rows["hospital"])
    columns = {name: rows[name].to_numpy() for name in ROWS.names[1:]}
    first_day, last_day = _days(columns["time_us"])
    order = _order_of_one_day(columns, hospital) if first_day == last_day else None
    if order is None:
        keys = (columns["time_us"], columns["metric"], columns["handle"], hospital, columns["time_us"] // DAY_US)
        order = np.lexsort(keys)
    stored = {
        "hospital": pl.Series(hospital.take(order)).cat.to(pl.Enum(hospitals)),
        **{field.name: _stored(columns[field.name], order, field) for field in FILE_SCHEMA if field.name in columns},
    }
    day = pl.lit(first_day) if first_day == last_day else pl.col("time_us") // DAY_US
    return pl.DataFrame(stored).with_columns(day=day.cast(pl.Int32).cast(pl.Date))


def _days(time_us: NDArray[np.int64]) -> tuple[int, int]:
    """The first and the last day that has a row."""
    return (int(time_us.min()) // DAY_US, int(time_us.max()) // DAY_US) if len(time_us) else (0, 0)


def _ranked(hospital: pa.ChunkedArray) -> tuple[list[str], NDArray[np.uint32]]:
    """The hospitals in order, and which one each row is of: ranks sort faster than texts."""
    column = hospital.unify_dictionaries().combine_chunks()
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    names = column.dictionary.to_pylist()
    ranks = {name: rank for rank, name in enumerate(sorted(set(names)))}
    return list(ranks), np.array([ranks[name] for name in names], dtype=np.uint32).take(column.indices.to_numpy())


def _stored(values: NDArray[Any], order: NDArray[np.int64], field: pa.Field) -> pl.Series:
    """A column in stored order and type. One that says the same everywhere, as many do, is not moved."""
    if field.name == "raw_value":
        if np.isnan(values).all():
            return pl.repeat(None, len(values), dtype=pl.Float64, eager=True)
        return _shared(values.take(order)).fill_nan(None)
    if len(values) and (values == values[0]).all():
        moved = values
    elif values.dtype in _WIDENED:
        wider, widen = _WIDENED[values.dtype]
        moved = np.empty(len(values), dtype=wider)
        widen(values, order, moved)
    else:
        moved = values.take(order)
    if field.name == "sequence":
        return _shared(moved.view(np.int64))  # u64 keeps all its bits
    return _shared(moved.astype(field.type.to_pandas_dtype(), copy=False))


def _shared(values: NDArray[Any]) -> pl.Series:
    """A series over the very memory of an array, which `pl.Series(array)` would copy: fresh memory is work."""
    return pl.Series(pa.array(values))


def _order_of_one_day(columns: dict[str, NDArray[Any]], hospital: NDArray[np.uint32]) -> NDArray[np.int64] | None:
    """The rows in FILE_ORDER, those that are equal in it as they came; None where a sort of numbers cannot tell.

    Mostly the rows of a channel come in order of time: then it is enough to sort numbers that say channel and row. It is
    not where a channel's rows came out of order, or hospital, handle, metric and row do not fit into one number.
    """
    handle, metric, rows = columns["handle"], columns["metric"], len(hospital)
    if not rows:
        return np.empty(0, dtype=np.int64)
    least = int(handle.min())
    metric_bits, row_bits = int(metric.max()).bit_length(), (rows - 1).bit_length()
    handle_bits = (int(handle.max()) - least).bit_length()
    if int(hospital.max()).bit_length() + handle_bits + metric_bits + row_bits > _KEY_BITS:
        return None
    keys = np.empty(rows, dtype=np.int64)
    _write_keys(hospital, handle, metric, least, handle_bits, metric_bits, row_bits, keys)
    keys.sort()
    return keys if _keep_rows(keys, columns["time_us"], row_bits) else None


@compiled
def _write_keys(
    hospital: UInt32s, handle: UInt32s, metric: UInt16s, least: int, handle_bits: int, metric_bits: int, row_bits: int,
    keys: OutInt64s,
) -> None:  # fmt: skip
    for i in range(len(keys)):
        channel = ((hospital[i] << handle_bits) + handle[i] - least << metric_bits) + metric[i]
        keys[i] = (channel << row_bits) + i


@compiled
def _keep_rows(keys: OutInt64s, time_us: Int64s, row_bits: int) -> bool:
    """Of each sorted key only the row; False when the rows of a channel turn out not to be in order of time."""
    mask, channel, last_us = (1 << row_bits) - 1, -1, 0
    for i in range(len(keys)):
        row = keys[i] & mask
        if keys[i] >> row_bits == channel and time_us[row] < last_us:
            return False
        channel, last_us, keys[i] = keys[i] >> row_bits, time_us[row], row
    return True


@compiled
def _widen_16(values: UInt16s, order: Int64s, wider: OutInt32s) -> None:
    for i in range(len(order)):
        wider[i] = values[order[i]]


@compiled
def _widen_32(values: UInt32s, order: Int64s, wider: OutInt64s) -> None:
    for i in range(len(order)):
        wider[i] = values[order[i]]


_WIDENED: Final[dict[np.dtype[Any], tuple[type[np.generic], Callable[..., None]]]] = {
    np.dtype(np.uint16): (np.int32, _widen_16),
    np.dtype(np.uint32): (np.int64, _widen_32),
}
