"""What doors noticed of senders: replays, claimed identities, one identity at two addresses. Clauses 5.4a, 9.4."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Query

from api.asking import Asking
from api.device_names import split_device
from api.errors import problems
from api.given import given
from api.locators import near_device_or_hospital
from api.paging import Page, PagedByNumbers
from api.permissions import may_list
from api.routes.router import api_router
from api.schemas.security_events import SecurityEventOut
from api.services import Behind
from api.times import In, Rfc3339, maybe_instant
from domain.errors import InvalidInput
from domain.messages import SecurityKind
from domain.permissions import Action
from runtime.sql.security_events import EventFilter, list_events

router = api_router("/security", tags=["security"])
EventList = Annotated[Asking, may_list(Action.EXPOSURE_READ, at=near_device_or_hospital)]


@dataclass(frozen=True)
class SecurityEventFilter:
    """Which events; whatever is left out does not matter."""

    hospital: Annotated[str | None, Query()] = None
    device: Annotated[str | None, Query(description="`hospital/device`.", examples=["sz.h012/mon-7"])] = None
    kind: Annotated[SecurityKind | None, Query()] = None
    start: Annotated[Rfc3339 | None, Query(alias="from")] = None
    until: Annotated[Rfc3339 | None, Query()] = None


@router.get("/events", responses=problems(InvalidInput))
async def list_security_events(
    who: EventList,
    behind: Behind,
    paged: PagedByNumbers,
    zone: In,
    wanted: Annotated[SecurityEventFilter, given(SecurityEventFilter)],
) -> Page[SecurityEventOut]:
    """Security events of the devices that you answer for, the newest first: a second or two after they were noticed."""
    looked_for = EventFilter(
        wanted.hospital, None if wanted.device is None else split_device(wanted.device),
        None if wanted.kind is None else str(wanted.kind), maybe_instant(wanted.start), maybe_instant(wanted.until),
    )  # fmt: skip
    found = await behind.read(list_events, behind.engine, looked_for, reach=who.reach, limit=paged.limit, after=paged.after)
    return paged.page([SecurityEventOut.of(row, zone) for row in found.rows], found.after)
