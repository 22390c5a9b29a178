"""Different texts are counted in bounded memory."""

from __future__ import annotations

import pytest

from domain.distinct import EXACT_UP_TO, Distinct


@pytest.mark.parametrize("number", [0, 1, 500, EXACT_UP_TO])
def test_up_to_a_thousand_the_count_is_exact_however_often_each_comes(number):
    counted = Distinct()
    for _ in range(3):
        counted.add(f"{one:032x}" for one in range(number))
    assert len(counted) == number


def test_beyond_it_is_near_and_what_comes_again_changes_nothing():
    counted = Distinct()
    for begin in range(0, 40_000, 500):
        counted.add(f"{one:032x}" for one in range(begin, begin + 500))
    once = len(counted)
    assert once == pytest.approx(40_000, rel=0.2)
    counted.add(f"{one:032x}" for one in range(500))
    assert len(counted) == once


def test_memory_does_not_grow_with_the_number():
    counted = Distinct()
    for begin in range(0, 100_000, 500):
        counted.add(f"{one:032x}" for one in range(begin, begin + 500))
        assert len(counted._kept) <= 2 * EXACT_UP_TO
