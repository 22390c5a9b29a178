"""API tokens, the log of writes, and what was exported. Clauses 5.4a, 9.3e."""

from __future__ import annotations

import logging
from typing import Annotated

from fastapi import Query

from api.asking import Asking, Unplaced, of_places
from api.errors import problems
from api.gifts import check_gift, check_program, shows_names
from api.locators import in_region, of_token, places_of
from api.paging import Page, PagedByName, PagedByNumber
from api.permissions import may, may_list, may_where_body_says
from api.routes.router import api_router
from api.schemas.access import ExportOut, TokenIn, TokenMade, TokenOut, WriteOut
from api.services import Behind
from api.times import In
from domain.errors import Conflict, InvalidInput, NotFound
from domain.labels import LABELS
from domain.permissions import Action
from domain.principals import Grant, Place, place_of_role
from runtime.sql import access

logger = logging.getLogger(__name__)

router = api_router(tags=["access"])
TokenMake = Annotated[Unplaced, may_where_body_says(Action.TOKEN_MANAGE)]
TokenList = Annotated[Asking, may_list(Action.TOKEN_READ)]
TokenRevoke = Annotated[Asking, may(Action.TOKEN_MANAGE, at=of_token)]
WritesRead = Annotated[Asking, may(Action.AUDIT_READ, at=in_region("write_log"))]
ExportsRead = Annotated[Asking, may(Action.AUDIT_READ, at=in_region("exports"))]


@router.post("/tokens", status_code=201, responses=problems(Conflict, InvalidInput))
async def create_token(who: TokenMake, body: TokenIn, behind: Behind) -> TokenMade:
    """Make a token for a program: what it may do is that of a role at a place. Roles of people are refused."""
    place = place_of_role(body.role, body.place, Place(behind.services.region_id))
    permitted = who.at(of_places(await places_of(behind, [place]), LABELS["tokens"]))
    grant = Grant(body.role, place)
    await check_gift(behind, permitted, [grant])
    check_program(body.role)
    token = await behind.write(access.create_token, behind.engine, behind.author(permitted), body.name, body.role, place)
    if shows_names(behind.services.authoriser, grant):  # whoever made it may use it: somebody else should see that it is there
        told = {"token": body.name, "role": body.role, "place": str(place), "by": permitted.caller.principal.in_log}
        logger.warning("a token was made that shows patients by name", extra=told)
    return TokenMade(name=body.name, role=body.role, place=str(place), token=token)


@router.get("/tokens")
async def list_tokens(who: TokenList, behind: Behind, paged: PagedByName, zone: In) -> Page[TokenOut]:
    """Who has a token at the places whose tokens you may see; never what it is."""
    region_id = behind.services.region_id
    found = await behind.read(
        access.list_tokens, behind.engine, reach=who.reach, region_id=region_id, limit=paged.limit, after=paged.after
    )
    return paged.page([TokenOut.of(row, zone, region_id) for row in found.rows], found.after)


@router.delete("/tokens/{name}", status_code=204, responses=problems(NotFound, Conflict))
async def revoke_token(who: TokenRevoke, name: str, behind: Behind) -> None:
    """Revoke a token; it stops working within seconds, and its live streams end.

    The last that can give anybody anything stays.
    """
    await behind.write(access.revoke_token, behind.engine, behind.author(who), name)
    await behind.user_changed(name)  # a token's id is its name


@router.get("/writes")
async def list_writes(
    who: WritesRead,
    behind: Behind,
    paged: PagedByNumber,
    zone: In,
    by: Annotated[str | None, Query(description="Who wrote.")] = None,
) -> Page[WriteOut]:
    """Who changed what, when and why, the newest first."""
    found = await behind.read(access.list_writes, behind.engine, limit=paged.limit, after=paged.after, who=by)
    return paged.page([WriteOut.of(row, zone, who.view) for row in found.rows], found.after)


@router.get("/exports")
async def list_exports(_who: ExportsRead, behind: Behind, paged: PagedByNumber, zone: In) -> Page[ExportOut]:
    """What left the platform as CSV, Arrow or a recording, the newest first."""
    found = await behind.read(access.list_exports, behind.engine, limit=paged.limit, after=paged.after)
    return paged.page([ExportOut.of(row, zone) for row in found.rows], found.after)
