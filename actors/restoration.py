"""Bringing a shard back: its last snapshot, then the stream; and between them the directory where the two do not meet.

The stream keeps its messages for a time only. When it begins behind the snapshot, or behind the shard's own beginning
when there is no snapshot, registrations and the like may be gone from it, and readings that are still in it would
come from unknown devices. So the business database says once more who is in the shard, before the stream is followed.
The directory tells what is so now; what the stream still holds is applied over it in order and ends at the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from actors.shard import ShardCell
from actors.shard_runner import ShardRunner
from domain import subjects
from domain.alarms import AlarmEvent
from domain.messages import Control
from runtime.bus import Bus
from runtime.lake import Lake
from runtime.lake_schema import Fenced
from runtime.shard_directory import ask_directory
from runtime.snapshots import SnapshotStore

logger = logging.getLogger(__name__)

_NO_TIME_US: Final = 0  # of the stream: the directory is not in it, and must not let its time go on


@dataclass(frozen=True, slots=True)
class Restored:
    """A shard that is ready to follow its stream behind `runner.applied`, and what the directory ended on the way."""

    runner: ShardRunner
    alarms: list[AlarmEvent]


class Restoration:
    """Restores shards for one host."""

    def __init__(self, bus: Bus, lake: Lake, snapshots: SnapshotStore, live_horizon_s: float) -> None:
        self._bus = bus
        self._lake = lake
        self._snapshots = snapshots
        self._live_horizon_us = round(live_horizon_s * 1e6)

    async def restore(self, shard: int, epoch: int, suspects: dict[int, int]) -> Restored:
        """Raises Unavailable when the stream, or the directory where it is needed, does not answer; Fenced when another
        host was given the shard meanwhile.
        """
        cell = ShardCell(shard, live_horizon_us=self._live_horizon_us)
        snapshot = await asyncio.to_thread(self._snapshots.load, shard)
        applied = 0
        if snapshot is not None:
            cell.restore(snapshot.tables)
            applied = snapshot.sequence
        alarms = await self._know_again(cell, applied) if await self._has_gap(applied) else []
        view = await asyncio.to_thread(self._lake.positions)
        newer = view.epochs.get(shard, 0)
        if newer > epoch:
            raise Fenced(shard, epoch, newer)
        runner = ShardRunner(shard, epoch, cell, applied=applied, committed=view.positions.get(shard, 0), suspects=suspects)
        return Restored(runner, alarms)

    async def _has_gap(self, applied: int) -> bool:
        """Whether the stream has lost messages that the cell has not seen."""
        return (await self._bus.stream_state(subjects.READINGS_STREAM)).first_sequence > applied + 1

    async def _know_again(self, cell: ShardCell, applied: int) -> list[AlarmEvent]:
        said = await ask_directory(self._bus, cell.shard)
        alarms = await asyncio.to_thread(_apply, cell, said)  # nobody else has the cell yet
        if said:
            logger.warning(
                "the stream begins behind the shard's state; its devices are known again from the directory",
                extra={"shard": cell.shard, "after_sequence": applied, "devices": cell.device_count},
            )
        return alarms


def _apply(cell: ShardCell, said: Iterable[Control]) -> list[AlarmEvent]:
    return [event for message in said for event in cell.apply_control(message, _NO_TIME_US).alarms]
