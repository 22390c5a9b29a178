"""Who calls, and what they may do.

`Authentication` stands before every path, docs and metrics included: without a valid token nothing answers.
A handler states what it needs by the type of its `who` parameter (`Viewer`, `Operator`, `Clinician`).
There is one role now; `PERMITTED` is the place where a policy engine decides later. Clause 5.4a.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final, Protocol
from urllib.parse import unquote

from fastapi import Depends, Header, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from api.errors import problem_response
from domain.errors import Forbidden, InvalidInput, Unauthenticated, VitalgridError
from domain.principals import Caller, Role

CALLER_KEY: Final = "vitalgrid.caller"  # in the ASGI scope
MAX_REASON_CHARS: Final = 500
_POLICY_VIOLATION: Final = 1008  # RFC 6455 7.4.1


class Action(StrEnum):
    VIEW = "view"  # read anything of the region
    OPERATE = "operate"  # places, devices, fleets, rejects, scenarios
    CARE = "care"  # patients, associations, observations, answers to alarms


PERMITTED: Final[Mapping[Role, frozenset[Action]]] = {Role.ADMINISTRATOR: frozenset(Action)}


@dataclass(frozen=True, slots=True)
class Asking:
    """A caller with one request, and the reason it gave: who, and why, are recorded with each write."""

    caller: Caller
    reason: str | None = None


class Callers(Protocol):
    """Who holds an API token."""

    async def caller_of(self, token: str) -> Caller:
        """The holder of `token`; raises Unauthenticated."""
        ...


class Authentication:
    """ASGI middleware: finds the caller of each request, or answers 401. What is no request of HTTP is closed."""

    def __init__(self, app: ASGIApp, callers: Callers) -> None:
        self._app = app
        self._callers = callers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # no route speaks it; one that did would be open to strangers
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
            return
        if scope["type"] == "lifespan":  # the server itself
            await self._app(scope, receive, send)
            return
        try:
            scope[CALLER_KEY] = await self._callers.caller_of(token_of(scope))
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


def needs(action: Action) -> Callable[..., Awaitable[Asking]]:
    """A dependency that yields the caller when it may do `action`, with the X-Reason it gave."""

    async def permitted_caller(
        request: Request,
        x_reason: Annotated[
            str | None,
            Header(description="Why; recorded with each write. Percent-encode what is not ASCII (UTF-8)."),
        ] = None,
    ) -> Asking:
        return Asking(_permitted(request, action), _reason(x_reason))

    return permitted_caller


def _permitted(request: Request, action: Action) -> Caller:
    caller: Caller = request.scope[CALLER_KEY]
    if not any(action in PERMITTED[grant.role] for grant in caller.grants):
        raise Forbidden(f"{caller.principal.name} may not {action}: no role of theirs allows it")
    return caller


def _reason(text: str | None) -> str | None:
    reason = unquote(text).strip() if text else ""
    if len(reason) > MAX_REASON_CHARS:
        raise InvalidInput(f"X-Reason holds {len(reason)} characters: expected at most {MAX_REASON_CHARS}")
    return reason or None


async def _viewing(request: Request) -> Asking:
    return Asking(_permitted(request, Action.VIEW))


Viewer = Annotated[Asking, Depends(_viewing)]
Reader = Annotated[Asking, Depends(needs(Action.VIEW))]  # as Viewer, with the reason: what is read may leave the house
Operator = Annotated[Asking, Depends(needs(Action.OPERATE))]
Clinician = Annotated[Asking, Depends(needs(Action.CARE))]
