"""What every streaming detector keeps: no chance, no clock, NaN while learning, state that goes on, rows apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from actors.anomalies import THRESHOLD
from analytics.scorers import SCORERS, scorer_id
from domain.ports import Scorer

pytestmark = pytest.mark.clause("9.2d")
ROWS = np.arange(4)


@pytest.fixture(params=SCORERS, ids=lambda make: make().name)
def make(request: pytest.FixtureRequest) -> Callable[[], Scorer]:
    return request.param


def signs(count: int, rows: int = len(ROWS)) -> np.ndarray:
    """Plausible heart rates, [count, rows]."""
    return np.round(np.random.default_rng(5).normal(75, 2, (count, rows)))


def run(scorer: Scorer, values: np.ndarray) -> np.ndarray:
    return np.array([scorer.score(ROWS[: values.shape[1]], row) for row in values])


def test_it_is_silent_while_it_learns_and_then_speaks(make: Callable[[], Scorer]) -> None:
    scores = run(make(), signs(300))
    assert np.isnan(scores[0]).all()
    assert not np.isnan(scores[-1]).any()
    assert (scores[-1] >= 0).all()


def test_equal_input_gives_equal_scores(make: Callable[[], Scorer]) -> None:
    values = signs(200)
    np.testing.assert_array_equal(run(make(), values), run(make(), values))


def test_the_order_of_rows_in_a_call_does_not_matter(make: Callable[[], Scorer]) -> None:
    values, shuffled = signs(200), np.array([2, 0, 3, 1])
    one, other = make(), make()
    for row in values:
        expected = one.score(ROWS, row)
        np.testing.assert_array_equal(other.score(ROWS[shuffled], row[shuffled]), expected[shuffled])


def test_a_row_may_come_again_in_a_call(make: Callable[[], Scorer]) -> None:
    one, other = make(), make()
    values = np.random.default_rng(5).normal(70, 3, (80, 2))
    apart = np.array([one.score(ROWS[:2], row) for row in values])
    at_once = other.score(np.tile(ROWS[:2], len(values)), values.reshape(-1)).reshape(-1, 2)
    np.testing.assert_array_equal(apart, at_once)


def test_rows_are_apart(make: Callable[[], Scorer]) -> None:
    values = signs(200)
    alone, together = make(), make()
    mine = [alone.score(ROWS[:1], row[:1])[0] for row in values]
    np.testing.assert_array_equal(mine, run(together, values)[:, 0])


def test_state_goes_on_as_if_never_stopped(make: Callable[[], Scorer]) -> None:
    values = signs(300)
    whole, first, second = make(), make(), make()
    expected = run(whole, values)
    run(first, values[:150])
    second.load_state(first.state())
    run(first, values[150:])  # a state is a copy
    np.testing.assert_array_equal(run(second, values[150:]), expected[150:])
    for name, column in whole.state().items():
        np.testing.assert_array_equal(second.state()[name], column)


def test_a_new_row_may_appear_at_any_time(make: Callable[[], Scorer]) -> None:
    scorer = make()
    run(scorer, signs(100, rows=2))
    assert np.isnan(scorer.score(np.array([1_000]), np.array([70.0]))[0])
    assert {len(column) for column in scorer.state().values()} == {1_001}


def test_no_value_teaches_nothing(make: Callable[[], Scorer]) -> None:
    values = signs(200)
    with_gaps, without = make(), make()
    run(without, values)
    for row in values:
        with_gaps.score(ROWS, row)
        assert np.isnan(with_gaps.score(ROWS, np.full(len(ROWS), np.nan))).all()
    for name, column in without.state().items():
        np.testing.assert_array_equal(with_gaps.state()[name], column)


def test_no_rows_are_no_work(make: Callable[[], Scorer]) -> None:
    assert len(make().score(np.empty(0, np.intp), np.empty(0))) == 0


def test_a_jump_is_found_and_calm_signs_are_not(make: Callable[[], Scorer]) -> None:
    scorer = make()
    calm = run(scorer, signs(2_000))[500:]
    assert np.nanmax(calm) < THRESHOLD
    assert (scorer.score(ROWS, np.full(len(ROWS), 130.0)) > THRESHOLD).all()


def test_one_jump_does_not_become_the_new_normal(make: Callable[[], Scorer]) -> None:
    scorer = make()
    run(scorer, signs(500))
    scores = [scorer.score(ROWS, np.full(len(ROWS), 130.0)) for _ in range(5)]
    assert (scores[-1] > THRESHOLD).all()


def test_it_names_itself_and_has_an_id_for_its_scores(make: Callable[[], Scorer]) -> None:
    scorer = make()
    assert scorer.name
    assert scorer.version >= 1
    assert scorer_id(scorer) > 0xFFFF_0000  # above every handle
