"""What an idle MQTT connection costs the door in memory, plain and under TLS.

    python benchmarks/bench_tls.py            2,000 connections
    python benchmarks/bench_tls.py --quick    a hundred, as in CI

The door in a process of its own, in front of an Intake whose stream forgets; connections are made, say who they are, and
are left alone. `bench_doors` measures plain ones in a whole platform. Clause 5.4d.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import ssl
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import uvloop
from numpy.typing import NDArray

from benchmarks.measure import Bench
from domain.ports import Sender, Shown
from domain.thing_catalogue import thing_model
from domain.thing_models import Lane
from gateways.device_client import DeviceClient
from gateways.mqtt_door import MqttDoor
from runtime.clock import SystemClock
from runtime.intake import StreamIntake
from tests.doors import MemoryBus, make_certificate

_SETTLE_S = 1.0
_AT_ONCE = 50
_MONITOR = thing_model("monitor")


class NumberedDevices:
    """The token of a device is its handle."""

    async def sender_of(self, shown: Shown) -> Sender:
        token = shown.tokens[0]
        return Sender(f"sz.h001/mon-{token}", int(token), "sz.h001", 0, _MONITOR)

    async def revoked(self, senders: Sequence[Sender]) -> list[Sender]:  # noqa: ARG002 (the port's signature)
        return []

    async def shards_of(self, sender: Sender, handles: NDArray[np.uint32]) -> NDArray[np.int16]:
        return np.full(len(handles), sender.shard, dtype=np.int16)

    def lane_of(self, handles: NDArray[np.uint32]) -> Lane:  # noqa: ARG002 (the port's signature)
        return Lane.PRIORITY


class ForgetfulBus(MemoryBus):
    """Acknowledges, and keeps nothing that would count as the door's memory."""

    async def publish(self, subject: str, payload: bytes, message_id: str) -> int:  # noqa: ARG002 (the bus's signature)
        return 1


def serve(pipe: Connection, certificate: Path | None) -> None:
    """Be a door until the pipe says otherwise."""
    uvloop.run(_serve(pipe, certificate))


async def _serve(pipe: Connection, certificate: Path | None) -> None:
    tls = None
    if certificate is not None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate, certificate.parent / "key.pem")
    identities = NumberedDevices()
    intake = StreamIntake(ForgetfulBus(), identities, SystemClock(), source=1)
    door = MqttDoor(identities, intake, SystemClock(), tls=tls)
    pipe.send(await door.start("127.0.0.1", 0))
    await asyncio.to_thread(pipe.recv)
    await door.close()


async def kilobytes_each(port: int, pid: int, certificate: Path | None, count: int) -> float:
    context = ssl.create_default_context(cafile=os.fspath(certificate)) if certificate else None
    clients = [DeviceClient("127.0.0.1", port, str(handle), tls=context) for handle in range(1, count + 2)]
    await clients[0].connect()  # what the first one brings is the door's own
    before = psutil.Process(pid).memory_info().rss
    for start in range(1, len(clients), _AT_ONCE):
        await asyncio.gather(*(client.connect() for client in clients[start : start + _AT_ONCE]))
    await asyncio.sleep(_SETTLE_S)
    each = (psutil.Process(pid).memory_info().rss - before) / count / 1024
    await asyncio.gather(*(client.close() for client in clients))
    return each


def measured(certificate: Path | None, count: int) -> float:
    """KB a connection of a fresh door."""
    context = multiprocessing.get_context("spawn")
    ours, its = context.Pipe()
    door: Any = context.Process(target=serve, args=(its, certificate))
    door.start()
    try:
        return uvloop.run(kilobytes_each(ours.recv(), door.pid, certificate, count))
    finally:
        ours.send("end")
        door.join()


def main() -> None:
    bench = Bench("tls")
    count = 100 if bench.quick else 2_000
    with tempfile.TemporaryDirectory(prefix="tls-") as folder:
        _, certificate = make_certificate(Path(folder))
        bench.note(f"{count:,} idle MQTT connections", measured(None, count), "KB each", "≤ 10", "≤ 5")
        bench.note(f"{count:,} idle MQTT connections under TLS", measured(certificate, count), "KB each", "≤ 40", "≤ 25")
    bench.finish()


if __name__ == "__main__":
    sys.exit(main())
