"""Readings that come in while something else is measured: gateways in a process of their own, at a steady pace."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, Self

import numpy as np
import uvloop

from benchmarks.frames_load import READINGS_A_FRAME, Sender, frames_of, manifest_of, senders_of
from cluster.run_target import local_target
from gateways.device_client import DeviceClient
from runtime.settings import Settings
from scenarios.rest import Rest
from tests.running_platform import RunningPlatform

HOSPITALS = 4
AHEAD_S = 10  # frames made at once
START_S = 120.0
END_S = 20.0


class LiveLoad:
    """A context in which about `readings_per_s` come in: each gateway a frame a second, durably acknowledged."""

    def __init__(self, platform: RunningPlatform, readings_per_s: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._gateways = max(1, round(readings_per_s / READINGS_A_FRAME))
        self._flows, self._ends = context.Event(), context.Event()
        self._sent = context.Value("q", 0)
        self._process = context.Process(
            target=_send, args=(platform.data_dir, platform.token, self._gateways, self._flows, self._ends, self._sent)
        )
        self._began_s = 0.0
        self.ward = ("sz.b000", "w-000-0")  # one that readings come from

    def __enter__(self) -> Self:
        self._process.start()
        if not self._flows.wait(START_S):
            raise AssertionError(f"no readings came in within {START_S:g} s")
        self._began_s, self._sent.value = time.monotonic(), 0
        return self

    def sent_per_s(self) -> float:
        """Acknowledged readings a second since the context began."""
        return self._sent.value / (time.monotonic() - self._began_s)

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._process.join(END_S)
        if self._process.is_alive():  # it waits for acknowledgements that do not come
            self._process.kill()


def _send(data_dir: Path, token: str, gateways: int, flows: Event, ends: Event, sent: Any) -> None:
    uvloop.run(_sent_until(data_dir, token, gateways, flows, ends, sent))


async def _sent_until(data_dir: Path, token: str, gateways: int, flows: Event, ends: Event, sent: Any) -> None:
    target = local_target(Settings(data_dir=data_dir), token)
    manifest = manifest_of(min(HOSPITALS, gateways), gateways, target.region_id)
    async with Rest(target) as rest:
        senders = senders_of(manifest, await rest.register(manifest))
    tls = target.doors_tls()
    clients = [DeviceClient(target.mqtt_host, target.mqtt_port, sender.token, tls=tls) for sender in senders]
    await asyncio.gather(*(client.connect() for client in clients))
    tasks = [
        asyncio.create_task(_one(client, sender, flows, ends, sent)) for client, sender in zip(clients, senders, strict=True)
    ]
    await asyncio.gather(*tasks)
    await asyncio.gather(*(client.close() for client in clients))


async def _one(client: DeviceClient, sender: Sender, flows: Event, ends: Event, sent: Any) -> None:
    """One gateway: a frame at its own moment of each second."""
    rng = np.random.default_rng(sender.handle)
    begin_s = time.time() + 1 + rng.random()
    second = 0
    frames: list[bytes] = []
    while not ends.is_set():
        if second % AHEAD_S == 0:
            start_us = int((begin_s + second) * 1e6)
            frames = await asyncio.to_thread(frames_of, sender, AHEAD_S, start_us, rng, first=second)
        await asyncio.sleep(max(0.0, begin_s + second - time.time()))
        await client.start_frame(frames[second % AHEAD_S])
        with sent.get_lock():
            sent.value += READINGS_A_FRAME
        second += 1
        if second >= 3:
            flows.set()
