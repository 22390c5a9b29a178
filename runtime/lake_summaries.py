"""Summaries of the lake's readings: from rollups where files have them, from rows where not and at ragged ends.

Pure of state, as `lake_queries`. Every reading is counted once: by the rollup of its file when it lies in a whole hour of
the question, else as a row. Readings marked as possible repeats are always counted as rows, all files' together. Clauses
7.1b, 7.4b.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import polars as pl

from runtime.lake_folder import LakeFolder
from runtime.lake_queries import FLEET, collect, first_of_each, matching, prune, rows, scan, summarise
from runtime.lake_rollups import CHANNELS, FLEETS, MARKED, Rollups, scan_rollups
from runtime.lake_runs import can_add_up, unmarked
from runtime.lake_schema import HOUR_US, REPEAT, ReadingQuery, from_stored, is_marked

_END_US: Final = 2**62 // HOUR_US * HOUR_US


def summary(
    folder: LakeFolder, files: pl.DataFrame, rollups: Rollups, query: ReadingQuery, keys: Sequence[str], bucket_us: int,
    *, real_only: bool,
) -> pl.DataFrame:  # fmt: skip
    """As `lake_queries.summarise` of all rows of `files` that `query` asks for, not cut into pages."""
    query = query.without_page()
    files = prune(files, query)
    level = FLEETS if tuple(keys) == FLEET and real_only and query.handles is None else CHANNELS
    both = zip(rollups.paths(level, files), rollups.paths(MARKED, files), strict=True)
    has_rollup = pl.Series([None not in pair for pair in both], dtype=pl.Boolean)
    rolled, others = files.filter(has_rollup), files.filter(~has_rollup)
    if rolled.is_empty() and not can_add_up(query, keys):
        return collect(summarise(rows(folder, files, query), keys, bucket_us, real_only=real_only))
    by_hours = bucket_us % HOUR_US == 0 and not query.is_search
    hours = _whole_hours(query) if by_hours else range(0)
    marked = _marked(folder, rollups, rolled, others, query).select(*(from_stored(name) for name in _SUMMARISED))
    parts = [collect(summarise(marked, keys, bucket_us, real_only=real_only))]
    pieces = _pieces(rolled, others, query, hours)
    if can_add_up(query, keys):
        parts += [unmarked(folder, some, piece, bucket_us, real_only=real_only) for some, piece in pieces]
    else:
        parts.append(_of_rows(folder, pieces, keys, bucket_us, real_only=real_only))
    if hours and len(rolled):
        paths = [path for path in rollups.paths(level, rolled) if path is not None]
        parts.append(collect(_of_rollups(folder, paths, query, hours, keys, bucket_us, real_only=real_only)))
    return pl.concat([part.cast({"count": pl.Int64}) for part in parts])


_SUMMARISED: Final = ("hospital", "handle", "metric", "instance", "time_us", "value", "quality")


def _whole_hours(query: ReadingQuery) -> range:
    """From the first hour that begins in the question to the end of the last that ends in it."""
    first = 0 if query.from_us is None else -(-query.from_us // HOUR_US) * HOUR_US
    last = _END_US if query.until_us is None else query.until_us // HOUR_US * HOUR_US
    return range(-_END_US if query.from_us is None else first, last, HOUR_US)


def _pieces(
    rolled: pl.DataFrame, others: pl.DataFrame, query: ReadingQuery, hours: range
) -> list[tuple[pl.DataFrame, ReadingQuery]]:
    """What is added up from rows: of files without a rollup all, of the others what lies beside the whole hours."""
    if not hours:
        return [(pl.concat([rolled, others]), query)]
    pieces = [(others, query)]
    for ragged in (replace(query, until_us=hours.start), replace(query, from_us=hours.stop)):
        is_there = query.from_us is not None if ragged.until_us == hours.start else query.until_us is not None
        if is_there and (ragged.from_us or 0) < (ragged.until_us or 0):
            pieces.append((prune(rolled, ragged), ragged))
    return pieces


def _of_rows(
    folder: LakeFolder, pieces: list[tuple[pl.DataFrame, ReadingQuery]], keys: Sequence[str], bucket_us: int, *, real_only: bool
) -> pl.DataFrame:  # fmt: skip
    """A summary of the rows without a mark."""
    found = pl.concat([matching(scan(folder, files["path"].to_list()), piece) for files, piece in pieces])
    unmarked_rows = found.filter(~is_marked()).select(*(from_stored(name) for name in _SUMMARISED))
    return collect(summarise(unmarked_rows, keys, bucket_us, real_only=real_only))


def _marked(
    folder: LakeFolder, rollups: Rollups, rolled: pl.DataFrame, others: pl.DataFrame, query: ReadingQuery
) -> pl.LazyFrame:
    """Of marked repeats that are alike, in whatever files they lie, the first to arrive."""
    kept = [path for path in rollups.paths(MARKED, rolled) if path is not None]
    doubtful = others.filter(pl.col("max.quality") >= REPEAT)["path"].to_list()
    found = pl.concat([*([scan_rollups(folder, kept)] if kept else []), scan(folder, doubtful)])
    return first_of_each(matching(found, query).filter(is_marked()))


def _of_rollups(
    folder: LakeFolder, paths: list[str], query: ReadingQuery, hours: range, keys: Sequence[str], bucket_us: int,
    *, real_only: bool,
) -> pl.LazyFrame:  # fmt: skip
    of_keys = ReadingQuery(handles=query.handles, metrics=query.metrics, hospitals=query.hospitals)
    found = matching(scan_rollups(folder, paths), of_keys).filter(
        pl.col("hour_us").is_between(hours.start, hours.stop, closed="left")
    )
    if "is_marked" in found.collect_schema():
        found = found.filter(~pl.col("is_marked"), *([pl.col("is_real")] if real_only else []))
    bucket = (pl.col("hour_us") // bucket_us * bucket_us).alias("bucket_us")
    return found.filter(pl.col("count") > 0).group_by(*(from_stored(key).alias(key) for key in keys), bucket).agg(
        pl.col("count").sum(),
        pl.col("min").min(),
        pl.col("max").max(),
        pl.col("sum").sum(),
        pl.col("last_time_us").max(),
        pl.col("last").filter(pl.col("last_time_us") == pl.col("last_time_us").max()).max(),
    )  # fmt: skip
