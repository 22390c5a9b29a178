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


STREAMS = (subjects.READINGS_SUBJECTS, subjects.ALARMS_SUBJECTS, subjects.REJECTS_SUBJECTS)


def matches(subject, pattern):
    """NATS: `*` is one part, `>` all that follow."""
    parts, wanted = subject.split("."), pattern.split(".")
    if wanted[-1] == ">":
        return len(parts) >= len(wanted) and parts[: len(wanted) - 1] == wanted[:-1]
    return len(parts) == len(wanted) and all(want in ("*", part) for part, want in zip(parts, wanted, strict=True))


@pytest.mark.parametrize(("subject", "stream"), [
    (subjects.reading(3), subjects.READINGS_SUBJECTS), (subjects.control(3), subjects.READINGS_SUBJECTS),
    (subjects.once("a1"), subjects.READINGS_SUBJECTS), (subjects.alarm("sz.h012"), subjects.ALARMS_SUBJECTS),
    (subjects.reject("sz.h012"), subjects.REJECTS_SUBJECTS), (subjects.reject(None), subjects.REJECTS_SUBJECTS),
])  # fmt: skip
def test_what_is_published_to_be_kept_is_kept_by_exactly_one_stream(subject, stream):
    assert [kept for kept in STREAMS if any(matches(subject, pattern) for pattern in kept)] == [stream]


@pytest.mark.parametrize("subject", [
    subjects.shard(3), subjects.host_heartbeat("host-1"), subjects.DIRECTORY_CHANGED,
    subjects.actor(Address(ActorKind.DEVICE, "sz.h012", "mon-7")),
])  # fmt: skip
def test_questions_and_heartbeats_are_kept_by_no_stream(subject):
    assert [kept for kept in STREAMS if any(matches(subject, pattern) for pattern in kept)] == []


@pytest.mark.parametrize(
    ("subject", "wanted", "is_so"),
    [
        ("storage.state", "storage.state", True), ("reading.0", "storage.state", False), ("a.b", "a.*", True),
        ("a.b.c", "a.*", False), ("a", "a.*", False), ("a.b.c", "a.>", True), ("a", "a.>", False), ("a.b.c.d", "*.b.>", True),
        ("a.c.c.d", "*.b.>", False), ("a.b", ">", True), ("a.*", "a.b", False),
    ],
)  # fmt: skip
def test_a_subject_is_within_what_is_listened_to(subject, wanted, is_so):
    assert subjects.is_within(subject, wanted) is is_so
