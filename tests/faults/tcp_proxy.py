"""A TCP proxy that disturbs: delay, narrow links, cuts, silence, resets. For tests; asyncio, one event loop.

    proxy = TcpProxy(lambda: ("127.0.0.1", 4222))
    await proxy.start(port)
    proxy.condition = Condition.of("slow")

A condition holds for every connection, old and new, from the moment it is set; setting CLEAR heals the link.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_CHUNK: Final = 16_384
_LINGER_NONE: Final = struct.pack("ii", 1, 0)  # closing sends RST


@dataclass(frozen=True, slots=True)
class Condition:
    """How a link is. `silent`: connections stay open and nothing passes; `refuses`: new connections are closed."""

    delay_s: float = 0.0
    bytes_per_s: float = 0.0  # 0: as fast as it goes
    silent: bool = False
    refuses: bool = False


CLEAR: Final = Condition()
CONDITIONS: Final[dict[str, Condition]] = {
    "slow": Condition(delay_s=0.2),
    "narrow": Condition(bytes_per_s=20_000.0),
    "cut": Condition(refuses=True),  # connections end properly, and no new one is let in
    "blackhole": Condition(silent=True),  # half-open: nobody is told that nothing arrives
    "reset": CLEAR,  # once, at the moment it begins
}


class TcpProxy:
    """See module. `target` is asked for each new connection, so that what it leads to may move."""

    def __init__(self, target: Callable[[], tuple[str, int]]) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.condition = CLEAR
        self.port = 0

    async def start(self, port: int = 0) -> int:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", port)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self.port

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for link in list(self._links):
            link.end(reset=False)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def disturb(self, name: str) -> None:
        """Let the condition of that name begin."""
        self.condition = CONDITIONS[name]
        if name in ("cut", "reset"):
            for link in list(self._links):
                link.end(reset=name == "reset")

    def heal(self) -> None:
        """Links pass again. What a black hole swallowed is delivered late, as TCP would."""
        self.condition = CLEAR

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._lead(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.condition.refuses:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target())
        except OSError:
            writer.transport.abort()
            return
        link = _Link((writer, far_writer))
        if self.condition.refuses:  # it was cut meanwhile
            link.end(reset=False)
            return
        self._links.add(link)
        ways = [asyncio.create_task(self._pass(*way)) for way in ((reader, far_writer), (far_reader, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._links.discard(link)
            link.end(reset=False)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Chunks in order, each no earlier than its delay after it came. Ends both ways with the first end."""
        loop = asyncio.get_running_loop()
        chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=256)

        async def take() -> None:
            with contextlib.suppress(OSError):
                while data := await reader.read(_CHUNK):
                    await chunks.put((loop.time(), data))
            await chunks.put((loop.time(), b""))

        taking = asyncio.create_task(take())
        try:
            while True:
                came_s, data = await chunks.get()
                await self._hold(came_s, len(data))
                if not data:
                    return
                writer.write(data)
                await writer.drain()
        finally:
            taking.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await taking

    async def _hold(self, came_s: float, size: int) -> None:
        loop = asyncio.get_running_loop()
        while self.condition.silent:  # noqa: ASYNC110 (set from outside; a link has no other clock)
            await asyncio.sleep(0.02)
        condition = self.condition
        wait_s = came_s + condition.delay_s - loop.time()
        if condition.bytes_per_s:
            wait_s = max(wait_s, 0.0) + size / condition.bytes_per_s
        if wait_s > 0:
            await asyncio.sleep(wait_s)


class _Link:
    def __init__(self, writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter]) -> None:
        self._writers = writers

    def end(self, *, reset: bool) -> None:
        for writer in self._writers:
            found = writer.get_extra_info("socket")
            if reset and found is not None:
                with contextlib.suppress(OSError):
                    found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
            writer.transport.abort()
