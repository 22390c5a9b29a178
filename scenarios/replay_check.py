"""After a replay: is what the platform stored what was sent, value by value, and how often could NEWS2 be computed?"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec
import polars as pl

from analytics.news2 import MIN_AGE_YEARS, SOURCE_METRICS
from domain.fleet_manifest import FleetManifest, FleetRegistered
from domain.metrics import metric_of
from domain.quality import USABLE_VALIDITIES
from domain.readings import ReadingBatch
from scenarios.ledger import MAX_SEQUENCE
from scenarios.stored import opened

_KEY: Final = ("source", "sequence")
_FACTS: Final = ("handle", "instance", "metric", "time_us")


class Difference(msgspec.Struct, frozen=True):
    """`equal` of `compared` readings came back as they were sent; the others by what differs."""

    compared: int
    equal: int
    missing: int
    differing: int


class ScoreCounts(msgspec.Struct, frozen=True):
    """Moments at which an input of NEWS2 arrived: with all inputs, with some, and of patients it is not for."""

    complete: int
    partial: int
    not_computable: int


def stored_readings(lake_dir: Path, sources: Iterable[int], base: int) -> pl.DataFrame:
    """Rows of these senders from `base` on, as they lie in the newest version of the lake. Blocking."""
    lake = opened(lake_dir)
    paths = lake.state().files["path"].to_list()
    columns = [*_KEY, *_FACTS, "value", "raw_value", "quality"]
    if not paths:
        return pl.DataFrame(schema=dict.fromkeys(columns, pl.Int64))
    return (
        lake.scan(paths)
        .filter(
            pl.col("sequence").is_between(base, base + MAX_SEQUENCE, closed="left"),
            pl.col("source").is_in(pl.Series(list(sources), dtype=pl.Int64).implode()),
        )
        .select(columns)
        .collect(engine="streaming")
    )


def sent_readings(batches: Iterable[ReadingBatch], base: int) -> pl.DataFrame:
    """The same columns of what was sent."""
    batch = ReadingBatch.concat(batches)
    return pl.DataFrame({name: getattr(batch, name).astype("int64") for name in (*_KEY, *_FACTS)}).with_columns(
        pl.col("sequence") + base, value=pl.Series(batch.value)
    )


def compare_values(sent: pl.DataFrame, stored: pl.DataFrame) -> Difference:
    """Every sent reading against the stored one of its number.

    A declared "no measurement" is stored as NaN with the raw value beside it: then the raw value must be what was sent.
    """
    kept = stored.unique(_KEY).with_columns(
        came=pl.when(pl.col("value").is_nan()).then(pl.col("raw_value").fill_null(float("nan"))).otherwise("value")
    )
    both = sent.unique(_KEY).join(kept, on=_KEY, how="left", suffix="_stored", coalesce=True)
    is_missing = pl.col("came").is_null()
    same = pl.all_horizontal(*(pl.col(name) == pl.col(f"{name}_stored") for name in _FACTS))
    is_equal = (same & pl.col("came").eq_missing(pl.col("value"))).fill_null(value=False)
    counts = both.select(missing=is_missing.sum(), equal=(is_equal & ~is_missing).sum(), compared=pl.len()).row(0, named=True)
    differing = counts["compared"] - counts["equal"] - counts["missing"]
    return Difference(counts["compared"], counts["equal"], counts["missing"], differing)


def stored_scores(lake_dir: Path, patient_handles: Iterable[int], since_arrival_us: int) -> pl.DataFrame:
    """NEWS2 totals of these patients that arrived since: handle, time_us, value. Blocking."""
    lake = opened(lake_dir)
    paths = lake.state().files["path"].to_list()
    if not paths:
        return pl.DataFrame(schema={"handle": pl.Int64, "time_us": pl.Int64, "value": pl.Float64})
    return (
        lake.scan(paths)
        .filter(
            pl.col("metric") == metric_of("news2").id,
            pl.col("arrival_us") >= since_arrival_us,
            pl.col("handle").is_in(pl.Series(list(patient_handles), dtype=pl.Int64).implode()),
        )
        .select("handle", "time_us", "value")
        .collect(engine="streaming")
    )


def count_scores(
    stored: pl.DataFrame, scores: pl.DataFrame, manifest: FleetManifest, registered: FleetRegistered
) -> ScoreCounts:
    """Moments by patient and time at which a usable input was stored, by what became of them."""
    worn: list[tuple[int, bool]] = []
    for hospital, answer in zip(manifest.hospitals, registered.hospitals, strict=True):
        handle_of = dict(zip(hospital.devices.device_ids, answer.handles, strict=True))
        people = hospital.patients
        for ids, age, is_pregnant in zip(people.device_ids, people.ages_years, people.pregnant, strict=True):
            fits = not is_pregnant and (age is None or age >= MIN_AGE_YEARS)
            worn += [(handle_of[device_id], fits) for device_id in ids]
    inputs = [metric_of(code).id for code in SOURCE_METRICS]
    usable = [int(validity) for validity in USABLE_VALIDITIES]
    fits_of = pl.DataFrame(worn, schema={"handle": pl.Int64, "fits": pl.Boolean}, orient="row")
    moments = (
        stored.filter(pl.col("metric").is_in(inputs), (pl.col("quality") & 0xF).is_in(usable), pl.col("value").is_not_nan())
        .select(pl.col("handle").cast(pl.Int64), "time_us")
        .unique()
        .join(fits_of, on="handle")
    )
    not_for = len(moments.filter(~pl.col("fits")))
    complete = len(scores.unique(("handle", "time_us")))
    return ScoreCounts(complete, max(0, len(moments) - not_for - complete), not_for)
