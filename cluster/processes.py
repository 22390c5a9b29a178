"""Child processes of `vitalgrid up`: started, awaited until ready, restarted when they die, ended in order.

A child tells that it is ready by writing one JSON line to the pipe it is given; it ends by itself when its parent
is gone, so that nothing is left behind after a kill -9 of the parent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from domain.errors import Unavailable
from runtime.tasks import end

logger = logging.getLogger(__name__)

READY_FD: Final = "VITALGRID_READY_FD"
_READY_DEADLINE_S: Final = 90.0  # on a machine whose processors are all taken a child loads for long
_LOOK_S: Final = 0.1
_GRACE_S: Final = 15.0
_PARENT: Final = os.getppid()
_REPOSITORY: Final = Path(__file__).resolve().parent.parent


class ChildProcess:
    """One Python module run as a child. `told` is what it said when it became ready (its ports, for example)."""

    def __init__(self, module: str, environment: dict[str, str], log_file: Path) -> None:
        self.module = module
        self._environment = environment
        self._log_file = log_file
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self.told: dict[str, Any] = {}
        self.restarts = 0

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    async def start(self) -> dict[str, Any]:
        """Start, wait until it is ready, and keep it running from then on. Raises Unavailable with its last words."""
        await self._launch()
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {self.module}")
        return self.told

    def pin(self, environment: dict[str, str]) -> None:
        """Give later restarts `environment` too: ports that were free at first must stay the same."""
        self._environment = {**self._environment, **environment}

    async def stop(self) -> None:
        """Ask it to end, wait, then insist."""
        await end(self._keeper)
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(process.wait, _GRACE_S)
        except subprocess.TimeoutExpired:
            logger.warning("a process did not end in time and is killed", extra={"child": self.module})
            process.kill()
            await asyncio.to_thread(process.wait)

    async def _launch(self) -> None:
        reader, writer = os.pipe()
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603, ASYNC220 (our own module; it only forks here)
                [sys.executable, "-m", "cluster.child", self.module],
                env={**os.environ, **self._environment, READY_FD: str(writer)},
                pass_fds=(writer,), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd=Path.cwd(), start_new_session=True,
            )  # fmt: skip
        os.close(writer)
        try:
            async with asyncio.timeout(_READY_DEADLINE_S):
                line = await asyncio.to_thread(_read_line, reader)
        except TimeoutError:
            line = b""
        if not line:
            self._process.kill()
            last_words = self._log_file.read_text(errors="replace")[-600:]
            raise Unavailable(f"{self.module} did not start; its last words: {last_words}")
        self.told = msgspec.json.decode(line)

    async def _keep(self) -> None:
        delay_s = 0.5
        while True:
            assert self._process is not None
            code = await _ended(self._process)
            logger.warning("a process ended and is started again", extra={"child": self.module, "exit_code": code})
            self.restarts += 1
            try:
                await self._launch()
                delay_s = 0.5
            except (Unavailable, OSError) as error:
                logger.error("a process cannot be started: %s", error, extra={"child": self.module})
                delay_s = min(delay_s * 2, 15.0)
            await asyncio.sleep(delay_s)


async def _ended(process: subprocess.Popen[bytes]) -> int:
    """Its exit code, once it has ended. No thread waits for it: the loop has few, and each would be taken for good."""
    while (code := process.poll()) is None:  # noqa: ASYNC110 (the kernel tells nobody here)
        await asyncio.sleep(_LOOK_S)
    return code


def _read_line(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as pipe:
        return pipe.readline()


def tell_ready(**facts: Any) -> None:
    """Called by a child once it serves: tell the parent, with ports and the like."""
    descriptor = os.environ.get(READY_FD)
    if descriptor is not None:
        with os.fdopen(int(descriptor), "wb") as pipe:
            pipe.write(msgspec.json.encode(facts) + b"\n")


async def until_ended() -> None:
    """For children: return when this process is asked to end (SIGTERM, SIGINT) or its parent is gone, which the log says."""
    asked = _asked()
    while not asked.is_set() and os.getppid() == _PARENT:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await asked.wait()
    if not asked.is_set():
        logger.warning("this process ends: the one that started it, %d, is gone", _PARENT)


async def until_asked() -> None:
    """For commands: return when this process is asked to end. Whoever started it may go."""
    await _asked().wait()


def _asked() -> asyncio.Event:
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, asked.set)
    return asked
