"""What users may do in effect: by each of their grants, as the policies decide it now. Clause 7.2b."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter

from api.asking import Asking
from api.errors import problems
from api.locators import in_region, of_user
from api.permissions import may
from api.rights import rights_of
from api.schemas.users import PermissionsOut
from api.services import Backend, Behind
from api.times import In, Zone
from domain.errors import NotFound
from domain.permissions import Action
from domain.principals import Caller
from runtime.sql import users

router = APIRouter(tags=["users"])
UserRead = Annotated[Asking, may(Action.USER_READ, at=of_user)]
Oneself = Annotated[Asking, may(Action.SELF, at=in_region("users"))]


@router.get("/users/{name}/permissions", responses=problems(NotFound))
async def show_permissions(_who: UserRead, name: str, behind: Behind, zone: In) -> PermissionsOut:
    """What a user may do, where, to how sensitive records and for which purposes, as if signed in by password alone."""
    caller = await behind.read(users.as_caller, behind.engine, name, now_us=behind.services.clock.now_us())
    return await _shown(behind, caller, zone)


@router.get("/me/permissions")
async def show_own(who: Oneself, behind: Behind, zone: In) -> PermissionsOut:
    """What you may do, the way you are signed in."""
    return await _shown(behind, who.caller, zone)


async def _shown(behind: Backend, caller: Caller, zone: Zone) -> PermissionsOut:
    return PermissionsOut.of(caller, await behind.lanes.codec(rights_of, behind.services.authoriser, caller), zone)
