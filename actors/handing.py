"""States of hospitals between two shards: kept in safety by who gives, waited for by who takes.

Both shards may be held by different hosts, and either may fail at any moment. What is given is the same in every replay,
so it may be kept twice; nobody who gave snapshots its shard before it is kept, and nobody who takes goes on without it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from actors.hospital_state import State
from actors.shard_runner import ShardRunner
from runtime.snapshots import SnapshotStore

logger = logging.getLogger(__name__)

_LOOK_S: Final = 0.05
_RETRY_S: Final = 0.5


class Handing:
    """See module. `is_held`: whether a runner still holds its shard here; for one that does not nothing is waited."""

    def __init__(self, store: SnapshotStore, is_held: Callable[[ShardRunner], bool]) -> None:
        self._store = store
        self._is_held = is_held

    async def give(self, runner: ShardRunner, number: int, sequence: int, state: State) -> None:
        """Keep what `runner`'s shard gave away at `sequence`, until the disk takes it."""
        while self._is_held(runner):
            try:
                await asyncio.to_thread(self._store.give, number, runner.shard, sequence, state)
            except Exception:  # whatever it is, the shard may not snapshot without it
                logger.exception("the state of a hospital could not be kept; it is tried again", extra={"number": number})
                await asyncio.sleep(_RETRY_S)
                continue
            runner.giving -= 1
            return

    async def fetch(self, runner: ShardRunner, number: int, ready: Callable[[], None]) -> None:
        """Let `runner` go on with what was given under `number`, as soon as it is there."""
        is_damaged = False
        while self._is_held(runner) and runner.awaited == number:
            try:
                state = await asyncio.to_thread(self._store.given, number)
            except Exception:  # damaged, or the disk: the shard waits, others go on
                if not is_damaged:
                    logger.exception("the state of a hospital cannot be read", extra={"number": number, "shard": runner.shard})
                is_damaged, state = True, None
            if state is not None:
                runner.arrivals[number], runner.awaited = state, None
                ready()
                return
            await asyncio.sleep(_RETRY_S if is_damaged else _LOOK_S)
