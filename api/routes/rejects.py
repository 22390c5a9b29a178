"""Refused messages: why, from whom, what they said; repaired and sent again. Clause 8.1."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from api.asking import Asking
from api.device_names import split_device
from api.errors import problems
from api.locators import near_hospitals, of_device_readings, of_reject
from api.paging import Page, PagedByNumber
from api.permissions import may, may_list
from api.repair import resubmit
from api.routes.router import api_router
from api.schemas.patients import ReceiptOut
from api.schemas.rejects import RejectOut, RejectShown, ResubmitIn
from api.services import Behind
from api.times import In
from domain.errors import Conflict, InvalidInput, NotFound, RejectedInput, Unavailable
from domain.labels import LABELS
from domain.permissions import Action
from runtime.rejects import RejectFilter
from runtime.sql.access import resubmissions
from runtime.sql.within import hospitals_within

router = api_router("/rejects", tags=["rejects"])
RejectList = Annotated[Asking, may_list(Action.REJECT_READ, at=near_hospitals)]
RejectRead = Annotated[Asking, may(Action.REJECT_READ, at=of_reject)]
RejectResubmit = Annotated[Asking, may(Action.REJECT_RESUBMIT, at=of_reject)]


@router.get("", responses=problems(Unavailable))
async def list_rejects(
    who: RejectList,
    behind: Behind,
    paged: PagedByNumber,
    zone: In,
    reason: Annotated[str | None, Query(examples=["wrong-unit"])] = None,
    door: Annotated[str | None, Query(examples=["mqtt"])] = None,
    hospital: Annotated[list[str] | None, Query()] = None,
) -> Page[RejectOut]:
    """Refused messages of the hospitals that you may see, the newest first; of unknown senders they are the region's.

    With a rare filter a page may come back short; its `next` goes on.
    """
    inside = await behind.read(hospitals_within, behind.engine, who.reach, LABELS["REJECTS"])
    named = frozenset(hospital) if hospital else None
    shown = inside if named is None else named if inside is None else named & inside
    wanted = RejectFilter(reason=reason, door=door, hospital_ids=shown)
    before = paged.after[0] if paged.after else None
    found = await behind.rejects.page(wanted, before=before, limit=paged.limit)
    answers = await behind.read(resubmissions, behind.engine, [kept.reject.reject_id for kept in found.rejects])
    items = [RejectOut.of(kept, answers.get(kept.reject.reject_id), zone) for kept in found.rejects]
    return paged.page(items, None if found.next_before is None else [found.next_before])


@router.get("/{sequence}", responses=problems(NotFound, Unavailable))
async def show_reject(_who: RejectRead, sequence: int, behind: Behind, zone: In) -> RejectShown:
    """One refused message with its payload."""
    kept = await behind.rejects.get(sequence)
    answers = await behind.read(resubmissions, behind.engine, [kept.reject.reject_id])
    return RejectShown.shown(kept, answers.get(kept.reject.reject_id), zone)


@router.post(
    "/{sequence}/resubmit", status_code=201, responses=problems(NotFound, RejectedInput, InvalidInput, Conflict, Unavailable)
)
async def resubmit_reject(who: RejectResubmit, sequence: int, body: ResubmitIn, behind: Behind) -> ReceiptOut:
    """Send a repaired message as its sender; it passes the same codec and Intake, and is linked to the old one."""
    if body.device is not None:  # another sender than it had
        hospital_id, device_id = split_device(body.device)
        who.also(await of_device_readings(hospital_id, device_id, behind))
    return ReceiptOut.of(await resubmit(behind, who, await behind.rejects.get(sequence), body))
