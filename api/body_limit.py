"""How large a request's body may be: small everywhere, but where files are taken; and never packed (gzip, …)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import BodyTooLarge, UnsupportedEncoding, problem_response

DEFAULT_BYTES: Final = 2 * 2**20
LARGER: Final[Mapping[str, int]] = {
    "/api/v1/fleets": 256 * 2**20,  # a hundred thousand devices are some 20 MB
    "/api/v1/devices/import": 64 * 2**20,
}


class BodyLimit:
    """ASGI middleware. A body that says it is packed or too large is refused unread; one that grows too large while it is
    read.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        encoding = next((value for name, value in scope["headers"] if name == b"content-encoding"), b"identity")
        if encoding.strip().lower() != b"identity":
            said = f"the body is encoded as {encoding[:40].decode('latin-1')!r}: expected none (RFC 9110 15.5.16)"
            refusal = problem_response(UnsupportedEncoding(said), scope)
            refusal.headers["Accept-Encoding"] = "identity"
            await refusal(scope, receive, send)
            return
        limit = LARGER.get(scope["path"], DEFAULT_BYTES)
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if announced.isdigit() and int(announced) > limit:
            await problem_response(_too_large(int(announced), limit), scope)(scope, receive, send)
            return
        await self._counted(limit, scope, receive, send)

    async def _counted(self, limit: int, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application on a body that is counted; once it is over `limit`, the answer is ours, not its."""
        read = 0
        has_answered = False

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > limit:
                raise _too_large(read, limit)
            return message

        async def unless_too_large(message: Message) -> None:
            nonlocal has_answered
            if read <= limit or has_answered:
                has_answered = True
                await send(message)

        try:
            await self._app(scope, counted, unless_too_large)
        except BodyTooLarge:
            if has_answered:
                raise
        if read > limit and not has_answered:
            await problem_response(_too_large(read, limit), scope)(scope, receive, send)


def _too_large(size: int, limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body holds {size} bytes or more: expected at most {limit} on this path")
