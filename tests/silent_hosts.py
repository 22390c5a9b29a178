"""Hosts in real Ray processes under a real supervisor, that fall silent in one way after the other (`python -m`).

    python -m tests.silent_hosts FOLDER HEARTBEAT_TIMEOUT_S CASE...

A process of its own, because what Ray reads from the environment it reads once. It prints one line of JSON a case: why a
host was lost (empty: it was not), whether it was waited for, after how many seconds it was lost and its shards held again.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from cluster.ray_environment import prepare_ray

prepare_ray()
from actors.host import HostPolicy  # noqa: E402 (imports Ray, which reads its environment then)
from actors.shell import HostConfig  # noqa: E402
from cluster.host_handle import WatchedHost  # noqa: E402
from cluster.ray_folder import RayFolder  # noqa: E402
from cluster.ray_hosts import RayLauncher  # noqa: E402
from cluster.supervisor import Supervisor  # noqa: E402
from runtime.bus import Bus  # noqa: E402
from runtime.bus_access import TokenAccess  # noqa: E402
from runtime.lake import Lake  # noqa: E402
from runtime.nats_server import NatsServer  # noqa: E402
from tests.faults.tcp_proxy import TcpProxy  # noqa: E402
from tests.waiting import until  # noqa: E402

TIMEOUT_S: Final = float(sys.argv[2]) if __name__ == "__main__" else 0.0
SHARDS: Final = 4
_TOKEN: Final = "a-token-for-tests"
_DEADLINE_S: Final = 60.0


def work(_host: Any, seconds: float) -> None:
    """One piece of work in C that leaves Python to no other thread; about so long, on this machine."""
    took_s = []
    for _ in range(3):
        began_s = time.monotonic()
        sum(range(5_000_000))
        took_s.append(time.monotonic() - began_s)
    sum(range(round(5_000_000 * seconds / min(took_s))))


def hang(_host: Any, seconds: float) -> None:
    """Sleep, and leave Python to no other thread."""
    ctypes.PyDLL(None).usleep(round(seconds * 1e6))


class Bench(logging.Handler):
    """Hosts, each with a link of its own to the bus; `why` is what the supervisor says of the last that it lost."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self.nats = NatsServer(folder / "nats", access=TokenAccess(_TOKEN))
        self.links: dict[str, TcpProxy] = {}
        self.why = ""
        self.is_waited_for = False

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg.startswith("host lost"):
            self.why = str(record.args[0])  # type: ignore[index]
        self.is_waited_for |= "waited for" in record.msg

    async def start(self) -> None:
        await self.nats.start()
        self.bus = await Bus.connect(self.nats.url, _TOKEN, "supervisor")
        await self.bus.ensure_streams(max_stream_bytes=2**30, retention_s=86_400, duplicate_window_s=600)
        for number in range(1, 12):
            link = TcpProxy(lambda: ("127.0.0.1", int(self.nats.url.rpartition(":")[2])))
            await link.start()
            self.links[f"host-{number}"] = link
        self.launcher = launcher = RayLauncher(self._configure, RayFolder(self._folder / "ray-folder"))
        await asyncio.to_thread(launcher.start)
        lake = Lake(self._folder / "lake")
        self.supervisor = Supervisor(
            bus=self.bus, lake=lake, shards=SHARDS, host_count=2, heartbeat_timeout_s=TIMEOUT_S, launch=launcher.launch
        )
        logging.getLogger("cluster").addHandler(self)
        await self.supervisor.start()

    def _configure(self, name: str) -> HostConfig:
        url = f"nats://127.0.0.1:{self.links[name].port}"
        return HostConfig(
            name,
            url,
            _TOKEN,
            self._folder / "lake",
            self._folder / "snapshots",
            self._folder / "keys",
            seals_files=False,
            policy=HostPolicy(),
        )

    async def stop(self) -> None:
        await self.supervisor.stop()
        await asyncio.to_thread(self.launcher.stop)
        await self.bus.close()
        for link in self.links.values():
            await link.close()
        await self.nats.stop()

    async def whole(self) -> None:
        """Two hosts hold all shards, and are heard."""

        def is_whole() -> bool:
            view = self.supervisor.view()
            held = {shard for host in view.hosts for shard in host.shards}
            is_heard = all(host.silent_s < TIMEOUT_S / 2 and host.shards for host in view.hosts)
            return len(view.hosts) == 2 and len(held) == SHARDS and is_heard and not view.moving

        await until(is_whole, _DEADLINE_S)

    async def play(self, case: str) -> dict[str, Any]:
        await self.whole()
        self.why, self.is_waited_for, before = "", False, self.supervisor.restarts
        name, watched = next(iter(self.supervisor._hosts.items()))
        began_s = time.monotonic()
        over = await CASES[case](self, name, watched)
        await until(lambda: self.supervisor.restarts > before or time.monotonic() > over, _DEADLINE_S)
        lost_s = time.monotonic() - began_s
        await until(lambda: len({s for h in self.supervisor.view().hosts for s in h.shards}) == SHARDS, _DEADLINE_S)
        held_s = time.monotonic() - began_s
        await self.whole()
        return {
            "case": case, "why": self.why, "is_waited_for": self.is_waited_for, "lost_s": lost_s, "held_s": held_s,
            "restarts": self.supervisor.restarts - before,
        }  # fmt: skip


# Each breaks the host and says until when nothing must have come of it; one that is to be lost, far too late.


async def _kill(_bench: Bench, _name: str, watched: WatchedHost) -> float:
    os.kill(watched.handle.pid, signal.SIGKILL)
    return time.monotonic() + _DEADLINE_S


async def _stop(_bench: Bench, _name: str, watched: WatchedHost) -> float:
    os.kill(watched.handle.pid, signal.SIGSTOP)
    return time.monotonic() + _DEADLINE_S


async def _hang(_bench: Bench, _name: str, watched: WatchedHost) -> float:
    watched.handle.actor.__ray_call__.remote(hang, 6 * TIMEOUT_S)  # type: ignore[attr-defined]
    return time.monotonic() + _DEADLINE_S


async def _work(bench: Bench, name: str, watched: WatchedHost) -> float:
    done = watched.handle.actor.__ray_call__.remote(work, 2.5 * TIMEOUT_S)  # type: ignore[attr-defined]
    seen_s = watched.seen_s
    await done
    await until(lambda: watched.seen_s > seen_s + TIMEOUT_S or name not in bench.supervisor.host_pids)
    return time.monotonic()


async def _cut(bench: Bench, name: str, _watched: WatchedHost) -> float:
    bench.links[name].disturb("blackhole")
    return time.monotonic() + _DEADLINE_S


async def _bus_away(bench: Bench, _name: str, _watched: WatchedHost) -> float:
    assert bench.nats.pid is not None
    os.kill(bench.nats.pid, signal.SIGSTOP)
    await asyncio.sleep(3 * TIMEOUT_S)  # as long as the fault lasts
    os.kill(bench.nats.pid, signal.SIGCONT)
    return time.monotonic() + TIMEOUT_S + 4.0  # longer than one that is cut is given


CASES: Final[dict[str, Callable[[Bench, str, WatchedHost], Awaitable[float]]]] = {
    "kill": _kill, "stop": _stop, "hang": _hang, "work": _work, "cut": _cut, "bus-away": _bus_away,
}  # fmt: skip


async def _main(folder: Path, cases: list[str]) -> None:
    bench = Bench(folder)
    try:
        await bench.start()
        for case in cases:
            sys.stdout.write(json.dumps(await bench.play(case)) + "\n")
            sys.stdout.flush()
    finally:
        await bench.stop()


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), sys.argv[3:]))
