"""Who is signed in; an administrator ends sessions. Clauses 7.2a, 7.2d."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from api.asking import Asking
from api.errors import problems
from api.gifts import check_powers
from api.locators import of_session
from api.paging import Page, PagedByName
from api.permissions import may, may_list
from api.routes.router import api_router
from api.schemas.users import SessionShown
from api.services import Behind
from api.times import In
from domain.errors import NotFound
from domain.permissions import Action
from runtime.sql import users, watching

router = api_router("/sessions", tags=["users"])
SessionList = Annotated[Asking, may_list(Action.USER_READ)]
SessionEnd = Annotated[Asking, may(Action.USER_MANAGE, at=of_session)]


@router.get("")
async def list_sessions(
    who: SessionList, behind: Behind, paged: PagedByName, zone: In,
    user: Annotated[str | None, Query(max_length=64, description="Of this user alone.")] = None,
) -> Page[SessionShown]:  # fmt: skip
    """Users who are signed in, by name, each with their one session."""
    services = behind.services
    found = await behind.read(
        watching.list_sessions, behind.engine, services.sign_in_rules.session, reach=who.reach,
        region_id=services.region_id, now_us=services.clock.now_us(), limit=paged.limit, after=paged.after, user=user,
    )  # fmt: skip
    return paged.page([SessionShown.of(row, zone) for row in found.rows], found.after)


@router.delete("/{session_id}", status_code=204, responses=problems(NotFound))
async def end_session(who: SessionEnd, session_id: str, behind: Behind) -> None:
    """Sign a user out, at once: their live streams end too. They may sign in again; to keep them out, disable them."""
    session = await behind.read(watching.find_session, behind.engine, session_id)
    if session is None:
        raise NotFound(f"session {session_id!r} is unknown")
    user = await behind.read(users.get_user, behind.engine, session["name"], now_us=behind.services.clock.now_us())
    check_powers(behind, who, user["roles"])
    await behind.user_changed(await behind.write(watching.end_by_order, behind.engine, behind.author(who), session_id))
