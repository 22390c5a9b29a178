"""Loops over columns: exact types, no constants of other modules, no lock."""

from __future__ import annotations

import numpy as np
import pytest

from domain.compiled import Floats, Int32s, OutFloats, compiled
from domain.quality import SKEWED_US

_FACTOR = 2.0


@compiled
def _scaled_sums(rows: Int32s, values: Floats, shift: float, sums: OutFloats) -> int:
    for i in range(len(rows)):
        sums[rows[i]] += _FACTOR * values[i] + shift
    return len(rows)


def test_a_loop_changes_its_arrays_in_place_and_answers() -> None:
    sums = np.zeros(2)
    assert _scaled_sums(np.array([0, 1, 0], np.int32), np.array([1.0, 2.0, 3.0]), 0.5, sums) == 3
    assert sums.tolist() == [9.0, 4.5]


def test_what_is_only_read_may_be_read_only_and_what_is_written_may_not() -> None:
    values, sums = np.ones(1), np.zeros(1)
    values.flags.writeable = False
    assert _scaled_sums(np.zeros(1, np.int32), values, 0.0, sums) == 1
    sums.flags.writeable = False
    with pytest.raises(TypeError, match="argument"):
        _scaled_sums(np.zeros(1, np.int32), values, 0.0, sums)


@pytest.mark.parametrize("rows", [np.zeros(2, np.int64), np.zeros(4, np.int32)[::2]], ids=["type", "stride"])
def test_other_types_are_refused(rows: np.ndarray) -> None:
    with pytest.raises(TypeError, match="argument"):
        _scaled_sums(rows, np.ones(2), 0.0, np.zeros(1))


def test_constants_of_other_modules_are_refused() -> None:
    with pytest.raises(TypeError, match="SKEWED_US"):

        @compiled
        def _late(time_us: Floats) -> float:
            return time_us[0] + SKEWED_US
