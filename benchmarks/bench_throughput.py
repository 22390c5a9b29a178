"""Readings a second from gateways' frames to the lake, all features on, beside the bare pipeline with the same frames.

    python benchmarks/bench_throughput.py            a district of 100,000 monitors at full rate, a minute of it
    python benchmarks/bench_throughput.py --quick    two thousand monitors, as in CI

Starts a platform of its own, registers the monitors in one call, connects each gateway to the MQTT door and sends as fast
as acknowledgements come (at most IN_FLIGHT frames a gateway are out). The clock runs until every reading is in the lake;
as the last ones wait there for the interval between commits, the pace in the midst of the run is told beside it.
Then the ledger is closed over all of them: a figure with a lost or doubled reading is none. Clauses 7.3, 7.4a.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass

import numpy as np
import polars as pl
import uvloop

from benchmarks.bare_pipeline import readings_per_s
from benchmarks.frames_load import READINGS_A_FRAME, Sender, frames_of, manifest_of, senders_of
from benchmarks.gateway_load import pace, watch
from benchmarks.measure import Bench
from benchmarks.own_platform import own_platform
from gateways.device_client import DeviceClient
from runtime.lake import Lake
from scenarios.rest import Rest
from scenarios.stored import opened
from scenarios.target import Target

IN_FLIGHT = 2
SEED = 1
HOSPITALS = 10


async def prepared(target: Target, gateways: int, seconds: int) -> tuple[list[DeviceClient], list[Sender], list[list[bytes]]]:
    """The fleet registered and connected, and its frames, which end now."""
    manifest = manifest_of(min(HOSPITALS, gateways), gateways, target.region_id)
    async with Rest(target) as rest:
        senders = senders_of(manifest, await rest.register(manifest))
    host, port, tls = target.mqtt_host, target.mqtt_port, target.doors_tls()
    clients = [DeviceClient(host, port, sender.token, tls=tls, max_in_flight=IN_FLIGHT) for sender in senders]
    await asyncio.gather(*(client.connect() for client in clients))
    rng = np.random.default_rng(SEED)
    start_us = int((time.time() - seconds) * 1e6)
    return clients, senders, [frames_of(sender, seconds, start_us, rng) for sender in senders]


async def send_all(clients: list[DeviceClient], frames: list[list[bytes]]) -> None:
    """Each gateway sends its frames in order; returns when all are acknowledged."""
    await asyncio.gather(*(client.start_frame(frame) for second in zip(*frames, strict=True)
                           for client, frame in zip(clients, second, strict=True)))  # fmt: skip


def check(lake: Lake, senders: list[Sender], seconds: int) -> None:
    """Raises AssertionError unless every reading is in the lake once."""
    sources = pl.Series([sender.handle for sender in senders], dtype=pl.Int64)
    rows = lake.scan(lake.state().files["path"]).filter(pl.col("source").is_in(sources.implode()))
    counts = rows.select(pl.len().alias("all"), pl.struct("source", "sequence").n_unique().alias("different")).collect()
    expected = len(senders) * seconds * READINGS_A_FRAME
    assert counts.row(0) == (expected, expected), f"(stored, different) is {counts.row(0)}, expected {expected} of both"


@dataclass(frozen=True)
class Passage:
    """Seconds until all was acknowledged, and until all was in the lake; readings/s in the midst; frames as sent."""

    acknowledged_s: float
    stored_s: float
    pace: float
    frames: list[bytes]


async def through_the_platform(target: Target, gateways: int, seconds: int) -> Passage:
    clients, senders, frames = await prepared(target, gateways, seconds)
    assert target.lake_dir is not None
    lake = opened(target.lake_dir)
    began = time.perf_counter()
    watching = asyncio.create_task(watch(lake, gateways * seconds * READINGS_A_FRAME))
    await send_all(clients, frames)
    acknowledged_s = time.perf_counter() - began
    looks = await watching
    await asyncio.sleep(1.0)
    check(lake, senders, seconds)
    await asyncio.gather(*(client.close() for client in clients))
    sent = [frame for second in zip(*frames, strict=True) for frame in second]
    return Passage(acknowledged_s, looks[-1][0] - began, pace(looks), sent)


def main() -> None:
    bench = Bench("throughput")
    gateways, seconds = (4, 4) if bench.quick else (200, 60)
    with own_platform(alone=True) as (_, target):
        passage = uvloop.run(through_the_platform(target, gateways, seconds))
    readings = len(passage.frames) * READINGS_A_FRAME
    bare = readings_per_s(passage.frames)
    bench.note(f"{gateways * 500:,} monitors, acknowledged", readings / passage.acknowledged_s, "readings/s")
    bench.note(f"{gateways * 500:,} monitors, in the lake", readings / passage.stored_s, "readings/s")
    bench.note("in the lake, in the midst of the run", passage.pace, "readings/s")
    bench.note("bare pipeline, the same frames", bare, "readings/s")
    bench.note("in the lake ÷ bare", readings / passage.stored_s / bare, "", "≥ 0.4", "≥ 0.7")
    bench.note("in the midst ÷ bare", passage.pace / bare, "")
    bench.finish()


if __name__ == "__main__":
    sys.exit(main())
