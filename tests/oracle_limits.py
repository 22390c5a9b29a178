"""Limit alarms by Polars expressions alone, from rows of a table: shares the limits of `domain.limits`, no code.

Rows are (channel, time_us, metric id, value), usable ones only, in time order within a channel, of adults without presets.
"""

from __future__ import annotations

import polars as pl

from domain.limits import LIMIT_PROFILES
from domain.metrics import metric_of


def alarms(rows: pl.DataFrame) -> pl.DataFrame:
    """channel, metric, rule, onset_us, end_us (null while it lasts) of every alarm."""
    found = [_of_side(rows, profile.metric, *side) for profile in LIMIT_PROFILES for side in _sides(profile)]
    found += [_of_change(rows, profile.metric, profile.max_change_per_min) for profile in LIMIT_PROFILES]
    return pl.concat(found)


def _sides(profile) -> list[tuple[str, float, float, int, int]]:
    limits, delay_us = profile.adult, round(profile.delay_s * 1_000_000)
    return [
        (name, limit, profile.hysteresis, delay_us, sign)
        for name, limit, sign in (
            ("limit.very-low", limits.very_low, -1), ("limit.low", limits.low, -1),
            ("limit.high", limits.high, 1), ("limit.very-high", limits.very_high, 1),
        )
    ]  # fmt: skip


def _of_side(
    rows: pl.DataFrame, metric: str, rule: str, limit: float, hysteresis: float, delay_us: int, sign: int
) -> pl.DataFrame:
    excess = (pl.col("value") - limit) * sign
    channel = rows.filter(metric=metric_of(metric).id).with_columns(
        (excess > 0).alias("beyond"), (excess <= -hysteresis).alias("back")
    )
    return _episodes(channel, rule, delay_us)


def _of_change(rows: pl.DataFrame, metric: str, per_minute: float) -> pl.DataFrame:
    gap_us = pl.col("time_us").diff().over("channel")
    change = pl.col("value").diff().abs().over("channel")
    allowed = per_minute * pl.max_horizontal(gap_us / 60_000_000, 1.0)
    fast = (change > allowed) & (gap_us > 0) & (gap_us <= 300_000_000)
    channel = rows.filter(metric=metric_of(metric).id).with_columns(fast.fill_null(value=False).alias("beyond"))
    return _episodes(channel.with_columns((~pl.col("beyond")).alias("back")), "change.rate", 0)


def _episodes(rows: pl.DataFrame, rule: str, delay_us: int) -> pl.DataFrame:
    """From flags to episodes: unbroken runs beyond, fired after the delay; over at the first row that is back."""
    return (
        rows.with_columns(pl.col("beyond").rle_id().over("channel").alias("run"))
        .with_columns(pl.col("time_us").first().over("channel", "run").alias("onset_us"))
        .with_columns((pl.col("beyond") & (pl.col("time_us") - pl.col("onset_us") >= delay_us)).alias("fires"))
        .with_columns(
            pl.when("fires")
            .then(statement=1)
            .when("back")
            .then(statement=0)
            .forward_fill()
            .over("channel")
            .fill_null(0)
            .alias("on")
        )
        .with_columns(pl.col("on").diff().over("channel").fill_null(pl.col("on")).alias("turn"))
        .filter(pl.col("turn") != 0)
        .with_columns(pl.col("time_us").shift(-1).over("channel").alias("end_us"))
        .filter(pl.col("turn") == 1)
        .select("channel", "metric", pl.lit(rule).alias("rule"), "onset_us", "end_us")
    )
