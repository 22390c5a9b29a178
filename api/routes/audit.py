"""Who saw and did what: events of the access log, for auditors, and for the patients whom they concern. Clauses 6.1b, 9.3e."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Query
from sqlalchemy import Engine

from api.asking import Asking
from api.errors import problems
from api.given import given
from api.locators import in_region, of_patient
from api.paging import Page, PagedByNumber, Paging
from api.permissions import may
from api.routes.router import api_router
from api.schemas.audit import AccessOut, AuditEventOut
from api.services import Backend, Behind
from api.times import In, Rfc3339, maybe_instant
from domain.errors import InvalidInput, NotFound
from domain.permissions import Action
from runtime.log_events import Event, Wanted, find_events
from runtime.sealing import Sealer
from runtime.sql.engine import reading
from runtime.sql.sealed import sealer_of

router = api_router(tags=["access log"])
AuditRead = Annotated[Asking, may(Action.AUDIT_READ, at=in_region("AUDIT"))]
OwnAudit = Annotated[Asking, may(Action.AUDIT_READ, at=of_patient)]


@dataclass(frozen=True)
class AuditFilter:
    """Which events; whatever is left out does not matter."""

    patient: Annotated[str | None, Query(description="Patient key.")] = None
    principal: Annotated[
        str | None,
        Query(description="Name of the user or service; a patient's account by its id. Of failed sign-ins: address, or id."),
    ] = None
    start: Annotated[Rfc3339 | None, Query(alias="from")] = None
    until: Annotated[Rfc3339 | None, Query()] = None


@router.get("/audit/events", responses=problems(InvalidInput))
async def list_events(
    _who: AuditRead, behind: Behind, paged: PagedByNumber, zone: In, wanted: Annotated[AuditFilter, given(AuditFilter)]
) -> Page[AuditEventOut]:
    """Events of the access log, the newest first: about a second after they were. This too is one."""
    looked_for = Wanted(wanted.patient, wanted.principal, maybe_instant(wanted.start), maybe_instant(wanted.until))
    events, after = await _found(behind, looked_for, paged)
    sealer = await behind.read(_sealer, behind.engine)
    return paged.page([AuditEventOut.of(event, zone, sealer) for event in events], after)


@router.get("/patients/{patient_key}/accesses", responses=problems(NotFound))
async def list_accesses(_who: OwnAudit, patient_key: str, behind: Behind, paged: PagedByNumber, zone: In) -> Page[AccessOut]:
    """Who saw and changed what is known of one patient, the newest first."""
    events, after = await _found(behind, Wanted(patient=patient_key), paged)
    sealer = await behind.read(_sealer, behind.engine)
    return paged.page([shown for event in events if (shown := AccessOut.of(event, zone, sealer)) is not None], after)


async def _found(behind: Backend, wanted: Wanted, paged: Paging) -> tuple[list[Event], tuple[int] | None]:
    """A page of events, and where the next one goes on; None, when there is none."""
    before = None if paged.after is None else paged.after[0]
    events = await behind.lanes.codec(find_events, behind.services.log.folder, wanted, before=before, limit=paged.limit + 1)
    page = events[: paged.limit]
    return page, (page[-1].at,) if len(events) > paged.limit else None


def _sealer(engine: Engine) -> Sealer:
    with reading(engine) as connection:
        return sealer_of(connection)
