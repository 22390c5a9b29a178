"""Limits: each side's critical step lies beyond its warning, for every age, and children's limits are children's."""

from __future__ import annotations

import numpy as np
import pytest

from domain.ages import AgeBand
from domain.alarms import Priority
from domain.limits import DELAY_US, HYSTERESIS, LIMIT_PROFILES, LIMITS, MAX_CHANGE_PER_MIN, LimitRule
from domain.metrics import BY_CODE, MAX_ID, metric_of

every_profile = pytest.mark.parametrize("profile", LIMIT_PROFILES, ids=lambda profile: profile.metric)


@pytest.mark.clause("6.3f")
@every_profile
@pytest.mark.parametrize("band", AgeBand)
def test_limits_rise_from_very_low_to_very_high(profile, band):
    limits = LIMITS[metric_of(profile.metric).id, band]
    assert (np.diff(limits[np.isfinite(limits)]) >= 0).all()
    assert np.isfinite(limits).any()
    assert limits[LimitRule.LOW] < limits[LimitRule.HIGH]


@every_profile
def test_a_critical_step_has_a_warning_step_before_it(profile):
    for limits in (profile.adult, *(by_age for _, by_age in profile.by_age)):
        assert np.isfinite(limits.low) >= np.isfinite(limits.very_low)
        assert np.isfinite(limits.high) >= np.isfinite(limits.very_high)


@every_profile
def test_hysteresis_is_narrower_than_the_range_it_returns_into(profile):
    low, high = profile.adult.low, profile.adult.high
    assert 0 <= profile.hysteresis < (high - low) / 2
    assert profile.delay_s >= 0
    assert profile.max_change_per_min > 0


def test_tables_say_what_the_profiles_say():
    for profile in LIMIT_PROFILES:
        metric_id = metric_of(profile.metric).id
        assert tuple(LIMITS[metric_id, AgeBand.ADULT]) == profile.adult.as_tuple()
        assert DELAY_US[metric_id] == profile.delay_s * 1_000_000
        assert HYSTERESIS[metric_id] == profile.hysteresis
        assert MAX_CHANGE_PER_MIN[metric_id] == profile.max_change_per_min
        for band, limits in profile.by_age:
            assert tuple(LIMITS[metric_id, band]) == limits.as_tuple()


def test_a_metric_without_a_profile_never_alarms():
    watched = {metric_of(profile.metric).id for profile in LIMIT_PROFILES}
    assert len(watched) == len(LIMIT_PROFILES)
    for metric_id in set(range(MAX_ID + 1)) - watched:
        assert np.isneginf(LIMITS[metric_id, :, :2]).all()
        assert np.isposinf(LIMITS[metric_id, :, 2:]).all()


@pytest.mark.clause("6.3f")
@pytest.mark.parametrize("code", ["heart_rate", "resp_rate"])
def test_young_patients_normal_rates_are_higher_than_adults(code):
    lows, highs = LIMITS[BY_CODE[code].id, :, LimitRule.LOW], LIMITS[BY_CODE[code].id, :, LimitRule.HIGH]
    assert highs[AgeBand.INFANT] > highs[AgeBand.SCHOOL] > highs[AgeBand.ADOLESCENT]
    assert lows[AgeBand.INFANT] > lows[AgeBand.SCHOOL] > lows[AgeBand.ADULT]


def test_rules_know_their_side_priority_and_name():
    assert [rule.is_low for rule in LimitRule] == [True, True, False, False]
    assert [rule.priority for rule in LimitRule] == [Priority.HIGH, Priority.MEDIUM, Priority.MEDIUM, Priority.HIGH]
    assert [rule.rule_name for rule in LimitRule] == ["limit.very-low", "limit.low", "limit.high", "limit.very-high"]
