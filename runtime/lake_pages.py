"""One page of an answer: how much of the lake has to be read for its first rows, and no more.

An answer comes in the order of its channels and times, and a page is its first rows. Rollups say how many rows each channel
has in each hour at least, and how high and low its values go: so the channels and hours that surely fill a page are known
before a row is read, and of a search beyond a threshold those that can have a match. They are read in the answer's
order until the page is full. Where files have no rollup their rows are read in the same stretches. Clause 7.1b.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import numpy as np
import polars as pl

from runtime import lake_row_groups
from runtime.lake_folder import LakeFolder
from runtime.lake_queries import CHANNEL, collect, from_cursor, matching, page_of, prune, scan, without_repeats
from runtime.lake_queries import read as read_all
from runtime.lake_rollups import CHANNELS, Rollups, scan_rollups
from runtime.lake_row_groups import is_of_few, is_of_one_channel
from runtime.lake_schema import HOUR_US, POLARS_ROWS, ReadingCursor, ReadingQuery, from_stored

_KEY: Final = (*CHANNEL, "hour_us")
FEW_ROWS: Final = 3_000_000  # in the files of a question: reading them all is as quick
FIRST_HITS: Final = 16  # channel-hours with a match that are read first, then four times as many, and so on
_MORE: Final = 4


@dataclass(frozen=True, slots=True)
class _Stretch:
    """A part of the answer: behind channel-hour `after` and up to `until`; None is where the answer begins or ends.

    `hours`: its channel-hours that can have rows of the answer, in files with rollups.
    """

    after: dict[str, int] | None
    until: dict[str, int] | None
    hours: pl.DataFrame


def read(folder: LakeFolder, files: pl.DataFrame, rollups: Rollups, query: ReadingQuery) -> pl.DataFrame:
    """As `lake_queries.read`."""
    files = prune(files, query)
    is_read_whole = query.limit is None or int(files["rows"].sum()) <= FEW_ROWS or _is_short(query)
    if is_of_few(query) and (is_read_whole or is_of_one_channel(query)):
        return lake_row_groups.read(folder, files, query)
    if is_read_whole:
        return read_all(folder, files, query)
    assert query.limit is not None
    paths = rollups.paths(CHANNELS, files)
    has_rollup = pl.Series([path is not None for path in paths], dtype=pl.Boolean)
    if not has_rollup.any():
        return read_all(folder, files, query)
    needed = query.limit + (query.after.given if query.after is not None else 0)
    hours = _hours(folder, [path for path in paths if path is not None], query, needed)
    found: list[pl.DataFrame] = []
    for stretch in _stretches(hours, needed, is_search=query.is_search):
        found.append(_rows_in(folder, files.filter(has_rollup), files.filter(~has_rollup), query, stretch))
        needed -= len(found[-1])
        if needed <= 0:
            break
    return page_of(pl.concat(found), query)


def _is_short(query: ReadingQuery) -> bool:
    """A day of a few devices is read as it is."""
    has_ends = query.from_us is not None and query.until_us is not None
    return is_of_few(query) and has_ends and (query.until_us or 0) - (query.from_us or 0) <= 24 * HOUR_US


def _hours(folder: LakeFolder, paths: list[str], query: ReadingQuery, needed: int) -> pl.DataFrame:
    """Channel-hours that can have rows of the answer, in its order; `sure`: so many rows they have at least.

    Those that come behind enough handles for `needed` rows are left out.
    """
    found = _possible(scan_rollups(folder, paths), query).with_columns(sure=_sure(query)).select(*_KEY, "sure")
    if query.is_search or query.handles is not None:  # few of them: what they are grouped by next is read once
        found = collect(found).lazy()
    by_handle = collect(found.group_by("handle").agg(pl.col("sure").sum())).sort("handle", descending=query.descending)
    last = _enough(by_handle["sure"], needed)
    if last is not None:
        edge = by_handle["handle"][last]
        found = found.filter(pl.col("handle") >= edge if query.descending else pl.col("handle") <= edge)
    return collect(found.group_by(_KEY).agg(pl.col("sure").sum())).sort(_KEY, descending=query.descending)


def _possible(rollup: pl.LazyFrame, query: ReadingQuery) -> pl.LazyFrame:
    """What of a rollup can have rows of the answer."""
    found = matching(rollup, ReadingQuery(handles=query.handles, metrics=query.metrics, hospitals=query.hospitals))
    conditions = [
        *([] if query.from_us is None else [pl.col("hour_us") > query.from_us - HOUR_US]),
        *([] if query.until_us is None else [pl.col("hour_us") < query.until_us]),
        *([] if query.value_above is None else [pl.col("max") > query.value_above]),
        *([] if query.value_below is None else [pl.col("min") < query.value_below]),
    ]
    if query.after is not None:
        reached = pl.col("hour_us") if query.descending else pl.col("hour_us") + (HOUR_US - 1)
        conditions.append(from_cursor(query.after, descending=query.descending, time=reached))
    return found.filter(*conditions) if conditions else found


def _sure(query: ReadingQuery) -> pl.Expr:
    """How many rows of the answer a row of a rollup stands for at least: repeats may go, and hours be cut."""
    is_whole = ~pl.col("is_marked")
    if query.from_us is not None:
        is_whole &= pl.col("hour_us") >= query.from_us
    if query.until_us is not None:
        is_whole &= pl.col("hour_us") + HOUR_US <= query.until_us
    if query.after is not None:
        reached = pl.col("hour_us") + (HOUR_US - 1) if query.descending else pl.col("hour_us")
        is_whole &= from_cursor(query.after, descending=query.descending, time=reached)
    if query.value_above is not None and query.value_below is not None:
        return pl.lit(0)  # one may be above and another below
    rows = pl.lit(1) if query.is_search else pl.col("count" if query.usable_only else "rows")
    return pl.when(is_whole).then(rows).otherwise(0).cast(pl.Int64)


def _enough(sure: pl.Series, needed: int) -> int | None:
    """The first place by which `needed` rows are surely there; None when they may not be."""
    place = int(sure.cum_sum().search_sorted(needed))
    return place if place < len(sure) else None


def _stretches(hours: pl.DataFrame, needed: int, *, is_search: bool) -> Iterator[_Stretch]:
    """Stretches of the answer, in its order and with no gap between them; the first should do."""
    ends = [0]
    if is_search:
        while ends[-1] < len(hours):
            ends.append(min(len(hours), ends[-1] + FIRST_HITS * _MORE ** (len(ends) - 1)))
    else:
        last = _enough(hours["sure"], needed)
        ends += [end for end in (None if last is None else last + 1, len(hours)) if end]
    after = None
    for first, end in pairwise(ends):
        if end > first:
            until = hours.row(end - 1, named=True)
            yield _Stretch(after, until, hours[first:end])
            after = until
    yield _Stretch(after, None, hours.clear())


def _rows_in(
    folder: LakeFolder, rolled: pl.DataFrame, others: pl.DataFrame, query: ReadingQuery, stretch: _Stretch
) -> pl.DataFrame:  # fmt: skip
    """All rows of a stretch, each reading once."""
    parts = [matching(scan(folder, others["path"].to_list()), query)]
    if len(stretch.hours):
        narrow = _narrowed(query, stretch.hours)
        has_hour = _overlapping(rolled, stretch.hours["hour_us"])
        parts.append(matching(scan(folder, prune(rolled.filter(has_hour), narrow)["path"].to_list()), narrow))
    found = collect(pl.concat(parts).filter(*_inside(query, stretch)))
    return without_repeats(found.lazy()).select(from_stored(name) for name in POLARS_ROWS).collect()


def _narrowed(query: ReadingQuery, hours: pl.DataFrame) -> ReadingQuery:
    """The question, asked of nothing but these channel-hours' devices, metrics and times."""
    first_us, last_us = hours.select(pl.col("hour_us").min().alias("first"), pl.col("hour_us").max().alias("last")).row(0)
    return replace(
        query,
        handles=hours["handle"].unique().to_list(),
        metrics=hours["metric"].unique().to_list(),
        from_us=max(first_us, first_us if query.from_us is None else query.from_us),
        until_us=min(last_us + HOUR_US, last_us + HOUR_US if query.until_us is None else query.until_us),
    )


def _overlapping(files: pl.DataFrame, hours: pl.Series) -> pl.Series:
    """Which files have rows in one of these hours."""
    starts = np.sort(hours.unique().to_numpy())
    least, greatest = files["min.time_us"].to_numpy(), files["max.time_us"].to_numpy()
    return pl.Series(np.searchsorted(starts, greatest, "right") > np.searchsorted(starts, least - HOUR_US, "right"))


def _inside(query: ReadingQuery, stretch: _Stretch) -> list[pl.Expr]:
    """Conditions on rows: behind the query's cursor and in the stretch."""
    return [
        *([] if query.after is None else [from_cursor(query.after, descending=query.descending)]),
        *([] if stretch.after is None else [~_up_to(stretch.after, query)]),
        *([] if stretch.until is None else [_up_to(stretch.until, query)]),
    ]


def _up_to(hour: dict[str, int], query: ReadingQuery) -> pl.Expr:
    """Rows that the answer has before the end of this channel-hour."""
    time_us = hour["hour_us"] if query.descending else hour["hour_us"] + HOUR_US - 1
    edge = ReadingCursor(hour["handle"], hour["metric"], hour["instance"], time_us, 0)
    return from_cursor(edge, descending=not query.descending)
