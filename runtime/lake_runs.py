"""Summaries of few devices by channel and time bucket, added up row by row as they lie in the lake's files.

Files are sorted by device, metric and time, so a bucket's readings lie side by side: one pass over the rows, compiled,
adds them up. Grouping them by a hash table took four times as long. Clause 7.1b.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from domain.compiled import Floats, Int16s, Int32s, Int64s, OutFloats2D, OutInt64s2D, compiled
from domain.quality import USABLE_VALIDITIES, Mode
from runtime.lake_folder import LakeFolder
from runtime.lake_queries import CHANNEL
from runtime.lake_row_groups import is_of_few, parts_of
from runtime.lake_schema import POLARS_ROWS, REPEAT, ReadingQuery

_COLUMNS: Final = ("handle", "metric", "instance", "time_us", "value", "quality")
_USABLE: Final = sum(1 << int(validity) for validity in USABLE_VALIDITIES)
_SINCE_EVER, _FOR_EVER = -(2**62), 2**62
_WHOLE: Final = (*CHANNEL, "bucket_us", "count", "last_time_us")
_BROKEN: Final = ("min", "max", "sum", "last")
_SUMMARY: Final = pl.Schema(
    {
        **{name: POLARS_ROWS[name] for name in CHANNEL}, "bucket_us": pl.Int64, "count": pl.Int64, "min": pl.Float64,
        "max": pl.Float64, "sum": pl.Float64, "last_time_us": pl.Int64, "last": pl.Float64,
    }
)  # fmt: skip


def can_add_up(query: ReadingQuery, keys: Sequence[str]) -> bool:
    """Whether `unmarked` has the summary that is asked for."""
    return tuple(keys) == CHANNEL and is_of_few(query) and not (query.hospitals or query.is_search)


def unmarked(folder: LakeFolder, files: pl.DataFrame, query: ReadingQuery, bucket_us: int, *, real_only: bool) -> pl.DataFrame:
    """As `lake_queries.summarise` by CHANNEL of the rows without the mark of a possible repeat, not cut into pages.

    A bucket may come in several parts: see `lake_queries.merged`.
    """
    parts = parts_of(folder, files, query.without_page())
    added = [_added_up(part.table(_COLUMNS), query, bucket_us, real_only=real_only) for part in parts]
    if not added:
        return _SUMMARY.to_frame()
    whole, broken = (np.concatenate(numbers, axis=1) for numbers in zip(*added, strict=True))
    columns = dict(zip((*_WHOLE, *_BROKEN), [*whole, *broken], strict=True))
    return pl.DataFrame(columns).cast(_SUMMARY).select(_SUMMARY.names())


def _added_up(
    rows: pa.Table, query: ReadingQuery, bucket_us: int, *, real_only: bool
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The columns _WHOLE and _BROKEN of the rows' summary."""
    handle, metric, instance, time_us, value, quality = (rows[name].to_numpy() for name in _COLUMNS)
    whole = np.empty((len(_WHOLE), len(rows)), dtype=np.int64)  # mostly untouched: as many as there are buckets is used
    broken = np.empty((len(_BROKEN), len(rows)), dtype=np.float64)
    count = _add_up(
        handle, metric, instance, time_us, value, quality, _keys(query.handles), _keys(query.metrics), query.metrics is None,
        _SINCE_EVER if query.from_us is None else query.from_us, _FOR_EVER if query.until_us is None else query.until_us,
        bucket_us, _USABLE, REPEAT, int(Mode.REAL) if real_only else -1, whole, broken,
    )  # fmt: skip
    return whole[:, :count].copy(), broken[:, :count].copy()


def _keys(keys: list[int] | None) -> NDArray[np.int64]:
    return np.array(sorted(keys or ()), dtype=np.int64)


@compiled
def _is_among(keys: Int64s, key: int) -> bool:
    for known in keys:  # noqa: SIM110 (a compiled loop)
        if known == key:
            return True
    return False


@compiled
def _add_up(
    handle: Int64s, metric: Int32s, instance: Int16s, time_us: Int64s, value: Floats, quality: Int32s, handles: Int64s,
    metrics: Int64s, has_all_metrics: bool, from_us: int, until_us: int, bucket_us: int, usable: int, repeat: int, mode: int,
    whole: OutInt64s2D, broken: OutFloats2D,
) -> int:  # fmt: skip
    """Fill `whole` (_WHOLE) and `broken` (_BROKEN) for each run of rows of one channel and bucket; returns how many.

    `usable`: a bit for each validity that counts; `mode`: the only one that counts, -1 for all.
    """
    of_handle, of_metric, of_instance, of_bucket, count, last_time_us = (
        whole[0],
        whole[1],
        whole[2],
        whole[3],
        whole[4],
        whole[5],
    )
    least, greatest, total, last = broken[0], broken[1], broken[2], broken[3]
    found, is_wanted = -1, False
    for row in range(len(handle)):
        if row == 0 or handle[row] != handle[row - 1] or metric[row] != metric[row - 1]:
            is_wanted = _is_among(handles, handle[row]) and (has_all_metrics or _is_among(metrics, metric[row]))
        at_us, code, number = time_us[row], quality[row], value[row]
        if not is_wanted or at_us < from_us or at_us >= until_us or np.isnan(number):
            continue
        if not (usable >> (code & 0xF)) & 1 or code & repeat or (mode >= 0 and code & 0x30 != mode):
            continue
        is_next = found >= 0 and 0 <= at_us - of_bucket[found] < bucket_us
        is_next = is_next and of_handle[found] == handle[row] and of_metric[found] == metric[row]
        if not is_next or of_instance[found] != instance[row]:
            found += 1
            of_handle[found], of_metric[found], of_instance[found] = handle[row], metric[row], instance[row]
            of_bucket[found] = at_us // bucket_us * bucket_us
            count[found], total[found], last_time_us[found] = 0, 0.0, at_us
            least[found], greatest[found], last[found] = number, number, number
        count[found] += 1
        total[found] += number
        least[found], greatest[found] = min(least[found], number), max(greatest[found], number)
        if at_us > last_time_us[found] or (at_us == last_time_us[found] and number > last[found]):
            last_time_us[found], last[found] = at_us, number
    return found + 1
