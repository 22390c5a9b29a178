"""Serve an ASGI application inside a process of ours: our socket, our signals, our log."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any, Final

import uvicorn

from runtime.tasks import end
from runtime.tls import TakenUp

_SHUTDOWN_S: Final = 5
_HEADER_BYTES: Final = 16_384


@contextlib.asynccontextmanager
async def serving(app: Any, host: str, port: int, *, tls: TakenUp | None = None) -> AsyncIterator[int]:
    """Serve `app` while the context is open; yields the port (a free one when `port` is 0).

    The listening socket is bound at once, so the port is known before the first request. Raises OSError when it is
    taken. A certificate that is renewed meanwhile is taken up.
    """
    listener = _bind(host, port)
    async with serving_at(listener, app, tls=tls):
        yield listener.getsockname()[1]


@contextlib.asynccontextmanager
async def serving_at(listener: socket.socket, app: Any, *, tls: TakenUp | None = None) -> AsyncIterator[None]:
    """As `serving`, at a socket that listens already."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="on",
        loop="none",
        http="httptools",
        ws="none",
        server_header=False,
        proxy_headers=False,  # X-Forwarded-For says what its sender likes: guessing is counted by the socket's address
        timeout_graceful_shutdown=_SHUTDOWN_S,
        h11_max_incomplete_event_size=_HEADER_BYTES,
    )
    config.load()
    config.ssl = tls.context if tls is not None else None
    server = uvicorn.Server(config)
    # signals are handled by `cluster.processes.until_ended`, not by uvicorn
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
    task = asyncio.create_task(server.serve(sockets=[listener]), name=f"serve {listener.getsockname()}")
    keeping = asyncio.create_task(tls.keep(), name="keep TLS") if tls is not None else None
    try:
        while not server.started:
            if task.done():
                task.result()
                raise OSError(f"the server at {listener.getsockname()} did not start")
            await asyncio.sleep(0.01)
        yield
    finally:
        await end(keeping)
        server.should_exit = True
        await task


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(2048)
    return listener
