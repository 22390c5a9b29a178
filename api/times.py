"""Times in and out: RFC 3339 both ways; `tz` names the zone that answers are written in (instants do not change)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, tzinfo
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from fastapi import Depends, Query
from pydantic import AfterValidator

from domain.errors import InvalidInput
from domain.instants import from_us, parse_rfc3339


@dataclass(frozen=True, slots=True)
class Zone:
    """The zone of an answer. `text(us)` writes an instant; None stays None."""

    name: str
    zone: tzinfo

    def text(self, time_us: int) -> str:
        return from_us(time_us).astimezone(self.zone).isoformat().replace("+00:00", "Z")

    def maybe(self, time_us: int | None) -> str | None:
        return None if time_us is None else self.text(time_us)


UTC_ZONE = Zone("UTC", UTC)


def zone_of(name: str) -> Zone:
    """The zone called `name` in the IANA database; raises InvalidInput."""
    if name == "UTC":
        return UTC_ZONE
    try:
        return Zone(name, ZoneInfo(name))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidInput(f"tz {name!r} is not an IANA time zone: expected one such as 'Asia/Shanghai' or 'UTC'") from None


async def _zone(
    tz: Annotated[str, Query(description="IANA time zone of the times in the answer.", examples=["Asia/Shanghai"])] = "UTC",
) -> Zone:
    return zone_of(tz)


def instant(text: str) -> int:
    """UTC microseconds of an RFC 3339 text. Raises InvalidInput. A '+' that a URL turned into a blank is forgiven."""
    return parse_rfc3339(text.replace(" ", "+") if text.count(" ") == 1 and "T" in text else text)


def _checked(text: str) -> str:
    try:
        instant(text)
    except InvalidInput as error:
        raise ValueError(str(error)) from error
    return text


In = Annotated[Zone, Depends(_zone)]
Rfc3339 = Annotated[str, AfterValidator(_checked)]  # a time with its zone, as text


def maybe_instant(text: str | None) -> int | None:
    return None if text is None else instant(text)
