"""Two runs side by side, and what was not alike in how they were made."""

from __future__ import annotations

import pytest

from scenarios.comparison import compare
from tests.report_samples import sample_report


def test_ratios_are_second_over_first():
    compared = compare(sample_report(readings_per_s=4_000.0), sample_report(readings_per_s=6_000.0))
    by_metric = {figure.metric: figure for figure in compared.figures}
    assert by_metric["readings_per_s"].ratio == pytest.approx(1.5)
    assert by_metric["readings_lost"].ratio is None, "nothing lost is no number to divide by"
    assert compared.differences == []


def test_a_figure_only_one_run_measured_is_shown_without_a_ratio():
    compared = compare(sample_report(state_p99_ms=None), sample_report())
    state = next(figure for figure in compared.figures if figure.metric == "state_p99_ms")
    assert state.first is None
    assert state.second is not None
    assert state.ratio is None


def test_other_settings_are_named():
    first, second = sample_report(), sample_report(valid=False)
    second.story.settings["fleet"]["devices"] = 5
    assert set(compare(first, second).differences) == {"valid: True / False", "fleet.devices: 20000 / 5"}
