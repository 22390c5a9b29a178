"""Who is asking, their own password and second factor. For every caller: there is nothing here but what is theirs."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import Request, Response

from api.asking import Asking
from api.errors import problems
from api.forms import address_of
from api.locators import in_region
from api.permissions import may
from api.routes.router import api_router
from api.schemas.users import (
    CodeIn,
    MeOut,
    PasswordIn,
    PresentIn,
    RecoveryCodes,
    RemovalIn,
    SecondFactorOut,
    SecretOut,
    SessionOut,
    SessionShown,
)
from api.services import Behind
from api.times import In
from domain.errors import Conflict, Forbidden, InvalidInput, TooManyAttempts
from domain.permissions import Action
from runtime.sql import watching

router = api_router("/me", tags=["sign-in"])
_NO_STORE: Final = {"Cache-Control": "no-store"}
Oneself = Annotated[Asking, may(Action.SELF, at=in_region("users"))]


@router.get("")
async def me(who: Oneself, behind: Behind, zone: In) -> MeOut:
    """Who is asking, and how they are signed in."""
    caller = who.caller
    if caller.session_id is None:
        return MeOut.of(caller)
    session = await behind.read(watching.find_session, behind.engine, caller.session_id)
    factor = await behind.second_factor.state(caller)
    return MeOut.of(caller, SecondFactorOut.of(factor, zone), None if session is None else SessionShown.of(session, zone))


@router.post("/password", responses=problems(Conflict, InvalidInput, TooManyAttempts))
async def change_password(who: Oneself, body: PasswordIn, request: Request, response: Response, behind: Behind) -> SessionOut:
    """Change your own password. The session ends with it, and a new one begins: go on with the tokens of the answer."""
    issued = await behind.sign_in.change_password(who.caller, body.present, body.new, address_of(request))
    response.headers.update(_NO_STORE)
    return SessionOut.of(issued)


@router.post("/second-factor", responses=problems(Conflict, Forbidden, TooManyAttempts))
async def propose_second_factor(
    who: Oneself, body: PresentIn, request: Request, response: Response, behind: Behind
) -> SecretOut:
    """Begin to set up a second factor: a secret for an authenticator app, in this answer once.

    It opens nothing, and nothing changes, before a code of it came to `confirm` within a quarter of an hour.
    """
    proposed = await behind.second_factor.propose(who.caller, body.present, address_of(request))
    response.headers.update(_NO_STORE)
    return SecretOut(secret=proposed.secret, uri=proposed.uri)


@router.post("/second-factor/confirm", responses=problems(Conflict, InvalidInput, TooManyAttempts))
async def confirm_second_factor(
    who: Oneself, body: CodeIn, request: Request, response: Response, behind: Behind
) -> RecoveryCodes:
    """Confirm it by a code of the app. This session has the second factor from now on, and each sign-in needs it.

    The recovery codes are in this answer, this once; each stands in for one code.
    """
    codes = await behind.second_factor.confirm(who.caller, body.code, address_of(request))
    response.headers.update(_NO_STORE)
    return RecoveryCodes(recovery_codes=codes)


@router.post("/second-factor/remove", status_code=204, responses=problems(Conflict, Forbidden, TooManyAttempts))
async def remove_second_factor(who: Oneself, body: RemovalIn, request: Request, behind: Behind) -> None:
    """Take your second factor away, with the password and a code of it, or a recovery code."""
    await behind.second_factor.remove(who.caller, body.present, body.code, address_of(request))
