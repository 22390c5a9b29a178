"""The supervisor: keeps enough hosts alive and every shard held by exactly one of them.

It watches heartbeats, ends a host that has died or whose silence means no good (`cluster.host_silence`), gives its
shards to the others at once, starts a replacement, and evens out when that one has joined. Hosts come and go by an
operator's order (`HostsView`): a host that leaves gives its shards away in good order first. A dedicated shard has a
host with nothing else on it, which is started beside the others and let go again. No round waits for a shard on its way
(`cluster.shard_moves`): a host that stops answering in the midst of it is noticed like any other. Clauses 7.3, 9.3d (what
one machine can show).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final

import msgspec

from actors.placement import assign_shards
from cluster.host_handle import HostHandle, WatchedHost
from cluster.host_silence import HostSilence
from cluster.shard_load import ShardLoad
from cluster.shard_moves import ShardMoves
from domain import subjects
from domain.errors import Conflict, NotFound, Unavailable
from domain.host_orders import HostState, HostsView, HostView
from domain.messages import HostHeartbeat, ShardHeld
from runtime.bus import Bus
from runtime.lake import Lake
from runtime.tasks import end

logger = logging.getLogger(__name__)

MOST_HOSTS: Final = 64
_ROUND_S: Final = 0.5
_LAUNCH_AGAIN_S: Final = 2.0
_STOOD_STILL_S: Final = 1.0  # a round that comes so late: this process had no turn, and has heard nobody
_STOP_S: Final = 30.0


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
        dedicated: Collection[int] = (),
    ) -> None:
        self._bus = bus
        self._shards = range(shards)
        self._host_count = host_count
        self._dedicated = frozenset(dedicated)
        self._silence = HostSilence(bus, heartbeat_timeout_s)
        self._launch = launch
        self._hosts: dict[str, WatchedHost] = {}
        self._news = asyncio.Event()
        self._moves = ShardMoves(lake, self._handle, self._news.set)
        self._load = ShardLoad()
        self._launched = 0
        self._starting = 0
        self._tasks: set[asyncio.Task[None]] = set()  # launches, and hosts that leave
        self._launch_again_s = 0.0
        self._loop: asyncio.Task[None] | None = None
        self.restarts = 0

    async def start(self) -> None:
        """Start all hosts and grant every shard; returns when each grant is answered."""
        await self._bus.core_subscribe(subjects.HOST_HEARTBEATS, self._hear)
        await asyncio.gather(*(self._add_host() for _ in range(self._wanted)))
        await self.reconcile()
        await self._moves.settled()
        self._loop = asyncio.create_task(self._watch(), name="supervisor")

    async def stop(self) -> None:
        """Let every host commit and snapshot, then end it."""
        await end(self._loop, *self._tasks)
        await self._moves.stop()
        await end(*(task for w in self._hosts.values() for task in (w.watch, w.inquiry)))
        await asyncio.gather(*(_end(w.handle) for w in self._hosts.values()), return_exceptions=True)
        self._hosts.clear()

    # -- what an operator orders -----------------------------------------------------------------------------------

    def view(self) -> HostsView:
        """All hosts as they stand."""
        now_s, hosts = _monotonic(), []
        for name, watched in self._hosts.items():
            held = watched.heartbeat.shards if watched.heartbeat else []
            mine = sorted(shard for shard, holder in self._moves.holder.items() if holder == name)
            hosts.append(HostView(
                name, watched.handle.pid, watched.state, mine, sum(one.devices for one in held),
                sum(one.lag for one in held), round(now_s - watched.seen_s, 1),
            ))  # fmt: skip
        return HostsView(self._wanted, hosts, self._moves.moving, sorted(self._dedicated))

    def dedicate(self, shards: Collection[int]) -> None:
        """From now on these shards are to have a host with nothing else on it, and no others."""
        if self._dedicated != frozenset(shards):
            self._dedicated = frozenset(shards)
            logger.info("shards are dedicated", extra={"shards": sorted(shards)})
            self._news.set()

    async def add(self) -> str:
        """Start one host more; returns its name once it runs, and shards will move to it.

        Raises Conflict beyond MOST_HOSTS, Unavailable when it does not start.
        """
        if self._wanted >= MOST_HOSTS:
            raise Conflict(f"{self._wanted} hosts are wanted already: no more than {MOST_HOSTS} are started")
        self._host_count += 1
        try:
            return await self._add_host()
        except Exception as error:
            self._host_count -= 1
            logger.exception("a host that was ordered could not be started")
            raise Unavailable(f"a host could not be started: {type(error).__name__}; log/up.log says more") from error

    def drain(self, name: str) -> None:
        """Let a host give all its shards to others. Raises NotFound, or Conflict for the last that works."""
        self._leave_work(name, HostState.DRAINING)

    def resume(self, name: str) -> None:
        """Give a drained host shards again. Raises NotFound, or Conflict for one that is leaving."""
        watched = self._named(name)
        if watched.state is HostState.LEAVING:
            raise Conflict(f"host {name} is leaving: add another one instead")
        watched.state = HostState.WORKING
        self._news.set()

    def remove(self, name: str) -> None:
        """Drain a host, then end it, and keep one host fewer for the shards that are not dedicated.

        Raises as `drain`, and Conflict for the last of those.
        """
        if self._named(name).state is not HostState.LEAVING:
            if self._host_count == 1 and self._dedicated:
                raise Conflict("one host is wanted beside the dedicated ones, and no fewer can be: share a hospital instead")
            self._leave_work(name, HostState.LEAVING)
            self._host_count -= 1

    def _leave_work(self, name: str, state: HostState) -> None:
        watched = self._named(name)
        others = [other for other in self._working() if other != name]
        if not others:
            raise Conflict(f"host {name} is the last that works: add another one first")
        if watched.state is HostState.LEAVING:
            raise Conflict(f"host {name} is leaving already")
        watched.state = state
        self._news.set()

    def _named(self, name: str) -> WatchedHost:
        if name not in self._hosts:
            raise NotFound(f"host {name!r} is unknown: there are {', '.join(sorted(self._hosts))}")
        return self._hosts[name]

    def _handle(self, name: str) -> HostHandle | None:
        return self._hosts[name].handle if name in self._hosts else None

    def _working(self) -> list[str]:
        return sorted(name for name, watched in self._hosts.items() if watched.state is HostState.WORKING)

    @property
    def _wanted(self) -> int:
        return min(self._host_count + len(self._dedicated), MOST_HOSTS)

    @property
    def host_pids(self) -> dict[str, int]:
        return {name: watched.handle.pid for name, watched in self._hosts.items()}

    def shards_held(self) -> list[ShardHeld]:
        """Every shard as its holder last reported it."""
        return [held for w in self._hosts.values() if w.heartbeat for held in w.heartbeat.shards]

    # -- rounds ----------------------------------------------------------------------------------------------------

    async def reconcile(self) -> None:
        """One round: bury the dead, then set shards on their way from the real assignment to the wished one."""
        for name, watched in list(self._hosts.items()):
            if why := self._silence.why_lost(watched):
                self._bury(name, why)
        self._replace_lost()
        self._dismiss_surplus()
        self._moves.forget_dropped({name: watched.heartbeat for name, watched in self._hosts.items()})
        self._let_go()
        self._load.look(self.shards_held(), _monotonic())
        hosts, current, load = self._working() or sorted(self._hosts), self._moves.where(), self._load.by_shard
        await self._moves.begin(
            assign_shards(self._shards, hosts, current, load, dedicated=self._dedicated, shared_hosts=self._host_count)
        )

    async def _watch(self) -> None:
        while True:
            await self._pause()
            try:
                await self.reconcile()
            except Exception:  # supervision must outlive whatever it supervises; the next round tries again
                logger.exception("a round of supervision failed")
                await asyncio.sleep(_ROUND_S)

    async def _pause(self) -> None:
        """Wait for news, or for the next round. While this process itself stands still, hosts are not silent."""
        due_s = _monotonic() + _ROUND_S
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ROUND_S):
                await self._news.wait()
        self._news.clear()
        if (late_s := _monotonic() - due_s) > _STOOD_STILL_S:
            logger.warning("supervision stood still; hosts are given that time", extra={"for_s": round(late_s, 1)})
            for watched in self._hosts.values():
                watched.seen_s += late_s

    def _hear(self, payload: bytes, _subject: str) -> None:
        heartbeat = msgspec.json.decode(payload, type=HostHeartbeat)
        watched = self._hosts.get(heartbeat.host)
        if watched is not None:
            watched.hear(heartbeat, _monotonic())

    def _bury(self, name: str, why: str) -> None:
        watched = self._hosts.pop(name)
        about = {"host": name, "host_pid": watched.handle.pid}
        logger.warning("host lost, %s; its shards go to others", why, extra=about)
        watched.watch.cancel()
        if watched.inquiry is not None:
            watched.inquiry.cancel()
        watched.handle.kill()
        self._moves.lose(name)
        self.restarts += 1

    # -- hosts that come and go ------------------------------------------------------------------------------------

    async def _add_host(self) -> str:
        self._launched += 1
        name = f"host-{self._launched}"
        self._starting += 1
        try:
            handle = await self._launch(name)
        finally:
            self._starting -= 1
        watch = asyncio.create_task(self._await_end(handle), name=f"watch {name}")
        self._hosts[name] = WatchedHost(handle, _monotonic(), watch)
        self._news.set()
        return name

    async def _await_end(self, handle: HostHandle) -> None:
        """Ray tells of a death at once; a look at the process each round would be later."""
        await handle.ended()
        self._news.set()

    def _staying(self) -> int:
        return sum(watched.state is not HostState.LEAVING for watched in self._hosts.values())

    def _replace_lost(self) -> None:
        """Launch the hosts that are missing. One that does not start is missing still: a later round tries again."""
        if _monotonic() < self._launch_again_s:
            return
        for _ in range(self._wanted - self._staying() - self._starting):
            self._starting += 1  # before the task runs: the next round must not launch it again
            self._run(self._replace(), "launch host")

    async def _replace(self) -> None:
        self._starting -= 1
        try:
            await self._add_host()
        except Exception:  # Ray, memory, disk: whatever it was, fewer hosts than wanted are no state to stay in
            logger.exception("a host could not be started; it is tried again", extra={"hosts_alive": len(self._hosts)})
            self._launch_again_s = _monotonic() + _LAUNCH_AGAIN_S

    def _dismiss_surplus(self) -> None:
        """A shard is dedicated no more: let the hosts leave that have the fewest shards, rather than those that are owned."""
        held = list(self._moves.where().items())
        for _ in range(self._staying() - self._wanted):
            working = self._working()
            if len(working) < 2:
                return
            mine = {name: {shard for shard, host in held if host == name} for name in working}
            name = min(working, key=lambda name: (bool(mine[name] & self._dedicated), len(mine[name]), name))
            self._leave_work(name, HostState.LEAVING)

    def _let_go(self) -> None:
        """End the hosts that are to leave and hold nothing any more."""
        busy = self._moves.busy()
        for name in [name for name, w in self._hosts.items() if w.state is HostState.LEAVING and name not in busy]:
            watched = self._hosts.pop(name)
            watched.watch.cancel()
            logger.info("host leaves", extra={"host": name, "host_pid": watched.handle.pid})
            self._run(_leave(watched.handle), f"end {name}")

    def _run(self, work: Any, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _leave(handle: HostHandle) -> None:
    with contextlib.suppress(Exception):  # it holds nothing: what it could not say is no loss, and its process ends
        await _end(handle)


async def _end(handle: HostHandle) -> None:
    try:
        async with asyncio.timeout(_STOP_S):
            await handle.stop()
    finally:
        handle.kill()


def _monotonic() -> float:
    return asyncio.get_running_loop().time()
