"""Ticks: the holder of a shard writes the time into its stream, so that silence has a clock and replays decide alike."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from functools import partial
from typing import Final

from actors.shard_runner import ShardRunner
from domain import subjects
from domain.errors import Unavailable
from domain.frames import encode_frame
from domain.ports import Clock
from domain.readings import ReadingBatch
from runtime.bus import Bus
from runtime.tasks import end

_TICK_S: Final = 1.0


class Ticker:
    """Ticks for the shards of one host that have devices, each once a second.

    They tick one after the other within the second: all at once they would hold up every alarm behind them.
    """

    def __init__(self, bus: Bus, clock: Clock, runners: Mapping[int, ShardRunner]) -> None:
        self._bus = bus
        self._clock = clock
        self._runners = runners
        self._ticking: dict[int, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Tick for ever; a shard whose last tick is still on its way is passed over."""
        while True:
            runners = list(self._runners.values())
            for runner in runners:
                await asyncio.sleep(_TICK_S / len(runners))
                if runner.cell.device_count and runner.shard not in self._ticking:
                    task = asyncio.create_task(self._tick(runner.shard, runner.epoch))
                    self._ticking[runner.shard] = task
                    task.add_done_callback(partial(self._ticked, runner.shard))
            if not runners:
                await asyncio.sleep(_TICK_S)

    async def stop(self) -> None:
        """End what is on its way."""
        await end(*self._ticking.values())

    async def _tick(self, shard: int, epoch: int) -> None:
        now_us = self._clock.now_us()
        tick = encode_frame(ReadingBatch.empty(), source=0, sequence=0, arrival_us=now_us)
        with contextlib.suppress(Unavailable):  # the next second brings the next one
            await self._bus.publish(subjects.reading(shard), tick, f"tick-{shard}-{epoch}-{now_us}")

    def _ticked(self, shard: int, _: asyncio.Task[None]) -> None:
        self._ticking.pop(shard, None)
