"""Shards on their way from host to host: given back by one in good order, granted to the next under a new epoch.

One activation at a time: a shard is granted under an epoch one above any the lake has seen, and a host that lost it
cannot commit. Nobody waits for a move: what fails is free, and set on its way again by a later round of the supervisor.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from cluster.host_handle import HostHandle
from domain.messages import HostHeartbeat
from runtime.lake import Lake
from runtime.tasks import end

logger = logging.getLogger(__name__)

_GRANT_GRACE_S: Final = 5.0  # a fresh grant may miss in the heartbeats that were already under way
_MOVES_AT_ONCE: Final = 2  # of shards that somebody holds: each stands still meanwhile


@dataclass(slots=True)
class _Move:
    """A shard on its way from a host (None: nobody holds it, or no more) to another."""

    source: str | None
    target: str
    task: asyncio.Task[None]


class ShardMoves:
    """`holder`: who holds which shard. `find`: the host of a name, None when it is gone; `arrived`: called for each grant."""

    def __init__(self, lake: Lake, find: Callable[[str], HostHandle | None], arrived: Callable[[], None]) -> None:
        self._lake = lake
        self._find = find
        self._arrived = arrived
        self._granted_s: dict[int, float] = {}
        self._moves: dict[int, _Move] = {}
        self._giving = asyncio.Semaphore(_MOVES_AT_ONCE)
        self._epochs: dict[int, int] = {}  # the last one each shard was granted under, or was to be
        self.holder: dict[int, str] = {}

    @property
    def moving(self) -> list[int]:
        return sorted(self._moves)

    def where(self) -> dict[int, str]:
        """The host of each shard, or the one that it is on its way to."""
        return self.holder | {shard: move.target for shard, move in self._moves.items()}

    def busy(self) -> set[str | None]:
        """Hosts that hold something, or give or are given something."""
        return {*self.holder.values(), *(name for move in self._moves.values() for name in (move.source, move.target))}

    async def begin(self, wished: Mapping[int, str]) -> None:
        """Set each shard that is not where it is wished on its way; returns when that is begun."""
        if self._misplaced(wished):
            epochs = (await asyncio.to_thread(self._lake.positions)).epochs
            for shard, host in self._misplaced(wished):  # as it is now
                if self._find(host) is not None:
                    self._epochs[shard] = max(epochs.get(shard, 0), self._epochs.get(shard, 0)) + 1
                    self._begin(shard, host)

    def _misplaced(self, wished: Mapping[int, str]) -> list[tuple[int, str]]:
        return [(s, host) for s, host in wished.items() if s not in self._moves and self.holder.get(s) != host]

    def lose(self, name: str) -> None:
        """A host is gone: what it held, was given or gave is free."""
        self.holder = {shard: holder for shard, holder in self.holder.items() if holder != name}
        for shard, move in list(self._moves.items()):
            if name in (move.source, move.target):
                move.task.cancel()  # it is free now, and granted anew in this round
                del self._moves[shard]

    def forget_dropped(self, heartbeats: Mapping[str, HostHeartbeat | None]) -> None:
        """A shard that its host no longer reports (it lost it, or restoring failed) is free again."""
        now_s = asyncio.get_running_loop().time()
        for shard, name in list(self.holder.items()):
            beat = heartbeats.get(name)
            is_fresh = shard in self._moves or now_s - self._granted_s.get(shard, 0.0) < _GRANT_GRACE_S
            if beat is not None and not is_fresh and all(held.shard != shard for held in beat.shards):
                del self.holder[shard]

    async def settled(self) -> None:
        """Return when no shard is on its way."""
        while self._moves:
            await asyncio.wait(self._tasks())

    async def stop(self) -> None:
        await end(*self._tasks())

    def _tasks(self) -> Iterable[asyncio.Task[None]]:
        return [move.task for move in self._moves.values()]

    def _begin(self, shard: int, target: str) -> None:
        source = self.holder.get(shard)
        task = asyncio.create_task(self._carry(shard, source, target), name=f"move shard {shard}")
        self._moves[shard] = _Move(source, target, task)
        task.add_done_callback(lambda done: self._ended(shard, done))

    def _ended(self, shard: int, task: asyncio.Task[None]) -> None:
        if shard in self._moves and self._moves[shard].task is task:
            del self._moves[shard]
        if not task.cancelled() and task.exception() is None:
            self._arrived()  # what failed waits for the next round

    async def _carry(self, shard: int, source: str | None, target: str) -> None:
        if source is None:
            await self._grant(shard, target)
            return
        async with self._giving:
            try:
                await self._host(source).release(shard)
            except Exception:  # what it could not write is in the stream, for whoever holds the shard next
                logger.exception("a shard was not given back in good order", extra={"shard": shard, "host": source})
            self.holder.pop(shard, None)
            self._moves[shard].source = None
            await self._grant(shard, target)

    async def _grant(self, shard: int, name: str) -> None:
        try:
            await self._host(name).acquire(shard, self._epochs[shard])
        except Exception:
            logger.exception("a shard could not be granted", extra={"shard": shard, "host": name})
            raise
        self.holder[shard] = name
        self._granted_s[shard] = asyncio.get_running_loop().time()

    def _host(self, name: str) -> HostHandle:
        host = self._find(name)
        assert host is not None, "a move ends with either of its hosts"
        return host
