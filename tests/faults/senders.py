"""Gateways and devices that send at a steady pace through real clients, and enter in the history what became of it.

Each hospital has a gateway that speaks for four monitors (frames), two monitors that connect themselves (single
readings), and one that crosses a limit when told to. Every value is a function of its sequence, so that a changed value
shows. Now and then a message is sent again after it was acknowledged, as a sender does whose acknowledgement got lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from domain.errors import VitalgridError
from domain.fleet_manifest import DeviceColumns, FleetManifest, HospitalManifest, HospitalRegistered, Tier
from domain.frames import encode_frame
from domain.metrics import metric_of
from domain.readings import ReadingBatch
from gateways.device_client import DeviceClient
from tests.faults.history import Crossing, History

HOSPITALS: Final = tuple(f"sz.fault{number}" for number in range(4))
FRAME_EVERY_S: Final = 0.2
READING_EVERY_S: Final = 0.25
_BEHIND_GATEWAY: Final = 4
_DEVICES: Final = 2
_AGAIN: Final = 0.05  # share of messages that are sent again
_AGAIN_WITHIN_S: Final = 3.0
_METRICS: Final = {name: metric_of(name).id for name in ("heart_rate", "spo2", "resp_rate")}
_LEAST: Final = np.array([64.0, 93.0, 13.0])
CROSSED_METRIC: Final = "nibp_sys"
CROSSED_RULE: Final = "limit.very-low"


def fleet() -> FleetManifest:
    """The hospitals of this module."""
    ids = ["gw", *(f"sub-{n}" for n in range(_BEHIND_GATEWAY)), *(f"mon-{n}" for n in range(_DEVICES)), "probe"]
    count = len(ids)
    devices = DeviceColumns(
        device_ids=ids, models=["gateway"] + ["monitor"] * (count - 1), ward_ids=[None] * count, bed_ids=[None] * count,
        gateway_ids=[None] + ["gw"] * _BEHIND_GATEWAY + [None] * (_DEVICES + 1),
        with_token=[not name.startswith("sub-") for name in ids],
    )  # fmt: skip
    return FleetManifest([HospitalManifest(hospital, hospital, Tier.SECONDARY, 20, devices) for hospital in HOSPITALS])


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a sender is, and for whom it speaks."""

    hospital: str
    handle: int
    token: str
    speaks_for: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Cast:
    """All senders of the registered fleet."""

    gateways: tuple[Identity, ...]
    devices: tuple[Identity, ...]
    probes: tuple[Identity, ...]

    @classmethod
    def of(cls, registered: list[HospitalRegistered]) -> Cast:
        gateways, devices, probes = [], [], []
        for hospital in registered:
            name, handles, tokens = hospital.hospital_id, hospital.handles, hospital.tokens
            subs = tuple(handles[1 : 1 + _BEHIND_GATEWAY])
            gateways.append(Identity(name, handles[0], tokens["gw"], subs))
            own = handles[1 + _BEHIND_GATEWAY :]
            devices += [Identity(name, own[n], tokens[f"mon-{n}"]) for n in range(_DEVICES)]
            probes.append(Identity(name, own[_DEVICES], tokens["probe"]))
        return cls(tuple(gateways), tuple(devices), tuple(probes))


class Sender:
    """One client and its running number. `skew_us` is added to the event times it states."""

    def __init__(self, who: Identity, history: History, now_us: Callable[[], int], rng: np.random.Generator) -> None:
        self.who = who
        self.history = history
        self.skew_us = 0
        self.last_acknowledged_us = 0
        self.told: list[dict[str, str]] = []  # by the door, of messages that it did not take
        self._now_us = now_us
        self._rng = rng
        self._next = history.base
        self._tasks: set[asyncio.Task[None]] = set()
        self._client: DeviceClient | None = None

    async def connect(self, port: int) -> None:
        self._client = DeviceClient("127.0.0.1", port, self.who.token, on_error=self._refused)
        await self._client.connect()

    async def close(self) -> None:
        """Leave. What is still on its way stays unacknowledged in the history."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._client is not None:
            self.history.reconnects += self._client.reconnects
            await self._client.close()

    def frame(self) -> None:
        """Send one frame of all devices it speaks for."""
        handles = np.repeat(np.array(self.who.speaks_for, np.uint32), len(_METRICS))
        sequence = self._take(len(handles))
        metric = np.tile(np.array(list(_METRICS.values()), np.uint16), len(self.who.speaks_for))
        value = np.tile(_LEAST, len(self.who.speaks_for)) + (sequence % 2048) / 1024
        readings = self._batch(handles, metric, sequence, value)
        payload = encode_frame(readings, source=self.who.handle, sequence=int(sequence[0]), arrival_us=self._now_us())
        self._send(readings, lambda client: client.start_frame(payload))

    def single(self, metric: str = "heart_rate", value: float | None = None) -> None:
        """Send one reading of its own, as JSON."""
        sequence = self._take(1)
        stated = 64.0 + (int(sequence[0]) % 4096) / 512 if value is None else value
        readings = self._batch(self.who.handle, metric_of(metric).id, sequence, stated)
        message: dict[str, Any] = {
            "metric": metric, "value": stated, "seq": int(sequence[0]), "time": int(readings.time_us[0]) // 1000,
        }  # fmt: skip
        self._send(readings, lambda client: client.publish_readings(message))

    def _take(self, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        self._next += count
        return np.arange(self._next - count, self._next)

    def _batch(self, handle: Any, metric: Any, sequence: Any, value: Any) -> ReadingBatch:
        time_us = (self._now_us() + self.skew_us) // 1000 * 1000
        return ReadingBatch.of(
            handle=handle, metric=metric, time_us=time_us, value=value, source=self.who.handle, sequence=sequence
        )

    def _send(self, readings: ReadingBatch, start: Callable[[DeviceClient], Awaitable[None]]) -> None:
        number = self.history.sent(readings, self._now_us())
        task = asyncio.create_task(self._until_acknowledged(number, start))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _until_acknowledged(self, number: int, start: Callable[[DeviceClient], Awaitable[None]]) -> None:
        assert self._client is not None
        again = self._rng.random() < _AGAIN
        pause_s = self._rng.random() * _AGAIN_WITHIN_S
        try:
            sent_us = self._now_us()
            await start(self._client)
            self.history.acknowledged(number, self._now_us())
            self.last_acknowledged_us = max(self.last_acknowledged_us, sent_us)
            if again:
                await asyncio.sleep(pause_s)
                self.history.sent_again(number)
                await start(self._client)
        except VitalgridError as error:
            self.history.refusals.append(str(error))

    def _refused(self, refusal: dict[str, str]) -> None:
        self.told.append(refusal)
        if refusal.get("reason") not in ("unavailable", "storage-full"):  # these are sent again
            self.history.refusals.append(str(refusal))


class Load:
    """All senders at work. `start`, `cross` a limit somewhere, `stop` when all is acknowledged."""

    def __init__(self, cast: Cast, history: History, now_us: Callable[[], int], seed: np.random.SeedSequence) -> None:
        def sender(who: Identity) -> Sender:
            return Sender(who, history, now_us, np.random.default_rng(seed.spawn(1)[0]))

        self.history = history
        self._now_us = now_us
        self.gateways = [sender(who) for who in cast.gateways]
        self.devices = [sender(who) for who in cast.devices]
        self.probes = [sender(who) for who in cast.probes]
        self._crossed: set[int] = set()
        self._pacers: list[asyncio.Task[None]] = []

    @property
    def senders(self) -> list[Sender]:
        return [*self.gateways, *self.devices, *self.probes]

    async def start(self, port: int) -> None:
        await asyncio.gather(*(sender.connect(port) for sender in self.senders))
        for paced, every_s, act in (
            (self.gateways, FRAME_EVERY_S, Sender.frame),
            (self.devices, READING_EVERY_S, Sender.single),
            (self.probes, 2 * READING_EVERY_S, self._probe),
        ):
            self._pacers.append(asyncio.create_task(_pace(paced, every_s, act)))

    def cross(self, number: int) -> None:
        """From now on the probe of hospital `number` states a pressure far too low."""
        probe = self.probes[number]
        if number not in self._crossed:
            self._crossed.add(number)
            at_us = self._now_us() // 1000 * 1000
            self.history.crossings.append(Crossing(probe.who.handle, CROSSED_METRIC, CROSSED_RULE, at_us))

    def rest(self) -> None:
        """No new readings, but that every probe is well again: the next run begins with no alarm."""
        for pacer in self._pacers:
            pacer.cancel()
        self._crossed.clear()
        for probe in self.probes:
            self._probe(probe)

    async def close(self) -> None:
        for pacer in self._pacers:
            pacer.cancel()
        await asyncio.gather(*self._pacers, return_exceptions=True)
        await asyncio.gather(*(sender.close() for sender in self.senders))

    def _probe(self, probe: Sender) -> None:
        is_low = self.probes.index(probe) in self._crossed
        probe.single(CROSSED_METRIC, (65.0 if is_low else 118.0) + (probe._next % 1024) / 512)


async def _pace(senders: list[Sender], every_s: float, act: Callable[[Sender], None]) -> None:
    """Open loop: the schedule decides when something is sent, never an answer."""
    loop = asyncio.get_running_loop()
    due_s = loop.time()
    while True:
        for sender in senders:
            act(sender)
        due_s += every_s
        await asyncio.sleep(max(due_s - loop.time(), 0.0))
