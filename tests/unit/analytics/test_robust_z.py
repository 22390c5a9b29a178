"""Robust z: its own promises beyond those of every scorer."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from analytics import robust_z
from analytics.robust_z import RobustZ

ROW = np.array([0])


def feed(detector: RobustZ, values: list[float]) -> list[float]:
    return [float(detector.score(ROW, np.array([value]))[0]) for value in values]


def test_the_example_in_its_description_runs() -> None:
    assert doctest.testmod(robust_z).failed == 0
    assert doctest.testmod(robust_z).attempted > 0


def test_it_scores_from_the_reading_after_it_has_learnt() -> None:
    scores = feed(RobustZ(learn=5), [70.0] * 7)
    assert np.isnan(scores[:5]).all()
    assert scores[5:] == [0.0, 0.0]


def test_location_and_spread_come_near_those_of_the_signal() -> None:
    detector = RobustZ(half_life=200)
    feed(detector, np.random.default_rng(3).normal(100, 5, 5_000).tolist())
    assert detector.state()["location"][0] == pytest.approx(100, abs=1.5)
    assert detector.state()["deviation"][0] * 1.2533 == pytest.approx(5, rel=0.2)


def test_a_far_reading_moves_the_location_no_more_than_one_at_the_clip() -> None:
    near, far = RobustZ(learn=10), RobustZ(learn=10)
    calm = np.random.default_rng(3).normal(100, 5, 100).tolist()
    for detector in (near, far):
        feed(detector, calm)
    feed(near, [200.0])
    feed(far, [1e9])
    assert far.state()["location"][0] == near.state()["location"][0]


def test_a_channel_that_stands_still_is_not_infinitely_precise() -> None:
    detector = RobustZ(learn=10)
    feed(detector, [97.0] * 50)
    assert feed(detector, [98.0])[0] == pytest.approx(1 / (0.02 * 97))


def test_a_lasting_step_becomes_the_new_normal_in_time() -> None:
    detector = RobustZ(half_life=20, learn=10)
    feed(detector, np.random.default_rng(3).normal(70, 1, 200).tolist())
    scores = feed(detector, np.random.default_rng(4).normal(90, 1, 400).tolist())
    assert scores[0] > 10
    assert max(scores[-50:]) < 5
