"""What a host tells those who send to it: how far it has come, many times a second, so that they never run far ahead."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Final

from actors.shard_runner import ShardRunner
from domain import subjects
from domain.messages import HostProgress, encode
from runtime.bus import Bus

_TELL_UNCHANGED_S: Final = 0.5  # a host that has nothing to do says that it is there


class Progress:
    """Tells of the shards of one host until `run` is cancelled. `uncommitted_rows`: what the host holds beyond the lake."""

    def __init__(
        self, name: str, bus: Bus, runners: Mapping[int, ShardRunner], uncommitted_rows: Callable[[], int], every_s: float
    ) -> None:
        self._name = name
        self._bus = bus
        self._runners = runners
        self._uncommitted_rows = uncommitted_rows
        self._every_s = every_s

    async def run(self) -> None:
        """Tell for ever, from the loop that takes turns: it tells what is done, between one shard's turn and the next."""
        loop = asyncio.get_running_loop()
        told, told_s = None, float("-inf")
        while True:
            applied = {shard: runner.applied for shard, runner in self._runners.items()}
            progress = HostProgress(self._name, applied, self._uncommitted_rows())
            is_due = progress != told or loop.time() - told_s >= _TELL_UNCHANGED_S
            if is_due and self._bus.is_connected:
                told, told_s = progress, loop.time()
                with contextlib.suppress(OSError):  # it is lost just now: so are those who would listen
                    await self._bus.core_publish(subjects.host_progress(self._name), encode(progress))
            await asyncio.sleep(self._every_s)
