"""Paging, times and preconditions, as pure functions."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.auth import token_of
from api.paging import decode_cursor, encode_cursor
from api.times import instant, zone_of
from domain.errors import InvalidInput, Unauthenticated

KEYS = st.lists(st.one_of(st.text(), st.integers(0, 2**60)))


@given(KEYS, st.text())
def test_a_cursor_comes_back_as_it_went(key: object, filters: str) -> None:
    assert decode_cursor(encode_cursor(key, filters), filters) == key


@given(st.text())
def test_any_text_is_a_cursor_or_a_clear_error(text: str) -> None:
    with contextlib.suppress(InvalidInput):
        decode_cursor(text, "filters")


def test_a_cursor_of_other_filters_is_refused() -> None:
    cursor = encode_cursor([1, "a"], "/wards?hospital=sz.h001")
    with pytest.raises(InvalidInput, match="other filters"):
        decode_cursor(cursor, "/wards?hospital=sz.h002")


def test_times_are_written_in_the_zone_asked_for() -> None:
    noon_us = instant("2026-11-23T12:00:00Z")
    assert zone_of("UTC").text(noon_us) == "2026-11-23T12:00:00Z"
    assert zone_of("Asia/Shanghai").text(noon_us) == "2026-11-23T20:00:00+08:00"
    assert instant(zone_of("America/New_York").text(noon_us)) == noon_us


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "../etc/passwd", "UTC+8", "/etc/passwd"])
def test_a_wrong_zone_says_what_is_expected(name: str) -> None:
    with pytest.raises(InvalidInput, match="IANA"):
        zone_of(name)


def test_a_plus_that_a_url_made_a_blank_is_understood() -> None:
    assert instant("2026-11-23T20:00:00 08:00") == instant("2026-11-23T12:00:00Z")


@pytest.mark.parametrize("text", ["yesterday", "2026-11-23T12:00:00", "2026-13-01T00:00:00Z", ""])
def test_a_time_without_zone_or_sense_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        instant(text)


@given(st.binary())
def test_any_authorization_header_is_a_token_or_unauthenticated(raw: bytes) -> None:
    with contextlib.suppress(Unauthenticated):
        assert token_of({"headers": [(b"authorization", raw)]})
