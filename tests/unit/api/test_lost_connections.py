"""Of a connection that is gone nothing is left, whatever it asked of the whole application. Clause 9.1b."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref

import pytest
from fastapi import FastAPI

import cluster.serving
from cluster.http_protocol import LimitedHttp
from cluster.serving import serving
from tests.callers import TOKEN
from tests.waiting import until

_HEAD = "{} /api/v1/{} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n{}\r\n"


def asked(method: str, path: str, token: str = TOKEN, body: bytes = b"", more: str = "") -> bytes:
    return _HEAD.format(method, path, token, f"{more}content-length: {len(body)}\r\n").encode() + body


@pytest.mark.clause("9.1b")
@pytest.mark.parametrize(
    "request_",
    [
        asked("GET", "hospitals"),
        asked("GET", "hospitals/sz.none"),
        asked("GET", "hospitals?limit=x"),
        asked("GET", "hospitals", "nobody's"),
        asked("POST", "hospitals", body=b"[" * 50_000),
        asked("POST", "hospitals", body=b"\x1f\x8b", more="content-encoding: gzip\r\n"),
        asked("POST", "hospitals", body=b" " * 3_000_000),
    ],
    ids=["answered", "unknown", "wrong", "stranger", "deep", "packed", "large"],
)
async def test_nothing_is_left_of_it_before_python_looks_for_cycles(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch, request_: bytes
) -> None:
    """With TLS each connection has a quarter of a megabyte of buffers, and our processes look for cycles seldom."""
    ours: weakref.WeakSet[LimitedHttp] = weakref.WeakSet()

    class Noted(LimitedHttp):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            ours.add(self)
            super().connection_made(transport)

    monkeypatch.setattr(cluster.serving, "LimitedHttp", Noted)
    gc.collect()
    gc.disable()
    try:
        async with serving(app, "127.0.0.1", 0) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request_)
            with contextlib.suppress(ConnectionError):
                assert (await reader.readline()).startswith(b"HTTP/1.1")
            writer.transport.abort()
            await until(lambda: not ours)
    finally:
        gc.enable()
