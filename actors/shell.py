"""The only Ray actor of the platform: a process that hosts shards.

Ray places, starts and restarts it; readings never pass through Ray. Its heartbeat comes from a thread of its own
with its own connection, so that a long turn does not look like a death.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import ray

from actors.host import Host, HostPolicy
from domain import subjects
from domain.messages import encode
from runtime.bus import Bus
from runtime.bus_access import BusKey
from runtime.clock import SystemClock
from runtime.garbage import look_seldom
from runtime.key_provider import provider_in
from runtime.lake import Lake
from runtime.log import configure_logging
from runtime.priority import share_finely
from runtime.private_folder import OWNER_ONLY
from runtime.sealed_file import FileSeal
from runtime.snapshots import SnapshotStore

logger = logging.getLogger(__name__)

_HEARTBEAT_S: Final = 1.0
_PULSE: Final = "pulse"


@dataclass(frozen=True, slots=True)
class HostConfig:
    """Everything a host process is told at its start. `bus_key` may be a secret: never logged."""

    name: str
    nats_url: str
    bus_key: BusKey = field(repr=False)
    lake_dir: Path
    snapshot_dir: Path
    keys_dir: Path
    seals_files: bool
    policy: HostPolicy
    log_level: str = "INFO"
    log_format: str = "text"
    log_file: Path | None = None


class HostShell:
    """Hosts one `Host`. The supervisor replaces a dead shell by a new one; state comes from snapshots and the stream."""

    def __init__(self, config: HostConfig) -> None:
        os.umask(OWNER_ONLY)  # on another machine of Ray's it is what somebody's shell had
        share_finely()
        configure_logging(config.log_level, config.log_format, config.log_file)
        self._config = config
        self._host: Host | None = None
        self._heart: threading.Thread | None = None
        self._stopping = threading.Event()
        self._stopped = asyncio.Event()

    async def start(self) -> int:
        """Connect, start the loops and the heartbeat; return the process id."""
        config = self._config
        clock = SystemClock()
        seal = FileSeal(provider_in(config.keys_dir), writes=config.seals_files)
        bus = await Bus.connect(config.nats_url, config.bus_key, config.name)
        self._bus = bus
        self._host = Host(
            config.name,
            bus=bus,
            lake=Lake(config.lake_dir, seal, writer=config.name),
            snapshots=SnapshotStore(config.snapshot_dir, seal=seal),
            clock=clock,
            policy=config.policy,
            pid=os.getpid(),
        )
        await self._host.start()
        await bus.answer(subjects.host_metrics(config.name), self._tell_metrics)
        look_seldom()
        self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._heart.start()
        return os.getpid()

    async def acquire(self, shard: int, epoch: int) -> None:
        await self._held().acquire(shard, epoch)

    async def release(self, shard: int) -> None:
        await self._held().release(shard)

    async def metrics(self) -> dict[str, Any]:
        """Counters of `HostMetrics`."""
        return self._held().metrics.report()

    @ray.method(concurrency_group=_PULSE)
    async def pulse(self) -> bytes:
        """A heartbeat for who does not hear it over the bus; on a loop of its own, so that turns do not hold it up."""
        return encode(self._held().heartbeat())

    async def _tell_metrics(self, _payload: bytes, _subject: str) -> bytes:
        return msgspec.json.encode(self._held().metrics.report())

    async def stop(self) -> None:
        """Commit, snapshot and disconnect. The process may be ended after this returns."""
        await self._held().stop()
        self._stopping.set()
        if self._heart is not None:
            await asyncio.to_thread(self._heart.join, 5.0)
        await self._bus.close()
        self._stopped.set()

    async def until_stopped(self) -> None:
        """Return after `stop`. A caller that awaits this learns of a death too: Ray fails the call then."""
        await self._stopped.wait()

    def _held(self) -> Host:
        assert self._host is not None, "the supervisor starts a shell before it uses it"
        return self._host

    def _beat(self) -> None:
        asyncio.run(self._beats())

    async def _beats(self) -> None:
        config, host = self._config, self._held()
        bus = await Bus.connect(config.nats_url, config.bus_key, f"{config.name}-heartbeat")
        while not self._stopping.is_set():
            with contextlib.suppress(OSError):
                await bus.core_publish(subjects.host_heartbeat(config.name), encode(host.heartbeat()))
            await asyncio.to_thread(self._stopping.wait, _HEARTBEAT_S)
        await bus.close()


# Wrapped once, beside the plain class, so that workers import the class by name instead of unpickling its globals.
_OPTIONS: Final[dict[str, Any]] = {
    "num_cpus": 0, "max_restarts": 0, "max_task_retries": 0, "concurrency_groups": {_PULSE: 1},
}  # fmt: skip
HostActor: Final[Any] = ray.remote(**_OPTIONS)(HostShell)
