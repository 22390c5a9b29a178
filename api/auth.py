"""Who calls, and what they may do.

`Authentication` stands before every path, docs and metrics included: without a valid token nothing answers.
A handler states what it needs by the type of its `who` parameter (`Viewer`, `Operator`, `Clinician`).
There is one role now; `PERMITTED` is the place where a policy engine decides later. Clause 5.4a.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, Final, Protocol
from urllib.parse import unquote

from fastapi import Depends, Header, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from api.errors import problem_response
from domain.errors import Forbidden, InvalidInput, Unauthenticated, VitalgridError

CALLER_KEY: Final = "vitalgrid.caller"  # in the ASGI scope
MAX_REASON_CHARS: Final = 500


class Role(StrEnum):
    ADMINISTRATOR = "administrator"


class Action(StrEnum):
    VIEW = "view"  # read anything of the region
    OPERATE = "operate"  # places, devices, fleets, rejects, scenarios
    CARE = "care"  # patients, associations, observations, answers to alarms


PERMITTED: Final[Mapping[Role, frozenset[Action]]] = {Role.ADMINISTRATOR: frozenset(Action)}


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller. `name` and `reason` are recorded with each write."""

    name: str
    role: Role
    reason: str | None = None


class Tokens(Protocol):
    """Who holds an API token."""

    async def caller_of(self, token: str) -> Caller:
        """The holder of `token`; raises Unauthenticated."""
        ...


class Authentication:
    """ASGI middleware: finds the caller of each request, or answers 401."""

    def __init__(self, app: ASGIApp, tokens: Tokens) -> None:
        self._app = app
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            scope[CALLER_KEY] = await self._tokens.caller_of(token_of(scope))
        except VitalgridError as error:
            await problem_response(error, scope)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def token_of(scope: Scope) -> str:
    """The token of the Authorization header: Bearer, or the password of Basic. Raises Unauthenticated."""
    raw = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    scheme, _, credentials = raw.decode("latin-1").partition(" ")
    token = credentials.strip()
    if scheme.lower() == "basic":
        token = _password_of(token)
    elif scheme.lower() != "bearer":
        token = ""
    if not token:
        raise Unauthenticated("no token came with the request: expected 'Authorization: Bearer <token>'")
    return token


def _password_of(credentials: str) -> str:
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""


def needs(action: Action) -> Callable[..., Awaitable[Caller]]:
    """A dependency that yields the caller when it may do `action`, with the X-Reason it gave."""

    async def permitted_caller(
        request: Request,
        x_reason: Annotated[
            str | None,
            Header(description="Why; recorded with each write. Percent-encode what is not ASCII (UTF-8)."),
        ] = None,
    ) -> Caller:
        caller: Caller = request.scope[CALLER_KEY]
        if action not in PERMITTED[caller.role]:
            raise Forbidden(f"{caller.name} is {caller.role.value} and may not {action.value}")
        return replace(caller, reason=_reason(x_reason))

    return permitted_caller


def _reason(text: str | None) -> str | None:
    reason = unquote(text).strip() if text else ""
    if len(reason) > MAX_REASON_CHARS:
        raise InvalidInput(f"X-Reason holds {len(reason)} characters: expected at most {MAX_REASON_CHARS}")
    return reason or None


async def _viewing(request: Request) -> Caller:
    caller: Caller = request.scope[CALLER_KEY]
    if Action.VIEW not in PERMITTED[caller.role]:
        raise Forbidden(f"{caller.name} is {caller.role.value} and may not {Action.VIEW.value}")
    return caller


Viewer = Annotated[Caller, Depends(_viewing)]
Reader = Annotated[Caller, Depends(needs(Action.VIEW))]  # as Viewer, with the reason: what is read may leave the house
Operator = Annotated[Caller, Depends(needs(Action.OPERATE))]
Clinician = Annotated[Caller, Depends(needs(Action.CARE))]
