"""From the lake's columns to those that people and programs are shown: codes become words, instants RFC 3339."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import polars as pl

from api.times import Zone
from domain.metrics import METRICS
from domain.quality import describe
from domain.units import spelling_of

_METRIC_NAMES: Final = {metric.id: (metric.code, metric.unit) for metric in METRICS}
_NAMES: Final = pl.Schema({"metric": pl.String, "unit": pl.String})
_WORDS: Final = pl.Schema([("validity", pl.String), ("mode", pl.String), ("origin", pl.String), ("marks", pl.List(pl.String))])


def with_each(frame: pl.DataFrame, code: str, described: Callable[[list[int]], pl.DataFrame]) -> pl.DataFrame:
    """`frame` with the columns that `described` makes of the codes there are, a row for each, wherever the code stands.

    Column by column and by index: most answers are small, and for those a join costs twenty times as much.
    """
    there_are, places = np.unique(frame[code].to_numpy(), return_inverse=True)
    rows = pl.Series(places.astype(np.uint32))
    told = {column.name: column[rows] for column in described(there_are.tolist()).get_columns()}
    return pl.DataFrame([*(told.pop(column.name, column) for column in frame.get_columns()), *told.values()])


def with_metric_names(frame: pl.DataFrame) -> pl.DataFrame:
    """`metric` as its code, with `unit` beside it; an id of a later version stays a number."""

    def named(ids: list[int]) -> pl.DataFrame:
        return pl.DataFrame([_METRIC_NAMES.get(one, (str(one), None)) for one in ids], schema=_NAMES, orient="row")

    return with_each(frame, "metric", named)


def with_unit_words(frame: pl.DataFrame, column: str) -> pl.DataFrame:
    """`column`, stored unit codes, as UCUM text; null for the metric's own unit, and for a code of a later version."""

    def spelt(codes: list[int]) -> pl.DataFrame:
        return pl.DataFrame({column: [spelling_of(code) for code in codes]}, schema={column: pl.String})

    return with_each(frame, column, spelt)


def with_quality_words(frame: pl.DataFrame) -> pl.DataFrame:
    """Add `validity`, `mode`, `origin` and `marks` (a list); `quality` stays the stored number."""

    def words(codes: list[int]) -> pl.DataFrame:
        return pl.DataFrame([describe(code) for code in codes], schema=_WORDS)

    return with_each(frame, "quality", words)


def time_text(column: str, zone: Zone) -> pl.Expr:
    """Microseconds as RFC 3339 text in `zone`; null stays null."""
    instant = pl.from_epoch(pl.col(column), time_unit="us").dt.replace_time_zone("UTC")
    if zone.name == "UTC":
        return instant.dt.to_string("%Y-%m-%dT%H:%M:%S%.6fZ")
    return instant.dt.convert_time_zone(zone.name).dt.to_string("%Y-%m-%dT%H:%M:%S%.6f%:z")


def time_stamp(column: str, zone: Zone) -> pl.Expr:
    """Microseconds as a timestamp column with its zone."""
    return pl.from_epoch(pl.col(column), time_unit="us").dt.replace_time_zone("UTC").dt.convert_time_zone(zone.name)
