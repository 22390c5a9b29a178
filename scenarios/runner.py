"""Plays one scenario against a running platform and writes its report.

Order: register the fleet in one call -> connect every sender -> warm-up -> measured time -> close the books ->
verdicts. The generator is a process of its own; this one listens, asks, measures, and breaks what the story breaks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from pathlib import Path
from typing import Final

from domain.errors import VitalgridError
from domain.fleet_manifest import FleetManifest, FleetRegistered
from domain.ports import Clock
from runtime.bus import Bus
from runtime.tasks import end
from scenarios import faults
from scenarios.admissions import AdmissionDesk, as_planned
from scenarios.alarms_seen import AlarmWatch
from scenarios.books import ClosedBooks
from scenarios.findings import Findings, assemble
from scenarios.fleets import plan_world, world_movements
from scenarios.generator_handle import GeneratorHandle
from scenarios.generator_orders import Beat, Done, Order, RecordingRecipe, WorldRecipe
from scenarios.host_figures import service_times
from scenarios.model import Scenario
from scenarios.progress import ProgressBook, Show, Stage, write_file
from scenarios.query_load import QueryLoad
from scenarios.recorded import manifest_of_recording, place_of
from scenarios.report.document import Report, encode_report
from scenarios.report.page import render
from scenarios.resources import Resources
from scenarios.rest import Rest
from scenarios.roster import Roster
from scenarios.state_probes import StateProbes
from scenarios.stored import RejectWatch, connect_bus, settled_ledger
from scenarios.target import Target
from sim.fleet import FleetPlan

logger = logging.getLogger(__name__)

_LEAD_S: Final = 3.0  # between "go" and the first message: the world is built meanwhile
_DEVICES_A_LEAD_SECOND: Final = 20_000
_LAST_ALARMS_S: Final = 3.0
_LAST_MOVEMENTS_S: Final = 30.0  # for movements that are still to be told when the last reading is sent
BOOKS_FILE: Final = "books.arrow"


class ScenarioRun:
    """One run. `play` it once; everything it leaves lies in `folder`."""

    def __init__(
        self, name: str, scenario: Scenario, target: Target, folder: Path, *, clock: Clock, command: str,
        show: Show | None = None,
    ) -> None:  # fmt: skip
        self._name = name
        self._scenario = scenario
        self._target = target
        self._folder = folder
        self._clock = clock
        self._command = command
        self._book = ProgressBook(folder, folder.name, name, scenario.total_s, show)
        self._watch = AlarmWatch(clock.now_us)
        self._rejects = RejectWatch()
        self._resources = Resources(target.pids())
        self._killed: list[str] = []
        self._start_us = 0
        self._zero = 0.0

    async def play(self) -> Report:
        """Play, write `report.json` and `report.html`, and return the report.

        Raises a VitalgridError when the run cannot be made at all; the progress then says why.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            async with Rest(self._target) as rest:
                report = await self._play(rest)
        except (VitalgridError, OSError) as error:
            self._book.tell(stage=Stage.FAILED, detail=str(error))
            raise
        write_file(self._folder / "report.json", encode_report(report))
        write_file(self._folder / "report.html", render(report).encode())
        self._book.tell(stage=Stage.FINISHED, verdict=report.verdict, eta_s=0.0)
        return report

    async def _play(self, rest: Rest) -> Report:
        scenario = self._scenario
        self._book.tell(stage=Stage.REGISTERING, detail=f"{scenario.fleet.devices:,} devices")
        plan, recipes, pairs = await self._register(rest)
        roster = Roster.of(pairs)
        desk = await self._admissions(rest, plan, roster)
        self._book.tell(stage=Stage.CONNECTING, devices=roster.device_count, detail="")
        generator = await GeneratorHandle.open(self._folder / "generator.log")
        bus = await connect_bus(self._target.nats_url, self._target.bus_key)
        background: list[asyncio.Task[None]] = []
        try:
            if bus is not None:
                await self._rejects.start(bus)
            listening = asyncio.create_task(self._watch.run(rest, roster.hospitals), name="alarms")
            background.append(listening)
            await generator.connect(self._order(recipes))
            await self._begin(generator, roster.device_count)
            probes = StateProbes(rest, roster.device_of, scenario.queries.state_probes_per_s, self._clock.now_us)
            queries = QueryLoad(rest, scenario.queries, roster.places, self._clock.now_us)
            background += [
                asyncio.create_task(queries.run(self._zero, scenario.warmup_s, scenario.total_s), name="queries"),
                asyncio.create_task(self._sample(generator.pid), name="resources"),
                *self._platform_faults(),
            ]
            moving = asyncio.create_task(self._move(desk), name="movements")
            background.append(moving)
            done = await self._follow(generator, probes, queries)
            await asyncio.wait([moving], timeout=_LAST_MOVEMENTS_S)
            await asyncio.sleep(_LAST_ALARMS_S)
            listening.cancel()  # a fleet that stopped is silent: what is said of that is no part of the story
            found = Findings(scenario, self._start_us, done, roster, self._watch, probes, queries, self._resources, desk=desk)
            return await self._close(rest, bus, found, recipes)
        finally:
            await end(*background)
            await generator.close()
            if bus is not None:
                await bus.close()

    async def _register(
        self, rest: Rest
    ) -> tuple[FleetPlan, list[WorldRecipe | RecordingRecipe], list[tuple[FleetManifest, FleetRegistered]]]:
        scenario, region = self._scenario, self._target.region_id
        recipes: list[WorldRecipe | RecordingRecipe] = []
        pairs = []
        plan = await asyncio.to_thread(plan_world, scenario.fleet, scenario.seed, region)
        registered = await rest.register(plan.manifest)
        pace = scenario.movement.pace
        recipes.append(WorldRecipe(scenario.fleet, scenario.seed, region, scenario.fault, pace, registered))
        pairs.append((plan.manifest, registered))
        for replay in scenario.replay:
            path = str(place_of(replay.path))  # the generator works in another folder
            manifest = await asyncio.to_thread(manifest_of_recording, path, replay.times, replay.limit, region)
            registered = await rest.register(manifest)
            recipes.append(RecordingRecipe(path, replay.speed, replay.times, replay.limit, region, registered))
            pairs.append((manifest, registered))
        return plan, recipes, pairs

    async def _admissions(self, rest: Rest, plan: FleetPlan, roster: Roster) -> AdmissionDesk | None:
        """Whoever tells the platform of movements, with everybody in the bed of the plan before the first of them."""
        scenario = self._scenario
        await as_planned(rest, plan.manifest, self._clock.now_us)
        movements = await asyncio.to_thread(
            world_movements, plan, scenario.fleet, scenario.seed, scenario.movement.pace, scenario.total_s
        )
        return None if movements is None else AdmissionDesk(rest, plan, movements, roster)

    async def _move(self, desk: AdmissionDesk | None) -> None:
        if desk is not None:
            await desk.run(self._start_us, self._zero)

    def _order(self, recipes: list[WorldRecipe | RecordingRecipe]) -> Order:
        scenario = self._scenario
        return Order(
            self._target.mqtt_host, self._target.mqtt_port, recipes, scenario.warmup_s, scenario.total_s,
            scenario.generator, str((self._folder / BOOKS_FILE).resolve()), self._target.doors_trust,
        )  # fmt: skip

    async def _begin(self, generator: GeneratorHandle, devices: int) -> None:
        lead_s = _LEAD_S + devices / _DEVICES_A_LEAD_SECOND
        self._start_us = self._clock.now_us() + round(lead_s * 1e6)
        self._zero = time.perf_counter() + lead_s
        self._resources.follow(self._target.pids() | {"generator": generator.pid})
        await generator.start(self._start_us)

    async def _follow(self, generator: GeneratorHandle, probes: StateProbes, queries: QueryLoad) -> Done:
        """Hear the generator out, once a second telling how it goes."""
        async for news in generator.news():
            if isinstance(news, Done):
                await probes.finish()
                return news
            probes.take(news.probes, self._start_us, self._scenario.warmup_s)
            self._tell(news, queries)
        raise AssertionError("news ends with Done")

    def _tell(self, beat: Beat, queries: QueryLoad) -> None:
        before = self._book.now
        stage = Stage.WARMING_UP if beat.at_s < self._scenario.warmup_s else Stage.MEASURING
        passed_s = beat.at_s - before.at_s
        rate = (beat.acknowledged - before.acknowledged) / passed_s if passed_s > 0 else None
        self._book.tell(
            stage=stage, at_s=beat.at_s, eta_s=max(0.0, self._scenario.total_s - beat.at_s) + 10,
            connected=beat.connected, sent=beat.sent, acknowledged=beat.acknowledged, readings_per_s=rate,
            durable_p99_ms=beat.durable_p99_ms, query_p99_ms=queries.simple.percentile_ms(99),
            alarms=len(self._watch.raised()), alarm_stream=self._watch.is_connected, late_share=beat.late_share,
            platform_cores=self._resources.cores_now(),
        )  # fmt: skip

    async def _sample(self, generator_pid: int) -> None:
        while True:
            await asyncio.sleep(1.0)
            self._resources.follow(self._target.pids() | {"generator": generator_pid})
            self._resources.sample(time.perf_counter() - self._zero)

    def _platform_faults(self) -> list[asyncio.Task[None]]:
        return [
            asyncio.create_task(self._kill(fault.at_s), name="kill a host")
            for fault in self._scenario.fault
            if fault.kind == "host-kill"
        ]

    async def _kill(self, at_s: float) -> None:
        await asyncio.sleep(max(0.0, self._zero + at_s - time.perf_counter()))
        killed = faults.kill_a_host(self._target.pids())
        if killed is not None:
            self._killed.append(killed)
            logger.info("a host was killed by the scenario", extra={"host": killed})

    async def _close(
        self, rest: Rest, bus: Bus | None, found: Findings, recipes: list[WorldRecipe | RecordingRecipe]
    ) -> Report:
        self._book.tell(stage=Stage.CLOSING, eta_s=10.0)
        found.killed = self._killed
        found.rejected_reasons = self._rejects.reasons
        found.recording_sources = {
            handle
            for recipe in recipes
            if isinstance(recipe, RecordingRecipe)
            for hospital in recipe.registered.hospitals
            for handle in hospital.handles
        }
        await found.look_at_freshness(rest)
        found.service_times = await service_times(bus, self._target.host_pids())
        books_path = self._folder / BOOKS_FILE
        found.books = await asyncio.to_thread(ClosedBooks.load, books_path)
        lake_dir = self._target.lake_dir
        if lake_dir is not None and lake_dir.exists():
            found.ledger, found.stored = await settled_ledger(lake_dir, found.books, self._rejects.keys)
            self._book.tell(lost=found.ledger.lost, doubled=found.ledger.doubled)
        await found.look_at_attribution(rest)
        with contextlib.suppress(FileNotFoundError):
            books_path.unlink()
        return assemble(self._name, self._folder.name, self._command, found)
