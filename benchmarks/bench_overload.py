"""Three and ten times what the platform can take: memory, how senders are slowed, what is lost, what critical devices feel.

    python benchmarks/bench_overload.py            a few minutes
    python benchmarks/bench_overload.py --quick    four gateways and seconds, as in CI

Starts a platform of its own. Sensors of rooms behind gateways first show how much of them is taken; then they offer three
and ten times that by schedule, and then monitors behind gateways three times what is taken of *them*, while critical
monitors in the same hospitals raise alarms. At the end every acknowledged reading must be in the lake, once. Clause 7.3.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time

import numpy as np
import uvloop

from benchmarks.alarm_probes import PARTS, AlarmProbes
from benchmarks.frames_load import MONITORS, SENSORS, Load, manifest_of, probes_of, senders_of
from benchmarks.gateway_load import Gateways, Watched
from benchmarks.measure import Bench
from benchmarks.own_platform import own_platform
from runtime.tasks import end
from scenarios.rest import Rest
from scenarios.stored import opened
from scenarios.target import Target

HOSPITALS = 4
IN_FLIGHT = 8
MB = 2**20
WORDS = {SENSORS.model: "bulk", MONITORS.model: "vital signs"}


async def prepared(target: Target, gateways: int, probes: int) -> tuple[dict[str, Gateways], AlarmProbes, list[str]]:
    """Both fleets registered and connected, in the same hospitals' shards, and the critical monitors among them."""
    fleets = {}
    devices = []
    hospitals = []
    async with Rest(target) as rest:
        for load, prefix, own in ((SENSORS, "s", probes), (MONITORS, "m", 0)):
            manifest = manifest_of(HOSPITALS, gateways, target.region_id, load, probes=own, prefix=prefix)
            registered = await rest.register(manifest)
            fleets[load.model] = Gateways(target, senders_of(manifest, registered, load), load, in_flight=IN_FLIGHT)
            devices += probes_of(manifest, registered)
            hospitals += [hospital.hospital_id for hospital in manifest.hospitals]
    for fleet in fleets.values():
        await fleet.connect()
    critical = AlarmProbes(target, devices)
    await critical.connect()
    return fleets, critical, hospitals[:HOSPITALS]


async def overloaded(
    bench: Bench, fleet: Gateways, load: Load, most: float, times: int, critical: AlarmProbes, watched: Watched
) -> None:
    """Offer so many times `most`, and note what became of it."""
    seconds = 2.0 if bench.quick else 10.0
    for gateway in fleet.all:
        gateway.took_s.clear()
    offering = asyncio.create_task(fleet.pace(times * most, seconds, at_most=2 * most))
    await fleet.under_way.wait()
    watched.start_anew()
    before = fleet.acknowledged
    probing = await critical.run(seconds)
    due = await offering
    taken = fleet.acknowledged - before
    await fleet.settled()
    took_s = np.concatenate([gateway.took_s for gateway in fleet.all])
    what = f"{times}× {WORDS[load.model]}"
    bench.note(f"{what}, offered", due / seconds, "readings/s")
    bench.note(f"{what}, acknowledged", taken / seconds, "readings/s")
    bench.note(f"{what}, a frame's acknowledgement, p50", 1000 * float(np.quantile(took_s, 0.5)), "ms")
    bench.note(f"{what}, a frame's acknowledgement, p99", 1000 * float(np.quantile(took_s, 0.99)), "ms")
    bench.note(f"{what}, connections ended", sum(g.client.reconnects for g in fleet.all), "")
    bench.note(f"{what}, alarm of a critical device, p50", probing.seen_ms(0.5), "ms")
    bench.note(f"{what}, alarm of a critical device, p99", probing.seen_ms(0.99), "ms")
    for part, name in enumerate(PARTS, 1):
        bench.note(f"{what}, of that {name}, p99", probing.seen_ms(0.99, part), "ms")
    bench.note(f"{what}, alarms seen", len(probing.seen_s), "")
    bench.note(f"{what}, alarms that did not come", probing.unseen, "", "= 0")
    bench.note(f"{what}, critical acknowledgement, p99", probing.acknowledged_ms(0.99), "ms")
    bench.note(f"{what}, hosts behind, p50", watched.behind(0.5), "ms")
    bench.note(f"{what}, hosts behind, most", watched.behind(1.0), "ms")
    for role, peak in sorted(watched.peak_bytes.items()):
        bench.note(f"{what}, memory of {role}, peak", peak / MB, "MB")


async def measure(bench: Bench, target: Target) -> None:
    fleets, critical, hospitals = await prepared(target, 4 if bench.quick else 80, 2 if bench.quick else 50)
    assert target.lake_dir is not None
    lake, watched = opened(target.lake_dir), Watched(target)
    watching = [asyncio.create_task(critical.watch(hospitals)), asyncio.create_task(watched.run())]
    try:
        for load, overloads in ((SENSORS, (10,)),) if bench.quick else ((SENSORS, (3, 10)), (MONITORS, (3,))):
            fleet = fleets[load.model]
            began = await fleet.flood(4 if bench.quick else 20)
            most = fleet.acknowledged / (time.perf_counter() - began)
            bench.note(f"the most that is taken of {WORDS[load.model]}", most, "readings/s")
            for times in overloads:
                await overloaded(bench, fleet, load, most, times, critical, watched)
            lost, doubled = await fleet.stored(lake)
            bench.note(f"{WORDS[load.model]}: acknowledged and lost", lost, "readings", "= 0")
            bench.note(f"{WORDS[load.model]}: stored twice", doubled, "readings", "= 0")
            assert (lost, doubled) == (0, 0), "a figure with a lost or doubled reading is none"
    finally:
        await end(*watching)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(10):
            await asyncio.gather(critical.close(), *(fleet.close() for fleet in fleets.values()))


def main() -> None:
    bench = Bench("overload")
    with own_platform() as (_, target):
        uvloop.run(measure(bench, target))
    bench.finish()


if __name__ == "__main__":
    sys.exit(main())
