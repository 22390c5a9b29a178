"""The outermost layer: gives each request an id (answered as X-Request-Id), measures it, and lets nobody keep its answer."""

from __future__ import annotations

import re
import time
import uuid
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.documentation import ASSETS_URL
from api.paths import template_of
from api.scope_keys import REQUEST_ID_KEY, SEND_KEY
from api.telemetry import Telemetry

# A UUID, or 32 hex digits such as a W3C trace id; with a letter in it, which no number of a person has.
_USABLE_ID: Final = re.compile(rb"(?=[0-9-]*[a-f])(?:[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\Z", re.I)


class RequestLog:
    """ASGI middleware. A caller's own X-Request-Id is kept when it is a UUID or 32 hex digits.

    It stands for ever in the access log, in clear: anything else may be somebody's name or number, and we make one.
    """

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app = app
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = scope[REQUEST_ID_KEY] = _request_id(scope)
        scope[SEND_KEY] = send
        started = time.perf_counter()

        async def observed(message: Message) -> None:
            if message["type"] == "http.response.start":
                seconds = time.perf_counter() - started
                self._telemetry.requests.labels(scope["method"], _route_of(scope), str(message["status"])).observe(seconds)
                headers = [(name, value) for name, value in message["headers"] if name.lower() != b"x-request-id"]
                message["headers"] = [*headers, *_kept_by_nobody(scope, headers), (b"x-request-id", request_id.encode())]
            await send(message)

        await self._app(scope, receive, observed)


def _request_id(scope: Scope) -> str:
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    return given.decode() if _USABLE_ID.match(given) else uuid.uuid4().hex


def _kept_by_nobody(scope: Scope, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """A browser or proxy would keep patients' records otherwise; a route that knows better says so itself."""
    if scope["path"].startswith(ASSETS_URL) or any(name.lower() == b"cache-control" for name, _ in headers):
        return []
    return [(b"cache-control", b"no-store")]


def _route_of(scope: Scope) -> str:
    """The route's template, so that ids do not become labels; unmatched paths share one label."""
    return template_of(scope) or "unmatched"
