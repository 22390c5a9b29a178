"""Instants. Columns hold UTC microseconds (int64, suffix `_us`); Python APIs hold aware UTC datetimes."""

from __future__ import annotations

from datetime import UTC, datetime

from domain.errors import InvalidInput

US_PER_S = 1_000_000
DAY_US = 86_400 * US_PER_S
NEVER_US = -(2**63)  # "has not happened" in an int64 time column


def to_us(instant: datetime) -> int:
    """Microseconds since 1970 of an aware datetime, exact; a naive one raises InvalidInput."""
    if instant.tzinfo is None:
        raise InvalidInput(f"time {instant.isoformat()} has no time zone: expected RFC 3339 with 'Z' or an offset")
    delta = instant - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * US_PER_S + delta.microseconds


def from_us(time_us: int) -> datetime:
    """The aware UTC datetime of `time_us`."""
    seconds, micros = divmod(int(time_us), US_PER_S)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=micros)


def to_rfc3339(time_us: int) -> str:
    """UTC, as `2026-11-23T08:00:00Z`, with a fraction where there is one."""
    return from_us(time_us).isoformat().replace("+00:00", "Z")


def parse_rfc3339(text: str) -> int:
    """UTC microseconds of an RFC 3339 text with a zone; raises InvalidInput otherwise."""
    try:
        return to_us(datetime.fromisoformat(text))
    except ValueError:
        raise InvalidInput(f"time {text!r} is not RFC 3339, for example 2026-11-23T08:00:00Z") from None
