"""What users may do in effect: by each of their grants, as the policies decide it now. Clause 7.2b."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from api.asking import Asking
from api.errors import problems
from api.locators import in_region, of_user
from api.permissions import may
from api.rights import differing, rights_of
from api.routes.router import api_router
from api.schemas.users import OtherFactors, PermissionsOut
from api.services import Backend, Behind
from api.times import In, Zone
from domain.errors import NotFound
from domain.permissions import Action
from domain.principals import Caller, Factor, Kind
from runtime.sql import users

router = api_router(tags=["users"])
UserRead = Annotated[Asking, may(Action.USER_READ, at=of_user)]
Oneself = Annotated[Asking, may(Action.SELF, at=in_region("users"))]


@router.get("/users/{name}/permissions", responses=problems(NotFound))
async def show_permissions(_who: UserRead, name: str, behind: Behind, zone: In) -> PermissionsOut:
    """What a user may do, where, to how sensitive records and for which purposes, signed in with the `factors` that they have.

    What has to be done first (a password changed, a second factor set up) is taken as done.
    """
    caller = await behind.read(users.as_caller, behind.engine, name, now_us=behind.services.clock.now_us())
    return await _shown(behind, caller, zone)


@router.get("/me/permissions")
async def show_own(who: Oneself, behind: Behind, zone: In) -> PermissionsOut:
    """What you may do, the way you are signed in."""
    return await _shown(behind, who.caller, zone)


async def _shown(behind: Backend, caller: Caller, zone: Zone) -> PermissionsOut:
    rights = await behind.lanes.rights(rights_of, behind.services.authoriser, caller)
    if caller.principal.kind is not Kind.USER:
        return PermissionsOut.of(caller, rights, zone)
    other = replace(caller, factors=caller.factors ^ {Factor.TOTP})
    others = await behind.lanes.rights(rights_of, behind.services.authoriser, other)
    return PermissionsOut.of(caller, rights, zone, OtherFactors.of(other, differing(others, rights), zone))
