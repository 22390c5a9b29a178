"""Single messages through the doors, acknowledged when they are on disk: MQTT, HTTP, and what a connection costs.

    python benchmarks/bench_doors.py            2,000 connections, ten seconds a figure
    python benchmarks/bench_doors.py --quick    fifty connections, as in CI

Starts a platform of its own, all features on; a device may send a million readings a second, which are counted. Each MQTT
client sends telemetry of three values at QoS 1 and has IN_FLIGHT messages out; each HTTP client waits for its answer. The
senders share the machine with the platform. Clauses 5.4d, 7.3.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable

import httptools
import msgspec
import numpy as np
import psutil
import uvloop

from benchmarks.measure import Bench
from benchmarks.own_platform import own_platform
from cluster.connection import Connection
from domain.fleet_manifest import DeviceColumns, FleetManifest, HospitalManifest, Tier
from gateways.device_client import DeviceClient
from gateways.formats import BY_NAME
from scenarios.rest import Rest
from scenarios.target import Target

IN_FLIGHT = 4
HOSPITALS = 4
VALUES = 3  # data points in a telemetry message
BATCH = 200  # readings in an HTTP list
HTTP_CLIENTS = 32
JSON = "application/json"


async def registered(target: Target, devices: int) -> list[str]:
    """Tokens of that many monitors, over a few hospitals."""
    names = [f"mon-{n:05}" for n in range(devices // HOSPITALS)]
    nowhere: list[str | None] = [None] * len(names)
    columns = DeviceColumns(names, ["monitor"] * len(names), nowhere, nowhere, nowhere, [True] * len(names))
    hospitals = [
        HospitalManifest(f"{target.region_id}.d{n}", f"d{n}", Tier.PRIMARY, len(names), columns) for n in range(HOSPITALS)
    ]
    async with Rest(target) as rest:
        answer = await rest.register(FleetManifest(hospitals))
    return [token for hospital in answer.hospitals for token in hospital.tokens.values()]


async def for_a_while(senders: list[Callable[[], Awaitable[None]]], seconds: float) -> tuple[float, np.ndarray]:
    """Let each sender send one message after the other; returns (messages a second, seconds that each took)."""
    took_s: list[float] = []
    until = time.perf_counter() + seconds

    async def go_on(send: Callable[[], Awaitable[None]]) -> None:
        while (began := time.perf_counter()) < until:
            await send()
            took_s.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*map(go_on, senders))
    return len(took_s) / (time.perf_counter() - began), np.array(took_s)


async def mqtt(bench: Bench, target: Target, tokens: list[str], door: psutil.Process) -> None:
    before = door.memory_info().rss
    host, port, tls = target.mqtt_host, target.mqtt_port, target.doors_tls()
    clients = [DeviceClient(host, port, token, tls=tls, max_in_flight=IN_FLIGHT) for token in tokens]
    for start in range(0, len(clients), 100):
        await asyncio.gather(*(client.connect() for client in clients[start : start + 100]))
    bench.note(
        f"{len(clients):,} idle MQTT connections",
        (door.memory_info().rss - before) / len(clients) / 1024,
        "KB each",
        "≤ 10",
        "≤ 5",
    )
    topic, payload = BY_NAME["thingsboard"].topic, b'{"heart_rate":72,"spo2":97.5,"resp_rate":16}'

    def sender(client: DeviceClient) -> Callable[[], Awaitable[None]]:
        return lambda: client.start(topic, payload)

    senders = [sender(client) for client in clients for _ in range(IN_FLIGHT)]
    rate, took_s = await for_a_while(senders, 1.0 if bench.quick else 10.0)
    bench.note("MQTT QoS 1, three values a message", rate * VALUES, "data points/s", "≥ 60,000", "≥ 150,000")
    bench.note("its acknowledgement, p50", 1000 * float(np.quantile(took_s, 0.5)), "ms")
    bench.note("its acknowledgement, p99", 1000 * float(np.quantile(took_s, 0.99)), "ms")
    await asyncio.gather(*(client.close() for client in clients))


class HttpClient(asyncio.Protocol):
    """A keep-alive connection that posts one body again and again. Raises ConnectionError for any answer but a good one."""

    def __init__(self, token: str, body: bytes) -> None:
        about = {"Host": "door", "Authorization": f"Bearer {token}", "Content-Type": JSON, "Content-Length": len(body)}
        head = "".join(f"{name}: {value}\r\n" for name, value in about.items())
        self._request = f"POST /v1/readings HTTP/1.1\r\n{head}\r\n".encode() + body
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's are none of asyncio's classes

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        assert self._answer is not None
        status = self._parser.get_status_code()
        if status < 300:
            self._answer.set_result(None)
        else:
            self._answer.set_exception(ConnectionError(f"the door answered {status}"))
        self._parser = httptools.HttpResponseParser(self)

    async def post(self) -> None:
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(self._request)
        await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


async def http(bench: Bench, connection: Connection, tokens: list[str]) -> None:
    single = {"metric": "heart_rate", "value": 72}
    kinds = (
        ("single readings", single, 1, "≥ 2,000", "≥ 5,000"),
        (f"lists of {BATCH}", [single] * BATCH, BATCH, "≥ 100,000", "≥ 300,000"),
    )
    for what, body, readings, *wanted in kinds:
        clients = []
        for token in tokens[:HTTP_CLIENTS]:
            made = HttpClient(token, msgspec.json.encode(body))
            await asyncio.get_running_loop().create_connection(lambda c=made: c, connection.mqtt_host, connection.http_port)
            clients.append(made)
        rate, took_s = await for_a_while([client.post for client in clients], 1.0 if bench.quick else 10.0)
        bench.note(f"HTTP, {what}", rate * readings, "readings/s", *wanted)
        bench.note("its answer, p99", 1000 * float(np.quantile(took_s, 0.99)), "ms")
        for client in clients:
            client.close()


async def measure(bench: Bench, target: Target, connection: Connection) -> None:
    tokens = await registered(target, 48 if bench.quick else 2_000)
    await mqtt(bench, target, tokens, psutil.Process(connection.process_pids["doors"]))
    await http(bench, connection, tokens)


def main() -> None:
    bench = Bench("doors")
    with own_platform(DOORS__DEVICE_READINGS_A_S="1000000") as (platform, target):
        uvloop.run(measure(bench, target, platform.connection))
    bench.finish()


if __name__ == "__main__":
    sys.exit(main())
