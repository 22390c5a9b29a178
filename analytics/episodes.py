"""Episodes of limit alarms in event time, recomputed from readings. Pure functions of frames, no I/O. Clause 6.3f.

What was notified followed the order in which readings came, and stays as it was. An episode is the condition itself:
late and backfilled readings count where they belong, so no order of arrival changes it. The rule is the contract of
`domain.limits`, written here anew in Polars: what the cells notify of a stream in order is checked against it.

Rules go by the event time, a clock behind being corrected as the cell decided, never ahead of the arrival. Of several
readings at one time the order is that of their source and sequence. Limits are those of the patient that the device
surely was on, as `presets` and `patients` say them; near a boundary the adult range and the patient before go on. A
patient who leaves ends what was raised. Maintenance keeps alarms quiet; it does not change what happened.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl

from analytics.point_in_time import join_patients
from domain.ages import AgeBand, age_band
from domain.limits import DELAY_US, HYSTERESIS, LIMITS, MAX_CHANGE_PER_MIN, LimitRule
from domain.metrics import BY_ID
from domain.quality import USABLE_VALIDITIES, Mode

EPISODES: Final = pl.Schema(
    {
        "handle": pl.UInt32, "metric": pl.UInt16, "instance": pl.UInt8, "rule": pl.String, "onset_us": pl.Int64,
        "end_us": pl.Int64,  # null: it lasts
        "patient_key": pl.String,  # null: nobody, or not to be told when it was raised
        "limit": pl.Float64,  # in force when it was raised; null for a change
        "value": pl.Float64,  # of the reading that raised it
    }
)  # fmt: skip
PATIENTS: Final = pl.Schema({"patient_key": pl.String, "age_years": pl.Float64})
PRESETS: Final = pl.Schema(
    {"patient_key": pl.String, "metric": pl.UInt16, **{rule.name.lower(): pl.Float64 for rule in LimitRule}}
)  # null where there is no limit
CHANGE_RULE: Final = "change.rate"
WATCHED: Final = sorted(
    metric for metric in BY_ID if np.isfinite(LIMITS[metric]).any() or np.isfinite(MAX_CHANGE_PER_MIN[metric])
)
_CHANNEL: Final = ("handle", "metric", "instance")
_MINUTE_US: Final = 60_000_000
_CHANGE_WITHIN_US: Final = 300_000_000
_FOREVER_US: Final = 2**62
_NAMES: Final = tuple(rule.name.lower() for rule in LimitRule)


def limit_episodes(
    readings: pl.DataFrame, associations: pl.DataFrame, patients: pl.DataFrame, presets: pl.DataFrame
) -> pl.DataFrame:
    """EPISODES of all channels, by channel, onset and rule.

    Args:
        readings: rows of the lake, in any order.
        associations: as of `analytics.point_in_time`.
        patients: PATIENTS; who is not among them has the adult range.
        presets: PRESETS; they stand in place of the normal range of their metric.
    """
    rows = _with_limits(_with_stays(_feeding(readings), associations), patients, presets)
    found = [_of_limit(rows, rule) for rule in LimitRule] + [_of_change(rows)]
    episodes = _ended_by_leaving(pl.concat(found), associations)
    return episodes.select(*EPISODES).cast(EPISODES).sort(*_CHANNEL, "onset_us", "rule")


def _feeding(readings: pl.DataFrame) -> pl.DataFrame:
    """What may alarm, by channel and time."""
    quality = pl.col("quality")
    usable = (quality & 0xF).is_in([int(validity) for validity in USABLE_VALIDITIES]) & (quality & 0x30).eq(int(Mode.REAL))
    at = pl.min_horizontal(pl.col("time_us") + pl.max_horizontal(pl.col("clock_offset_us"), 0), "arrival_us")
    return (
        readings.filter(usable, pl.col("value").is_not_nan(), pl.col("metric").is_in(WATCHED))
        .with_columns(at_us=at, taken_us=pl.col("time_us") + pl.col("clock_offset_us"))
        .sort(*_CHANNEL, "at_us", "source", "sequence", "value")
    )


def _with_stays(rows: pl.DataFrame, associations: pl.DataFrame) -> pl.DataFrame:
    """With `who` (the patient before goes on where it cannot be told), `stay` (one patient on one channel)."""
    told = join_patients(rows, associations, at="taken_us", uncertainty="clock_uncertainty_us")
    # nobody is somebody too: an empty key, so that only what cannot be told takes the one before
    known = pl.when(~pl.col("ambiguous")).then(pl.col("patient_key").fill_null("")).forward_fill().over(_CHANNEL)
    told = told.with_columns(who=known.fill_null(""))
    changes = pl.struct(*_CHANNEL, "who").rle_id()
    return told.with_columns(stay=changes, next_us=pl.col("at_us").shift(-1).over(_CHANNEL))


def _with_limits(rows: pl.DataFrame, patients: pl.DataFrame, presets: pl.DataFrame) -> pl.DataFrame:
    bands = patients.select("patient_key", band=pl.Series(age_band(patients["age_years"].fill_null(float("nan")).to_numpy())))
    # whose limits hold: nobody's where it cannot be told
    judged = rows.with_columns(judged=pl.when(~pl.col("ambiguous")).then("who").otherwise(pl.lit("")))
    judged = judged.join(bands, left_on="judged", right_on="patient_key", how="left", maintain_order="left")
    band = judged["band"].fill_null(int(AgeBand.ADULT)).to_numpy()
    metric = judged["metric"].to_numpy()
    normal = pl.DataFrame(LIMITS[metric, band], schema=list(_NAMES), orient="row")
    known = {"delay_us": DELAY_US[metric], "hysteresis": HYSTERESIS[metric], "per_minute": MAX_CHANGE_PER_MIN[metric]}
    own = presets.with_columns(is_preset=pl.lit(value=True)).rename({name: f"own_{name}" for name in _NAMES})
    both = pl.concat([judged, normal, pl.DataFrame(known)], how="horizontal").join(
        own, left_on=("judged", "metric"), right_on=("patient_key", "metric"), how="left", maintain_order="left"
    )
    ends = {rule.name.lower(): -np.inf if rule.is_low else np.inf for rule in LimitRule}
    return both.with_columns(
        pl.when("is_preset").then(pl.col(f"own_{name}").fill_null(end)).otherwise(name).alias(name)
        for name, end in ends.items()
    )


def _of_limit(rows: pl.DataFrame, rule: LimitRule) -> pl.DataFrame:
    limit = pl.col(rule.name.lower())
    excess = (pl.col("value") - limit) * (-1 if rule.is_low else 1)
    flagged = rows.with_columns(beyond=excess > 0, back=excess <= -pl.col("hysteresis"), limit=limit)
    return _episodes(flagged, rule.rule_name, pl.col("delay_us"))


def _of_change(rows: pl.DataFrame) -> pl.DataFrame:
    gap_us = pl.col("at_us").diff().over("stay")
    allowed = pl.col("per_minute") * pl.max_horizontal(gap_us / _MINUTE_US, 1.0)
    fast = (pl.col("value").diff().over("stay").abs() > allowed) & (gap_us > 0) & (gap_us <= _CHANGE_WITHIN_US)
    flagged = rows.with_columns(beyond=fast.fill_null(value=False), limit=pl.lit(None, pl.Float64))
    return _episodes(flagged.with_columns(back=~pl.col("beyond")), CHANGE_RULE, pl.lit(0))


def _episodes(rows: pl.DataFrame, rule: str, delay_us: pl.Expr) -> pl.DataFrame:
    """Raised by the first reading that is beyond after an unbroken run of the delay; over at the first that is back."""
    state = pl.when("fires").then(statement=1).when("back").then(statement=0).forward_fill().over("stay").fill_null(0)
    turns = (
        rows.with_columns(run=pl.col("beyond").rle_id().over("stay"))
        .with_columns(onset_us=pl.col("at_us").first().over("stay", "run"))
        .with_columns(fires=pl.col("beyond") & (pl.col("at_us") - pl.col("onset_us") >= delay_us))
        .with_columns(on=state)
        .with_columns(turn=pl.col("on").diff().over("stay").fill_null(pl.col("on")))
        .with_columns(left_us=pl.col("next_us").last().over("stay"))  # the next patient's first reading
        .filter(pl.col("turn") != 0)
        .with_columns(end_us=pl.col("at_us").shift(-1).over("stay"))
    )
    told = pl.when(~pl.col("ambiguous") & (pl.col("who") != "")).then("who")
    return turns.filter(pl.col("turn") == 1).select(
        *_CHANNEL, pl.lit(rule).alias("rule"), "onset_us", "end_us", "value", "who", "left_us",
        pl.when(pl.col("limit").is_finite()).then("limit").alias("limit"), told.alias("patient_key"),
    )  # fmt: skip


def _ended_by_leaving(episodes: pl.DataFrame, associations: pl.DataFrame) -> pl.DataFrame:
    """What no reading ended ends when its patient left the device, at the latest with the next patient's first reading."""
    spans = associations.select(
        "handle", pl.col("patient_key").alias("who"), pl.col("end_us").fill_null(_FOREVER_US).alias("span_us")
    )
    numbered = episodes.with_row_index("number")
    ends = (
        numbered.join(spans, on=("handle", "who"))
        .filter(pl.col("span_us") > pl.col("onset_us"))
        .group_by("number")
        .agg(pl.col("span_us").min())
    )
    # a patient who had left just before it was raised, while that could not be told, left at once
    gone_us = pl.when(pl.col("who") != "").then(pl.col("span_us").fill_null(pl.col("onset_us")))
    left = pl.min_horizontal(pl.when(gone_us != _FOREVER_US).then(gone_us), "left_us")
    return numbered.join(ends, on="number", how="left").with_columns(end_us=pl.col("end_us").fill_null(left))
