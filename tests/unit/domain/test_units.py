"""Units convert to a metric's own, or are incompatible; no unit means two things for one metric."""

from __future__ import annotations

from collections import Counter

import pytest

from domain.metrics import METRICS
from domain.units import CANONICAL, UNITS, accepted_units, find_unit, spelling_of

CANONICALS = sorted({unit.canonical for unit in UNITS})


def test_codes_are_unique_and_never_the_code_of_no_conversion():
    codes = [unit.code for unit in UNITS]
    assert len(set(codes)) == len(codes)
    assert CANONICAL not in codes
    assert max(codes) < 2**16


def test_no_spelling_means_two_things_for_one_canonical_unit():
    spellings = Counter((spelling, unit.canonical, unit.metric) for unit in UNITS for spelling in {unit.ucum, *unit.aliases})
    assert [key for key, count in spellings.items() if count > 1] == []


@pytest.mark.parametrize("canonical", CANONICALS)
def test_a_canonical_unit_converts_to_itself_unchanged(canonical):
    unit = find_unit(canonical, canonical)
    assert unit is not None
    assert (unit.factor, unit.offset) == (1.0, 0.0)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.code)
def test_each_metric_has_at_least_its_own_unit(metric):
    assert metric.unit in accepted_units(metric.unit)


@pytest.mark.clause("5.4d")
@pytest.mark.parametrize(("raw", "spelling", "canonical", "value"), [
    (98.6, "[degF]", "Cel", 37.0), (98.6, "°F", "Cel", 37.0), (310.15, "K", "Cel", 37.0), (37.0, "℃", "Cel", 37.0),
    (16.0, "kPa", "mm[Hg]", 120.0099), (1.2, "Hz", "/min", 72.0), (72, "bpm", "/min", 72.0), (72, "次/min", "/min", 72.0),
    (0.97, "1", "%", 97.0), (154.3236, "lb", "kg", 70.0), (1.75, "m", "cm", 175.0),
    (500.0, "mL/min", "L/min", 0.5), (4.0, "bar", "kPa", 400.0), (10.0, "hPa", "cm[H2O]", 10.19716),
    (60.0, "[psi]", "kPa", 413.68542), (2.0, "min", "s", 120.0), (1.5, "kW", "W", 1500.0),
])  # fmt: skip
def test_units_in_use_convert_by_the_book(raw, spelling, canonical, value):
    unit = find_unit(spelling, canonical)
    assert raw * unit.factor + unit.offset == pytest.approx(value, rel=1e-5)


@pytest.mark.clause("5.4d")
@pytest.mark.parametrize(("spelling", "canonical"), [
    ("mm[Hg]", "Cel"), ("Cel", "%"), ("mmol/L", "mm[Hg]"), ("bananas", "/min"), ("", "/min"),
    ("kPa", "cm[H2O]"), ("MMHG", "mm[Hg]"), ("mg/dL", "mmol/L"),
])  # fmt: skip
def test_an_incompatible_unit_has_no_conversion(spelling, canonical):
    assert find_unit(spelling, canonical) is None


@pytest.mark.parametrize(("metric", "value"), [("glucose", 5.0), ("lactate", 10.0), ("heart_rate", None), (None, None)])
def test_mass_converts_to_amount_only_for_a_known_substance(metric, value):
    unit = find_unit("mg/dL", "mmol/L", metric)
    assert ("mg/dL" in accepted_units("mmol/L", metric)) == (value is not None)
    assert value == pytest.approx(90.08 * unit.factor, rel=1e-3) if unit else value is None


def test_spaces_around_a_unit_are_nothing():
    assert find_unit(" mmHg ", "mm[Hg]") is find_unit("mm[Hg]", "mm[Hg]")


def test_a_stored_code_reads_back_as_its_unit():
    assert [spelling_of(unit.code) for unit in UNITS] == [unit.ucum for unit in UNITS]
    assert spelling_of(CANONICAL) is None
    assert spelling_of(65535) is None
