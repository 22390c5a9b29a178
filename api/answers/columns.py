"""From the lake's columns to those that people and programs are shown: codes become words, instants RFC 3339."""

from __future__ import annotations

from typing import Final

import polars as pl

from api.times import Zone
from domain.metrics import METRICS
from domain.quality import describe

_METRIC_NAMES: Final = pl.DataFrame(
    {"metric": [m.id for m in METRICS], "code": [m.code for m in METRICS], "unit": [m.unit for m in METRICS]},
    schema={"metric": pl.UInt16, "code": pl.String, "unit": pl.String},
)


def with_metric_names(frame: pl.DataFrame) -> pl.DataFrame:
    """`metric` as its code, with `unit` beside it; an id of a later version stays a number."""
    named = frame.join(_METRIC_NAMES, on="metric", how="left", maintain_order="left")
    code = pl.coalesce(pl.col("code"), pl.col("metric").cast(pl.String))
    return named.with_columns(metric=code).drop("code")


def with_device_names(frame: pl.DataFrame, names: pl.DataFrame) -> pl.DataFrame:
    """Add what `names` (by `handle`) tells of each handle; null where it tells nothing."""
    return frame.join(names, on="handle", how="left", maintain_order="left")


def with_quality_words(frame: pl.DataFrame) -> pl.DataFrame:
    """Add `validity`, `mode`, `origin` and `marks` (a list); `quality` stays the stored number."""
    codes = frame["quality"].unique().to_list()
    parts = [describe(code) for code in codes]
    words = pl.DataFrame(
        {"quality": codes, **{name: [part[name] for part in parts] for name in ("validity", "mode", "origin", "marks")}},
        schema={
            "quality": frame.schema["quality"], "validity": pl.String, "mode": pl.String, "origin": pl.String,
            "marks": pl.List(pl.String),
        },
    )  # fmt: skip
    return frame.join(words, on="quality", how="left", maintain_order="left")


def time_text(column: str, zone: Zone) -> pl.Expr:
    """Microseconds as RFC 3339 text in `zone`; null stays null."""
    instant = pl.from_epoch(pl.col(column), time_unit="us").dt.replace_time_zone("UTC")
    if zone.name == "UTC":
        return instant.dt.to_string("%Y-%m-%dT%H:%M:%S%.6fZ")
    return instant.dt.convert_time_zone(zone.name).dt.to_string("%Y-%m-%dT%H:%M:%S%.6f%:z")


def time_stamp(column: str, zone: Zone) -> pl.Expr:
    """Microseconds as a timestamp column with its zone."""
    return pl.from_epoch(pl.col(column), time_unit="us").dt.replace_time_zone("UTC").dt.convert_time_zone(zone.name)
