"""Those who are not attackers: a monitor that sends, a screen that asks, an alarm that has to come through."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import numpy as np

from domain.errors import Unavailable
from domain.principals import Role
from gateways.device_client import DeviceClient
from tests.running_platform import RunningPlatform

HOSPITAL: Final = "sz.honest"
MONITOR: Final = f"{HOSPITAL}/mon-1"
_READING_EVERY_S: Final = 0.1
_QUERY_EVERY_S: Final = 0.05
_ALARM_S: Final = 30.0
_STORED_S: Final = 60.0


@dataclass
class Seen:
    """Of one stretch of time: how long each query took (failed ones for ever), and until the alarm was there."""

    taken_s: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    alarm_s: float = float("inf")

    def p99_s(self) -> float:
        return float(np.quantile(self.taken_s, 0.99, method="higher")) if self.taken_s else float("inf")


class Honest:
    """Open from `start` to `close`. Readings carry sequences; `acknowledged` are those that must be there in the end."""

    def __init__(self, platform: RunningPlatform) -> None:
        self._platform = platform
        connection = platform.connection
        self._tls: ssl.SSLContext | None = connection.api_trust.context() if connection.api_trust else None
        self._base = f"{connection.api_url}/api/v1"
        self._headers = {"Authorization": f"Bearer {platform.token_as(Role.BIOMEDICAL_ENGINEER)}", "X-Reason": "honest"}
        self._sequence = 0
        self.acknowledged: set[int] = set()
        self._sending: asyncio.Task[None] | None = None
        self._client: DeviceClient | None = None
        self._probes: list[str] = []

    def _http(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self._base, headers=self._headers, verify=self._tls or False, timeout=10, trust_env=False
        )

    async def start(self, probes: int) -> None:
        token = await asyncio.to_thread(self._platform.register_monitor, HOSPITAL)
        async with self._http() as http:
            for number in range(probes):
                device = {"hospital_id": HOSPITAL, "device_id": f"probe-{number}", "model": "monitor", "with_token": True}
                answer = await http.post("/devices", json=device)
                assert answer.status_code == 201, answer.text
                self._probes.append(answer.json()["token"])
        connection = self._platform.connection
        self._client = DeviceClient(connection.mqtt_host, connection.mqtt_port, token, tls=self._tls)
        await self._client.connect()
        self._sending = asyncio.create_task(self._send())

    async def close(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
        if self._client is not None:
            await self._client.close()

    async def _send(self) -> None:
        assert self._client is not None
        while True:
            self._sequence += 1
            sent = {"metric": "heart_rate", "value": 60 + self._sequence % 40, "seq": self._sequence}
            message = asyncio.ensure_future(self._client.publish_readings(sent))
            message.add_done_callback(lambda done, sequence=self._sequence: self._note(done, sequence))
            await asyncio.sleep(_READING_EVERY_S)

    def _note(self, done: asyncio.Future[None], sequence: int) -> None:
        if not done.cancelled() and done.exception() is None:
            self.acknowledged.add(sequence)

    async def watch(self, seconds: float) -> Seen:
        """Ask simple questions at a steady pace, each fourth on a new connection, and have one limit crossed."""
        seen = Seen()
        alarm = asyncio.create_task(self._alarm())
        until_s = time.monotonic() + seconds
        asked: set[asyncio.Task[None]] = set()
        async with self._http() as http:
            number = 0
            while time.monotonic() < until_s:
                number += 1
                asked.add(asyncio.create_task(self._query(http if number % 4 else None, number, seen)))
                await asyncio.sleep(_QUERY_EVERY_S)
            await asyncio.gather(*asked)
        seen.alarm_s = await alarm
        return seen

    async def _query(self, kept: httpx.AsyncClient | None, number: int, seen: Seen) -> None:
        path = f"/devices/{MONITOR}" if number % 2 else f"/readings?device={MONITOR}&metric=heart_rate&limit=50&descending=true"
        began_s = time.monotonic()
        try:
            async with contextlib.AsyncExitStack() as stack:
                http = kept or await stack.enter_async_context(self._http())
                began_s = time.monotonic()  # to make a TLS context is the client's own work
                answer = await http.get(path)
                seen.taken_s.append(time.monotonic() - began_s)
            if answer.status_code != 200:
                seen.failed.append(f"{answer.status_code} {answer.text[:200]}")
        except httpx.HTTPError as error:
            seen.taken_s.append(float("inf"))
            seen.failed.append(f"{type(error).__name__} after {time.monotonic() - began_s:.1f} s")

    async def _alarm(self) -> float:
        """Until an alarm is listed after its reading was sent, by a device that connects only now."""
        connection = self._platform.connection
        client = DeviceClient(connection.mqtt_host, connection.mqtt_port, self._probes.pop(), tls=self._tls)
        began_s = time.monotonic()
        async with self._http() as http:
            before = await self._alarms(http)
            with contextlib.suppress(TimeoutError, Unavailable):
                async with asyncio.timeout(_ALARM_S):
                    await client.connect()
                    await client.publish_readings({"metric": "nibp_sys", "value": 60, "seq": 1})
                    while await self._alarms(http) <= before:  # noqa: ASYNC110 (each look is a question to the platform)
                        await asyncio.sleep(0.1)
                    await client.close()
                    return time.monotonic() - began_s
        return float("inf")

    async def _alarms(self, http: httpx.AsyncClient) -> int:
        with contextlib.suppress(httpx.HTTPError):
            answer = await http.get("/alarms", params={"hospital": HOSPITAL, "limit": 100})
            return len(answer.json().get("items", []))
        return -1

    async def lost(self) -> set[int]:
        """Acknowledged sequences that the platform does not have, once there was time to store them."""
        deadline_s = time.monotonic() + _STORED_S
        missing = set(self.acknowledged)
        async with self._http() as http:
            while missing and time.monotonic() < deadline_s:
                with contextlib.suppress(httpx.HTTPError):
                    missing = self.acknowledged - await self._stored(http)
                await asyncio.sleep(0.2)
        return missing

    async def _stored(self, http: httpx.AsyncClient) -> set[int]:
        found: set[int] = set()
        path: str | None = f"/readings?device={MONITOR}&metric=heart_rate&limit=10000"
        while path:
            answer: dict[str, Any] = (await http.get(path)).raise_for_status().json()
            found |= {row["sequence"] for row in answer["items"]}
            following = answer.get("next")
            path = str(httpx.URL(following).raw_path, "ascii").removeprefix("/api/v1") if following else None
        return found
