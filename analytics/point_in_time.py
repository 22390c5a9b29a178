"""Point-in-time join: whose reading was it? Readings to patients by device and event time, as frames. No I/O.

A device is associated with a patient over spans [start_us, end_us). A device's clock is only so good: within its
uncertainty of a moment at which the device came to a patient, or left one, a reading is `ambiguous`. Whom it belongs
to is then not told; it is never guessed.
"""

from __future__ import annotations

from typing import Final

import polars as pl

from domain.errors import InvalidInput

ASSOCIATIONS: Final = pl.Schema(
    {
        "handle": pl.UInt32,  # the device
        "patient_key": pl.String,
        "start_us": pl.Int64,
        "end_us": pl.Int64,  # null: still open
        "clock_uncertainty_us": pl.Int64,
    }
)


def join_patients(
    readings: pl.DataFrame, associations: pl.DataFrame, at: str = "time_us", uncertainty: str | None = None
) -> pl.DataFrame:
    """`readings` in their order, with `patient_key` (null: nobody, or not to be told) and `ambiguous`.

    Args:
        readings: with `handle` and the column `at`; everything else is passed on.
        associations: columns of ASSOCIATIONS; each device's spans in any order, not overlapping.
        at: when a reading was taken, UTC microseconds; a skew-corrected time where the skew is known.
        uncertainty: column of microseconds by which a reading's time may be wrong beyond what its device's clock always may.

    A reading is ambiguous when the device's patient (or its having none) changes between `at` - uncertainty and
    `at` + uncertainty; the greatest uncertainty among the device's spans counts. Spans of one patient that meet are no
    change. Raises InvalidInput for spans of one device that overlap.
    """
    spans = _joined_spans(associations.select(*ASSOCIATIONS).cast(ASSOCIATIONS))
    changes = _changes(spans)
    own = pl.lit(0, pl.Int64) if uncertainty is None else pl.col(uncertainty)
    wanted = readings.select(pl.col("handle").cast(pl.UInt32), pl.col(at).alias("at"), own.alias("own"))
    rows = wanted.with_row_index("row").sort("at")
    found = (
        rows.join_asof(spans, left_on="at", right_on="start_us", by="handle", check_sortedness=False)
        .join_asof(changes.rename({"change": "last"}), left_on="at", right_on="last", by="handle", check_sortedness=False)
        .join_asof(
            changes.rename({"change": "next"}), left_on="at", right_on="next", by="handle", strategy="forward",
            allow_exact_matches=False, check_sortedness=False,
        )
        .join(_uncertainty(spans), on="handle", how="left")
    )  # fmt: skip
    reach = pl.col("uncertainty") + pl.col("own")
    is_near_last = (pl.col("at") - pl.col("last")) < reach
    is_near_next = (pl.col("next") - pl.col("at")) <= reach
    ambiguous = is_near_last.fill_null(value=False) | is_near_next.fill_null(value=False)
    is_within = pl.col("end_us").is_null() | (pl.col("at") < pl.col("end_us"))
    told = found.sort("row").select(
        patient_key=pl.when(is_within & ~ambiguous).then("patient_key"),
        ambiguous=ambiguous,
    )
    return pl.concat([readings.drop("patient_key", "ambiguous", strict=False), told], how="horizontal")


def _joined_spans(associations: pl.DataFrame) -> pl.DataFrame:
    """Spans sorted by start; those of one patient that meet are one."""
    spans = associations.filter(pl.col("end_us").is_null() | (pl.col("end_us") > pl.col("start_us"))).sort("handle", "start_us")
    before = spans.with_columns(
        previous_end=pl.col("end_us").shift().over("handle"),
        previous_patient=pl.col("patient_key").shift().over("handle"),
        is_first=pl.int_range(pl.len()).over("handle") == 0,
    )
    _refuse_overlaps(before)
    continues = (pl.col("previous_end") == pl.col("start_us")) & (pl.col("previous_patient") == pl.col("patient_key"))
    return (
        before.with_columns(stay=(~continues.fill_null(value=False)).cum_sum())
        .group_by("handle", "stay")
        .agg(
            pl.col("patient_key").first(),
            pl.col("start_us").min(),
            pl.col("end_us").last(),
            pl.col("clock_uncertainty_us").max(),
        )
        .drop("stay")
        .sort("start_us")
    )


def _refuse_overlaps(spans: pl.DataFrame) -> None:
    overlapping = spans.filter(
        ~pl.col("is_first") & (pl.col("previous_end").is_null() | (pl.col("previous_end") > pl.col("start_us")))
    )
    if not overlapping.is_empty():
        handle, start_us = overlapping.select("handle", "start_us").row(0)
        raise InvalidInput(f"device {handle} has two patients at once from {start_us} µs on: its spans must not overlap")


def _changes(spans: pl.DataFrame) -> pl.DataFrame:
    """Moments at which a device came to a patient or left one."""
    came = spans.select("handle", change="start_us")
    left = spans.select("handle", change="end_us").drop_nulls("change")
    return pl.concat([came, left]).sort("change")


def _uncertainty(spans: pl.DataFrame) -> pl.DataFrame:
    return spans.group_by("handle").agg(uncertainty=pl.col("clock_uncertainty_us").max())
