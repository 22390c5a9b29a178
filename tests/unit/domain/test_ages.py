"""Age bands at their edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.ages import LOWER_EDGES_YEARS, AgeBand, age_band

DAY = 1 / 365.25


@pytest.mark.clause("6.3f")
@pytest.mark.parametrize(("years", "band"), [
    (0.0, AgeBand.NEONATE), (27.9 * DAY, AgeBand.NEONATE), (28 * DAY, AgeBand.INFANT), (0.999, AgeBand.INFANT),
    (1.0, AgeBand.TODDLER), (2.999, AgeBand.TODDLER), (3.0, AgeBand.PRESCHOOL), (5.999, AgeBand.PRESCHOOL),
    (6.0, AgeBand.SCHOOL), (11.999, AgeBand.SCHOOL), (12.0, AgeBand.ADOLESCENT), (15.999, AgeBand.ADOLESCENT),
    (16.0, AgeBand.ADULT), (70.0, AgeBand.ADULT), (120.0, AgeBand.ADULT),
])  # fmt: skip
def test_a_band_begins_at_its_lower_edge(years, band):
    assert age_band(years) == band


@pytest.mark.parametrize("years", [np.nan, -1.0, -0.001, np.inf])
def test_an_unknown_age_counts_as_adult(years):
    assert age_band(years) == AgeBand.ADULT


@given(st.lists(st.floats(0, 120), min_size=2).map(sorted))
def test_an_older_patient_is_never_in_a_younger_band(ages):
    bands = age_band(ages)
    assert bands.dtype == np.uint8
    assert (np.diff(bands.astype(int)) >= 0).all()


def test_there_is_one_edge_for_each_band():
    assert len(LOWER_EDGES_YEARS) == len(AgeBand)
    assert (np.diff(LOWER_EDGES_YEARS) > 0).all()
