"""What users were given: roles, each at a place and everywhere in it. Clauses 7.2b, 9.3b."""

from __future__ import annotations

from typing import Annotated

from api.asking import Asking, Unplaced, of_places
from api.errors import problems
from api.gifts import check_gift, check_powers
from api.locators import of_grant, of_user, places_of
from api.permissions import may, may_where_body_says
from api.routes.router import api_router
from api.schemas.users import GrantIn, GrantShown
from api.services import Behind
from api.times import In
from domain.errors import Conflict, Forbidden, InvalidInput, NotFound
from domain.labels import LABELS
from domain.permissions import Action
from domain.principals import Place
from runtime.sql import grants

router = api_router("/users/{name}/grants", tags=["users"])
GrantList = Annotated[Asking, may(Action.USER_READ, at=of_user)]
GrantGive = Annotated[Unplaced, may_where_body_says(Action.GRANT_MANAGE)]
GrantEnd = Annotated[Asking, may(Action.GRANT_MANAGE, at=of_grant)]


@router.get("", responses=problems(NotFound))
async def list_grants(_who: GrantList, name: str, behind: Behind, zone: In) -> list[GrantShown]:
    """All that a user was ever given, with what ended."""
    return [GrantShown.of(row, zone) for row in await behind.read(grants.list_grants, behind.engine, name)]


@router.post("", status_code=201, responses=problems(NotFound, InvalidInput, Conflict))
async def give(who: GrantGive, name: str, body: GrantIn, behind: Behind, zone: In) -> GrantShown:
    """Give a user a role at a place, for good or until a time. Holds at once. Nobody gives anything to themselves."""
    grant = body.to_grant(Place(behind.services.region_id))
    permitted = who.at(of_places(await places_of(behind, [grant.place]), LABELS["grants"]))
    if permitted.caller.principal.name == name:
        raise Forbidden(f"{name} may not give themselves anything: another one has to")
    await check_gift(behind, permitted, [grant])
    row = await behind.write(grants.give, behind.engine, behind.author(permitted), name, grant)
    await behind.user_changed(row["principal_id"])
    return GrantShown.of(row, zone)


@router.delete("/{grant_id}", status_code=204, responses=problems(NotFound, Conflict))
async def take_back(who: GrantEnd, name: str, grant_id: int, behind: Behind) -> None:
    """End a grant at once. The last who can give anybody anything keeps that."""
    row = await behind.read(grants.grant_in_force, behind.engine, name, grant_id)
    check_powers(behind, who, [row["role"]])
    principal_id = await behind.write(grants.take_back, behind.engine, behind.author(who), name, grant_id)
    await behind.user_changed(principal_id)
