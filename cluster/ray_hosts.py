"""Hosts as Ray actors: start Ray on this machine, launch shells, end them.

`cluster.ray_environment.prepare_ray` must have run before this module is imported.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ray
from ray.exceptions import RayError

from actors.shell import HostActor, HostConfig

_EXIT_S: Final = 5.0
_OBJECT_STORE_BYTES: Final = 80 * 2**20  # readings never pass through Ray


def start_ray() -> None:
    """Start a Ray of our own, on loopback and with a token of its own, without dashboard; its workers import this very code."""
    ray.init(
        address="local",
        num_cpus=os.cpu_count(),
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
        log_to_driver=False,
        logging_level=logging.ERROR,
        namespace="vitalgrid",
    )


def stop_ray() -> None:
    if ray.is_initialized():
        ray.shutdown()


@dataclass(slots=True)
class RayHost:
    """`cluster.supervisor.HostHandle` over a Ray actor."""

    name: str
    pid: int
    actor: Any

    async def acquire(self, shard: int, epoch: int) -> None:
        await self.actor.acquire.remote(shard, epoch)

    async def release(self, shard: int) -> None:
        await self.actor.release.remote(shard)

    async def metrics(self) -> dict[str, Any]:
        return dict(await self.actor.metrics.remote())

    async def stop(self) -> None:
        """Let it commit, snapshot and end by itself, so that nobody reports a death that is none."""
        await self.actor.stop.remote()
        self.actor.__ray_terminate__.remote()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_EXIT_S):
                while self.is_alive():  # noqa: ASYNC110 (a process tells nobody of its end)
                    await asyncio.sleep(0.05)

    def is_alive(self) -> bool:
        """Whether the process exists and is not a zombie."""
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return False
        return state != "Z"

    def kill(self) -> None:
        """End the process for certain, also one that is stopped or stuck. Nothing happens when it has ended."""
        if not self.is_alive():
            return
        with contextlib.suppress(RayError, ValueError):
            ray.kill(self.actor, no_restart=True)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self.is_alive():
                os.kill(self.pid, signal.SIGKILL)


def launcher(configure: Callable[[str], HostConfig]) -> Callable[[str], Any]:
    """An async function that launches the host of a name, told what `configure` says."""

    async def launch(name: str) -> RayHost:
        actor = HostActor.options(name=name, max_concurrency=64).remote(configure(name))
        async with asyncio.timeout(60):
            pid = await actor.start.remote()
        return RayHost(name, pid, actor)

    return launch
