"""The HTTP side of a live stream: an ASGI response that sends what its subscription holds, as soon as it holds it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from api.auth import ENDED
from api.live.feed import Feed
from api.live.subscription import JUDGED_ANEW, Subscription
from api.scope_keys import SEND_KEY
from api.telemetry import Telemetry

logger = logging.getLogger(__name__)

_STALLED_S: Final = 30.0  # a client that takes not one byte for so long is gone
_HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class EventStream(Response):
    """Server-Sent Events of one subscription, until the client leaves, is too slow, or the server stops."""

    media_type = "text/event-stream"

    def __init__(self, feed: Feed, subscription: Subscription, name: str, telemetry: Telemetry) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers(_HEADERS)
        self._feed = feed
        self._subscription = subscription
        self._name = name
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Events go past the layers that have seen the stream begin: none does anything to them, and they are many."""
        clients = self._telemetry.live_clients.labels(self._name)
        clients.inc()
        watch = asyncio.create_task(self._until_gone(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            with contextlib.suppress(TimeoutError, OSError):
                await self._send_all(scope.get(SEND_KEY, send))
        finally:
            clients.dec()
            watch.cancel()
            if self._subscription.has_overflowed:
                self._telemetry.live_overflows.labels(self._name).inc()
                logger.warning("a live client was too slow and was disconnected", extra={"stream": self._name})
            await self._feed.leave(self._subscription)

    async def _send_all(self, send: Send) -> None:
        async with asyncio.timeout(None) as patience:
            watch = _Sends(patience)
            try:
                while (chunk := await self._subscription.take()) is not None:
                    watch.begins()
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                    watch.ends()
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            finally:
                watch.close()

    async def _until_gone(self, receive: Receive) -> None:
        while (message := await receive())["type"] != "http.disconnect":
            pass
        if ENDED in message:  # it is still there
            self._subscription.end(*(message[ENDED] or JUDGED_ANEW))
        self._subscription.close()


class _Sends:
    """Ends a stream whose send does not end: one look in _STALLED_S, where a timer for each send would cost as much as it."""

    def __init__(self, patience: asyncio.Timeout) -> None:
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._begun = 0
        self._is_under_way = False
        self._timer = self._loop.call_later(_STALLED_S, self._look, 0)

    def begins(self) -> None:
        self._begun += 1
        self._is_under_way = True

    def ends(self) -> None:
        self._is_under_way = False

    def close(self) -> None:
        self._timer.cancel()

    def _look(self, begun: int) -> None:
        if self._is_under_way and self._begun == begun:
            self._patience.reschedule(self._loop.time())
            return
        self._timer = self._loop.call_later(_STALLED_S, self._look, self._begun)
