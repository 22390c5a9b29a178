"""Two thousand screens on live streams and two hundred people who ask, at once: what is dropped, how late, what it costs.

    python benchmarks/bench_live.py            2,000 screens, twenty seconds
    python benchmarks/bench_live.py --quick    40 screens, as in CI

Starts a platform of its own with load from gateways. Of the screens nine in ten show the alarms of one hospital, and one in
ten the readings of a ward. Then people ask too, each a question every five seconds: the latest values of a device, the
alarms of its hospital, its last readings. What each screen got is compared with what the alarm stream holds for its
hospital. Clauses 7.1c, 7.3.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import time
from collections import Counter

import numpy as np
import psutil
import uvloop

from benchmarks.alarm_probes import PARTS, AlarmProbes
from benchmarks.frames_load import MONITORS, manifest_of, probes_of, senders_of
from benchmarks.gateway_load import Gateways
from benchmarks.measure import Bench
from benchmarks.own_platform import own_platform
from benchmarks.sse_clients import Screens
from cluster.connection import Connection
from domain import subjects
from domain.errors import VitalgridError
from runtime.bus import Bus
from runtime.follower import StreamMessage
from runtime.tasks import end
from scenarios.rest import Rest
from scenarios.target import Target

HOSPITALS = 10
READINGS_A_SECOND = 100_000
ASK_EVERY_S = 5.0
_UNDER_WAY_S = 15.0


class People:
    """Those who ask: each a question every five seconds, or as soon as the one before is answered."""

    def __init__(self, target: Target, hospitals: list[str]) -> None:
        self._target = target
        self._hospitals = hospitals
        self.took_s: list[float] = []
        self.errors = 0

    async def run(self, count: int, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        async with contextlib.AsyncExitStack() as stack:
            rests = [await stack.enter_async_context(Rest(self._target)) for _ in range(1 + count // 50)]
            start_s = loop.time()
            await asyncio.gather(
                *(
                    self._ask_on(n, rests[n % len(rests)], start_s + ASK_EVERY_S * n / count, start_s + seconds)
                    for n in range(count)
                )
            )

    async def _ask_on(self, number: int, rest: Rest, due_s: float, until_s: float) -> None:
        loop = asyncio.get_running_loop()
        hospital = self._hospitals[number % len(self._hospitals)]
        device = f"{hospital}/dev-000-{number % 500:03}"
        questions = (
            ("/readings/latest", {"device": device}),
            ("/alarms", {"hospital": hospital, "limit": 50}),
            ("/readings", {"device": device, "metric": "heart_rate", "limit": 100}),
        )
        for turn in itertools.count(number):
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            if loop.time() >= until_s:
                return
            asked_s = loop.time()
            try:
                await rest.get(*questions[turn % len(questions)])
            except VitalgridError:
                self.errors += 1
            self.took_s.append(loop.time() - asked_s)
            due_s += ASK_EVERY_S


class Looks:
    """What screens got of what there was, while nothing else changes."""

    def __init__(self, bench: Bench, screens: Screens, showing: list[str], critical: AlarmProbes, api: psutil.Process) -> None:
        self._bench = bench
        self._screens = screens
        self._showing = showing
        self._critical = critical
        self._api = api
        self._held: Counter[str] = Counter()

    def hear(self, message: StreamMessage) -> None:
        """Take an event as the alarm stream holds it."""
        self._held[message.subject] += 1

    async def look(self, what: str, seconds: float) -> None:
        note, screens = self._bench.note, self._screens
        self._held.clear()
        for client in screens.all:
            client.start_anew()
        used_s = sum(self._api.cpu_times()[:2])
        result = await self._critical.run(seconds)
        used_s = sum(self._api.cpu_times()[:2]) - used_s
        wanted, got = await self._counted()
        note(f"{what}, alarm events to screens", got / seconds, "events/s")
        note(f"{what}, alarm events dropped", 100 * max(0, wanted - got) / max(wanted, 1), "%", "≤ 0.1", "= 0")
        note(f"{what}, screens cut off for being slow", screens.sum(lambda c: c.overflows), "", "= 0")
        note(f"{what}, connections lost", sum(c.is_lost for c in screens.all), "", "= 0")
        note(f"{what}, longest silence of a screen", max(c.silence_s for c in screens.all), "s", "≤ 1")
        note(f"{what}, readings events to screens", screens.sum(lambda c: c.readings) / seconds, "events/s")
        note(f"{what}, device to alarm seen, p50", result.seen_ms(0.5), "ms")
        note(f"{what}, device to alarm seen, p99", result.seen_ms(0.99), "ms")
        for part, name in enumerate(PARTS, 1):
            note(f"{what}, of it {name}, p50", result.seen_ms(0.5, part), "ms")
        note(f"{what}, alarms that did not come", result.unseen, "", "= 0")
        note(f"{what}, processor of the API", 100 * used_s / seconds, "% of one")

    async def _counted(self) -> tuple[int, int]:
        """Alarm events (that screens should have, that they have), once what is under way has had time to arrive."""
        until_s = asyncio.get_running_loop().time() + _UNDER_WAY_S
        while True:
            wanted = sum(self._held[subjects.alarm(hospital)] for hospital in self._showing)
            got = self._screens.sum(lambda client: client.alarms)
            if got >= wanted or asyncio.get_running_loop().time() > until_s:
                return wanted, got
            await asyncio.sleep(0.1)


def paths_of(hospitals: list[str], count: int) -> tuple[list[str], list[str]]:
    """(the hospital of each screen that shows alarms, the paths of all screens)."""
    showing = [hospitals[n % HOSPITALS] for n in range(count) if n % 10]
    wards = ("&".join(f"device={hospitals[n % HOSPITALS]}/dev-000-{n % 10 * 20 + m:03}" for m in range(20))
             for n in range(count // 10))  # fmt: skip
    return showing, [f"/live/alarms?hospital={h}" for h in showing] + [f"/live/readings?{ward}" for ward in wards]


async def measure(bench: Bench, target: Target, connection: Connection) -> None:
    gateways, rate, seconds = (HOSPITALS, 10_000, 2.0) if bench.quick else (40, READINGS_A_SECOND, 15.0)
    async with Rest(target) as rest:
        manifest = manifest_of(HOSPITALS, gateways, target.region_id, MONITORS, probes=4, prefix="v")
        registered = await rest.register(manifest)
    fleet = Gateways(target, senders_of(manifest, registered, MONITORS), MONITORS, in_flight=4)
    critical = AlarmProbes(target, probes_of(manifest, registered), every_s=0.5 if bench.quick else 2.0)
    bus = await Bus.connect(target.nats_url or "", target.bus_key or "", "benchmark")
    await asyncio.gather(fleet.connect(), critical.connect())
    hospitals = [hospital.hospital_id for hospital in manifest.hospitals]
    tasks = [asyncio.create_task(fleet.pace(rate, 2 * seconds + 20)), asyncio.create_task(critical.watch(hospitals))]
    try:
        await fleet.under_way.wait()
        await look_at(bench, target, hospitals, critical, bus, psutil.Process(connection.process_pids["api"]))
    finally:
        await end(*tasks)
        await asyncio.gather(critical.close(), fleet.close(), bus.close())


async def look_at(
    bench: Bench, target: Target, hospitals: list[str], critical: AlarmProbes, bus: Bus, api: psutil.Process
) -> None:
    count, asking, seconds = (40, 8, 2.0) if bench.quick else (2_000, 200, 15.0)
    showing, paths = paths_of(hospitals, count)
    screens, people = Screens(target), People(target, hospitals)
    before, began = api.memory_info().rss, time.perf_counter()
    await screens.open(paths)
    bench.note(f"{count:,} screens opened in", time.perf_counter() - began, "s")
    bench.note(f"{count:,} screens, memory of the API", (api.memory_info().rss - before) / count / 1024, "KB each")
    looks = Looks(bench, screens, showing, critical, api)
    last = (await bus.stream_state(subjects.ALARMS_STREAM)).last_sequence
    follower = await bus.follow(subjects.ALARMS_STREAM, list(subjects.ALARMS_SUBJECTS), last + 1, looks.hear)
    await looks.look(f"{count:,} screens", seconds)
    asked = asyncio.create_task(people.run(asking, seconds))
    await looks.look(f"{asking} people ask too", seconds)
    await asked
    bench.note(f"{asking} people ask too, an answer, p50", 1000 * float(np.quantile(people.took_s, 0.5)), "ms")
    bench.note(f"{asking} people ask too, an answer, p99", 1000 * float(np.quantile(people.took_s, 0.99)), "ms")
    bench.note(f"{asking} people ask too, questions refused", people.errors, "", "= 0")
    bench.note("memory of the API at the end", api.memory_info().rss / 2**20, "MB")
    screens.close()
    await follower.stop()


def main() -> None:
    bench = Bench("live")
    with own_platform(LIMITS__LIVE_STREAMS="4000") as (platform, target):
        uvloop.run(measure(bench, target, platform.connection))
    bench.finish()


if __name__ == "__main__":
    sys.exit(main())
