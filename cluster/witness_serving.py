"""A witness's HTTP interface (C2SP tlog-witness): what is asked comes to `runtime.witness`, one request after the other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from domain.cosignatures import ADD_CHECKPOINT
from domain.errors import VitalgridError
from runtime.witness import Answer, Witness

logger = logging.getLogger(__name__)

_MOST_BYTES: Final = 64 * 1024
_Receive = Callable[[], Awaitable[dict[str, Any]]]
_Send = Callable[[dict[str, Any]], Awaitable[None]]


class WitnessApp:
    """ASGI. While `witness` is None (it could not be opened) everything is answered 503."""

    def __init__(self) -> None:
        self.witness: Witness | None = None

    async def __call__(self, scope: dict[str, Any], receive: _Receive, send: _Send) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        answer = await self._answer(scope["method"], scope["path"], receive)
        headers = [(b"content-type", answer.media_type.encode()), (b"content-length", b"%d" % len(answer.body))]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _answer(self, method: str, path: str, receive: _Receive) -> Answer:
        body = await _body(receive)
        if body is None:
            return Answer(413, b"a submission is no longer than 64 KiB\n")
        witness = self.witness
        try:
            if witness is None:
                return Answer(503, b"this witness does not sign now: its log says why\n")
            if (method, path) == ("POST", ADD_CHECKPOINT):
                return await asyncio.to_thread(witness.add_checkpoint, body)
            if method == "GET" and path.endswith("/checkpoint"):
                return await asyncio.to_thread(witness.checkpoint, path)
            return Answer(404, b"expected POST /add-checkpoint or GET /<hash of an origin>/checkpoint\n")
        except (VitalgridError, OSError) as error:
            logger.error("a submission was not answered: %s", error)
            return Answer(503, f"{error}\n".encode())


async def _body(receive: _Receive) -> bytes | None:
    """What was sent; None when it is longer than any submission."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > _MOST_BYTES:
            return None
        if not message.get("more_body"):
            return bytes(body)
