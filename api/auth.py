"""Who calls. What they may do is asked where a route is (`api.permissions`). Clause 5.4a.

`Authentication` stands before every path, docs and metrics included: without a valid token, or a session, nothing
answers but the places where one is got.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Coroutine, Mapping
from typing import Any, Final, Protocol

from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.browsers import LOGIN_URL, SAFE_METHODS, cookie_of, header, is_page_wanted, is_same_origin, is_script, to_login
from api.errors import headers_of, problem_response
from api.scope_keys import BELIEVED_KEY, CALLER_KEY
from domain.errors import (
    Forbidden,
    PasswordChangeRequired,
    SecondFactorSetupRequired,
    Unauthenticated,
    VitalgridError,
)
from domain.principals import Caller, Must
from runtime.tasks import end

PASSWORD_URL: Final = "/password"  # noqa: S105 (a page)
FACTOR_URL: Final = "/second-factor"
FACTOR_CONFIRM_URL: Final = "/second-factor/confirm"
FACTOR_REMOVE_URL: Final = "/second-factor/remove"
_FACTOR: Final = "/api/v1/me/second-factor"
OPEN_PATHS: Final = frozenset({"/oauth/token", "/oauth/revoke", LOGIN_URL, "/logout"})  # the credential is in the body
_PATHS_OF: Final[Mapping[Must, frozenset[str]]] = {  # all that a caller who must do something can do
    Must.PASSWORD_CHANGE: frozenset({"/api/v1/me", "/api/v1/me/password", PASSWORD_URL}),
    Must.SECOND_FACTOR: frozenset({"/api/v1/me", _FACTOR, f"{_FACTOR}/confirm", FACTOR_URL, FACTOR_CONFIRM_URL}),
}
_DUTIES: Final[Mapping[Must, tuple[type[Forbidden], str]]] = {
    Must.PASSWORD_CHANGE: (
        PasswordChangeRequired,
        "the password was given by somebody else, or is too old: change it first (POST /api/v1/me/password)",
    ),
    Must.SECOND_FACTOR: (
        SecondFactorSetupRequired,
        "who may do what you may has to have a second factor: set one up first (POST /api/v1/me/second-factor)",
    ),
}
_PAGES: Final = frozenset({PASSWORD_URL, FACTOR_URL, FACTOR_CONFIRM_URL, FACTOR_REMOVE_URL})  # whose forms are posted
_PROBES: Final = frozenset({"/health", "/ready", "/metrics"})
_POLICY_VIOLATION: Final = 1008  # RFC 6455 7.4.1


ENDED: Final = "vitalgrid.ended"  # in the message by which a live stream's client is gone: why, if its token is good no more


class Callers(Protocol):
    """Who holds an API token, or the token of a session."""

    async def caller_of(self, token: str, *, is_activity: bool = True) -> Caller:
        """The holder of `token`; raises Unauthenticated. With `is_activity` a session begins to idle anew."""
        ...

    async def until_ended(self, token: str, caller: Caller) -> tuple[str, str] | None:
        """Once `token`, which `caller` holds, is good no more, why: code and sentence. None once they have something else.

        At once when somebody ended the session, or changed what they have.
        """
        ...

    def forget(self, principal_id: str) -> None:
        """What is remembered of a principal holds no longer."""
        ...


class Authentication:
    """ASGI middleware: finds the caller of each request, or answers 401; OPEN_PATHS alone go without.

    A browser's session comes in a cookie. With it a request that changes something has to come from a page of ours.
    What is no request of HTTP is closed.
    """

    def __init__(self, app: ASGIApp, callers: Callers, cookie: str) -> None:
        self._app = app
        self._callers = callers
        self._cookie = cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # no route speaks it; one that did would be open to strangers
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
            return
        if scope["type"] == "lifespan" or scope["path"] in OPEN_PATHS:  # lifespan: the server itself
            await self._app(scope, receive, send)
            return
        try:
            token = self._token(scope)
            caller = scope[CALLER_KEY] = await self._callers.caller_of(token, is_activity=is_activity(scope))
            if BELIEVED_KEY in scope:
                scope[BELIEVED_KEY]()
            if caller.must is not None and scope["path"] not in _PATHS_OF[caller.must]:
                kind, says = _DUTIES[caller.must]
                raise kind(says)
        except VitalgridError as error:
            await _refusal(error, scope)(scope, receive, send)
            return
        if is_live(scope):
            await self._until(self._callers.until_ended(token, caller), scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _until(
        self, end_of_token: Coroutine[Any, Any, tuple[str, str] | None], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """A live stream ends with its session or token: for the application the client is gone then, and it hears why."""
        ended = asyncio.create_task(end_of_token, name="watch a live stream's token")

        async def received() -> Message:
            asking = asyncio.ensure_future(receive())
            try:
                await asyncio.wait({asking, ended}, return_when=asyncio.FIRST_COMPLETED)
                if asking.done():
                    return asking.result()
                why = None if ended.exception() is not None else ended.result()
                return {"type": "http.disconnect", ENDED: why}
            finally:
                asking.cancel()

        try:
            await self._app(scope, received, send)
        finally:
            await end(ended)

    def _token(self, scope: Scope) -> str:
        token = cookie_of(scope, self._cookie)
        if token is None or header(scope, b"authorization") is not None:
            return token_of(scope)
        if scope["method"] not in SAFE_METHODS and not is_same_origin(scope):
            raise Forbidden("the request comes with a cookie and from another site: expected one of this site's own pages")
        return token


def is_activity(scope: Scope) -> bool:
    """Whether a user is at work, rather than a page that asks by itself: live streams, probes, and who says so."""
    is_probe = scope["path"].removeprefix("/api/v1") in _PROBES
    return not (is_probe or is_live(scope) or header(scope, b"x-passive") == "1")


def is_live(scope: Scope) -> bool:
    """Whether the answer goes on for as long as the client stays."""
    return str(scope["path"]).startswith("/api/v1/live/")


def _refusal(error: VitalgridError, scope: Scope) -> Response:
    """A problem; for a person at a browser the page where it can be mended."""
    if is_page_wanted(scope) or scope["path"] in _PAGES:
        if isinstance(error, Unauthenticated):
            return to_login(scope, error.code)
        if isinstance(error, PasswordChangeRequired):
            return RedirectResponse(PASSWORD_URL, 303)
        if isinstance(error, SecondFactorSetupRequired):
            return RedirectResponse(FACTOR_URL, 303)
    response = problem_response(error, scope)
    if isinstance(error, Unauthenticated) and is_script(scope):
        response.headers.update(headers_of(response.status_code, is_page=True))
    return response


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
