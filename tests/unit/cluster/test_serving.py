"""The server that all of our applications stand behind."""

from __future__ import annotations

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from api.forms import address_of
from cluster.serving import serving


@pytest.mark.clause("7.2a")
async def test_nobody_chooses_the_address_they_come_from() -> None:
    """Else each guess would come from another one."""

    async def tell_address(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            request = Request(scope)
            told = f"{address_of(request)} {request.url.scheme}"
            await PlainTextResponse(told)(scope, receive, send)
        elif (await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})

    async with serving(tell_address, "127.0.0.1", 0) as port, httpx.AsyncClient() as client:
        headers = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}
        answer = await client.get(f"http://127.0.0.1:{port}/", headers=headers)
    assert answer.text == "127.0.0.1 http"


def test_an_address_is_of_bearable_length() -> None:
    request = Request({"type": "http", "client": ("x" * 5_000, 1), "headers": []})
    assert address_of(request) == "x" * 64
