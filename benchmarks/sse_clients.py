"""Many clients of a live stream in one process: each a connection that counts what it gets and looks no closer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from scenarios.target import Target

_ALARM: Final = b"event: alarm\n"
_AT_ONCE: Final = 50


class SseClient(asyncio.Protocol):
    """One connection to one path. `alarms`, `heartbeats` count events; `silence_s` is the longest time without any."""

    def __init__(self, path: str, token: str, host: str) -> None:
        head = (f"GET {path} HTTP/1.1", f"Host: {host}", f"Authorization: Bearer {token}", "Accept: text/event-stream", "", "")
        self._request = "\r\n".join(head).encode()
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.alarms = 0
        self.heartbeats = 0
        self.readings = 0
        self.received_bytes = 0
        self.silence_s = 0.0
        self.overflows = 0
        self.is_lost = False
        self._heard_s = 0.0
        self._rest = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's are none of asyncio's classes
        assert self._transport is not None
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now_s = time.perf_counter()
        if not self.opened.done():
            if not data.startswith(b"HTTP/1.1 200"):
                self.opened.set_exception(ConnectionError(data[:200].decode(errors="replace")))
                return
            self.opened.set_result(None)
        else:
            self.silence_s = max(self.silence_s, now_s - self._heard_s)
        self._heard_s = now_s
        self.received_bytes += len(data)
        data = self._rest + data
        self.alarms += data.count(_ALARM)
        self.heartbeats += data.count(b"event: heartbeat\n")
        self.readings += data.count(b"event: readings\n")
        self.overflows += data.count(b"event: overflow\n")
        end = data.rfind(b"\n") + 1
        self._rest = data[end:][-64:] if end else data[-64:]

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        if not self.opened.done():
            self.opened.set_exception(exc or ConnectionError("the connection was closed before it was answered"))

    def start_anew(self) -> None:
        """Count from now on."""
        self.alarms = self.heartbeats = self.readings = self.received_bytes = 0
        self.silence_s, self._heard_s = 0.0, time.perf_counter()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


@dataclass
class Screens:
    """Clients by the path that each looks at."""

    target: Target
    all: list[SseClient] = field(default_factory=list)

    async def open(self, paths: Sequence[str]) -> None:
        address = urlsplit(self.target.api_url)
        loop, tls = asyncio.get_running_loop(), self.target.api_trust and self.target.api_trust.context()
        made = [SseClient(f"/api/v1{path}", self.target.token, address.netloc) for path in paths]
        for start in range(0, len(made), _AT_ONCE):
            some = made[start : start + _AT_ONCE]
            await asyncio.gather(
                *(loop.create_connection(lambda c=c: c, address.hostname, address.port, ssl=tls) for c in some)
            )  # type: ignore[misc]
            await asyncio.gather(*(client.opened for client in some))
        self.all += made

    def close(self) -> None:
        for client in self.all:
            client.close()

    def sum(self, figure: Callable[[SseClient], int]) -> int:
        return sum(map(figure, self.all))
