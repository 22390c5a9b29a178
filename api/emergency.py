"""While accesses cannot be logged: what those at the bedside need goes on, by what was given to them at hospitals and wards.

Whoever has a grant of a region or a district besides sees no more by it until the log takes accesses again: not in an answer,
not in a live stream. Where that would have been shown at other times the refusal is 503 and says so. Clauses 6.1b, 9.3e.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Self

from domain.errors import AuditUnavailable
from domain.principals import Caller, Grant

if TYPE_CHECKING:  # else in a circle
    from api.services import Backend

_LOOK_S: Final = 0.2
_MOST_NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class Shut:
    """Of a caller who was given something at a hospital, and something beyond that does not count now.

    `caller`: as they are at other times. `why`: one sentence. `within`: where they were given something that counts.
    """

    caller: Caller
    why: str
    within: tuple[str, ...]

    @classmethod
    def of(cls, caller: Caller, why: str) -> Self | None:
        """None for a caller of whom everything counts."""
        if not has_wider(caller):
            return None
        return cls(caller, why, tuple(sorted({str(grant.place) for grant in caller.grants if _is_of_hospital(grant)})))

    def refusal(self) -> AuditUnavailable:
        """For what is beyond."""
        named = ", ".join(self.within[:_MOST_NAMED]) + (", …" if len(self.within) > _MOST_NAMED else "")
        return AuditUnavailable(
            f"protected records are not shown now: {self.why}. Live vital signs and open alarms go on by what you were given "
            f"at a hospital or in a ward ({named}); a region's or district's grant does not count until then"
        )


def is_of_a_hospital(caller: Caller) -> bool:
    """Whether the caller was given something at a hospital, or in a ward of one."""
    return any(map(_is_of_hospital, caller.grants))


def has_wider(caller: Caller) -> bool:
    """Whether the caller was given something that is no hospital's."""
    return not all(map(_is_of_hospital, caller.grants))


def at_hospitals(caller: Caller) -> Caller:
    """The same with what they were given at hospitals and in wards alone."""
    return replace(caller, grants=tuple(filter(_is_of_hospital, caller.grants)))


async def end_wider_streams(backend: Backend) -> None:
    """For ever: end live streams of those with wider grants that were judged before the log began, or ceased, to take accesses.

    They connect again, and get what counts then. However short it was: nobody goes on with less than is theirs.
    """
    while True:
        await asyncio.sleep(_LOOK_S)
        is_closed = backend.trail.why_closed() is not None
        for feed in (backend.alarm_feed, backend.reading_feed):
            feed.end_judged_else(is_emergency=is_closed)


def _is_of_hospital(grant: Grant) -> bool:
    return grant.place.hospital_id is not None
