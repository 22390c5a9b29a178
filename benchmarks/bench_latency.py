"""From a device's socket to an alarm on the live stream, at 10, 50 and 90 % of the most that is taken.

    python benchmarks/bench_latency.py            80 gateways with 500 monitors each, fifteen seconds a load
    python benchmarks/bench_latency.py --quick    four gateways and seconds, as in CI

Starts a platform of its own. Gateways first send as fast as they are acknowledged until all is in the lake: that is the
most. Then they send by schedule at a share of it, while critical monitors of other hospitals in
the same shards raise alarms, which a screen that shows those hospitals awaits. At last a host is killed under the highest
of these loads: the alarm that takes longest is one that began as it died, so it says when they flow again. Clause 7.3.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import uvloop

from benchmarks.alarm_probes import PARTS, AlarmProbes
from benchmarks.frames_load import MONITORS, manifest_of, probes_of, senders_of
from benchmarks.gateway_load import Gateways, Watched, watch
from benchmarks.measure import Bench
from benchmarks.own_platform import own_platform
from runtime.lake import Lake
from runtime.tasks import end
from scenarios.rest import Rest
from scenarios.stored import opened
from scenarios.target import Target

HOSPITALS = 10
IN_FLIGHT = 4
SHARES = (10, 50, 90)
WANTED = {50: ("≤ 200", "≤ 50"), 90: ("≤ 1,000", "≤ 250")}


async def most_of(fleet: Gateways, lake: Lake, frames_each: int) -> float:
    """Readings a second, from the first sent to the last in the lake, while as many are sent as are taken."""
    flood = asyncio.create_task(fleet.flood(frames_each))
    looks = await watch(lake, frames_each * len(fleet.all) * MONITORS.readings_a_frame)
    began = await flood
    assert await fleet.stored(lake) == (0, 0), "a figure with a lost or doubled reading is none"
    return fleet.acknowledged / (looks[-1][0] - began)


async def measure(bench: Bench, target: Target, host_pids: list[int]) -> None:
    async with Rest(target) as rest:
        gateways, probes = (HOSPITALS, 1) if bench.quick else (80, 10)
        manifest = manifest_of(HOSPITALS, gateways, target.region_id, prefix="l")
        registered = await rest.register(manifest)
        own = manifest_of(2 * HOSPITALS, 0, target.region_id, probes=probes, prefix="p")
        critical = AlarmProbes(target, probes_of(own, await rest.register(own)))
    fleet = Gateways(target, senders_of(manifest, registered), MONITORS, in_flight=IN_FLIGHT)
    await asyncio.gather(fleet.connect(), critical.connect())
    assert target.lake_dir is not None
    lake, watched = opened(target.lake_dir), Watched(target)
    hospitals = [hospital.hospital_id for hospital in own.hospitals]
    watching = [asyncio.create_task(critical.watch(hospitals)), asyncio.create_task(watched.run())]
    try:
        most = await most_of(fleet, lake, 2 if bench.quick else 75)
        bench.note("the most, in the lake", most, "readings/s")
        for share in SHARES[1:2] if bench.quick else SHARES:
            await at_share(bench, share, most, fleet, critical, watched)
        await with_a_host_killed(bench, most, fleet, critical, host_pids)
        assert await fleet.stored(lake) == (0, 0), "a figure with a lost or doubled reading is none"
    finally:
        await end(*watching)
    await asyncio.gather(critical.close(), fleet.close())


async def at_share(bench: Bench, share: int, most: float, fleet: Gateways, critical: AlarmProbes, watched: Watched) -> None:
    seconds = 2.0 if bench.quick else 15.0
    paced = asyncio.create_task(fleet.pace(share / 100 * most, seconds))
    await fleet.under_way.wait()
    watched.start_anew()
    alarms = await watched.alarms()
    result = await critical.run(seconds)
    alarms = await watched.alarms() - alarms
    await paced
    await fleet.settled()
    what = f"{share} % load"
    bench.note(f"{what}, device to alarm seen, p50", result.seen_ms(0.5), "ms")
    bench.note(f"{what}, device to alarm seen, p99", result.seen_ms(0.99), "ms", *WANTED.get(share, ()))
    bench.note(f"{what}, device to alarm seen, most", result.seen_ms(1.0), "ms")
    for part, name in enumerate(PARTS, 1):
        bench.note(f"{what}, of it {name}, p99", result.seen_ms(0.99, part), "ms")
    bench.note(f"{what}, device acknowledged, p99", result.acknowledged_ms(0.99), "ms")
    bench.note(f"{what}, alarm events of all devices", alarms / seconds, "events/s")
    bench.note(f"{what}, alarms seen", len(result.seen_s), "")
    bench.note(f"{what}, alarms that did not come", result.unseen, "", "= 0")
    bench.note(f"{what}, hosts behind, p50", watched.behind(0.5), "ms")
    bench.note(f"{what}, hosts behind, most", watched.behind(1.0), "ms")


async def with_a_host_killed(bench: Bench, most: float, fleet: Gateways, critical: AlarmProbes, host_pids: list[int]) -> None:
    share, seconds = (SHARES[1], 10.0) if bench.quick else (SHARES[-1], 20.0)
    paced = asyncio.create_task(fleet.pace(share / 100 * most, seconds))
    await fleet.under_way.wait()
    probing = asyncio.create_task(critical.run(seconds))
    await asyncio.sleep(seconds / 4)
    os.kill(host_pids[0], signal.SIGKILL)
    result = await probing
    await paced
    await fleet.settled()
    what = f"{share} % load, a host killed"
    bench.note(f"{what}, alarms flow again", result.seen_ms(1.0) / 1000, "s", "≤ 10", "≤ 3")
    bench.note(f"{what}, alarms that did not come", result.unseen, "", "= 0")


def main() -> None:
    bench = Bench("latency")
    with own_platform() as (platform, target):
        uvloop.run(measure(bench, target, list(platform.connection.host_pids.values())))
    bench.finish()


if __name__ == "__main__":
    sys.exit(main())
