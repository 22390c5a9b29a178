"""API tokens, the log of writes, and what was exported. Clauses 5.4a, 9.3e."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from api.auth import Operator, Viewer
from api.errors import problems
from api.paging import Page, Paged
from api.schemas.access import ExportOut, TokenIn, TokenMade, TokenOut, WriteOut
from api.services import Behind
from api.times import In
from domain.errors import Conflict, NotFound
from runtime.sql import access

router = APIRouter(tags=["access"])


@router.post("/tokens", status_code=201, responses=problems(Conflict))
async def create_token(body: TokenIn, who: Operator, behind: Behind) -> TokenMade:
    """Make a token for a person or a program."""
    token = await behind.write(access.create_token, behind.engine, behind.author(who), body.name, body.role.value)
    return TokenMade(name=body.name, role=body.role, token=token)


@router.get("/tokens")
async def list_tokens(_who: Viewer, behind: Behind, paged: Paged, zone: In) -> Page[TokenOut]:
    """Who has a token; never what it is."""
    found = await behind.read(access.list_tokens, behind.engine, limit=paged.limit, after=paged.after)
    return paged.page([TokenOut.of(row, zone) for row in found.rows], found.after)


@router.delete("/tokens/{name}", status_code=204, responses=problems(NotFound))
async def revoke_token(name: str, who: Operator, behind: Behind) -> None:
    """Revoke a token; it stops working within seconds."""
    await behind.write(access.revoke_token, behind.engine, behind.author(who), name)


@router.get("/writes")
async def list_writes(
    _who: Viewer, behind: Behind, paged: Paged, zone: In, by: Annotated[str | None, Query(description="Who wrote.")] = None
) -> Page[WriteOut]:
    """Who changed what, when and why, the newest first."""
    found = await behind.read(access.list_writes, behind.engine, limit=paged.limit, after=paged.after, who=by)
    return paged.page([WriteOut.of(row, zone) for row in found.rows], found.after)


@router.get("/exports")
async def list_exports(_who: Viewer, behind: Behind, paged: Paged, zone: In) -> Page[ExportOut]:
    """What left the platform as CSV or Arrow, the newest first."""
    found = await behind.read(access.list_exports, behind.engine, limit=paged.limit, after=paged.after)
    return paged.page([ExportOut.of(row, zone) for row in found.rows], found.after)
