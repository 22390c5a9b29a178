"""Users of the region: made, locked out and let in again by an administrator. Clauses 7.2a, 9.3b."""

from __future__ import annotations

from fastapi import APIRouter, Response

from api.auth import Operator, Viewer
from api.errors import problems
from api.paging import Page, Paged
from api.schemas.users import FirstPassword, UserIn, UserOut
from api.services import Backend, Behind
from api.times import In
from domain.errors import Conflict, InvalidInput, NotFound
from domain.principals import Grant, Place
from runtime.sql import users
from runtime.sql.records import Row

router = APIRouter(prefix="/users", tags=["users"])


@router.post("", status_code=201, responses=problems(Conflict, InvalidInput))
async def create_user(body: UserIn, who: Operator, behind: Behind, response: Response) -> FirstPassword:
    """Make a user. The first password is in the answer, this once; the user has to change it at the first sign-in."""
    name = users.parse_user_name(body.name)
    grant = None if body.role is None else Grant(body.role, Place(behind.services.region_id))
    password, stored = await behind.sign_in.first_password()
    await behind.write(users.create_user, behind.engine, behind.author(who), name, stored, grant)
    response.headers["Cache-Control"] = "no-store"
    return FirstPassword(name=name, first_password=password)


@router.get("")
async def list_users(_who: Viewer, behind: Behind, paged: Paged, zone: In) -> Page[UserOut]:
    """Users by name."""
    found = await behind.read(users.list_users, behind.engine, limit=paged.limit, after=paged.after)
    now_us = behind.services.clock.now_us()
    return paged.page([UserOut.of(row, zone, now_us) for row in found.rows], found.after)


@router.get("/{name}", responses=problems(NotFound))
async def show_user(name: str, _who: Viewer, behind: Behind, zone: In) -> UserOut:
    """One user."""
    return UserOut.of(await behind.read(users.get_user, behind.engine, name), zone, behind.services.clock.now_us())


@router.post("/{name}/reset", responses=problems(NotFound))
async def reset_password(name: str, who: Operator, behind: Behind, response: Response) -> FirstPassword:
    """Give the user a new first password, in the answer this once. Ends their session and any lock."""
    await behind.read(users.get_user, behind.engine, name)  # before a password is hashed for nobody
    password, stored = await behind.sign_in.first_password()
    author = behind.author(who)
    row = await behind.write(users.set_password, behind.engine, author, name, stored, must_change=True)
    await behind.user_changed(row["id"])
    response.headers["Cache-Control"] = "no-store"
    return FirstPassword(name=name, first_password=password)


@router.post("/{name}/unlock", responses=problems(NotFound))
async def unlock_user(name: str, who: Operator, behind: Behind, zone: In) -> UserOut:
    """End a lock before its time."""
    return await _answer(await behind.write(users.unlock_user, behind.engine, behind.author(who), name), behind, zone)


@router.post("/{name}/disable", responses=problems(Conflict, NotFound))
async def disable_user(name: str, who: Operator, behind: Behind, zone: In) -> UserOut:
    """End the user's session and let them in no more. The last administrator stays."""
    return await _answer(await behind.write(users.disable_user, behind.engine, behind.author(who), name), behind, zone)


@router.post("/{name}/enable", responses=problems(NotFound))
async def enable_user(name: str, who: Operator, behind: Behind, zone: In) -> UserOut:
    """Let a disabled user in again, with the password they had."""
    return await _answer(await behind.write(users.enable_user, behind.engine, behind.author(who), name), behind, zone)


async def _answer(row: Row, behind: Backend, zone: In) -> UserOut:
    await behind.user_changed(row["id"])
    return UserOut.of(row, zone, behind.services.clock.now_us())
