"""Who is asking, and their own password. For every caller: there is nothing here but what is theirs."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from api.auth import CALLER_KEY
from api.errors import problems
from api.forms import address_of
from api.schemas.users import MeOut, PasswordIn, SessionOut
from api.services import Behind
from domain.errors import Conflict, InvalidInput, TooManyAttempts
from domain.principals import Caller

router = APIRouter(prefix="/me", tags=["sign-in"])


@router.get("")
async def me(request: Request) -> MeOut:
    """Who is asking."""
    return MeOut.of(request.scope[CALLER_KEY])


@router.post("/password", responses=problems(Conflict, InvalidInput, TooManyAttempts))
async def change_password(body: PasswordIn, request: Request, response: Response, behind: Behind) -> SessionOut:
    """Change your own password. The session ends with it, and a new one begins: go on with the tokens of the answer."""
    caller: Caller = request.scope[CALLER_KEY]
    issued = await behind.sign_in.change_password(caller, body.present, body.new, address_of(request))
    response.headers["Cache-Control"] = "no-store"
    return SessionOut.of(issued)
