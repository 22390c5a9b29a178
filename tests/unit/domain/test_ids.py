"""Ids and subjects: printable, hierarchical, and without anything a subject or a log must not hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain import subjects
from domain.errors import InvalidInput
from domain.ids import ActorKind, Address, parse_hospital_id, parse_token

local_ids = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", fullmatch=True)
hospital_ids = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,31}\.[a-z0-9][a-z0-9_-]{0,31}", fullmatch=True)


@given(st.sampled_from(ActorKind), hospital_ids, local_ids)
def test_an_address_reads_back_as_it_was_written(kind, hospital_id, local_id):
    address = Address(kind, hospital_id, local_id)
    assert Address.parse(str(address)) == address


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_refused(text):
    try:
        parsed = Address.parse(text)
    except InvalidInput:
        return
    assert str(parsed) == text


@pytest.mark.parametrize("text", [
    "", "monitor", "device:sz.h012", "device:sz/mon-7", "toaster:sz.h012/mon-7", "device:sz.h012/", "device:sz.h012/a b",
    "device:SZ.h012/a", "device:sz.h012/a/b", "device:sz.h012/a\n", "device:sz.h0.12/a", "device:sz.h012/" + "a" * 65,
])  # fmt: skip
def test_what_is_no_address_is_refused_in_a_sentence(text):
    with pytest.raises(InvalidInput, match="is not"):
        Address.parse(text)


@pytest.mark.parametrize("text", ["a b", "a.b", "a*", "a>", "a/b", "a#", "a+", "", "-a", "é", "张三", "a\n"])
def test_wildcards_spaces_and_foreign_letters_never_enter_an_id(text):
    with pytest.raises(InvalidInput):
        parse_token(text, "device id")


@pytest.mark.parametrize("text", ["sz", "sz.", ".h1", "sz.H1", "sz.h1.x", "sz.h*", "sz.h 1"])
def test_a_hospital_id_is_region_dot_hospital_in_lower_case(text):
    with pytest.raises(InvalidInput, match=r"sz\.h012"):
        parse_hospital_id(text)


@given(hospital_ids, local_ids)
def test_subjects_of_ids_have_no_wildcard_and_a_fixed_number_of_parts(hospital_id, local_id):
    made = subjects.actor(Address(ActorKind.DEVICE, hospital_id, local_id))
    assert not set(made) & set("*> \t")
    assert len(made.split(".")) == 5
    assert subjects.alarm(hospital_id).count(".") == subjects.reject(hospital_id).count(".") == 2


def test_streams_listen_to_the_subjects_that_are_published():
    assert subjects.reading(3) == "reading.3"
    assert subjects.control(3) == "control.3"
    assert {subject.partition(".")[0] for subject in subjects.READINGS_SUBJECTS} == {"reading", "control"}
    assert subjects.reject(None) == "reject.unknown"
    assert subjects.alarm("sz.h012").startswith(subjects.ALARMS_SUBJECTS[0].rstrip(">"))
