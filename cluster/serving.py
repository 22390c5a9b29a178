"""Serve an ASGI application inside a process of ours: our socket, our signals, our log, our limits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, Final, cast

import uvicorn
from uvicorn.server import ServerState

from cluster.http_protocol import HttpLimits, LimitedHttp
from gateways.listener import Guest, Listener, ListenerLimits, bound
from runtime.tasks import end
from runtime.tls import TakenUp

logger = logging.getLogger(__name__)

_SHUTDOWN_S: Final = 5
_LOOK_S: Final = 0.5


@contextlib.asynccontextmanager
async def serving(
    app: Any,
    host: str,
    port: int,
    *,
    tls: TakenUp | None = None,
    limits: ListenerLimits | None = None,
    http: HttpLimits | None = None,
) -> AsyncIterator[int]:
    """Serve `app` while the context is open; yields the port (a free one when `port` is 0).

    The listening socket is bound at once, so the port is known before the first request. Raises OSError when it is
    taken. A certificate that is renewed meanwhile is taken up.
    """
    listening = bound(host, port)
    async with serving_at(listening, app, tls=tls, limits=limits, http=http):
        yield int(listening.getsockname()[1])


@contextlib.asynccontextmanager
async def serving_at(
    listening: socket.socket, app: Any, *, tls: TakenUp | None = None, limits: ListenerLimits | None = None,
    http: HttpLimits | None = None,
) -> AsyncIterator[None]:  # fmt: skip
    """As `serving`, at a socket that listens already."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="on",
        loop="none",
        http=LimitedHttp,
        ws="none",
        server_header=False,
        headers=[("x-content-type-options", "nosniff")],  # what is answered is what it says it is
        proxy_headers=False,  # X-Forwarded-For says what its sender likes: `api.proxies` knows whom to believe
        timeout_graceful_shutdown=_SHUTDOWN_S,
    )
    config.load()
    server = _Server(config, limits or ListenerLimits(), http or HttpLimits(), tls.context if tls is not None else None)
    # signals are handled by `cluster.processes.until_ended`, not by uvicorn
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
    task = asyncio.create_task(server.serve(sockets=[listening]), name=f"serve {listening.getsockname()}")
    keeping = asyncio.create_task(tls.keep(), name="keep TLS") if tls is not None else None
    try:
        while not server.started:
            if task.done():
                task.result()
                raise OSError(f"the server at {listening.getsockname()} did not start")
            await asyncio.sleep(0.01)
        yield
    finally:
        await end(keeping)
        server.should_exit = True
        try:
            await task
        finally:
            listening.close()  # the listener's to close, if it ever had it


class _Server(uvicorn.Server):
    """uvicorn's, over a listener of ours: who is let in, and for how long, is not its business."""

    def __init__(self, config: uvicorn.Config, limits: ListenerLimits, http: HttpLimits, tls: ssl.SSLContext | None) -> None:
        super().__init__(config)
        self._limits = limits
        self._http = http
        self._tls = tls

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        if self.lifespan.should_exit or not sockets:
            raise OSError("the application did not start")
        make = partial(_protocol, self.config, self.server_state, self.lifespan.state, self._http)
        listener = Listener(make, self._limits, self._tls, refused=self._http.cut)
        listener.start(sockets[0])
        self.servers = [cast("asyncio.Server", listener)]
        self.started = True

    async def main_loop(self) -> None:
        looking = asyncio.create_task(self._look_after(), name="look after connections")
        try:
            await super().main_loop()
        finally:
            await end(looking)

    async def _look_after(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_LOOK_S)
            self._look_at_all(loop.time())

    def _look_at_all(self, now_s: float) -> None:
        """In a call of its own: a variable of one that goes on would keep the last connection, with its buffers."""
        for connection in cast("list[LimitedHttp]", list(self.server_state.connections)):
            try:
                connection.look_after(now_s)
            except Exception:  # whatever it was: nobody would be ended any more, however long they take
                logger.exception("a connection could not be looked after, and is ended")
                connection.transport.abort()


def _protocol(
    config: uvicorn.Config, state: ServerState, app_state: dict[str, Any], limits: HttpLimits, guest: Guest
) -> LimitedHttp:
    return LimitedHttp(guest, limits, config=config, server_state=state, app_state=app_state)
