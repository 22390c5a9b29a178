"""An application that answers at once, late or never, and the server that is tried with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from api.scope_keys import BELIEVED_KEY, GONE_KEY
from cluster.http_protocol import HttpLimits
from cluster.serving import serving
from gateways.listener import ListenerLimits

SHORT = HttpLimits(header_timeout_s=0.3, body_grace_s=0.3, body_bytes_a_s=1_000, write_timeout_s=0.3, max_header_bytes=4_096)
PATIENT = replace(
    SHORT, header_timeout_s=1.0, body_grace_s=1.0, write_timeout_s=1.0
)  # of who is in time, on a busy machine too


async def length(request: Request) -> Response:
    with contextlib.suppress(ClientDisconnect):
        return PlainTextResponse(str(len(await request.body())))
    return Response(status_code=400)


async def large(request: Request) -> Response:
    return PlainTextResponse("x" * 20_000_000)


async def refused(request: Request) -> Response:
    return Response(status_code=int(request.query_params["with"]))


async def fields(request: Request) -> Response:
    """The names in the header, once the body is there."""
    await request.body()
    return PlainTextResponse(" ".join(sorted(request.headers)))


async def late(request: Request) -> Response:
    """After more than a header's or a body's deadline (`PATIENT`), and two looks."""
    await asyncio.sleep(2.2)
    await request.body()
    return PlainTextResponse("late")


async def later(request: Request) -> Response:
    """Once the test lets it."""
    stage: Stage = request.app.state.stage
    stage.asked += 1
    await stage.may_answer.wait()
    stage.answered += 1
    return PlainTextResponse("later")


async def believed(request: Request) -> Response:
    request.scope[BELIEVED_KEY]()
    return await later(request)


async def large_later(request: Request) -> Response:
    await later(request)
    return await large(request)


async def looking(request: Request) -> Response:
    """Once the test lets it, much to whoever is not there any more."""
    await later(request)
    has_left = request.scope[GONE_KEY]()
    request.app.state.stage.left += has_left
    return await large(request) if has_left else PlainTextResponse("there")


async def early(request: Request) -> Response:
    return Response(status_code=403)


async def certificate(request: Request) -> Response:
    return JSONResponse(request.scope.get("extensions"))


ROUTES = [
    Route("/", length, methods=["GET", "POST"]),
    Route("/large", large),
    Route("/refused", refused, methods=["GET", "POST"]),
    Route("/extensions", certificate),
    Route("/early", early, methods=["POST"]),
    Route("/later", later),
    Route("/believed", believed),
    Route("/large-later", large_later),
    Route("/looking", looking),
    Route("/late", late, methods=["GET", "POST"]),
    Route("/fields", fields, methods=["POST"]),
]


@dataclass
class Stage:
    port: int
    limits: HttpLimits
    asked: int = 0  # for what is answered later
    answered: int = 0  # of those
    left: int = 0  # of those, when they were looked at
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)

    async def peer(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def answer(self, sent: bytes) -> bytes:
        """All that comes back until the connection ends."""
        reader, writer = await self.peer()
        writer.write(sent)
        answer = b""
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionResetError):
                while more := await reader.read(65_536):
                    answer += more
        writer.transport.abort()
        return answer


@asynccontextmanager
async def served(limits: HttpLimits = SHORT, at_the_port: ListenerLimits | None = None) -> AsyncIterator[Stage]:
    own = replace(limits, cut=type(limits.cut)())
    app = Starlette(routes=ROUTES)
    async with serving(app, "127.0.0.1", 0, http=own, limits=at_the_port) as port:
        app.state.stage = Stage(port, own)
        yield app.state.stage
