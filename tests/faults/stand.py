"""The platform that faults happen to: `vitalgrid up` on ports that stay, its links led through proxies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import psutil

from domain.errors import Unavailable
from tests.faults.tcp_proxy import TcpProxy
from tests.faults.two_raylets import TwoRaylets
from tests.running_platform import RunningPlatform, start_platform

HOOKS: Final = Path(__file__).resolve().parent / "hooks"
DOOR_LINK: Final = "senders"
BUS_LINKS: Final = ("host", "doors", "api", "supervisor", "queries")  # parts of connections' names
_PORTS: Final = range(20_000, 32_000)
NODE: Final = "node"  # a raylet of `TwoRaylets` other than its first, and with it the hosts it runs
LINKS: Final = (DOOR_LINK, *BUS_LINKS)


class Stand:
    """One data directory and the platform in it. `start`, any number of faults and `restart`s, `close`.

    `links`: what can be cut, by name. `broken`: variants of `hooks/broken_variants.py`. `raylets`: the nodes that run its
    hosts, in place of a Ray of its own.
    """

    def __init__(
        self, data_dir: Path, *, broken: tuple[str, ...] = (), proxied: bool = True, raylets: TwoRaylets | None = None,
        **settings: str,
    ) -> None:  # fmt: skip
        self.data_dir = data_dir
        self._broken = broken
        self._proxied = proxied
        self.raylets = raylets
        self._settings = settings
        self._ports = dict(zip(("bus", "mqtt", "http", "api"), _free_ports(4), strict=True))
        self.links: dict[str, TcpProxy] = {}
        self.platform: RunningPlatform | None = None
        self.starts = 0

    @property
    def running(self) -> RunningPlatform:
        assert self.platform is not None, "start comes first"
        return self.platform

    @property
    def is_sound(self) -> bool:
        """Whether nothing of it is broken on purpose."""
        return not self._broken

    @property
    def clock_file(self) -> Path:
        return self.data_dir.parent / f"{self.data_dir.name}.clock"

    @property
    def lake_dir(self) -> Path:
        return self.data_dir / "lake" / "readings"

    @property
    def door_port(self) -> int:
        """Where senders connect to."""
        return self.links[DOOR_LINK].port if self._proxied else self._ports["mqtt"]

    @property
    def bus_url(self) -> str:
        """The nats-server itself, past every proxy."""
        return f"nats://127.0.0.1:{self._ports['bus']}"

    async def start(self) -> RunningPlatform:
        for name in LINKS if self._proxied and not self.links else ():
            port = self._ports["mqtt" if name == DOOR_LINK else "bus"]
            self.links[name] = TcpProxy(lambda port=port: ("127.0.0.1", port))  # type: ignore[misc]
            await self.links[name].start()
        if self.raylets is not None and not self.raylets.address:
            await self.raylets.start(self._environment())
        starting = asyncio.ensure_future(
            asyncio.to_thread(start_platform, self.data_dir, self._environment(), **self._all_settings())
        )
        try:
            self.platform = await asyncio.shield(starting)
        except asyncio.CancelledError:  # it starts all the same, and must not live on beside the next
            (await starting).kill()
            raise
        self.starts += 1
        return self.platform

    async def close(self) -> int | None:
        """Stop as a person would; the exit code, or None where nothing ran."""
        code = None
        if self.platform is not None and self.platform.process.poll() is None:
            code = await asyncio.to_thread(self.platform.stop)
        if self.raylets is not None:
            await self.raylets.close()
        for proxy in self.links.values():
            await proxy.close()
        return code

    async def kill_whole(self) -> None:
        """kill -9 of everything at once, as far as the machine allows."""
        family = self.family()
        for process in family:
            _signal(process, signal.SIGKILL)
        await asyncio.to_thread(psutil.wait_procs, family, 10)
        await asyncio.to_thread(self.running.process.wait)

    def family(self) -> list[psutil.Process]:
        """Every process of the platform."""
        pids = {self.running.process.pid, *self._known().values()}
        found: dict[int, psutil.Process] = {}
        for pid in pids - {0}:
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                found |= {one.pid: one for one in (process, *process.children(recursive=True))}
        return list(found.values())

    def pids(self, role: str) -> list[int]:
        """Processes of a role: a child of `vitalgrid up`, `up`, `host`, `raylet` `gcs_server`, or NODE."""
        if role == "up":
            return [self.running.process.pid] if self.running.process.poll() is None else []
        if role == NODE:
            return list(self.raylets.nodes) if self.raylets is not None else []
        if role in ("raylet", "gcs_server"):
            return sorted(process.pid for process in self.family() if _name(process) == role)
        known = self._known()
        if role == "host":
            return sorted(pid for name, pid in known.items() if name.startswith("host-"))
        return [known[role]] if known.get(role) else []

    def _known(self) -> dict[str, int]:
        try:
            connection = self.running.connection
        except Unavailable:
            return {}
        return {**connection.process_pids, **connection.host_pids}

    def _environment(self) -> dict[str, str]:
        url = {part: f"nats://127.0.0.1:{self.links[part].port}" for part in BUS_LINKS if part in self.links}
        words: dict[str, Any] = {"links": url, "clock_file": str(self.clock_file), "broken": self._broken}
        return {
            "FAULTS_HOOKS": json.dumps(words),
            "PYTHONPATH": os.pathsep.join([str(HOOKS), *filter(None, [os.environ.get("PYTHONPATH")])]),
            **({"RAY_AUTH_TOKEN": self.raylets.token} if self.raylets is not None and self.raylets.token else {}),
        }

    def _all_settings(self) -> dict[str, str]:
        ports = self._ports
        joined = {"HOSTS__RAY_ADDRESS": self.raylets.address} if self.raylets is not None else {}
        return {
            "BUS__PORT": str(ports["bus"]), "DOORS__MQTT_PORT": str(ports["mqtt"]), "DOORS__HTTP_PORT": str(ports["http"]),
            "API__PORT": str(ports["api"]), **joined, **self._settings,
        }  # fmt: skip


def _signal(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.NoSuchProcess:
        return ""


def _free_ports(count: int) -> list[int]:
    """Ports that are free now; all are held until the last is known, so that they differ.

    From below those that the system gives to connections: a platform that is down would find its own taken when it is back.
    """
    found: list[int] = []
    with ExitStack() as held:
        while len(found) < count:
            port, one = secrets.choice(_PORTS), held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                one.bind(("127.0.0.1", port))
                found.append(port)
    return found
