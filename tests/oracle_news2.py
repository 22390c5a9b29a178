"""NEWS2 by Polars expressions alone, from rows of a table: shares with the platform the published tables, no code.

Rows are (patient, time_us, metric id, value), usable ones only, in stream order. An instant is a patient's event time at
which any source of an input was read. At each instant a source's newest value counts if it is within its window.
"""

from __future__ import annotations

import polars as pl

from analytics.news2 import INPUT_SOURCES, VALIDITY_WINDOWS_S, Parameter
from domain.metrics import metric_of

_INPUTS = [parameter.name for parameter in Parameter]


def score(rows: pl.DataFrame) -> pl.DataFrame:
    """patient, time_us, total (null unless all inputs are there), has_three, missing (how many) of each instant.

    Adults on scale 1.
    """
    sources = {source.metric: metric_of(source.metric).id for listed in INPUT_SOURCES.values() for source in listed}
    inputs = rows.filter(pl.col("metric").is_in(list(sources.values())))
    instants = inputs.select("patient", "time_us").unique().sort("time_us", "patient")
    for code, metric_id in sources.items():
        newest = (
            inputs.filter(metric=metric_id)
            .group_by("patient", "time_us", maintain_order=True)
            .agg(pl.col("value").last().alias(code))
            .sort("time_us")
            .with_columns(pl.col("time_us").alias("read_us"))
        )
        window_us = VALIDITY_WINDOWS_S[code] * 1_000_000
        instants = (
            instants.join_asof(newest, on="time_us", by="patient", strategy="backward", check_sortedness=False)
            .with_columns(pl.when(pl.col("time_us") - pl.col("read_us") <= window_us).then(_as_input(code)).alias(code))
            .drop("read_us")
        )
    chosen = instants.with_columns(
        pl.coalesce(source.metric for source in INPUT_SOURCES[parameter]).alias(parameter.name) for parameter in Parameter
    )
    return chosen.with_columns(_points()).select(
        "patient",
        "time_us",
        pl.when(pl.all_horizontal(pl.col(_INPUTS).is_not_null())).then(pl.sum_horizontal(_INPUTS)).alias("total"),
        pl.any_horizontal((pl.col(name) == 3).fill_null(value=False) for name in _INPUTS).alias("has_three"),
        pl.sum_horizontal(pl.col(_INPUTS).is_null()).alias("missing"),
    )


def _as_input(code: str) -> pl.Expr:
    match code:
        case "fio2":
            return (pl.col(code) > 21).cast(pl.Float64)
        case "mechanical_ventilation":
            return pl.when(pl.col(code) == 1).then(1.0)
        case "gcs_total":
            return (pl.col(code) != 15).cast(pl.Float64)
        case _:
            return pl.col(code)


def _points() -> list[pl.Expr]:
    """Chart 1, written anew: tenths of a degree and whole numbers, rounded half up."""
    rr, spo2, sbp, pulse = (
        (pl.col(name) + 0.5 + 1e-6).floor() for name in ("RESP_RATE", "SPO2", "SYSTOLIC", "PULSE")
    )  # fmt: skip
    tenths = (pl.col("TEMPERATURE") * 10 + 0.5 + 1e-6).floor()
    charts = {
        "RESP_RATE": _steps(rr, [(8, 3), (11, 1), (20, 0), (24, 2)], 3),
        "SPO2": _steps(spo2, [(91, 3), (93, 2), (95, 1)], 0),
        "OXYGEN": _steps(pl.col("OXYGEN"), [(0, 0)], 2),
        "SYSTOLIC": _steps(sbp, [(90, 3), (100, 2), (110, 1), (219, 0)], 3),
        "PULSE": _steps(pulse, [(40, 3), (50, 1), (90, 0), (110, 1), (130, 2)], 3),
        "CONSCIOUSNESS": _steps(pl.col("CONSCIOUSNESS"), [(0, 0)], 3),
        "TEMPERATURE": _steps(tenths, [(350, 3), (360, 1), (380, 0), (390, 1)], 2),
    }
    return [expression.alias(name) for name, expression in charts.items()]


def _steps(value: pl.Expr, steps: list[tuple[int, int]], above: int) -> pl.Expr:
    """Points of the first step whose edge the value does not exceed."""
    points = pl.when(value.is_null()).then(None)
    for edge, given in steps:
        points = points.when(value <= edge).then(given)
    return points.otherwise(above)
