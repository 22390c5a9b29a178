"""The supervisor: keeps enough hosts alive and every shard held by exactly one of them.

It watches heartbeats, ends a host that has died or gone silent, gives its shards to the others at once, starts a
replacement, and evens out when that one has joined. Hosts come and go by an operator's order (`HostsView`): a host that
leaves gives its shards away in good order first. One activation at a time: a shard is granted under an epoch one above
any the lake has seen, and a host that lost it cannot commit. No round waits for a shard on its way: a host that stops
answering in the midst of it is noticed like any other. Clauses 7.3, 9.3d (what one machine can show).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from actors.placement import assign_shards
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
_GRANT_GRACE_S: Final = 5.0  # a fresh grant may miss in the heartbeats that were already under way
_LAUNCH_AGAIN_S: Final = 2.0
_STUCK_LOOP_S: Final = 60.0  # a loop that has work and has not moved for so long is stuck
_STOOD_STILL_S: Final = 1.0  # a round that comes so late: this process had no turn, and has heard nobody
_MOVES_AT_ONCE: Final = 2  # of shards that somebody holds: each stands still meanwhile
_STOP_S: Final = 30.0


class HostHandle(Protocol):
    """One host process as the supervisor uses it."""

    name: str
    pid: int

    async def acquire(self, shard: int, epoch: int) -> None: ...
    async def release(self, shard: int) -> None: ...
    async def metrics(self) -> dict[str, Any]: ...
    async def stop(self) -> None: ...
    async def ended(self) -> None: ...
    def is_alive(self) -> bool: ...
    def kill(self) -> None: ...


@dataclass(slots=True)
class _Watched:
    handle: HostHandle
    seen_s: float
    watch: asyncio.Task[None]
    state: HostState = HostState.WORKING
    heartbeat: HostHeartbeat | None = None


@dataclass(slots=True)
class _Move:
    """A shard on its way from a host (None: nobody holds it, or no more) to another."""

    source: str | None
    target: str
    task: asyncio.Task[None]


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
        self._moves: dict[int, _Move] = {}
        self._giving = asyncio.Semaphore(_MOVES_AT_ONCE)
        self._epochs: dict[int, int] = {}  # the last one each shard was granted under, or was to be
        self._load: dict[int, float] = {}
        self._launched = 0
        self._starting = 0
        self._tasks: set[asyncio.Task[None]] = set()  # launches, and hosts that leave
        self._launch_again_s = 0.0
        self._news = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self.restarts = 0

    async def start(self) -> None:
        """Start all hosts and grant every shard; returns when each grant is answered."""
        await self._bus.core_subscribe(subjects.HOST_HEARTBEATS, self._hear)
        await asyncio.gather(*(self._add_host() for _ in range(self._host_count)))
        await self.reconcile()
        await self.settled()
        self._loop = asyncio.create_task(self._watch(), name="supervisor")

    async def stop(self) -> None:
        """Let every host commit and snapshot, then end it."""
        await end(self._loop, *self._tasks, *(move.task for move in self._moves.values()))
        await end(*(w.watch for w in self._hosts.values()))
        await asyncio.gather(*(_end(w.handle) for w in self._hosts.values()), return_exceptions=True)
        self._hosts.clear()

    async def settled(self) -> None:
        """Return when no shard is on its way."""
        while self._moves:
            await asyncio.wait([move.task for move in self._moves.values()])

    # -- what an operator orders -----------------------------------------------------------------------------------

    def view(self) -> HostsView:
        """All hosts as they stand."""
        now_s, hosts = _monotonic(), []
        for name, watched in self._hosts.items():
            held = watched.heartbeat.shards if watched.heartbeat else []
            mine = sorted(shard for shard, holder in self._holder.items() if holder == name)
            hosts.append(HostView(
                name, watched.handle.pid, watched.state, mine, sum(one.devices for one in held),
                sum(one.lag for one in held), round(now_s - watched.seen_s, 1),
            ))  # fmt: skip
        return HostsView(self._host_count, hosts, sorted(self._moves))

    async def add(self) -> str:
        """Start one host more; returns its name once it runs, and shards will move to it.

        Raises Conflict beyond MOST_HOSTS, Unavailable when it does not start.
        """
        if self._host_count >= MOST_HOSTS:
            raise Conflict(f"{self._host_count} hosts are wanted already: no more than {MOST_HOSTS} are started")
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
        """Drain a host, then end it, and keep one host fewer. Raises as `drain`."""
        if self._named(name).state is not HostState.LEAVING:
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

    def _named(self, name: str) -> _Watched:
        if name not in self._hosts:
            raise NotFound(f"host {name!r} is unknown: there are {', '.join(sorted(self._hosts))}")
        return self._hosts[name]

    def _working(self) -> list[str]:
        return sorted(name for name, watched in self._hosts.items() if watched.state is HostState.WORKING)

    @property
    def host_pids(self) -> dict[str, int]:
        return {name: watched.handle.pid for name, watched in self._hosts.items()}

    def shards_held(self) -> list[ShardHeld]:
        """Every shard as its holder last reported it."""
        return [held for w in self._hosts.values() if w.heartbeat for held in w.heartbeat.shards]

    # -- rounds ----------------------------------------------------------------------------------------------------

    async def reconcile(self) -> None:
        """One round: bury the dead, then set shards on their way from the real assignment to the wished one."""
        for name in [name for name, watched in self._hosts.items() if self._is_lost(watched)]:
            self._bury(name)
        self._replace_lost()
        self._forget_dropped()
        self._let_go()
        self._load |= {held.shard: float(held.devices) for held in self.shards_held()}
        current = self._holder | {shard: move.target for shard, move in self._moves.items()}
        wished = assign_shards(self._shards, self._working() or sorted(self._hosts), current, self._load)
        moves = [(shard, host) for shard, host in wished.items() if current.get(shard) != host and shard not in self._moves]
        if moves:
            epochs = (await asyncio.to_thread(self._lake.positions)).epochs
            for shard, host in moves:
                if host in self._hosts and shard not in self._moves:
                    self._epochs[shard] = max(epochs.get(shard, 0), self._epochs.get(shard, 0)) + 1
                    self._move(shard, host)

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
            watched.seen_s = _monotonic()
            watched.heartbeat = heartbeat

    def _is_lost(self, watched: _Watched) -> bool:
        if watched.watch.done() or not watched.handle.is_alive() or _monotonic() - watched.seen_s > self._timeout_s:
            return True
        beat = watched.heartbeat
        is_behind = beat is not None and any(held.lag for held in beat.shards)
        return beat is not None and is_behind and beat.at_us - beat.loop_us > _STUCK_LOOP_S * 1e6

    def _bury(self, name: str) -> None:
        watched = self._hosts.pop(name)
        logger.warning("host lost; its shards go to others", extra={"host": name, "host_pid": watched.handle.pid})
        watched.watch.cancel()
        watched.handle.kill()
        self._holder = {shard: holder for shard, holder in self._holder.items() if holder != name}
        for shard, move in list(self._moves.items()):
            if name in (move.source, move.target):
                move.task.cancel()  # it is free now, and granted anew in this round
                del self._moves[shard]
        self.restarts += 1

    def _forget_dropped(self) -> None:
        """A shard that its host no longer reports (it lost it, or restoring failed) is free again."""
        now = _monotonic()
        for shard, name in list(self._holder.items()):
            beat = self._hosts[name].heartbeat
            is_fresh = shard in self._moves or now - self._granted_s.get(shard, 0.0) < _GRANT_GRACE_S
            if beat is not None and not is_fresh and all(held.shard != shard for held in beat.shards):
                del self._holder[shard]

    # -- shards on their way ---------------------------------------------------------------------------------------

    def _move(self, shard: int, target: str) -> None:
        source = self._holder.get(shard)
        task = asyncio.create_task(self._carry(shard, source, target), name=f"move shard {shard}")
        self._moves[shard] = _Move(source, target, task)
        task.add_done_callback(lambda done: self._arrived(shard, done))

    def _arrived(self, shard: int, task: asyncio.Task[None]) -> None:
        if shard in self._moves and self._moves[shard].task is task:
            del self._moves[shard]
        if not task.cancelled() and task.exception() is None:
            self._news.set()  # what failed waits for the next round

    async def _carry(self, shard: int, source: str | None, target: str) -> None:
        if source is None:
            await self._grant(shard, target)
            return
        async with self._giving:
            try:
                await self._hosts[source].handle.release(shard)
            except Exception:  # what it could not write is in the stream, for whoever holds the shard next
                logger.exception("a shard was not given back in good order", extra={"shard": shard, "host": source})
            self._holder.pop(shard, None)
            self._moves[shard].source = None
            await self._grant(shard, target)

    async def _grant(self, shard: int, name: str) -> None:
        try:
            await self._hosts[name].handle.acquire(shard, self._epochs[shard])
        except Exception:
            logger.exception("a shard could not be granted", extra={"shard": shard, "host": name})
            raise
        self._holder[shard] = name
        self._granted_s[shard] = _monotonic()

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
        self._hosts[name] = _Watched(handle, _monotonic(), watch)
        self._news.set()
        return name

    async def _await_end(self, handle: HostHandle) -> None:
        """Ray tells of a death at once; a look at the process each round would be later."""
        await handle.ended()
        self._news.set()

    def _replace_lost(self) -> None:
        """Launch the hosts that are missing. One that does not start is missing still: a later round tries again."""
        if _monotonic() < self._launch_again_s:
            return
        staying = sum(watched.state is not HostState.LEAVING for watched in self._hosts.values())
        for _ in range(self._host_count - staying - self._starting):
            self._starting += 1  # before the task runs: the next round must not launch it again
            self._run(self._replace(), "launch host")

    async def _replace(self) -> None:
        self._starting -= 1
        try:
            await self._add_host()
        except Exception:  # Ray, memory, disk: whatever it was, fewer hosts than wanted are no state to stay in
            logger.exception("a host could not be started; it is tried again", extra={"hosts_alive": len(self._hosts)})
            self._launch_again_s = _monotonic() + _LAUNCH_AGAIN_S

    def _let_go(self) -> None:
        """End the hosts that are to leave and hold nothing any more."""
        busy = {*self._holder.values(), *(name for move in self._moves.values() for name in (move.source, move.target))}
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
