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

import msgspec
import psutil
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.shell import HostActor, HostConfig
from cluster.ray_environment import check_ray_tls
from cluster.ray_folder import RayFolder
from domain.errors import Unavailable
from domain.messages import HostHeartbeat
from runtime.process_look import ProcessLook, is_running, look_at

logger = logging.getLogger(__name__)

_RAY_PROCESSES: Final = {"raylet", "gcs_server"}
_EXIT_S: Final = 5.0
_LAUNCH_S: Final = 60.0
_SAYS_CHARS: Final = 400
_OBJECT_STORE_BYTES: Final = 80 * 2**20  # readings never pass through Ray


def start_ray(folder: Path | None, address: str | None = None) -> None:
    """Start a Ray of our own, on loopback and with a token of its own, without dashboard; its workers import this very code.

    Sockets and logs are in `folder`, a short path that nobody else can reach (`cluster.ray_folder`).

    With `address`: join the Ray that runs there, whose token is in the environment and whose nodes have this code. Whether it
    speaks TLS, and by which certificate, is in the environment too; the certificate has to be there by now.

    Raises Unavailable when it does not start.
    """
    quietly: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": "vitalgrid"}
    own: dict[str, Any] = {"num_cpus": os.cpu_count(), "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    own["_temp_dir"] = str(folder)
    check_ray_tls()
    try:
        ray.init(address=address or "local", **quietly, **({} if address else own))
    except Exception as error:  # Ray raises plain Exceptions, for whatever it was
        says = " ".join(str(error).split()) or type(error).__name__
        raise Unavailable(f"Ray did not start{f' ({address})' if address else ''}: {says[:_SAYS_CHARS]}") from error


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

    async def pulse(self) -> HostHeartbeat:
        """A heartbeat through Ray, which a long turn does not hold up, nor a bus that is away."""
        return msgspec.json.decode(await self.actor.pulse.remote(), type=HostHeartbeat)

    async def stop(self) -> None:
        """Let it commit, snapshot and end by itself, so that nobody reports a death that is none."""
        await self.actor.stop.remote()
        self.actor.__ray_terminate__.remote()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_EXIT_S):
                while self.is_alive():  # noqa: ASYNC110 (a process tells nobody of its end)
                    await asyncio.sleep(0.05)

    async def ended(self) -> None:
        """Return when the process has ended, as Ray tells its callers at once."""
        with contextlib.suppress(Exception):  # Ray names a death in several ways, and each of them is one
            await self.actor.until_stopped.remote()

    def is_alive(self) -> bool:
        """Whether the process exists and is not a zombie."""
        return is_running(self.pid)

    def look(self) -> ProcessLook | None:
        return look_at(self.pid)

    def kill(self) -> None:
        """End the process for certain, also one that is stopped or stuck, without asking Ray, which may be what has died."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self.is_alive():
                os.kill(self.pid, signal.SIGKILL)


def alive_nodes() -> list[str]:
    """Ids of the nodes that Ray believes alive."""
    return [node["NodeID"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def is_ray_alive() -> bool:
    """Whether the processes of our Ray that no host can start without are there."""
    found = set()
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.status() != psutil.STATUS_ZOMBIE:
                found.add(child.name())
    return found >= _RAY_PROCESSES


async def _start(actor: Any) -> int:
    return int(await actor.start.remote())


class RayLauncher:
    """Launches hosts, told what `configure` says of a name, and starts Ray again when it has died.

    Hosts that outlive their Ray are ended with it: nobody could speak to them any more. And this process would end by
    itself a minute after the loss of `gcs_server`. A Ray that was joined (`address`) is started again by whoever runs it.
    """

    def __init__(self, configure: Callable[[str], HostConfig], folder: RayFolder, address: str | None = None) -> None:
        self._configure = configure
        self._folder = folder
        self._address = address
        self._launched: list[RayHost] = []
        self._node_of: dict[str, str] = {}  # host -> where it was to start
        self._reviving = asyncio.Lock()
        self._died = asyncio.Event()  # set once the Ray of now has died

    def start(self) -> None:
        """Start Ray, or join it. Raises Unavailable."""
        start_ray(None if self._address else self._folder.renew(), self._address)

    def stop(self) -> None:
        """Stop Ray, and leave nothing of it."""
        stop_ray()
        self._folder.remove()

    async def launch(self, name: str) -> RayHost:
        """Start the host `name` and return once it is connected.

        Raises Unavailable when Ray dies meanwhile, the host breaks, or it takes too long.
        """
        await self.revive()
        node = self._choose_node(name, await asyncio.to_thread(alive_nodes))
        options = {"name": name, "max_concurrency": 64, "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=True)}
        actor = HostActor.options(**options).remote(self._configure(name))
        host = RayHost(name, await self._started(actor), actor)
        self._launched = [host, *(other for other in self._launched if other.is_alive())]
        return host

    def _choose_node(self, name: str, nodes: list[str]) -> str:
        """The node with the fewest hosts. Ray's own spreading may put two hosts that start together on one."""
        for host in self._launched:
            if not host.is_alive():
                self._node_of.pop(host.name, None)
        self._node_of.pop(name, None)
        taken = list(self._node_of.values())
        self._node_of[name] = min(nodes, key=taken.count)
        return self._node_of[name]

    async def _started(self, actor: Any) -> int:
        """The pid of the actor's process. Nobody would ever answer for one whose Ray has died."""
        starting, dying = asyncio.ensure_future(_start(actor)), asyncio.ensure_future(self._died.wait())
        try:
            await asyncio.wait({starting, dying}, timeout=_LAUNCH_S, return_when=asyncio.FIRST_COMPLETED)
            if dying.done():
                raise Unavailable("Ray died while a host was starting: it is to be started anew")
            if not starting.done():
                raise Unavailable(f"a host did not start within {_LAUNCH_S:g} s: is the machine short of memory or processor?")
            return starting.result()
        except RayError as error:
            raise Unavailable(f"a host did not start: {type(error).__name__}; log/hosts.log may say more") from error
        finally:
            starting.cancel()
            dying.cancel()

    async def revive(self) -> bool:
        """Start Ray again if it has died; whether it had."""
        async with self._reviving:
            if self._address is not None or await asyncio.to_thread(is_ray_alive):
                return False
            logger.error("Ray has died and is started again, and its hosts too")
            self._died.set()
            self._died = asyncio.Event()
            for host in self._launched:
                host.kill()
            self._launched.clear()
            self._node_of.clear()
            await asyncio.to_thread(stop_ray)
            await asyncio.to_thread(self.start)
            return True
