"""Hosts for tests: real ones on a real bus and lake, in this process, without Ray; and what they left behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import polars as pl

from actors.host import Host, HostPolicy
from domain import subjects
from domain.alarms import AlarmEvent
from domain.frames import encode_frame
from domain.messages import Reject
from domain.metrics import metric_of
from domain.readings import ReadingBatch
from runtime.bus import Bus
from runtime.clock import SystemClock
from runtime.lake import Lake, ReadingQuery
from runtime.snapshots import SnapshotStore
from runtime.tasks import end
from tests.waiting import until

CLOCK = SystemClock()


class HostRig:
    """The folders and the bus that hosts share."""

    def __init__(self, folder: Path, nats_url: tuple[str, str]) -> None:
        self.lake_dir = folder / "lake"
        self.snapshot_dir = folder / "snapshots"
        self.audit_dir = folder / "audit"
        self._nats_url = nats_url

    @asynccontextmanager
    async def host(self, name: str = "host-1", *, is_killed: bool = False, **shards: int) -> AsyncIterator[Host]:
        """A host that holds `shard_<n>=epoch`; it commits and snapshots as it ends, unless it is killed."""
        bus = await Bus.connect(*self._nats_url, name)
        host = Host(
            name, bus=bus, lake=Lake(self.lake_dir), snapshots=SnapshotStore(self.snapshot_dir), clock=CLOCK,
            policy=HostPolicy(flush_interval_s=0.2), pid=1,
        )  # fmt: skip
        await host.start()
        try:
            for shard, epoch in shards.items():
                await host.acquire(int(shard.removeprefix("shard_")), epoch)
            yield host
            if is_killed:
                await end(*host._tasks, *(runner.follower._watch for runner in host._runners.values() if runner.follower))
            else:
                await host.stop()
        finally:
            await bus.close()

    def stored(self) -> pl.DataFrame:
        """All readings in the lake, by source sequence."""
        return Lake(self.lake_dir).read(ReadingQuery()).sort("sequence")


def applied(host: Host, shard: int) -> int:
    """How far the host has come in the shard's stream."""
    return next((held.applied for held in host.heartbeat().shards if held.shard == shard), 0)


async def caught_up(host: Host, shard: int, sequence: int) -> None:
    await until(lambda: applied(host, shard) >= sequence)


async def send(bus: Bus, shard: int, handle: int, metric: str, values: dict[int, float]) -> int:
    """Readings of one device as its own source, by source sequence; returns the stream's sequence of the frame."""
    now_us = CLOCK.now_us()
    batch = ReadingBatch.of(
        handle=handle, metric=metric_of(metric).id, time_us=[now_us + n for n in range(len(values))],
        value=list(values.values()), source=handle, sequence=list(values),
    )  # fmt: skip
    frame = encode_frame(batch, source=handle, sequence=max(values), arrival_us=now_us)
    return await bus.publish(subjects.reading(shard), frame, f"frame-{handle}-{max(values)}")


async def kept(bus: Bus, stream: str) -> list[bytes]:
    """The payloads of a stream that is small."""
    state = await bus.stream_state(stream)
    found = [await bus.get_message(stream, n) for n in range(max(state.first_sequence, 1), state.last_sequence + 1)]
    return [message.payload for message in found if message is not None]


async def alarms(bus: Bus) -> list[AlarmEvent]:
    return [msgspec.json.decode(payload, type=AlarmEvent) for payload in await kept(bus, subjects.ALARMS_STREAM)]


async def rejects(bus: Bus) -> list[tuple[str, str]]:
    """(reason, detail) of all rejects."""
    decoded = [msgspec.json.decode(payload, type=Reject) for payload in await kept(bus, subjects.REJECTS_STREAM)]
    return [(reject.reason, reject.detail) for reject in decoded]
