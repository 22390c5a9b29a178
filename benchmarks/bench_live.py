"""Two thousand screens on live streams and two hundred people who ask, at once: what is dropped, how late, what it costs.

    python benchmarks/bench_live.py            2,000 screens, twenty seconds
    python benchmarks/bench_live.py --quick    40 screens, as in CI

Starts a platform of its own with load from gateways. Of the screens nine in ten show the alarms of one hospital, and one in
ten the readings of a ward. Then people ask too, each a question a second: the latest values of a ward, its alarms, an hour
of a device. What each screen got is compared with what the alarm stream holds for its hospital. Clauses 7.1c, 7.3.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import psutil
import uvloop

from benchmarks.alarm_probes import AlarmProbes
from benchmarks.frames_load import MONITORS, manifest_of, probes_of, senders_of
from benchmarks.gateway_load import Gateways
from benchmarks.measure import Bench
from benchmarks.sse_clients import Screens
from cluster.connection import Connection
from cluster.run_target import local_target
from domain import subjects
from domain.errors import VitalgridError
from runtime.bus import Bus
from runtime.follower import StreamMessage
from runtime.settings import Settings
from runtime.tasks import end
from scenarios.rest import Rest
from scenarios.target import Target
from tests.running_platform import start_platform

HOSPITALS = 10
LOAD = replace(MONITORS, abnormal_share=0.0001)
READINGS_A_SECOND = 100_000
DEFAULTS = {"SHARDS": "16", "HOSTS__SNAPSHOT_INTERVAL_S": "15", "LAKE__FLUSH_INTERVAL_S": "5"}  # as users have it, not as tests


@dataclass
class People:
    """Those who ask: each one question a second, by schedule."""

    rest: Rest
    hospitals: list[str]
    took_s: list[float] = field(default_factory=list)
    errors: int = 0

    async def run(self, count: int, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        await asyncio.gather(*(self._ask_on(n, start_s + n / count, start_s + seconds) for n in range(count)))

    async def _ask_on(self, number: int, due_s: float, until_s: float) -> None:
        loop = asyncio.get_running_loop()
        hospital = self.hospitals[number % len(self.hospitals)]
        questions = (
            ("/state/latest", {"device": f"{hospital}/dev-000-{number % 500:03}"}),
            ("/alarms", {"hospital": hospital, "limit": 50}),
            ("/readings", {"device": f"{hospital}/dev-000-{number % 500:03}", "metric": "heart_rate", "limit": 100}),
        )
        turn = number
        while due_s < until_s:
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            try:
                await self.rest.get(*questions[turn % len(questions)])
            except VitalgridError:
                self.errors += 1
            self.took_s.append(loop.time() - due_s)
            turn, due_s = turn + 1, due_s + 1.0


async def watched(
    bench: Bench, what: str, screens: Screens, by_hospital: list[tuple[int, str]], held: Counter[str], critical: AlarmProbes,
    seconds: float, api: psutil.Process,
) -> None:  # fmt: skip
    """Look on for a while with nothing changed, and note what screens got of what there was."""
    held.clear()
    for client in screens.all:
        client.start_anew()
    used = sum(api.cpu_times()[:2])
    result = await critical.run(seconds)
    await asyncio.sleep(1.0)
    used = sum(api.cpu_times()[:2]) - used
    wanted = sum(held[subjects.alarm(hospital)] for _, hospital in by_hospital)
    got = screens.sum(lambda client: client.alarms)
    bench.note(f"{what}, alarm events to screens", got / seconds, "events/s")
    bench.note(f"{what}, alarm events dropped", 100 * max(0, wanted - got) / max(wanted, 1), "%", "≤ 0.1", "= 0")
    bench.note(f"{what}, screens cut off for being slow", screens.sum(lambda c: c.overflows), "", "= 0")
    bench.note(f"{what}, connections lost", sum(c.is_lost for c in screens.all), "", "= 0")
    bench.note(f"{what}, longest silence of a screen", max(c.silence_s for c in screens.all), "s", "≤ 1")
    bench.note(f"{what}, readings events", screens.sum(lambda c: c.readings) / seconds, "events/s")
    bench.note(f"{what}, device to alarm seen, p50", result.seen_ms(0.5), "ms")
    bench.note(f"{what}, device to alarm seen, p99", result.seen_ms(0.99), "ms")
    bench.note(f"{what}, alarms that did not come", result.unseen, "", "= 0")
    bench.note(f"{what}, processor of the API", 100 * used / (seconds + 1), "% of one")


async def measure(bench: Bench, target: Target, connection: Connection) -> None:
    seconds, count, asking, gateways = (2.0, 40, 8, HOSPITALS) if bench.quick else (20.0, 2_000, 200, 40)
    async with Rest(target) as rest:
        manifest = manifest_of(HOSPITALS, gateways, target.region_id, LOAD, probes=4)
        registered = await rest.register(manifest)
        fleet = Gateways(target, senders_of(manifest, registered, LOAD), LOAD, in_flight=4)
        critical = AlarmProbes(target, probes_of(manifest, registered), every_s=2.0 if not bench.quick else 0.5)
        await asyncio.gather(fleet.connect(), critical.connect())
        hospitals = [hospital.hospital_id for hospital in manifest.hospitals]
        rate = READINGS_A_SECOND if not bench.quick else 10_000
        paced = asyncio.create_task(fleet.pace(rate, 2 * seconds + 20))
        await fleet.under_way.wait()
        watching = asyncio.create_task(critical.watch(hospitals))
        api = psutil.Process(connection.process_pids["api"])
        before = api.memory_info().rss
        screens = Screens(target)
        began = time.perf_counter()
        showing = [(n, hospitals[n % HOSPITALS]) for n in range(count) if n % 10]
        alarms = [f"/live/alarms?hospital={hospital}" for _, hospital in showing]
        wards = [
            "/live/readings?" + "&".join(f"device={hospitals[n % HOSPITALS]}/dev-000-{n % 10 * 20 + m:03}" for m in range(20))
            for n in range(count // 10)
        ]
        await screens.open([*alarms, *wards])
        bench.note(f"{count:,} screens opened", time.perf_counter() - began, "s")
        bench.note(f"{count:,} screens, memory of the API", (api.memory_info().rss - before) / count / 1024, "KB each")
        held: Counter[str] = Counter()
        bus = await Bus.connect(target.nats_url or "", target.nats_token or "", "benchmark")

        def hear(message: StreamMessage) -> None:
            held[message.subject] += 1

        last = (await bus.stream_state(subjects.ALARMS_STREAM)).last_sequence
        follower = await bus.follow(subjects.ALARMS_STREAM, list(subjects.ALARMS_SUBJECTS), last + 1, hear)
        await watched(bench, f"{count:,} screens", screens, showing, held, critical, seconds, api)
        people = People(rest, hospitals)
        asked = asyncio.create_task(people.run(asking, seconds))
        await watched(bench, f"{asking} people ask too", screens, showing, held, critical, seconds, api)
        await asked
        bench.note(f"{asking} people ask too, an answer, p50", 1000 * float(np.quantile(people.took_s, 0.5)), "ms")
        bench.note(f"{asking} people ask too, an answer, p99", 1000 * float(np.quantile(people.took_s, 0.99)), "ms")
        bench.note(f"{asking} people ask too, questions refused", people.errors, "", "= 0")
        bench.note("memory of the API at the end", api.memory_info().rss / 2**20, "MB")
        screens.close()
        await follower.stop()
        await bus.close()
        await end(watching, paced)
        await asyncio.gather(critical.close(), fleet.close())


def main() -> None:
    bench = Bench("live")
    with tempfile.TemporaryDirectory(prefix="live-") as folder:
        platform = start_platform(Path(folder) / "var", **DEFAULTS)
        try:
            target = local_target(Settings(data_dir=platform.data_dir), platform.token)
            uvloop.run(measure(bench, target, platform.connection))
        finally:
            platform.stop()
    bench.finish()


if __name__ == "__main__":
    sys.exit(main())
