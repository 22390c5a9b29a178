"""The supervisor: keeps enough hosts alive and every shard held by exactly one of them.

It watches heartbeats, ends a host that has gone silent, gives its shards to the others at once, starts a
replacement, and evens out when that one has joined. One activation at a time: a shard is granted under an epoch one
above any the lake has seen, and a host that lost it cannot commit. Clauses 7.3, 9.3d (what one machine can show).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from actors.placement import assign_shards
from domain import subjects
from domain.messages import HostHeartbeat, ShardHeld
from runtime.bus import Bus
from runtime.lake import Lake
from runtime.tasks import end

logger = logging.getLogger(__name__)

_ROUND_S: Final = 0.5
_GRANT_GRACE_S: Final = 5.0  # a fresh grant may miss in the heartbeats that were already under way
_LAUNCH_AGAIN_S: Final = 2.0
_STUCK_LOOP_S: Final = 60.0  # a loop that has work and has not moved for so long is stuck


class HostHandle(Protocol):
    """One host process as the supervisor uses it."""

    name: str
    pid: int

    async def acquire(self, shard: int, epoch: int) -> None: ...
    async def release(self, shard: int) -> None: ...
    async def metrics(self) -> dict[str, Any]: ...
    async def stop(self) -> None: ...
    def is_alive(self) -> bool: ...
    def kill(self) -> None: ...


@dataclass(slots=True)
class _Watched:
    handle: HostHandle
    seen_s: float
    heartbeat: HostHeartbeat | None = None


class Supervisor:
    """See module. `start`, then it runs by itself until `stop`."""

    def __init__(
        self,
        *,
        bus: Bus,
        lake: Lake,
        shards: int,
        host_count: int,
        heartbeat_timeout_s: float,
        launch: Callable[[str], Awaitable[HostHandle]],
    ) -> None:
        self._bus = bus
        self._lake = lake
        self._shards = range(shards)
        self._host_count = host_count
        self._timeout_s = heartbeat_timeout_s
        self._launch = launch
        self._hosts: dict[str, _Watched] = {}
        self._holder: dict[int, str] = {}
        self._granted_s: dict[int, float] = {}
        self._launched = 0
        self._launching: set[asyncio.Task[None]] = set()
        self._launch_again_s = 0.0
        self._loop: asyncio.Task[None] | None = None
        self.restarts = 0

    async def start(self) -> None:
        """Start all hosts and grant every shard; returns when all are held."""
        await self._bus.core_subscribe(subjects.HOST_HEARTBEATS, self._hear)
        await asyncio.gather(*(self._add_host() for _ in range(self._host_count)))
        await self.reconcile()
        self._loop = asyncio.create_task(self._watch(), name="supervisor")

    async def stop(self) -> None:
        """Let every host commit and snapshot, then end it."""
        await end(self._loop, *self._launching)
        await asyncio.gather(*(self._end(w.handle) for w in self._hosts.values()), return_exceptions=True)
        self._hosts.clear()

    @property
    def host_pids(self) -> dict[str, int]:
        return {name: watched.handle.pid for name, watched in self._hosts.items()}

    def shards_held(self) -> list[ShardHeld]:
        """Every shard as its holder last reported it."""
        return [held for w in self._hosts.values() if w.heartbeat for held in w.heartbeat.shards]

    async def reconcile(self) -> None:
        """One round: bury the dead, then bring the real assignment to the wished one."""
        for name in [name for name, watched in self._hosts.items() if self._is_lost(watched)]:
            self._bury(name)
        self._replace_lost()
        self._forget_dropped()
        load = {held.shard: float(held.devices) for held in self.shards_held()}
        wished = assign_shards(self._shards, sorted(self._hosts), self._holder, load)
        moves = [(shard, host) for shard, host in wished.items() if self._holder.get(shard) != host]
        if not moves:
            return
        for shard, _ in moves:
            await self._take_back(shard)
        epochs = (await asyncio.to_thread(self._lake.positions)).epochs
        await asyncio.gather(*(self._grant(shard, host, epochs.get(shard, 0) + 1) for shard, host in moves))

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_ROUND_S)
            try:
                await self.reconcile()
            except Exception:  # supervision must outlive whatever it supervises; the next round tries again
                logger.exception("a round of supervision failed")

    def _hear(self, payload: bytes, _subject: str) -> None:
        heartbeat = msgspec.json.decode(payload, type=HostHeartbeat)
        watched = self._hosts.get(heartbeat.host)
        if watched is not None:
            watched.seen_s = _monotonic()
            watched.heartbeat = heartbeat

    def _is_lost(self, watched: _Watched) -> bool:
        if not watched.handle.is_alive() or _monotonic() - watched.seen_s > self._timeout_s:
            return True
        beat = watched.heartbeat
        is_behind = beat is not None and any(held.lag for held in beat.shards)
        return beat is not None and is_behind and beat.at_us - beat.loop_us > _STUCK_LOOP_S * 1e6

    def _bury(self, name: str) -> None:
        watched = self._hosts.pop(name)
        logger.warning("host lost; its shards go to others", extra={"host": name, "host_pid": watched.handle.pid})
        watched.handle.kill()
        self._holder = {shard: holder for shard, holder in self._holder.items() if holder != name}
        self.restarts += 1

    def _replace_lost(self) -> None:
        """Launch the hosts that are missing. One that does not start is missing still: a later round tries again."""
        if _monotonic() < self._launch_again_s:
            return
        for _ in range(self._host_count - len(self._hosts) - len(self._launching)):
            task = asyncio.create_task(self._replace(), name="launch host")
            self._launching.add(task)
            task.add_done_callback(self._launching.discard)

    async def _replace(self) -> None:
        try:
            await self._add_host()
        except Exception:  # Ray, memory, disk: whatever it was, fewer hosts than wanted are no state to stay in
            logger.exception("a host could not be started; it is tried again", extra={"hosts_alive": len(self._hosts)})
            self._launch_again_s = _monotonic() + _LAUNCH_AGAIN_S

    def _forget_dropped(self) -> None:
        """A shard that its host no longer reports (it lost it, or restoring failed) is free again."""
        now = _monotonic()
        for shard, name in list(self._holder.items()):
            beat = self._hosts[name].heartbeat
            is_fresh = now - self._granted_s.get(shard, 0.0) < _GRANT_GRACE_S
            if beat is not None and not is_fresh and all(held.shard != shard for held in beat.shards):
                del self._holder[shard]

    async def _add_host(self) -> None:
        self._launched += 1
        name = f"host-{self._launched}"
        handle = await self._launch(name)
        self._hosts[name] = _Watched(handle, _monotonic())

    async def _take_back(self, shard: int) -> None:
        name = self._holder.pop(shard, None)
        if name in self._hosts:
            await self._hosts[name].handle.release(shard)

    async def _grant(self, shard: int, name: str, epoch: int) -> None:
        try:
            await self._hosts[name].handle.acquire(shard, epoch)
        except Exception:  # whatever failed in the host's process: the shard stays free and is granted again
            logger.exception("a shard could not be granted", extra={"shard": shard, "host": name})
            return
        self._holder[shard] = name
        self._granted_s[shard] = _monotonic()

    async def _end(self, handle: HostHandle) -> None:
        try:
            async with asyncio.timeout(30):
                await handle.stop()
        finally:
            handle.kill()


def _monotonic() -> float:
    return asyncio.get_running_loop().time()
