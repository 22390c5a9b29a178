"""After a replay every reading is compared value by value; what was not a measurement is compared by its raw value."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from domain.fleet_manifest import (
    DeviceColumns,
    FleetManifest,
    FleetRegistered,
    HospitalManifest,
    HospitalRegistered,
    PatientColumns,
    Tier,
)
from domain.metrics import metric_of
from domain.readings import ReadingBatch
from scenarios.replay_check import compare_values, count_scores, sent_readings

BASE = 1_000


@pytest.fixture
def sent():
    batch = ReadingBatch.of(
        handle=7, metric=[1, 2, 3], time_us=[10, 20, 30], value=[72.0, -1.0, 36.6], source=7, sequence=[1, 2, 3]
    )
    return sent_readings([batch], BASE)


@pytest.fixture
def stored(sent):
    """As the platform keeps them: -1 is no measurement there, so its value is NaN and the raw value is kept beside."""
    return sent.with_columns(
        value=pl.Series([72.0, np.nan, 36.6]), raw_value=pl.Series([None, -1.0, None], dtype=pl.Float64), quality=pl.lit(0)
    )


def test_what_came_back_as_it_was_sent_is_equal(sent, stored):
    difference = compare_values(sent, stored)
    assert (difference.compared, difference.equal, difference.missing, difference.differing) == (3, 3, 0, 0)


@pytest.mark.parametrize("column", ["value", "handle", "metric", "instance", "time_us"])
def test_a_single_fact_that_differs_is_found(sent, stored, column):
    changed = stored.with_columns(
        pl.when(pl.col("sequence") == BASE + 1).then(pl.col(column) + 1).otherwise(pl.col(column)).alias(column)
    )
    difference = compare_values(sent, changed)
    assert (difference.equal, difference.differing) == (2, 1)


def test_another_raw_value_of_no_measurement_is_found(sent, stored):
    assert compare_values(sent, stored.with_columns(raw_value=pl.lit(-2.0))).differing == 1


def test_a_reading_that_is_missing_is_told_from_one_that_differs(sent, stored):
    difference = compare_values(sent, stored.tail(2))
    assert (difference.equal, difference.missing, difference.differing) == (2, 1, 0)


def test_scores_are_counted_by_what_became_of_each_moment():
    devices = DeviceColumns(["a", "b", "c"], ["monitor"] * 3, [None] * 3, [None] * 3, [None] * 3, [False] * 3)
    patients = PatientColumns(
        ["p1", "p2", "p3"], [None] * 3, [40.0, 12.0, None], [False, False, True], [1] * 3, [None] * 3, [None] * 3, [0] * 3,
        [["a"], ["b"], ["c"]],
    )  # fmt: skip
    manifest = FleetManifest([HospitalManifest("sz.h001", "h", Tier.PRIMARY, 3, devices, patients)])
    registered = FleetRegistered([HospitalRegistered("sz.h001", 0, [1, 2, 3], {}, ["k1", "k2", "k3"], [11, 12, 13])])
    heart, lactate = metric_of("heart_rate").id, metric_of("lactate").id
    rows = [(1, heart, 10), (1, heart, 20), (1, heart, 20), (1, lactate, 30), (2, heart, 10), (3, heart, 10)]
    stored = pl.DataFrame(rows, schema=["handle", "metric", "time_us"], orient="row").with_columns(
        quality=pl.lit(0), value=pl.lit(70.0)
    )
    scores = pl.DataFrame({"handle": [11], "time_us": [20], "value": [3.0]})
    counts = count_scores(stored, scores, manifest, registered)
    assert (counts.complete, counts.partial, counts.not_computable) == (1, 1, 2)
