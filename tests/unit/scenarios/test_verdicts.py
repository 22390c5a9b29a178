"""Verdicts: within bounds passes, outside fails, unmeasured is neither, and a late generator makes all of it INVALID."""

from __future__ import annotations

import math

import pytest

from scenarios.model import Expect
from scenarios.verdicts import Verdict, bounds, by_clause, check, exit_code, holds, overall

LOST = Expect("readings_lost", equals=0)
FAST = Expect("query_simple_p99_ms", max=300)


@pytest.mark.parametrize(
    ("expect", "measured", "is_held"),
    [
        (Expect("x", max=3), 3, True),
        (Expect("x", max=3), 3.01, False),
        (Expect("x", min=3), 3, True),
        (Expect("x", min=3), 2.99, False),
        (Expect("x", equals=0), 0, True),
        (Expect("x", equals=0), 1, False),
        (Expect("x", min=1, max=2), 1.5, True),
        (Expect("x", min=1, max=2), 2.5, False),
        (Expect("x", max=3), math.nan, False),
    ],
)
def test_bounds_include_their_edges(expect, measured, is_held):
    assert holds(expect, measured) is is_held


def test_bounds_are_told_in_signs():
    assert bounds(Expect("x", min=20_000)) == "≥ 20 000"
    assert bounds(Expect("x", min=0.5, max=2)) == "≥ 0.5, ≤ 2"


def test_a_figure_that_was_not_measured_is_neither_pass_nor_fail():
    (checked,) = check([FAST], {}, valid=True)
    assert checked.verdict is Verdict.NOT_MEASURED
    assert overall([checked], valid=True) is Verdict.NOT_MEASURED
    assert exit_code(overall([checked], valid=True)) == 1


def test_an_invalid_run_passes_nothing_and_fails_nothing():
    checked = check([LOST, FAST], {"readings_lost": 0, "query_simple_p99_ms": 900}, valid=False)
    assert [one.verdict for one in checked] == [Verdict.INVALID, Verdict.INVALID]
    assert overall(checked, valid=False) is Verdict.INVALID
    assert exit_code(Verdict.INVALID) == 3


def test_each_clause_gets_the_worst_verdict_of_the_figures_that_speak_for_it():
    checked = check([LOST, FAST], {"readings_lost": 0, "query_simple_p99_ms": 900}, valid=True)
    rows = {row.clause: row for row in by_clause(["8.1", "7.1a", "7.1b"], checked)}
    assert rows["8.1"].verdict is Verdict.PASS
    assert rows["7.1a"].verdict is Verdict.FAIL
    assert rows["7.1a"].figures == ("query_simple_p99_ms",)
    assert rows["7.1b"].verdict is Verdict.NOT_MEASURED
    assert overall(checked, valid=True) is Verdict.FAIL
    assert exit_code(Verdict.FAIL) == 1


def test_a_run_that_met_everything_passes():
    checked = check([LOST, FAST], {"readings_lost": 0, "query_simple_p99_ms": 30}, valid=True)
    assert overall(checked, valid=True) is Verdict.PASS
    assert exit_code(Verdict.PASS) == 0


def test_a_scenario_without_expectations_has_shown_nothing():
    assert overall([], valid=True) is Verdict.NOT_MEASURED
