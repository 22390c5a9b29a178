"""Times of an answer in words: every member called `…_us` becomes RFC 3339 text under its name without the ending."""

from __future__ import annotations

from typing import Any, Final

from api.times import Zone
from domain.instants import NEVER_US

_ENDING: Final = "_us"


def readable(value: Any, zone: Zone) -> Any:
    """`value` with all its times as text, however deep they lie. What has not happened is null."""
    if isinstance(value, dict):
        return dict(_member(name, inner, zone) for name, inner in value.items())
    if isinstance(value, list | tuple):
        return [readable(inner, zone) for inner in value]
    return value


def _member(name: str, value: Any, zone: Zone) -> tuple[str, Any]:
    if not name.endswith(_ENDING):
        return name, readable(value, zone)
    shown = name.removesuffix(_ENDING)
    is_time = isinstance(value, int) and value != NEVER_US
    return "time" if shown == "at" else shown, zone.text(value) if is_time else None
