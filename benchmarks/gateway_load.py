"""Gateways of a benchmark that send frames: as fast as they are acknowledged, or by a schedule that no answer changes."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np
import polars as pl
import psutil

from benchmarks.frames_load import Load, Sender, frames_of
from domain import subjects
from domain.errors import Unavailable
from domain.messages import HostHeartbeat
from domain.quality import Mark
from gateways.device_client import DeviceClient
from runtime.bus import Bus
from runtime.lake import Lake
from scenarios.target import Target

_LOOK_EVERY_S: Final = 0.1
_STORED_S: Final = 90.0


async def watch(lake: Lake, rows: int) -> list[tuple[float, int]]:
    """How the lake fills until it has so many rows: (moment, rows), one for each look."""
    looks = [(time.perf_counter(), 0)]
    while looks[-1][1] < rows:
        await asyncio.sleep(_LOOK_EVERY_S)
        held = await asyncio.to_thread(lambda: int(lake.state().files["rows"].sum()))
        looks.append((time.perf_counter(), held))
    return looks


def pace(looks: list[tuple[float, int]]) -> float:
    """Readings a second from the commit that made a sixth of all to the one that made five sixths."""
    whole = looks[-1][1]
    (began, first), (ended, last) = (next(look for look in looks if look[1] >= whole * n / 6) for n in (1, 5))
    return (last - first) / (ended - began) if ended > began else 0.0  # one commit had it all


@dataclass
class Gateway:
    """One sender, its connection and its ledger: which of its frames were acknowledged, and how long that took."""

    sender: Sender
    client: DeviceClient
    made: int = 0
    acknowledged: set[int] = field(default_factory=set)
    took_s: list[float] = field(default_factory=list)


class Gateways:
    """The gateways of one load. `in_flight`: how many frames each has out before it waits for acknowledgements."""

    def __init__(self, target: Target, senders: list[Sender], load: Load, *, in_flight: int, seed: int = 1) -> None:
        self._load = load
        self._in_flight = in_flight
        self._rng = np.random.default_rng(seed)
        host, port, tls = target.mqtt_host, target.mqtt_port, target.doors_tls()
        self.all = [
            Gateway(sender, DeviceClient(host, port, sender.token, tls=tls, max_in_flight=in_flight)) for sender in senders
        ]

        self.under_way = asyncio.Event()  # the schedule of `pace` has begun

    async def connect(self) -> None:
        await asyncio.gather(*(gateway.client.connect() for gateway in self.all))

    async def close(self) -> None:
        await asyncio.gather(*(gateway.client.close() for gateway in self.all))

    @property
    def acknowledged(self) -> int:
        """Readings, so far."""
        return sum(len(gateway.acknowledged) for gateway in self.all) * self._load.readings_a_frame

    async def flood(self, frames_each: int) -> float:
        """Send so many frames each, as fast as acknowledgements come. Returns when the first left, by `perf_counter`."""
        start_us = int((time.time() - frames_each) * 1e6)
        made = [self._make(gateway, frames_each, start_us, 1_000_000) for gateway in self.all]
        began = time.perf_counter()
        await asyncio.gather(*(self._start(g, n, f) for g, mine in zip(self.all, made, strict=True) for n, f in mine))
        return began

    async def pace(self, readings_a_second: float, seconds: float, at_most: float = float("inf")) -> int:
        """Offer readings at that rate by schedule; frames are made for `at_most` a second, and what is due beyond stays
        with its gateway. Returns how many readings were due.
        """
        every_s = len(self.all) * self._load.readings_a_frame / readings_a_second
        due_each = max(1, round(seconds / every_s))
        made_each = max(1, round(due_each * min(1.0, at_most / readings_a_second)))
        lead_s = 0.5 + made_each * len(self.all) * 0.0015  # to make them, so that their times are those of sending
        start_us = int((time.time() + lead_s) * 1e6)
        self.under_way.clear()
        made = [self._make(gateway, made_each, start_us, int(every_s * 1e6)) for gateway in self.all]
        await asyncio.sleep(max(0.0, start_us / 1e6 - time.time()))
        loop = asyncio.get_running_loop()
        until_s = loop.time() + seconds
        self.under_way.set()
        async with asyncio.TaskGroup() as group:
            for number, (gateway, frames) in enumerate(zip(self.all, made, strict=True)):
                first_s = loop.time() + every_s * number / len(self.all)
                group.create_task(self._send_when_due(gateway, frames, first_s, every_s, until_s))
        return due_each * len(self.all) * self._load.readings_a_frame

    async def settled(self) -> None:
        """Return when every frame given to a client is acknowledged."""
        while any(gateway.client.unacknowledged for gateway in self.all):  # noqa: ASYNC110 (many, and once)
            await asyncio.sleep(_LOOK_EVERY_S)

    def _make(self, gateway: Gateway, count: int, start_us: int, every_us: int) -> list[tuple[int, bytes]]:
        first = gateway.made
        frames = frames_of(gateway.sender, count, start_us, self._rng, self._load, every_us=every_us, first=first)
        gateway.made += count
        return list(enumerate(frames, first))

    async def _send_when_due(
        self, gateway: Gateway, frames: list[tuple[int, bytes]], first_s: float, every_s: float, until_s: float
    ) -> None:
        """In order. A gateway whose frames all wait for acknowledgements keeps what is due."""
        loop, room = asyncio.get_running_loop(), asyncio.Semaphore(self._in_flight)
        for turn, (number, frame) in enumerate(frames):
            await asyncio.sleep(max(0.0, first_s + turn * every_s - loop.time()))
            try:
                async with asyncio.timeout_at(until_s):
                    await room.acquire()
            except TimeoutError:
                return
            self._start(gateway, number, frame).add_done_callback(lambda _: room.release())

    def _start(self, gateway: Gateway, number: int, frame: bytes) -> asyncio.Future[None]:
        began = time.perf_counter()

        def answered(done: asyncio.Future[None]) -> None:
            if not done.cancelled() and not isinstance(done.exception(), Unavailable):
                gateway.acknowledged.add(number)
                gateway.took_s.append(time.perf_counter() - began)

        answer = gateway.client.start_frame(frame)
        answer.add_done_callback(answered)
        return answer

    async def stored(self, lake: Lake) -> tuple[int, int]:
        """(acknowledged readings that the lake lacks, readings that it has twice), once it has had time to take them."""
        deadline_s = asyncio.get_running_loop().time() + _STORED_S
        while True:
            lost, doubled = await asyncio.to_thread(self._compare, lake)
            if not lost or asyncio.get_running_loop().time() > deadline_s:
                return lost, doubled
            await asyncio.sleep(1.0)

    def _compare(self, lake: Lake) -> tuple[int, int]:
        paths = lake.state().files["path"].to_list()
        each = self._load.readings_a_frame
        expected = {g.sender.handle: g.acknowledged for g in self.all}
        if not paths:
            return self.acknowledged, 0
        sources = pl.Series(list(expected), dtype=pl.Int64).implode()
        frame = (pl.col("sequence") - 1) // each
        marked = pl.col("quality") & int(Mark.POSSIBLE_DUPLICATE) != 0  # what questions leave out
        rows = lake.scan(paths).filter(pl.col("source").is_in(sources))
        sure = pl.col("sequence").filter(~marked)
        found = (
            rows.group_by("source", frame.alias("frame"))
            .agg(pl.col("sequence").n_unique().alias("different"), (sure.len() - sure.n_unique()).alias("doubled"))
            .collect()
        )
        have = {(source, number): different for source, number, different, _ in found.iter_rows()}
        lost = sum(each - have.get((source, number), 0) for source, frames in expected.items() for number in frames)
        return lost, int(found["doubled"].sum())


class Watched:
    """What a platform's processes take and how far its hosts are behind, looked at until cancelled."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.peak_bytes: dict[str, int] = {}
        self.behind_ms: list[float] = []
        self._bus: Bus | None = None

    async def run(self) -> None:
        assert self._target.nats_url is not None
        assert self._target.bus_key is not None
        self._bus = bus = await Bus.connect(self._target.nats_url, self._target.bus_key, "benchmark")
        try:
            await bus.core_subscribe(subjects.HOST_HEARTBEATS, self._hear)
            while True:
                await asyncio.to_thread(self._look)
                await asyncio.sleep(0.25)
        finally:
            await bus.close()

    async def alarms(self) -> int:
        """Alarm events of all devices so far."""
        assert self._bus is not None
        return (await self._bus.stream_state(subjects.ALARMS_STREAM)).last_sequence

    def start_anew(self) -> None:
        self.peak_bytes, self.behind_ms = {}, []

    def behind(self, quantile: float) -> float:
        """How far hosts were behind, in milliseconds."""
        return float(np.quantile(self.behind_ms, quantile)) if self.behind_ms else float("nan")

    def _hear(self, payload: bytes, _subject: str) -> None:
        beat = msgspec.json.decode(payload, type=HostHeartbeat)
        late = [beat.at_us - held.high_water_us for held in beat.shards if held.lag and held.high_water_us]
        self.behind_ms.append(max(late, default=0) / 1000)

    def _look(self) -> None:
        for role, pid in self._target.pids().items():
            try:
                resident = psutil.Process(pid).memory_info().rss
            except psutil.NoSuchProcess:
                continue
            self.peak_bytes[role] = max(self.peak_bytes.get(role, 0), resident)
