"""A host process as those who supervise it use it, and what is known of one that is watched."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Protocol

from domain.host_orders import HostState
from domain.messages import HostHeartbeat
from runtime.process_look import ProcessLook


class HostHandle(Protocol):
    """One host process as the supervisor uses it.

    `pulse` asks it for a heartbeat by another way than the bus; `look` at its process gives None when that is gone.
    """

    name: str
    pid: int

    async def acquire(self, shard: int, epoch: int) -> None: ...
    async def release(self, shard: int) -> None: ...
    async def metrics(self) -> dict[str, Any]: ...
    async def pulse(self) -> HostHeartbeat: ...
    async def stop(self) -> None: ...
    async def ended(self) -> None: ...
    def is_alive(self) -> bool: ...
    def look(self) -> ProcessLook | None: ...
    def kill(self) -> None: ...


@dataclass(slots=True)
class WatchedHost:
    """`seen_s`: when it was last heard; `watch`: ends when its process does; the rest is `cluster.host_silence`'s."""

    handle: HostHandle
    seen_s: float
    watch: asyncio.Task[None]
    state: HostState = HostState.WORKING
    heartbeat: HostHeartbeat | None = None
    inquiry: asyncio.Task[str] | None = None
    cut_since_s: float | None = None

    def hear(self, heartbeat: HostHeartbeat, now_s: float) -> None:
        self.heartbeat, self.seen_s, self.cut_since_s = heartbeat, now_s, None
