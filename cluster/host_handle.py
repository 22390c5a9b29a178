"""A host process as those who supervise it use it, and what is known of one that is watched."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Protocol

from domain.host_orders import HostState
from domain.messages import HostHeartbeat


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
class WatchedHost:
    """`seen_s`: when it was last heard; `watch`: ends when its process does."""

    handle: HostHandle
    seen_s: float
    watch: asyncio.Task[None]
    state: HostState = HostState.WORKING
    heartbeat: HostHeartbeat | None = None
