"""An attacker: where it attacks, with what, and what it saw of it. What it does: `tests.attacks.floods`."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

SPACE_S: Final = 0.5  # between two drips
_ADDRESSES: Final = 4


@dataclass(frozen=True)
class Target:
    """Where, with what, and how hard. `users_token` and `devices_token` are an attacker's own, and good."""

    api: int
    http: int
    mqtt: int
    ca: str
    users_token: str
    devices_token: str
    device: str
    connections: int = 200
    busy: int = 32
    shares_address: bool = False


@dataclass
class Attacker:
    """`seen` counts what became of it: `opened`, `cut` (ended by the platform), and statuses that were answered."""

    target: Target
    seen: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._tls = ssl.create_default_context(cafile=self.target.ca) if self.target.ca else None
        self._number = itertools.count()

    async def open(self, port: int, *, plain: bool = False) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host = "127.0.0.1" if self.target.shares_address else f"127.0.0.{2 + next(self._number) % _ADDRESSES}"
        made = await asyncio.open_connection(
            "127.0.0.1", port, ssl=None if plain else self._tls, local_addr=(host, 0), ssl_handshake_timeout=None
        )
        self.seen["opened"] += 1
        return made

    async def often(self, count: int, once: Callable[[int], Awaitable[None]]) -> None:
        """`count` at a time, each again and again. That it is cut off is what an attacker expects."""

        async def one(number: int) -> None:
            while True:
                try:
                    await once(number)
                except (OSError, EOFError, TimeoutError):
                    self.seen["cut"] += 1
                    await asyncio.sleep(0.02)

        await asyncio.gather(*map(one, range(count)))

    async def hold(self, port: int, begun: bytes, drip: bytes, *, plain: bool = False) -> None:
        """A connection that says something of no end."""
        reader, writer = await self.open(port, plain=plain)
        try:
            writer.write(begun)
            while not reader.at_eof():
                writer.write(drip)
                await writer.drain()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(SPACE_S):
                        if not await reader.read(65_536):
                            break
            raise EOFError
        finally:
            writer.transport.abort()

    async def ask(self, port: int, request: bytes) -> None:
        """One request on a connection of its own; counts the status."""
        reader, writer = await self.open(port)
        try:
            writer.write(request)
            await self.status(reader)
        finally:
            writer.transport.abort()

    async def status(self, reader: asyncio.StreamReader) -> str:
        """The status that an answer begins with, counted."""
        line = await reader.readline()
        if not line:
            raise EOFError
        status = line[9:12].decode()
        self.seen[status] += 1
        return status


def request(method: str, path: str, token: str = "", body: bytes = b"", **headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: x", f"content-length: {len(body)}"]
    lines += [f"authorization: Bearer {token}"] if token else []
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def guess() -> str:
    return os.urandom(24).hex()
