"""Places: their texts, and where a grant holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import InvalidInput
from domain.principals import Other, Place, check_own_name, other_of

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


@pytest.mark.clause("9.3e")
@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("vitalgrid", Other.PLATFORM), (" VitalGrid ", Other.PLATFORM), ("vitalgrid:webhook", Other.PLATFORM),
        ("u-0123456789ab", Other.PATIENT_ACCOUNT),
        ("os:root", Other.MACHINE_ACCOUNT), ("a\n:b", Other.MACHINE_ACCOUNT), ("sz.h012/mon-7", Other.DEVICE),
        ("10.0.0.7", Other.ADDRESS),
    ],
)  # fmt: skip
def test_what_logs_call_others_is_nobodys_name(name, other):
    assert other_of(name) is other
    with pytest.raises(InvalidInput, match=f"logs name a {other}: expected a name without"):
        check_own_name(name)


@pytest.mark.parametrize(
    "name", ["li.na", "vitalgrid-2", "u-0123456789a", "u-0123456789abc", "his 10.0.0.7", "scenario-runner-20260101T0000", "\n"]
)
def test_other_names_are_anybodys(name):
    check_own_name(name)
