"""Instants: exact to the microsecond, never without a zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import InvalidInput
from domain.instants import from_us, parse_rfc3339, to_us

zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
instants = st.datetimes(datetime(1900, 1, 2), datetime(2200, 1, 1), timezones=zones)  # noqa: DTZ001 (zones are drawn)


@given(instants)
def test_an_instant_survives_exactly(instant):
    assert from_us(to_us(instant)) == instant


@given(st.integers(-(2**50), 2**52))
def test_microseconds_survive_exactly(time_us):
    assert to_us(from_us(time_us)) == time_us
    assert from_us(time_us).tzinfo is UTC


@given(instants)
def test_its_text_reads_as_the_same_instant(instant):
    assert parse_rfc3339(instant.isoformat()) == to_us(instant)


@pytest.mark.parametrize(("text", "time_us"), [
    ("1970-01-01T00:00:00Z", 0), ("2026-11-23T08:00:00Z", 1_795_420_800_000_000),
    ("2026-11-23T16:00:00+08:00", 1_795_420_800_000_000), ("2026-11-23T08:00:00.000001Z", 1_795_420_800_000_001),
    ("1969-12-31T23:59:59.5Z", -500_000),
])  # fmt: skip
def test_known_instants(text, time_us):
    assert parse_rfc3339(text) == time_us


@pytest.mark.parametrize("text", ["2026-11-23T08:00:00", "2026-11-23", "yesterday", "", "2026-13-01T00:00:00Z", "1795420800"])
def test_a_time_without_zone_or_sense_is_refused_in_a_sentence(text):
    with pytest.raises(InvalidInput, match="RFC 3339"):
        parse_rfc3339(text)


@given(st.text(max_size=30))
def test_any_text_is_a_time_or_refused(text):
    try:
        time_us = parse_rfc3339(text)
    except InvalidInput:
        return
    assert isinstance(time_us, int)


def test_a_naive_datetime_is_refused():
    with pytest.raises(InvalidInput, match="no time zone"):
        to_us(datetime(2026, 11, 23))  # noqa: DTZ001 (what is refused)
