"""Who is asking, and their own password. For every caller: there is nothing here but what is theirs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request, Response

from api.asking import Asking
from api.errors import problems
from api.forms import address_of
from api.locators import in_region
from api.permissions import may
from api.schemas.users import MeOut, PasswordIn, SessionOut
from api.services import Behind
from domain.errors import Conflict, InvalidInput, TooManyAttempts
from domain.permissions import Action

router = APIRouter(prefix="/me", tags=["sign-in"])
Oneself = Annotated[Asking, may(Action.SELF, at=in_region("users"))]


@router.get("")
async def me(who: Oneself) -> MeOut:
    """Who is asking."""
    return MeOut.of(who.caller)


@router.post("/password", responses=problems(Conflict, InvalidInput, TooManyAttempts))
async def change_password(who: Oneself, body: PasswordIn, request: Request, response: Response, behind: Behind) -> SessionOut:
    """Change your own password. The session ends with it, and a new one begins: go on with the tokens of the answer."""
    issued = await behind.sign_in.change_password(who.caller, body.present, body.new, address_of(request))
    response.headers["Cache-Control"] = "no-store"
    return SessionOut.of(issued)
