"""The runner's side of a generator process: start it, give it its order, hear its news, end it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import msgspec

from domain.errors import Unavailable
from scenarios.generator_orders import Beat, Done, Failed, FromGenerator, Order, Ready, Start, Stop

_MAX_LINE_BYTES: Final = 64 * 2**20
_CONNECT_DEADLINE_S: Final = 300.0
_REPOSITORY: Final = Path(__file__).resolve().parent.parent
_decoder: Final[msgspec.json.Decoder[FromGenerator]] = msgspec.json.Decoder(FromGenerator)


class GeneratorHandle:
    """One generator process; `open` it, `start` the sending, iterate over `news`, and `close` it whatever happens."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log

    @classmethod
    async def open(cls, log: Path) -> GeneratorHandle:
        """Start the process; its stderr goes to `log`."""
        with log.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "scenarios.generator_process", stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE, stderr=errors, limit=_MAX_LINE_BYTES, cwd=_REPOSITORY,
                start_new_session=True,
            )  # fmt: skip
        return cls(process, log)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def connect(self, order: Order) -> Ready:
        """Give the order and wait until every sender is connected. Raises Unavailable with the reason."""
        await self._write(order)
        try:
            async with asyncio.timeout(_CONNECT_DEADLINE_S):
                news = await self._read()
        except TimeoutError:
            raise Unavailable(f"the generator did not connect within {_CONNECT_DEADLINE_S:.0f} s") from None
        if not isinstance(news, Ready):
            raise Unavailable(f"the generator cannot start: {self._words(news)}")
        return news

    async def start(self, start_us: int) -> None:
        await self._write(Start(start_us))

    async def stop(self) -> None:
        """Ask it to send nothing more; `news` still ends with `Done`."""
        with contextlib.suppress(OSError):
            await self._write(Stop())

    async def news(self) -> AsyncIterator[Beat | Done]:
        """Beats, then `Done`. Raises Unavailable when the generator fails on the way."""
        while True:
            news = await self._read()
            if isinstance(news, Beat | Done):
                yield news
                if isinstance(news, Done):
                    return
            else:
                raise Unavailable(f"the generator failed: {self._words(news)}")

    async def close(self) -> None:
        """End the process: by closing its orders, then by force."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            async with asyncio.timeout(10):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    async def _write(self, message: Order | Start | Stop) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(message) + b"\n")
        await self._process.stdin.drain()

    async def _read(self) -> FromGenerator | None:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        return _decoder.decode(line) if line else None

    def _words(self, news: FromGenerator | None) -> str:
        if isinstance(news, Failed):
            return news.reason
        tail = self._log.read_text(errors="replace")[-800:] if self._log.exists() else ""
        return f"it ended; its last words: {tail or 'none'}"
