"""Quality: three small words and some marks in sixteen bits, packed and read back alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.quality import (
    USABLE_VALIDITIES,
    Mark,
    Mode,
    Origin,
    Validity,
    describe,
    has_mark,
    is_usable,
    may_alarm,
    mode_of,
    origin_of,
    pack,
    validity_of,
    with_validity,
)

marks = st.sets(st.sampled_from(list(Mark))).map(lambda chosen: sum(map(int, chosen)))
parts = st.tuples(st.sampled_from(Validity), st.sampled_from(Mode), st.sampled_from(Origin), marks)


def column(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint16)


@given(parts)
def test_every_combination_reads_back_as_it_was_packed(given_parts):
    validity, mode, origin, marked = given_parts
    packed = column(pack(validity, mode, origin, marked))
    assert (validity_of(packed)[0], mode_of(packed)[0], origin_of(packed)[0]) == (validity, mode, origin)
    for mark in Mark:
        assert has_mark(packed, mark)[0] == bool(marked & mark)


@given(parts, parts)
def test_different_parts_pack_differently(one, other):
    assert (pack(*one) == pack(*other)) == (one == other)


def test_a_plain_measured_reading_is_zero():
    assert pack() == 0


def test_the_layout_on_disk_is_the_one_we_published():
    assert pack(Validity.VALIDATED, Mode.DEMO, Origin.DERIVED, Mark.BACKFILL) == 0b1000_0000_10_10_1000
    assert pack(marks=Mark.IMPLAUSIBLE) == 0x100


@pytest.mark.parametrize("validity", Validity)
def test_only_what_was_measured_is_usable(validity):
    expected = validity in (Validity.VALID, Validity.QUESTIONABLE, Validity.VALIDATED)
    assert is_usable(column(pack(validity)))[0] == expected
    assert (validity in USABLE_VALIDITIES) == expected


@pytest.mark.clause("6.3f")
@given(parts)
def test_test_and_demo_data_never_alarm_and_real_usable_data_may(given_parts):
    validity, mode, _, _ = given_parts
    assert may_alarm(column(pack(*given_parts)))[0] == (mode is Mode.REAL and validity in USABLE_VALIDITIES)


@given(parts, st.sampled_from(Validity))
def test_replacing_the_validity_keeps_all_else_and_leaves_the_column_alone(given_parts, validity):
    before = column(pack(*given_parts))
    after = with_validity(before, validity)
    assert after[0] == pack(validity, *given_parts[1:])
    assert before[0] == pack(*given_parts)
    assert after.dtype == np.uint16


def test_a_column_of_unknown_codes_is_not_usable():
    assert not is_usable(column(*range(9, 16))).any()


def test_quality_reads_as_words():
    assert describe(pack(Validity.NOT_AVAILABLE, Mode.TEST, Origin.ENTERED, Mark.LATE | Mark.POSSIBLE_DUPLICATE)) == {
        "validity": "not-available", "mode": "test", "origin": "entered", "marks": ["late", "possible-duplicate"],
    }  # fmt: skip
