"""What an idle MQTT connection under TLS costs the door in memory.

    python benchmarks/bench_tls.py            2,000 connections
    python benchmarks/bench_tls.py --quick    fifty, as in CI

A door's process of its own with a certificate of its own; connections are made, say who they are, and are left alone.
Clause 5.4d.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
import tempfile
from pathlib import Path

import psutil
import uvloop

from benchmarks.bench_doors import registered
from benchmarks.measure import Bench
from cluster.run_target import local_target
from gateways.device_client import DeviceClient
from runtime.settings import Settings
from scenarios.target import Target
from tests.doors import make_certificate
from tests.running_platform import start_platform

_SETTLE_S = 2.0


async def idle(bench: Bench, target: Target, door: psutil.Process, certificate: Path) -> None:
    tokens = await registered(target, 48 if bench.quick else 2_000)
    context = ssl.create_default_context(cafile=os.fspath(certificate))
    context.check_hostname = False
    clients = [DeviceClient(target.mqtt_host, target.mqtt_port, token, tls=context) for token in tokens]
    await clients[0].connect()  # what the first one brings is the door's own
    before = door.memory_info().rss
    for start in range(1, len(clients), 50):
        await asyncio.gather(*(client.connect() for client in clients[start : start + 50]))
    await asyncio.sleep(_SETTLE_S)
    each = (door.memory_info().rss - before) / (len(clients) - 1) / 1024
    bench.note(f"{len(clients):,} idle MQTT connections under TLS", each, "KB each", "≤ 40", "≤ 25")
    await asyncio.gather(*(client.close() for client in clients))


def main() -> None:
    bench = Bench("tls")
    with tempfile.TemporaryDirectory(prefix="tls-") as folder:
        _, certificate = make_certificate(Path(folder))
        platform = start_platform(
            Path(folder) / "var",
            DOORS__TLS_CERT_FILE=os.fspath(certificate),
            DOORS__TLS_KEY_FILE=os.fspath(Path(folder) / "key.pem"),
        )
        try:
            target = local_target(Settings(data_dir=platform.data_dir), platform.token)
            door = psutil.Process(platform.connection.process_pids["doors"])
            uvloop.run(idle(bench, target, door, certificate))
        finally:
            platform.stop()
    bench.finish()


if __name__ == "__main__":
    sys.exit(main())
