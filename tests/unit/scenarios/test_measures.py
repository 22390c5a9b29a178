"""Histograms: right percentiles, warm-up apart, parts of several processes as one; lateness makes a run INVALID."""

from __future__ import annotations

import pytest

from scenarios.measures import Latency, Lateness, Rates, figures_of, percentile_of_encoded


def latency_of(milliseconds, **options):
    latency = Latency("durable")
    for number, ms in enumerate(milliseconds):
        latency.record(ms * 1000, at_s=number / 100, **options)
    return latency


def test_percentiles_are_those_of_the_values_within_three_digits():
    latency = latency_of(range(1, 1001))
    assert latency.percentile_ms(50) == pytest.approx(500, rel=2e-3)
    assert latency.percentile_ms(99) == pytest.approx(990, rel=2e-3)
    assert latency.max_ms == pytest.approx(1000, rel=2e-3)
    assert latency.count == 1000


def test_warmup_is_counted_but_enters_no_figure():
    latency = latency_of([10] * 100)
    latency.record(9_000_000, at_s=0.5, warmup=True)
    assert latency.max_ms == pytest.approx(10, rel=1e-2)
    assert latency.warmup_count == 1
    assert latency.series()[0][4] == pytest.approx(9000, rel=2e-2), "a plot still shows it"


def test_an_unmeasured_latency_has_no_figures():
    assert figures_of([Latency("state")]) == {"state_p50_ms": None, "state_p99_ms": None, "state_max_ms": None}
    assert Latency("state").summary()["percentiles_ms"] == []


def test_parts_of_two_processes_are_one_histogram():
    whole, part = latency_of([1] * 50), latency_of([100] * 50)
    part.errors = 3
    whole.merge(part.encoded())
    assert whole.count == 100
    assert whole.errors == 3
    assert whole.percentile_ms(99) == pytest.approx(100, rel=2e-3)
    assert percentile_of_encoded(whole.summary()["hdr"], 99) == whole.percentile_ms(99)
    assert whole.series()[0][1] == 100


def test_a_clock_that_steps_back_counts_as_the_least_latency():
    latency = Latency("durable")
    latency.record(-500, at_s=0)
    assert latency.max_ms == pytest.approx(0.001)


def lateness_of(late, sends=1000, limit_ms=10.0, share_max=0.01):
    lateness = Lateness(limit_ms, share_max)
    for number in range(sends):
        lateness.record(limit_ms * 1000 + 1 if number < late else 50, at_s=number / 100, warmup=False)
    return lateness


def test_one_percent_of_late_sends_is_allowed_and_more_is_invalid():
    assert lateness_of(late=10).is_valid
    assert not lateness_of(late=11).is_valid
    assert lateness_of(late=11).share == pytest.approx(0.011)


def test_the_tolerance_is_a_setting():
    assert lateness_of(late=15, share_max=0.02).is_valid
    lateness = Lateness(50.0, 0.01)
    for _ in range(100):
        lateness.record(40_000, at_s=1, warmup=False)
    assert lateness.is_valid


def test_a_late_warmup_does_no_harm_but_a_run_that_sent_nothing_is_invalid():
    lateness = Lateness(10, 0.01)
    for _ in range(100):
        lateness.record(10**6, at_s=0, warmup=True)
    assert lateness.share == 0
    assert not lateness.is_valid


def test_rates_count_by_second_and_add_up():
    rates, other = Rates(), Rates()
    rates.add("sent", 0.2, 5)
    rates.add("sent", 0.9, 5)
    other.add("sent", 1.1, 7)
    rates.merge(other.encoded())
    assert rates.series("sent") == [[0, 10], [1, 7]]
    assert rates.total("sent", 1, 2) == 7
