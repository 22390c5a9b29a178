"""Plays a recording through the platform's real doors and checks what became of it: `vitalgrid fleet replay`."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, Final

import msgspec
import polars as pl

from domain.fleet_manifest import FleetRegistered
from domain.ports import Clock
from runtime.tasks import end
from scenarios.alarms_seen import AlarmWatch
from scenarios.books import ClosedBooks
from scenarios.generator_handle import GeneratorHandle
from scenarios.generator_orders import Beat, Done, Order, RecordingRecipe
from scenarios.ledger import Ledger
from scenarios.measures import Latency
from scenarios.model import GeneratorLimits
from scenarios.progress import ProgressBook, Show, Stage
from scenarios.recorded import RecordedSource, find_recording
from scenarios.replay_check import (
    Difference,
    ScoreCounts,
    compare_values,
    count_scores,
    sent_readings,
    stored_readings,
    stored_scores,
)
from scenarios.rest import Rest
from scenarios.stored import RejectWatch, connect_bus, settled_ledger
from scenarios.target import Target

_LEAD_S: Final = 3.0
_QUIET_S: Final = 4.0  # the last moments close at a tick and are committed a flush later; alarms come until then
_QUIET_DEADLINE_S: Final = 180.0
_BOOKS_FILE: Final = "books.arrow"


class ReplayWish(msgspec.Struct, frozen=True):
    """What to play: `path` as `sim.recordings.open_recording` reads it; `limit`: at most so many stays."""

    path: str
    speed: float = 1.0
    times: int = 1
    limit: int | None = None


class ReplayResult(msgspec.Struct, frozen=True):
    """How it went. `ledger`, `values` and `scores` are None where the lake is out of reach."""

    recording: str
    sent: int
    acknowledged: int
    senders: int
    replay_s: float
    recorded_s: float
    late_share: float
    durable_p99_ms: float | None
    alarms_by_rule: list[dict[str, Any]]
    errors: dict[str, int]
    rejects: dict[str, int]
    ledger: Ledger | None
    values: Difference | None
    scores: ScoreCounts | None

    @property
    def is_right(self) -> bool:
        """Everything was acknowledged, stored once, and came back as it was sent."""
        ledger, values = self.ledger, self.values
        return (
            ledger is not None and values is not None and ledger.balances and ledger.unacknowledged == 0
            and values.equal == values.compared == ledger.sent
        )  # fmt: skip


class Replay:
    """One replay; `play` it once. What it must remember between lies in `folder`."""

    def __init__(self, wish: ReplayWish, target: Target, folder: Path, *, clock: Clock, show: Show | None = None) -> None:
        self._wish = wish
        self._target = target
        self._folder = folder
        self._clock = clock
        self._show = show
        self.watch = AlarmWatch(clock.now_us)
        self.registered: FleetRegistered | None = None
        self.start_us = 0

    async def play(self) -> ReplayResult:
        """Register all identities in one call, play, wait until the lake has caught up, compare. Raises VitalgridError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        wish, region = self._wish, self._target.region_id
        recording = await asyncio.to_thread(find_recording, wish.path, wish.times, wish.limit, region)
        book = ProgressBook(
            self._folder, self._folder.name, f"replay {recording.name}", recording.span_s / wish.speed, self._show
        )
        async with Rest(self._target) as rest:
            book.tell(stage=Stage.REGISTERING)
            self.registered = await rest.register(recording.manifest)
            recipe = RecordingRecipe(wish.path, wish.speed, wish.times, wish.limit, region, self.registered)
            return await self._play(rest, recipe, book)

    async def _play(self, rest: Rest, recipe: RecordingRecipe, book: ProgressBook) -> ReplayResult:
        books_path = self._folder / _BOOKS_FILE
        order = Order(
            self._target.mqtt_host, self._target.mqtt_port, [recipe], 0.0, None, GeneratorLimits(late_ms=50.0),
            str(books_path.resolve()), self._target.doors_trust,
        )  # fmt: skip
        rejects = RejectWatch()
        bus = await connect_bus(self._target.nats_url, self._target.bus_key)
        generator = await GeneratorHandle.open(self._folder / "generator.log")
        listening = asyncio.create_task(
            self.watch.run(rest, [h.hospital_id for h in recipe.registered.hospitals]), name="alarms"
        )
        try:
            if bus is not None:
                await rejects.start(bus)
            book.tell(stage=Stage.CONNECTING)
            ready = await generator.connect(order)
            began = time.perf_counter() + _LEAD_S
            self.start_us = self._clock.now_us() + round(_LEAD_S * 1e6)
            await generator.start(self.start_us)
            done = await self._follow(generator, book)
            replay_s = time.perf_counter() - began
            book.tell(stage=Stage.CLOSING)
            books = await asyncio.to_thread(ClosedBooks.load, books_path)
            result = await self._check(recipe, done, books, rejects, replay_s)
            book.tell(stage=Stage.FINISHED)
            return msgspec.structs.replace(result, senders=ready.senders)
        finally:
            await end(listening)
            await generator.close()
            if bus is not None:
                await bus.close()
            books_path.unlink(missing_ok=True)

    async def _follow(self, generator: GeneratorHandle, book: ProgressBook) -> Done:
        async for news in generator.news():
            if isinstance(news, Done):
                return news
            assert isinstance(news, Beat)
            passed_s = news.at_s - book.now.at_s
            rate = (news.acknowledged - book.now.acknowledged) / passed_s if passed_s > 0 else None
            book.tell(
                stage=Stage.MEASURING, at_s=news.at_s, sent=news.sent, acknowledged=news.acknowledged, readings_per_s=rate,
                connected=news.connected, durable_p99_ms=news.durable_p99_ms, alarms=len(self.watch.seen),
                alarm_stream=self.watch.is_connected, late_share=news.late_share,
                eta_s=max(0.0, book.now.total_s - news.at_s),
            )  # fmt: skip
        raise AssertionError("news ends with Done")

    async def _check(
        self, recipe: RecordingRecipe, done: Done, books: ClosedBooks, rejects: RejectWatch, replay_s: float
    ) -> ReplayResult:
        source = await asyncio.to_thread(RecordedSource, recipe)
        durable = Latency("durable")
        durable.merge(done.durable)
        ledger, values, scores = None, None, None
        lake_dir = self._target.lake_dir
        if lake_dir is not None and lake_dir.exists():
            ledger, _ = await settled_ledger(lake_dir, books, rejects.keys)
            await self._until_alarms_are_told()
            values, scores = await asyncio.to_thread(self._compare, lake_dir, source, recipe)
        return ReplayResult(
            recording=source.recording.name, sent=len(books.sent), acknowledged=len(books.acknowledged),
            senders=len(source.senders), replay_s=replay_s, recorded_s=source.recording.span_s,
            late_share=done.late / max(done.sends, 1), durable_p99_ms=durable.percentile_ms(99),
            alarms_by_rule=self.watch.by_rule(), errors=done.errors, rejects=rejects.reasons, ledger=ledger, values=values,
            scores=scores,
        )  # fmt: skip

    async def _until_alarms_are_told(self) -> None:
        """Wait until no alarm has come for a while: history raises many at once, and each is fsynced before it is told."""
        deadline = time.monotonic() + _QUIET_DEADLINE_S
        heard = -1
        while heard != len(self.watch.seen) and time.monotonic() < deadline:
            heard = len(self.watch.seen)
            await asyncio.sleep(_QUIET_S)

    def _compare(self, lake_dir: Path, source: RecordedSource, recipe: RecordingRecipe) -> tuple[Difference, ScoreCounts]:
        """Replay the recording once more, in memory, against what is stored."""
        sent = sent_readings((emission.readings for emission in source.emissions(self.start_us, None)), self.start_us)
        stored = stored_readings(lake_dir, (sender.source for sender in source.senders), self.start_us)
        return compare_values(sent, stored), count_scores(
            stored, self.scores(lake_dir, recipe.registered), source.recording.manifest, recipe.registered
        )

    def scores(self, lake_dir: Path, registered: FleetRegistered) -> pl.DataFrame:
        """NEWS2 totals that this replay brought about: patient handle, time_us, value."""
        handles = [handle for hospital in registered.hospitals for handle in hospital.patient_handles]
        return stored_scores(lake_dir, handles, self.start_us)
