"""NEWS2 chart 1, edge by edge; rounding half up; scale 2; sources, windows and proxies."""

from __future__ import annotations

import numpy as np
import pytest

from analytics.news2 import INPUT_SOURCES, SOURCE_METRICS, VALIDITY_WINDOWS_S, Parameter, inputs_at, round_to_chart, score

CALM = {
    Parameter.RESP_RATE: 16, Parameter.SPO2: 97, Parameter.OXYGEN: 0, Parameter.SYSTOLIC: 120, Parameter.PULSE: 70,
    Parameter.CONSCIOUSNESS: 0, Parameter.TEMPERATURE: 37.0,
}  # fmt: skip


def points(parameter: Parameter, value: float, *, scale_2: bool = False, **others: float) -> float:
    row = {**CALM, parameter: value, **{Parameter[name.upper()]: given for name, given in others.items()}}
    inputs = np.array([[row[which] for which in Parameter]], dtype=float)
    return float(score(inputs, np.array([scale_2])).points[0, parameter])


# (parameter, [(value, points)]) at both sides of each edge of the chart
CHART = [
    (Parameter.RESP_RATE, [(0, 3), (8, 3), (9, 1), (11, 1), (12, 0), (20, 0), (21, 2), (24, 2), (25, 3), (60, 3)]),
    (Parameter.SPO2, [(50, 3), (91, 3), (92, 2), (93, 2), (94, 1), (95, 1), (96, 0), (100, 0)]),
    (Parameter.OXYGEN, [(0, 0), (1, 2)]),
    (Parameter.SYSTOLIC, [(0, 3), (90, 3), (91, 2), (100, 2), (101, 1), (110, 1), (111, 0), (219, 0), (220, 3)]),
    (Parameter.PULSE, [(0, 3), (40, 3), (41, 1), (50, 1), (51, 0), (90, 0), (91, 1), (110, 1), (111, 2), (130, 2), (131, 3)]),
    (Parameter.CONSCIOUSNESS, [(0, 0), (1, 3), (2, 3), (3, 3), (4, 3)]),
    (Parameter.TEMPERATURE, [(30, 3), (35.0, 3), (35.1, 1), (36.0, 1), (36.1, 0), (38.0, 0), (38.1, 1), (39.0, 1), (39.1, 2)]),
]


@pytest.mark.clause("6.3f")
@pytest.mark.parametrize(("parameter", "value", "expected"), [(p, value, given) for p, row in CHART for value, given in row])
def test_chart_1(parameter: Parameter, value: float, expected: int) -> None:
    assert points(parameter, value) == expected


@pytest.mark.parametrize(
    ("spo2", "oxygen", "expected"),
    [(83, 0, 3), (84, 0, 2), (85, 1, 2), (86, 0, 1), (87, 1, 1), (88, 0, 0), (92, 1, 0), (93, 0, 0), (100, 0, 0),
     (93, 1, 1), (94, 1, 1), (95, 1, 2), (96, 1, 2), (97, 1, 3)],
)  # fmt: skip
def test_scale_2(spo2: float, oxygen: float, expected: int) -> None:
    assert points(Parameter.SPO2, spo2, scale_2=True, oxygen=oxygen) == expected


def test_on_scale_2_a_high_saturation_cannot_be_scored_without_knowing_about_oxygen() -> None:
    assert np.isnan(points(Parameter.SPO2, 95, scale_2=True, oxygen=np.nan))
    assert points(Parameter.SPO2, 90, scale_2=True, oxygen=np.nan) == 0


@pytest.mark.parametrize(("value", "expected"), [(38.05, 38.1), (38.04, 38.0), (35.05, 35.1), (36.95, 37.0), (39.049, 39.0)])
def test_temperature_is_rounded_half_up_to_a_tenth(value: float, expected: float) -> None:
    assert round_to_chart(np.array([value]), Parameter.TEMPERATURE)[0] == pytest.approx(expected)


@pytest.mark.parametrize(("value", "expected"), [(90.5, 91), (90.49, 90), (24.5, 25), (8.5, 9)])
def test_whole_numbers_are_rounded_half_up(value: float, expected: float) -> None:
    assert round_to_chart(np.array([value]), Parameter.PULSE)[0] == expected
    assert points(Parameter.PULSE, 90.5) == 1


@pytest.mark.clause("6.3f")
def test_a_missing_input_gives_no_total_and_a_three_still_shows() -> None:
    inputs = np.array([[25, np.nan, 0, 120, 70, 0, 37], [16, np.nan, 0, 120, 70, 0, 37], [16, 97, 0, 120, 70, 0, 37]])
    result = score(inputs, np.zeros(3, bool))
    assert np.isnan(result.total[:2]).all()
    assert result.total[2] == 0
    assert result.has_three.tolist() == [True, False, False]


def test_the_total_is_the_sum_and_at_most_twenty() -> None:
    worst = np.array([[30, 80, 1, 80, 140, 1, 34]], dtype=float)
    assert score(worst, np.zeros(1, bool)).total[0] == 20


def sources(**values: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """(value, age in s) by metric -> arrays for one row."""
    value = np.full((1, len(SOURCE_METRICS)), np.nan)
    age_us = np.full((1, len(SOURCE_METRICS)), -1, dtype=np.int64)
    for metric, (given, age_s) in values.items():
        value[0, SOURCE_METRICS.index(metric)], age_us[0, SOURCE_METRICS.index(metric)] = given, age_s * 1_000_000
    return value, age_us


def test_the_preferred_source_within_its_window_is_taken() -> None:
    inputs, taken = inputs_at(*sources(abp_sys=(100, 10), nibp_sys=(120, 0)))
    assert inputs[0, Parameter.SYSTOLIC] == 100
    assert SOURCE_METRICS[taken[0, Parameter.SYSTOLIC]] == "abp_sys"
    inputs, _ = inputs_at(*sources(abp_sys=(100, 3_601), nibp_sys=(120, 0)))
    assert inputs[0, Parameter.SYSTOLIC] == 120


@pytest.mark.parametrize("metric", SOURCE_METRICS)
def test_a_source_counts_up_to_its_window_and_no_longer(metric: str) -> None:
    parameter = next(p for p, listed in INPUT_SOURCES.items() if metric in {source.metric for source in listed})
    window_s = VALIDITY_WINDOWS_S[metric]
    assert not np.isnan(inputs_at(*sources(**{metric: (1, window_s)}))[0][0, parameter])
    inputs, taken = inputs_at(*sources(**{metric: (1, window_s + 1)}))
    assert np.isnan(inputs[0, parameter])
    assert taken[0, parameter] == -1


@pytest.mark.parametrize(
    ("metric", "value", "parameter", "expected"),
    [("fio2", 21, Parameter.OXYGEN, 0), ("fio2", 22, Parameter.OXYGEN, 1), ("mechanical_ventilation", 1, Parameter.OXYGEN, 1),
     ("gcs_total", 15, Parameter.CONSCIOUSNESS, 0), ("gcs_total", 14, Parameter.CONSCIOUSNESS, 1)],
)  # fmt: skip
def test_proxies(metric: str, value: float, parameter: Parameter, expected: float) -> None:
    assert inputs_at(*sources(**{metric: (value, 0)}))[0][0, parameter] == expected


def test_no_ventilator_says_nothing_about_a_mask() -> None:
    assert np.isnan(inputs_at(*sources(mechanical_ventilation=(0, 0)))[0][0, Parameter.OXYGEN])


def test_proxies_come_last_and_are_named() -> None:
    for listed in INPUT_SOURCES.values():
        flags = [source.is_proxy for source in listed]
        assert flags == sorted(flags)
