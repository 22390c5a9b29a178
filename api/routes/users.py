"""Users of the region: made, locked out and let in again by an administrator. Clauses 7.2a, 9.3b."""

from __future__ import annotations

from typing import Annotated

from fastapi import Response

from api.asking import Asking, Unplaced, of_places
from api.errors import problems
from api.gifts import check_gift, check_powers
from api.locators import of_patient, of_user, places_of
from api.paging import Page, PagedByName
from api.permissions import may, may_list, may_where_body_says
from api.routes.router import api_router
from api.schemas.users import FirstPassword, UserIn, UserOut
from api.services import Backend, Behind
from api.times import In
from domain.errors import Conflict, Forbidden, InvalidInput, NotFound
from domain.labels import LABELS
from domain.permissions import Action
from domain.principals import Place
from runtime.sql import second_factors, users
from runtime.sql.records import Row

router = api_router("/users", tags=["users"])
UserCreate = Annotated[Unplaced, may_where_body_says(Action.USER_MANAGE)]
UserList = Annotated[Asking, may_list(Action.USER_READ)]
UserRead = Annotated[Asking, may(Action.USER_READ, at=of_user)]
UserManage = Annotated[Asking, may(Action.USER_MANAGE, at=of_user)]


@router.post("", status_code=201, responses=problems(Conflict, InvalidInput, NotFound))
async def create_user(who: UserCreate, body: UserIn, behind: Behind, response: Response) -> FirstPassword:
    """Make a user. The first password is in the answer, this once; the user has to change it at the first sign-in.

    It takes user.manage where the user is given something (in the region, without), and grant.manage to give it.
    """
    name = users.parse_user_name(body.name)
    region = Place(behind.services.region_id)
    given = [grant.to_grant(region) for grant in body.grants]
    places = await places_of(behind, [grant.place for grant in given] or [region])
    permitted = who.at(of_places(places, LABELS["users"]))
    await check_gift(behind, permitted, given)
    if body.patient_key is not None:
        permitted.also(await of_patient(body.patient_key, behind), Action.GRANT_MANAGE)
    password, stored = await behind.sign_in.first_password()
    author = behind.author(permitted)
    await behind.write(users.create_user, behind.engine, author, name, stored, *given, patient_key=body.patient_key)
    response.headers["Cache-Control"] = "no-store"
    return FirstPassword(name=name, first_password=password)


@router.get("")
async def list_users(who: UserList, behind: Behind, paged: PagedByName, zone: In) -> Page[UserOut]:
    """Users by name: those who have nothing beyond the places whose users you may see."""
    now_us = behind.services.clock.now_us()
    found = await behind.read(
        users.list_users, behind.engine, reach=who.reach, region_id=behind.services.region_id, now_us=now_us,
        limit=paged.limit, after=paged.after,
    )  # fmt: skip
    return paged.page([UserOut.of(row, zone, now_us) for row in found.rows], found.after)


@router.get("/{name}", responses=problems(NotFound))
async def show_user(_who: UserRead, name: str, behind: Behind, zone: In) -> UserOut:
    """One user."""
    return UserOut.of(await _user(behind, name), zone, behind.services.clock.now_us())


@router.post("/{name}/reset", responses=problems(Forbidden, NotFound))
async def reset_password(who: UserManage, name: str, behind: Behind, response: Response) -> FirstPassword:
    """Give the user a new first password, in the answer this once. Ends their session and any lock.

    Nobody does so for themselves: a session somebody left open must not be enough to take the account over.
    """
    await _managed(behind, who, name)  # before a password is hashed for nobody
    if name == who.caller.principal.name:
        raise Forbidden("nobody resets their own password so: change it (POST /api/v1/me/password)")
    password, stored = await behind.sign_in.first_password()
    author = behind.author(who)
    row = await behind.write(users.set_password, behind.engine, author, name, stored, must_change=True)
    await behind.user_changed(row["id"])
    response.headers["Cache-Control"] = "no-store"
    return FirstPassword(name=name, first_password=password)


@router.post("/{name}/second-factor/reset", status_code=204, responses=problems(Conflict, Forbidden, NotFound))
async def reset_second_factor(who: UserManage, name: str, behind: Behind) -> None:
    """Take away the second factor of somebody who lost it, which ends their session. Nobody does so for themselves."""
    await _managed(behind, who, name)
    if name == who.caller.principal.name:
        raise Forbidden("nobody takes away their own second factor so: show it (POST /api/v1/me/second-factor/remove)")
    await behind.user_changed(await behind.write(second_factors.reset, behind.engine, behind.author(who), name))


@router.post("/{name}/unlock", responses=problems(NotFound))
async def unlock_user(who: UserManage, name: str, behind: Behind, zone: In) -> UserOut:
    """End a lock before its time."""
    await _managed(behind, who, name)
    return await _answer(await behind.write(users.unlock_user, behind.engine, behind.author(who), name), behind, zone)


@router.post("/{name}/disable", responses=problems(Conflict, NotFound))
async def disable_user(who: UserManage, name: str, behind: Behind, zone: In) -> UserOut:
    """End the user's session and let them in no more. The last administrator stays."""
    await _managed(behind, who, name)
    return await _answer(await behind.write(users.disable_user, behind.engine, behind.author(who), name), behind, zone)


@router.post("/{name}/enable", responses=problems(NotFound, Conflict))
async def enable_user(who: UserManage, name: str, behind: Behind, zone: In) -> UserOut:
    """Let a disabled user in again, with the password they had."""
    await _managed(behind, who, name)
    return await _answer(await behind.write(users.enable_user, behind.engine, behind.author(who), name), behind, zone)


async def _user(behind: Backend, name: str) -> Row:
    return await behind.read(users.get_user, behind.engine, name, now_us=behind.services.clock.now_us())


async def _managed(behind: Backend, who: Asking, name: str) -> None:
    """Raises NotFound, and Forbidden for an account with more power than the caller may give."""
    check_powers(behind, who, (await _user(behind, name))["roles"])


async def _answer(row: Row, behind: Backend, zone: In) -> UserOut:
    await behind.user_changed(row["id"])
    return UserOut.of(row, zone, behind.services.clock.now_us())
