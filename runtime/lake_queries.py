"""Questions to readings: the lake's files of one version, or any frame of rows. Lazy, pruned, then collected.

Pure of state: a query gets the files it may read. The frame functions (`matching`, `without_repeats`, `in_order`,
`summarise`, `merged`) serve the lake and the hot tail alike, so that both together answer like one. Clauses 7.1a, 7.1b.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from domain.quality import Mode
from runtime.lake_files import STORED, gone, scan_files
from runtime.lake_folder import LakeFolder
from runtime.lake_schema import (
    ANSWER_ORDER,
    POLARS_ROWS,
    REPEAT,
    ReadingCursor,
    ReadingQuery,
    from_stored,
    is_marked,
    is_usable,
)

CHANNEL: Final = ("handle", "metric", "instance")
FLEET: Final = ("hospital", "metric")
_FEW_HANDLES: Final = 500
SAME_READING: Final = ("handle", "instance", "metric", "time_us", "value", "source", "sequence")


# -- the lake's files -------------------------------------------------------------------------------------------------


def read(folder: LakeFolder, files: pl.DataFrame, query: ReadingQuery) -> pl.DataFrame:
    """Rows (`POLARS_ROWS`) that `query` asks for, in its order, at most its limit."""
    return collect(in_order(rows(folder, files, query), query))


def rows(folder: LakeFolder, files: pl.DataFrame, query: ReadingQuery) -> pl.LazyFrame:
    """Rows that `query` asks for, in no order, not cut to its limit, each reading once.

    Only files whose statistics allow a match are touched. Repeats can only be where marks are: of few devices all rows
    are read once and looked through; of many, files with marks are read again for marked rows alone, which row group
    statistics make cheap.
    """
    files = prune(files, query)
    found = matching(scan(folder, files["path"].to_list()), query)
    doubtful = files.filter(pl.col("max.quality") >= REPEAT)["path"].to_list()
    if doubtful and query.handles is not None and len(query.handles) <= _FEW_HANDLES:
        found = without_repeats(collect(found).lazy())
    elif doubtful:
        marked = matching(scan(folder, doubtful), query).filter(is_marked())
        found = pl.concat([found.filter(~is_marked()), first_of_each(marked)])
    return found.select(from_stored(name) for name in POLARS_ROWS)


def collect(frame: pl.LazyFrame) -> pl.DataFrame:
    """Run a query. Raises NotFound when files of its version were deleted meanwhile (versions are kept for two days)."""
    try:
        return frame.collect(engine="streaming")
    except FileNotFoundError as error:
        raise gone() from error


def prune(files: pl.DataFrame, query: ReadingQuery) -> pl.DataFrame:
    """The files that can hold rows for `query`, by their statistics."""
    named: tuple[tuple[str, Sequence[int] | Sequence[str] | None], ...] = (
        ("handle", query.handles), ("metric", query.metrics), ("hospital", query.hospitals)
    )  # fmt: skip
    can = [_meets(files, name, keys) for name, keys in named if keys is not None]
    if query.from_us is not None:
        can.append(files["max.time_us"].to_numpy() >= query.from_us)
    if query.until_us is not None:
        can.append(files["min.time_us"].to_numpy() < query.until_us)
    if (first := query.after) is not None and query.descending:
        can.append(files["min.handle"].to_numpy() <= first.handle)
    elif first is not None:
        can.append(files["max.handle"].to_numpy() >= first.handle)
    return files[pl.Series(np.flatnonzero(np.logical_and.reduce(can)))] if can else files


def _meets(files: pl.DataFrame, name: str, keys: Sequence[int] | Sequence[str]) -> NDArray[np.bool_]:
    """Which files have one of `keys` between the least and the greatest `name` they hold."""
    ordered = np.sort(np.asarray(keys, dtype=object if name == "hospital" else np.int64))
    least, greatest = (files[f"{end}.{name}"].to_numpy() for end in ("min", "max"))
    return np.searchsorted(ordered, greatest, side="right") > np.searchsorted(ordered, least, side="left")


def scan(folder: LakeFolder, paths: list[str]) -> pl.LazyFrame:
    """Rows of these files, stored."""
    return scan_files(folder, [str(folder.path / path) for path in paths]) if paths else pl.LazyFrame(schema=STORED)


# -- frames of rows ---------------------------------------------------------------------------------------------------


def matching(frame: pl.LazyFrame, query: ReadingQuery) -> pl.LazyFrame:
    """The rows of `frame`, stored or in the domain's types, that `query` asks for; order and limit are not its part."""
    conditions = [
        *_among("handle", query.handles), *_among("metric", query.metrics),
        *([] if query.hospitals is None else [pl.col("hospital").is_in(query.hospitals)]),
        *([] if query.from_us is None else [pl.col("time_us") >= query.from_us]),
        *([] if query.until_us is None else [pl.col("time_us") < query.until_us]),
        *([] if query.value_above is None else [pl.col("value") > query.value_above]),
        *([] if query.value_below is None else [pl.col("value") < query.value_below]),
    ]  # fmt: skip
    if query.usable_only or query.value_above is not None or query.value_below is not None:
        conditions.append(is_usable())
    return frame.filter(*conditions) if conditions else frame


def without_repeats(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Of marked repeats that are alike, keep the first to arrive. Rows that bear no such mark are never touched."""
    return pl.concat([frame.filter(~is_marked()), first_of_each(frame.filter(is_marked()))])


def in_order(frame: pl.LazyFrame, query: ReadingQuery) -> pl.LazyFrame:
    """Sorted in ANSWER_ORDER (or its reverse), going on behind the query's cursor, at most its limit."""
    if query.after is not None:
        frame = frame.filter(from_cursor(query.after, descending=query.descending))
    frame = frame.sort(ANSWER_ORDER, descending=query.descending, nulls_last=query.descending)
    given = query.after.given if query.after is not None else 0
    return frame.slice(given, query.limit) if given or query.limit is not None else frame


def page_of(frame: pl.DataFrame, query: ReadingQuery) -> pl.DataFrame:
    """As `in_order`, of rows in memory that come in long runs which are in order already: those are only merged.

    Two readings of one channel at one time are rare, and only then do the other columns of ANSWER_ORDER matter.
    """
    rows = frame if query.after is None else frame.filter(from_cursor(query.after, descending=query.descending))
    channel = rows["handle"].to_numpy().astype(np.int64) << 24
    channel |= rows["metric"].to_numpy().astype(np.int64) << 8 | rows["instance"].to_numpy()
    time_us = rows["time_us"].to_numpy()
    order = np.lexsort((time_us, channel))
    is_same = channel[order][1:] == channel[order][:-1]
    if (is_same & (time_us[order][1:] == time_us[order][:-1])).any():
        return in_order(frame.lazy(), query).collect()
    given = query.after.given if query.after is not None else 0
    order = order[::-1] if query.descending else order
    return rows[order[given : None if query.limit is None else given + query.limit]]


def cursor_behind(page: pl.DataFrame, query: ReadingQuery) -> ReadingCursor | None:
    """Where the page behind `page` (the answer to `query`) begins; None when there is none."""
    if query.limit is None or len(page) < query.limit:
        return None
    last = {name: page[name][-1] for name in (*CHANNEL, "time_us")}
    given = int(np.logical_and.reduce([page[name].to_numpy() == value for name, value in last.items()]).sum())
    if query.after is not None and given == len(page) and (*last.values(),) == _key_of(query.after):
        given += query.after.given
    return ReadingCursor(**last, given=given)


def summarise(frame: pl.LazyFrame, keys: Sequence[str], bucket_us: int, *, real_only: bool = False) -> pl.LazyFrame:
    """Usable readings by `keys` and time bucket: count, min, max, sum, last and when. Parts of a whole: see `merged`.

    `real_only` leaves out test and demo data. Of several last values at one time the greatest counts.
    """
    usable = matching(frame, ReadingQuery(usable_only=True))
    if real_only:
        usable = usable.filter((pl.col("quality") & 0x30) == int(Mode.REAL))
    start = ((pl.col("time_us") // bucket_us) * bucket_us).alias("bucket_us")
    return usable.group_by(*keys, start).agg(
        count=pl.len(),
        min=pl.col("value").min(),
        max=pl.col("value").max(),
        sum=pl.col("value").sum(),
        last_time_us=pl.col("time_us").max(),
        last=pl.col("value").sort_by("time_us", "value").last(),
    )


def merged(parts: Sequence[pl.DataFrame], keys: Sequence[str]) -> pl.DataFrame:
    """Summaries of disjoint rows as one, by `keys` and `bucket_us` in this order, with `mean` in place of `sum`."""
    total = (
        pl.concat([part.cast({"count": pl.Int64}) for part in parts])
        .group_by(*keys, "bucket_us")
        .agg(
            pl.col("count").sum(),
            pl.col("min").min(),
            pl.col("max").max(),
            pl.col("sum").sum(),
            pl.col("last_time_us").max(),
            pl.col("last").sort_by("last_time_us", "last").last(),
        )
    )
    mean = (pl.col("sum") / pl.col("count")).alias("mean")
    return total.select(*keys, "bucket_us", "count", "min", "max", mean, "last", "last_time_us").sort(*keys, "bucket_us")


def _among(name: str, keys: list[int] | None) -> list[pl.Expr]:
    if keys is None:
        return []
    if not keys:
        return [pl.lit(value=False)]
    column = pl.col(name)
    if len(keys) == 1:
        return [column == keys[0]]
    return [column.is_between(min(keys), max(keys)), column.is_in(pl.Series(keys, dtype=pl.Int64))]  # statistics prune by range


def first_of_each(marked: pl.LazyFrame) -> pl.LazyFrame:
    """Of marked rows that are alike, the first to arrive."""
    return marked.sort("arrival_us").unique(SAME_READING, keep="first", maintain_order=True)


def _key_of(cursor: ReadingCursor) -> tuple[int, int, int, int]:
    return cursor.handle, cursor.metric, cursor.instance, cursor.time_us


def from_cursor(cursor: ReadingCursor, *, descending: bool, time: pl.Expr | None = None) -> pl.Expr:
    """Rows at or beyond the cursor's channel and time; `time`: what is taken for their time."""
    reached = pl.lit(value=True)
    columns = [*(pl.col(name) for name in CHANNEL), pl.col("time_us") if time is None else time]
    for column, value in reversed(list(zip(columns, _key_of(cursor), strict=True))):
        beyond = column < value if descending else column > value
        reached = beyond | ((column == value) & reached)
    edge = pl.col("handle") <= cursor.handle if descending else pl.col("handle") >= cursor.handle
    return edge & reached
