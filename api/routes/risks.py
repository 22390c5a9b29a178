"""The register of risks to data: found by rules, judged by people. Clause 6.1."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Response

from api.asking import Asking
from api.errors import PreconditionRequired, problems
from api.locators import in_region
from api.paging import Page, PagedByNumber
from api.permissions import may
from api.preconditions import ExpectedVersion, set_etag
from api.risk_watch import look_for_risks
from api.routes.router import api_router
from api.schemas.risks import LookedFor, RiskChange, RiskEventOut, RiskIn, RiskOut, RiskWithHistory
from api.services import Behind
from api.times import In, instant
from domain.errors import Conflict, InvalidInput, NotFound, StaleVersion
from domain.permissions import Action
from domain.risks import RiskState
from runtime.sql import risks
from runtime.sql.risks import NewRisk

router = api_router("/risks", tags=["risks"])
RiskRead = Annotated[Asking, may(Action.RISK_READ, at=in_region("risks"))]
RiskManage = Annotated[Asking, may(Action.RISK_MANAGE, at=in_region("risks"))]


@router.get("")
async def list_risks(
    _who: RiskRead, behind: Behind, paged: PagedByNumber, zone: In,
    risk_state: Annotated[RiskState | None, Query(description="In this state; all that are not closed, if left out.")] = None,
) -> Page[RiskOut]:  # fmt: skip
    """The register, the newest findings first."""
    found = await behind.read(risks.list_risks, behind.engine, state=risk_state, limit=paged.limit, after=paged.after)
    return paged.page([RiskOut.of(row, zone) for row in found.rows], found.after)


@router.post("", status_code=201, responses=problems(InvalidInput))
async def enter_risk(who: RiskManage, body: RiskIn, behind: Behind, zone: In) -> RiskOut:
    """Enter a risk that no rule finds."""
    row = await behind.write(risks.enter, behind.engine, behind.author(who), NewRisk(**body.model_dump()))
    return RiskOut.of(row, zone)


@router.post("/look")
async def look(_who: RiskManage, behind: Behind) -> LookedFor:
    """Look for risks now; it is done every hour by itself."""
    return LookedFor(changed=await look_for_risks(behind))


@router.get("/{risk_id:int}", responses=problems(NotFound))
async def get_risk(_who: RiskRead, risk_id: int, behind: Behind, zone: In, response: Response) -> RiskWithHistory:
    """One risk, and how it came to be as it is."""
    row, events = await behind.read(risks.get_risk, behind.engine, risk_id)
    set_etag(response, row["version"])
    return RiskWithHistory(risk=RiskOut.of(row, zone), history=[RiskEventOut.of(event, zone) for event in events])


@router.patch("/{risk_id:int}", responses=problems(NotFound, InvalidInput, Conflict, PreconditionRequired, StaleVersion))
async def judge_risk(
    who: RiskManage, risk_id: int, body: RiskChange, behind: Behind, version: ExpectedVersion, zone: In, response: Response
) -> RiskOut:
    """Say what becomes of a risk. To accept one takes a reason (X-Reason) and an end."""
    values: dict[str, Any] = body.model_dump(exclude_none=True, exclude={"accepted_until"})
    if body.accepted_until is not None:
        values["accepted_until_us"] = instant(body.accepted_until)
    row = await behind.write(risks.judge, behind.engine, behind.author(who), risk_id, values, version=version)
    set_etag(response, row["version"])
    return RiskOut.of(row, zone)
