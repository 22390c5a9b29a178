"""The metric table is consistent in itself, and with the vocabularies it cites."""

from __future__ import annotations

import re

import numpy as np
import pytest

from domain.ages import AgeBand
from domain.errors import InvalidInput
from domain.limits import LIMITS
from domain.metrics import BY_CODE, BY_ID, BY_MDC, MAX_ID, METRICS, PLAUSIBLE_HIGH, PLAUSIBLE_LOW, Group, metric_of
from domain.units import accepted_units

every_metric = pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.code)


def loinc_check_digit(body: str) -> int:
    """Mod 10 of LOINC's own rule: every other digit from the right, doubled as one number, then all digits summed."""
    doubled = str(2 * int(body[::-2][::-1]))
    rest = body[-2::-2]
    return -sum(map(int, doubled + rest)) % 10


@pytest.mark.clause("6.1d")
def test_the_table_covers_all_kinds_of_data_the_standard_names():
    assert len(METRICS) >= 40
    assert {metric.group for metric in METRICS} == set(Group)


def test_ids_codes_names_and_vocabulary_codes_are_unique():
    for key in ("id", "code", "name_en", "name_zh"):
        values = [getattr(metric, key) for metric in METRICS]
        assert len(set(values)) == len(values), key
    for key in ("mdc", "loinc"):
        values = [value for metric in METRICS if (value := getattr(metric, key))]
        assert len(set(values)) == len(values), key
    assert len(BY_ID) == len(BY_CODE) == len(METRICS)
    assert all(BY_MDC[metric.mdc] is metric for metric in METRICS if metric.mdc)


def test_ids_on_disk_have_not_moved():
    """A sample of the rows that stored readings refer to. Never edit: add rows."""
    assert {code: BY_CODE[code].id for code in (
        "heart_rate", "spo2", "nibp_sys", "abp_mean", "etco2", "infusion_rate", "posture", "room_temp", "fridge_temp",
        "latitude", "news2", "anomaly_score",
    )} == {
        "heart_rate": 1, "spo2": 4, "nibp_sys": 6, "abp_mean": 11, "etco2": 30, "infusion_rate": 40, "posture": 50,
        "room_temp": 60, "fridge_temp": 80, "latitude": 100, "news2": 120, "anomaly_score": 121,
    }  # fmt: skip


@pytest.mark.parametrize(("code", "mdc", "loinc"), [
    ("heart_rate", 147842, "8867-4"), ("pulse_rate", 149530, "8889-8"), ("resp_rate", 151562, "9279-1"),
    ("spo2", 150456, "59408-5"), ("body_temp", 150344, "8310-5"), ("nibp_sys", 150021, "76534-7"),
    ("abp_mean", 150035, "76214-6"), ("etco2", 151708, "19891-1"), ("fio2", 152196, "3150-0"),
    ("sao2", 150324, "2708-6"), ("gcs_total", 153728, "9269-2"), ("peep", 151976, "76248-4"),
])  # fmt: skip
def test_well_known_codes_are_those_of_the_vocabularies(code, mdc, loinc):
    metric = metric_of(code)
    assert (metric.mdc, metric.loinc) == (mdc, loinc)


@every_metric
def test_a_row_is_well_formed(metric):
    assert 0 < metric.id <= MAX_ID < 2**16
    assert re.fullmatch(r"[a-z][a-z0-9_]*", metric.code)
    assert metric.name_en.isascii()
    assert re.search(r"[\u4e00-\u9fff]|PM2\.5", metric.name_zh)
    assert metric.precision > 0


@every_metric
def test_a_loinc_code_has_its_check_digit(metric):
    if metric.loinc:
        body, digit = metric.loinc.split("-")
        assert loinc_check_digit(body) == int(digit)


@every_metric
def test_an_mdc_code_lies_in_a_partition_of_measurements(metric):
    if metric.mdc:
        assert metric.mdc >> 16 in (1, 2)  # object infrastructure (battery) or SCADA


@every_metric
def test_its_unit_is_one_that_devices_can_send(metric):
    assert metric.unit in accepted_units(metric.unit)


@every_metric
def test_coded_metrics_are_those_without_a_quantity(metric):
    assert bool(metric.codes) == (metric.unit == "{code}") or metric.code == "zone"
    if metric.codes:
        numbers = [number for number, _ in metric.codes]
        assert numbers == list(range(len(numbers)))
        assert metric.plausible == (0, numbers[-1])


@every_metric
@pytest.mark.parametrize("band", AgeBand)
def test_what_is_plausible_is_a_range_that_reaches_beyond_the_alarm_limits(metric, band):
    low, high = metric.plausible_range(band)
    assert low < high
    assert (PLAUSIBLE_LOW[metric.id, band], PLAUSIBLE_HIGH[metric.id, band]) == (low, high)
    limits = LIMITS[metric.id, band]
    finite = limits[np.isfinite(limits)]
    assert ((low <= finite) & (finite <= high)).all(), f"limits {limits} outside plausible {low} to {high}"


def test_ids_without_a_row_are_unbounded():
    free = sorted(set(range(MAX_ID + 1)) - set(BY_ID))
    assert free
    assert np.isneginf(PLAUSIBLE_LOW[free]).all()
    assert np.isposinf(PLAUSIBLE_HIGH[free]).all()


def test_an_unknown_code_is_refused_with_an_example():
    with pytest.raises(InvalidInput, match=r"'no_such'.*heart_rate"):
        metric_of("no_such")
