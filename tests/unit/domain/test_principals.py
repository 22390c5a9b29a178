"""Places: their texts, and where a grant holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import InvalidInput
from domain.principals import Place

SMALL = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,8}", fullmatch=True)
TEXTS = st.one_of(
    SMALL, st.builds("{}:{}".format, SMALL, SMALL), st.builds("{}.{}".format, SMALL, SMALL),
    st.builds("{}.{}/{}".format, SMALL, SMALL, SMALL),
)  # fmt: skip


@given(TEXTS)
def test_a_place_is_its_text(text):
    place = Place.parse(text)
    assert str(place) == text
    assert place.chain()[0] == place


@given(st.text(max_size=40) | TEXTS.map(lambda text: text + "/") | TEXTS.map(lambda text: ":" + text))
def test_any_text_is_a_place_or_refused(text):
    try:
        place = Place.parse(text)
    except InvalidInput:
        return
    assert str(place) == text


@pytest.mark.parametrize("text", ["", "sz:", ":futian", "sz.", ".h012", "sz.h012/", "sz/icu", "sz:futian/icu", "sz.h012:x",
                                  "sz.h012.x", "sz.h012/i c u", "sz.H012", "a:b:c", "sz.h012/icu/7", "Ä", "sz\n"])  # fmt: skip
def test_what_is_no_place_is_refused(text):
    with pytest.raises(InvalidInput):
        Place.parse(text)


@pytest.mark.clause("9.3b")
def test_a_grant_holds_where_the_record_lies_and_nowhere_else():
    record = Place("sz", "futian", "sz.h012", "icu")
    assert [str(place) for place in record.chain()] == ["sz.h012/icu", "sz.h012", "sz:futian", "sz"]
    granted = ["sz", "gz", "sz:futian", "sz:nanshan", "sz.h012", "sz.h013", "sz.h012/icu", "sz.h012/ed", "sz.h013/icu"]
    holding = [text for text in granted if Place.parse(text) in record.chain()]
    assert holding == ["sz", "sz:futian", "sz.h012", "sz.h012/icu"]


def test_a_record_without_a_ward_is_not_in_any():
    assert [str(place) for place in Place("sz", hospital_id="sz.h012").chain()] == ["sz.h012", "sz"]
