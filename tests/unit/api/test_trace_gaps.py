"""What a device numbered and nobody has, between what there is."""

from __future__ import annotations

from typing import cast

import polars as pl
import pytest

from api.asking import Asking
from api.services import Backend
from api.times import UTC_ZONE
from api.tracing.messages_of_device import MOST_MISSING, _missing
from api.tracing.question import Tracing

pytestmark = pytest.mark.clause("9.2a")
ASKED = Tracing(cast("Backend", None), cast("Asking", None), UTC_ZONE)
SCHEMA = {"sequence": pl.UInt64, "time_us": pl.Int64}


def gaps(numbers: list[int]) -> list[tuple[int, int]]:
    rows = pl.DataFrame({"sequence": numbers, "time_us": [1_000_000 * n for n in numbers]}, schema=SCHEMA)
    return [(gap.first_sequence, gap.last_sequence) for gap in _missing(ASKED, rows)]


def test_numbers_that_are_not_there_are_told_as_ranges() -> None:
    assert gaps([9, 1, 2, 2, 5]) == [(3, 4), (6, 8)]


def test_nothing_is_missing_where_nothing_or_all_is_there() -> None:
    assert gaps([]) == gaps([7]) == gaps([4, 5, 6]) == []


def test_readings_without_a_number_say_nothing_of_others() -> None:
    assert gaps([0, 0, 5, 6]) == []


def test_of_very_many_gaps_the_first_are_told() -> None:
    assert len(gaps(list(range(1, 1_000, 3)))) == MOST_MISSING
