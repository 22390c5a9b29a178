"""`python -m tests.attacks.isolation_drill`: a flooding monitor and a spoofed one, which is on a patient behind a gateway, are
cut off from a real platform while others send; how long that took, what the ward saw, and the undo. Clauses 8.4d, 9.4.
Before anybody orders anything the flooding monitor is held by its limit, and told.

Exit code 1 when something of an isolated device came through, more of the flooding one than it may send, an honest reading
was lost, or the undo did not bring back what was kept apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from domain.errors import Unauthenticated, Unavailable, VitalgridError
from domain.frames import encode_frame
from domain.instants import parse_rfc3339
from domain.metrics import metric_of
from domain.principals import Role
from domain.readings import ReadingBatch
from gateways.device_client import DeviceClient
from runtime.clock import SystemClock
from tests.running_platform import RunningPlatform, start_platform

HOSPITAL: Final = "sz.drill"
SPOOFED: Final = f"{HOSPITAL}/mon-4"
FLOODER: Final = f"{HOSPITAL}/mon-2"
GATEWAY: Final = f"{HOSPITAL}/gw-1"
HONEST: Final = (f"{HOSPITAL}/mon-1", f"{HOSPITAL}/mon-3")  # by itself, and behind the gateway beside the spoofed one
NURSE: Final = "li.na"
TRUE: Final = 71.0  # what the spoofed monitor says,
FALSE: Final = 199.0  # … and what it says once somebody else speaks for it
_EVERY_S: Final = 0.1
_FLOOD_AT_ONCE: Final = 50  # messages,
_FLOOD_READINGS: Final = 20  # … of so many readings
_READINGS_A_S, _BURST_S = 100, 10
SETTINGS: Final = {  # so little that a flood of this process alone is one
    "DOORS__DEVICE_READINGS_A_S": str(_READINGS_A_S), "DOORS__READINGS_BURST_S": str(_BURST_S),
}  # fmt: skip
_SENT_AGAIN: Final = 10  # of what was kept apart
_LIVE_FRAMES: Final = 10  # that a live stream shows of the neighbour, and nothing of the isolated one
_HEART_RATE: Final = metric_of("heart_rate").id
_DEADLINE_S: Final = 30.0
_HANDS: Final = {  # whose part each request is, but for what this machine's operator does: nobody may do all of it
    "hospitals": Role.SYSTEM_ADMINISTRATOR, "devices": Role.BIOMEDICAL_ENGINEER, "rejects": Role.BIOMEDICAL_ENGINEER,
    "patients": Role.INTEGRATION, "associations": Role.INTEGRATION, "readings": Role.STATION, "alarms": Role.STATION,
    "live": Role.STATION,
}  # fmt: skip


@dataclass
class Drill:
    """What came of it. Times are from the order to what is named."""

    seconds: dict[str, float] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)  # by the ward, in order
    problems: list[str] = field(default_factory=list)
    flooded: int = 0
    kept_apart: int = 0
    live: list[float] = field(default_factory=list)  # what a live stream says of the spoofed monitor since it was last cleared

    def check(self, *, holds: bool, otherwise: str) -> None:
        if not holds:
            self.problems.append(otherwise)

    def __str__(self) -> str:
        times = [f"{what:<52} {seconds:6.2f} s" for what, seconds in self.seconds.items()]
        counts = [f"readings of the flood {self.flooded}, messages of the spoofed monitor kept apart {self.kept_apart}"]
        return "\n".join([*times, *counts, "what the ward saw:", *(f"  {line}" for line in self.seen), *self.problems])


def refused_of(acknowledged: set[int], stored: set[int]) -> tuple[set[int], set[int]]:
    """Of a sender's numbers, in their order in the stream: those refused, and those that came through behind the first."""
    refused = acknowledged - stored
    return refused, {number for number in stored if refused and number > min(refused)}


class Stand:
    """The devices of the drill, and the hands of those who act in it."""

    def __init__(self, platform: RunningPlatform) -> None:
        connection = platform.connection
        self._address = (connection.mqtt_host, connection.mqtt_port)
        self._tls: ssl.SSLContext | None = connection.api_trust.context() if connection.api_trust else None
        self._hands = {what: platform.token_as(role) for what, role in _HANDS.items()}
        self._operator = platform.token
        self.http = httpx.AsyncClient(
            base_url=f"{connection.api_url}/api/v1", headers={"X-Reason": "drill"}, auth=self._by_whom, timeout=30,
            verify=self._tls or True, trust_env=False,
        )  # fmt: skip
        self.clock = SystemClock()
        self.drill = Drill()
        self.tokens: dict[str, str] = {}
        self.handles: dict[str, int] = {}
        self.spoof = TRUE
        self.acknowledged: dict[str, set[int]] = {device: set() for device in (*HONEST, SPOOFED)}
        self.flooder: DeviceClient | None = None
        self.live_frames = 0  # that the live stream showed of its neighbour, in the same frames
        self._sequence = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._clients: list[DeviceClient] = []

    def _by_whom(self, request: httpx.Request) -> httpx.Request:
        what = request.url.path.removeprefix("/api/v1/").partition("/")[0]
        request.headers["Authorization"] = f"Bearer {self._hands.get(what, self._operator)}"
        return request

    async def post(self, path: str, body: Any = None) -> Any:
        answer = await self.http.post(path, json=body)
        assert answer.is_success, (path, answer.text)
        return answer.json()

    async def items(self, path: str, **params: Any) -> list[dict[str, Any]]:
        """Raises Unavailable for any other answer: that nothing is there has to be said, not to fail."""
        answer = await self.http.get(path, params={"limit": 1000} | params)
        if not answer.is_success:
            raise Unavailable(f"{path} answers {answer.status_code}: {answer.text}")
        return list(answer.json()["items"])

    async def furnish(self) -> None:
        """A hospital with a patient on the monitor that will be spoofed, and a nurse of its ward."""
        await self.post("/hospitals", {"id": HOSPITAL, "name": "Drill", "tier": "primary", "beds": 8})
        await self.post(f"/hospitals/{HOSPITAL}/wards", {"id": "icu", "name": "Intensive care"})
        for name, more in (
            ("gw-1", {"model": "gateway", "with_token": True}), ("mon-1", {"with_token": True}),
            ("mon-2", {"with_token": True}), ("mon-3", {"gateway_id": "gw-1"}), ("mon-4", {"gateway_id": "gw-1"}),
        ):  # fmt: skip
            device = {"hospital_id": HOSPITAL, "device_id": name, "model": "monitor", "ward_id": "icu"} | more
            made = await self.post("/devices", device)
            self.handles[name], self.tokens[name] = made["device"]["handle"], made["token"]
        patient = await self.post("/patients", {"hospital_id": HOSPITAL, "ref": "R-1", "ward_id": "icu", "age_years": 60})
        span = {"hospital_id": HOSPITAL, "device_id": "mon-4", "patient_key": patient["patient_key"]}
        await self.post("/associations", span)
        await self.post("/users", {"name": NURSE, "grants": [{"role": "nurse", "place": f"{HOSPITAL}/icu"}]})

    async def begin(self) -> None:
        self._tasks += map(asyncio.create_task, (self._monitor(), self._gateway(), self._watch_live()))

    async def _watch_live(self) -> None:
        """Hold a live stream of the ward, as its screen does: it connects again where it was, when it is ended."""
        last: dict[str, str] = {}
        while True:
            with contextlib.suppress(httpx.TransportError):
                async with self.http.stream("GET", "/live/readings", params={"hospital": HOSPITAL}, headers=last) as answer:
                    async for line in answer.aiter_lines():
                        name, _, text = line.partition(": ")
                        if name == "id":
                            last = {"Last-Event-ID": text}
                        elif name == "data":
                            self._note(json.loads(text))
            await asyncio.sleep(_EVERY_S)

    def _note(self, event: dict[str, Any]) -> None:
        for one in event.get("readings", ()):
            if one["device_id"] == SPOOFED:
                self.drill.live.append(one["value"])
            elif one["device_id"] == HONEST[1]:
                self.live_frames += 1

    async def is_live(self) -> bool:
        return bool(self.drill.live)

    def flood(self) -> None:
        self._tasks.append(asyncio.create_task(self._flood()))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for client in self._clients:
            with contextlib.suppress(VitalgridError):
                await client.close()
        await self.http.aclose()

    async def connected(self, name: str) -> DeviceClient:
        client = DeviceClient(*self._address, self.tokens[name], tls=self._tls)
        self._clients.append(client)
        await client.connect()
        return client

    async def _monitor(self) -> None:
        client, sequence = await self.connected("mon-1"), 0
        while True:
            sequence += 1
            await client.publish_readings({"metric": "heart_rate", "value": 60 + sequence % 30, "seq": sequence})
            self.acknowledged[HONEST[0]].add(sequence)
            await asyncio.sleep(_EVERY_S)

    async def _gateway(self) -> None:
        """Frames of both monitors that it carries, in its own sequence."""
        client = await self.connected("gw-1")
        honest, spoofed, gateway = (self.handles[name] for name in ("mon-3", "mon-4", "gw-1"))
        while True:
            first = self._sequence + 1
            self._sequence += 2
            batch = ReadingBatch.of(
                handle=[honest, spoofed], metric=_HEART_RATE, time_us=self.clock.now_us(), value=[80.0, self.spoof],
                source=gateway, sequence=[first, first + 1],
            )  # fmt: skip
            await client.publish_frame(encode_frame(batch, source=0, sequence=0, arrival_us=0))
            self.acknowledged[HONEST[1]].add(first)
            self.acknowledged[SPOOFED].add(first + 1)
            await asyncio.sleep(_EVERY_S)

    async def _flood(self) -> None:
        client = self.flooder = await self.connected("mon-2")
        sequence = 0
        with contextlib.suppress(VitalgridError):
            while True:
                sent = []
                for _ in range(_FLOOD_AT_ONCE):
                    numbers = range(sequence + 1, sequence + 1 + _FLOOD_READINGS)
                    sent.append(client.publish_readings([{"metric": "spo2", "value": 90 + n % 9, "seq": n} for n in numbers]))
                    sequence += _FLOOD_READINGS
                await asyncio.gather(*sent)
                self.drill.flooded += len(sent) * _FLOOD_READINGS

    async def timed(self, what: str, began_s: float, look: Callable[[], Awaitable[Any]]) -> Any:
        """The first true answer of `look`, and how long after `began_s` it was there."""
        while True:
            found, why = None, ""
            try:
                found = await look()
            except Unavailable as error:
                why = f" ({error})"
            if found:
                self.drill.seconds[what] = time.monotonic() - began_s
                return found
            if time.monotonic() - began_s > _DEADLINE_S:
                self.drill.problems.append(f"{what}: not within {_DEADLINE_S:g} s{why}")
                return None
            await asyncio.sleep(0.02)

    async def look(self) -> None:
        """Note what the ward's list of alarms says that it did not say before."""
        alarms = await self.items("/alarms", hospital=HOSPITAL)
        for one in sorted(alarms, key=lambda one: one["raised"]):
            line = f"{one['raised']} {one['priority']} {one['state']:<7} {one['rule']}: {one['text']}"
            if line not in self.drill.seen:
                self.drill.seen.append(line)

    async def values(self, device: str, **more: Any) -> list[dict[str, Any]]:
        return await self.items("/readings", device=device, metric="heart_rate", descending=True, **more)

    async def stored(self, device: str) -> set[int]:
        """The numbers of its readings that are shown."""
        return {row["sequence"] for row in await self.values(device, limit=10_000)}

    async def rejects(self) -> list[dict[str, Any]]:
        """What is kept apart of the spoofed monitor, which its gateway brought, however many pages."""
        found, path = [], f"/rejects?limit=1000&reason=isolated&hospital={HOSPITAL}"
        while path:
            page = (await self.http.get(path)).json()
            found += page["items"]
            path = (page["next"] or "").removeprefix("/api/v1")
        return [one for one in found if one["principal"] == GATEWAY]

    async def open_alarms(self, rule: str) -> list[dict[str, Any]]:
        alarms = await self.items("/alarms", hospital=HOSPITAL)
        return [one for one in alarms if one["rule"] == rule and one["state"] != "closed"]

    async def open_alarm(self, rule: str, device_id: str) -> list[dict[str, Any]]:
        return [one for one in await self.open_alarms(rule) if one["device_id"] == device_id]

    async def is_not_isolated(self) -> bool:
        """Whether the ward has no alarm of the spoofed monitor's isolation."""
        return not await self.open_alarm("technical.device-isolated", "mon-4")

    async def is_monitored(self) -> bool:
        return not await self.open_alarms("technical.patient-not-monitored")


async def flood(stand: Stand) -> None:
    """Let it flood until the platform says so by itself; what came of it by then is what it may send."""
    drill, began_s = stand.drill, time.monotonic()
    stand.flood()
    await stand.timed("the flood runs", began_s, lambda: stand.items("/readings", device=FLOODER, limit=1))
    await stand.timed(
        "flood: told as a security event, before any order", began_s,
        lambda: stand.items("/security/events", device=FLOODER, kind="floods"),
    )  # fmt: skip
    came, least = drill.flooded, _READINGS_A_S * _BURST_S
    most = least + _READINGS_A_S * (time.monotonic() - began_s) + _FLOOD_READINGS
    drill.check(holds=least <= came <= most, otherwise=f"{came} of the flood came: expected {least} to {most:.0f}")


async def cut_off(stand: Stand) -> None:
    """The flooder, which is on nobody, then the spoofed monitor, whose patient the ward has to know of."""
    flood_over_us = await stop_flood(stand)
    drill = stand.drill
    stand.spoof = FALSE
    await stand.timed("spoof: false values are on the screen", time.monotonic(), lambda: shows(stand, FALSE))
    await stand.timed("spoof: the patient is monitored", time.monotonic(), stand.is_monitored)
    await stand.timed("spoof: its readings are on the live stream", time.monotonic(), stand.is_live)
    refused = await stand.http.post(f"/devices/{SPOOFED}/isolation", json={})
    drill.check(holds=refused.json().get("code") == "patient-attached", otherwise=f"not held back: {refused.text}")
    began_s = time.monotonic()
    await stand.post(f"/devices/{SPOOFED}/isolation", {"confirmed_by": NURSE})
    drill.seconds["spoof: order answered"] = time.monotonic() - began_s
    await stand.timed("spoof: the ward's alarm", began_s, lambda: stand.open_alarm("technical.device-isolated", "mon-4"))
    await stand.timed("spoof: kept apart", began_s, stand.rejects)
    drill.live.clear()  # hosts refuse by now: from here on nothing of it may be live
    frames = stand.live_frames
    await stand.timed(
        "spoof: the patient is told to be not monitored", began_s,
        lambda: stand.open_alarms("technical.patient-not-monitored"),
    )  # fmt: skip
    await stand.timed("spoof: the live stream goes on with its neighbour", began_s, lambda: _more_live(stand, frames))
    drill.check(holds=not drill.live, otherwise=f"{len(drill.live)} readings of the isolated monitor were on the live stream")
    await stand.look()
    apart, later = refused_of(set(stand.acknowledged[SPOOFED]), await stand.stored(SPOOFED))
    drill.check(holds=bool(apart), otherwise="nothing of the isolated monitor was refused")
    drill.check(
        holds=not later, otherwise=f"{len(later)} readings of the isolated monitor came through behind the first refused"
    )
    newest = await stand.items("/readings", device=FLOODER, metric="spo2", descending=True, limit=1)
    holds = parse_rfc3339(newest[0]["time"]) <= flood_over_us
    drill.check(holds=holds, otherwise=f"readings of the flooder of {newest[0]['time']}, when its connection had ended")


async def stop_flood(stand: Stand) -> int:
    """Isolate the flooder; when its connection was seen to be ended."""
    began_s = time.monotonic()
    await stand.post(f"/devices/{FLOODER}/isolation", {})
    stand.drill.seconds["flood: order answered"] = time.monotonic() - began_s

    async def is_refused() -> bool:
        try:
            await stand.connected("mon-2")
        except Unauthenticated:
            return True
        except VitalgridError:
            return False
        return False

    async def is_ended() -> bool:
        return stand.flooder is not None and not stand.flooder.is_connected

    await stand.timed("flood: its token opens nothing", began_s, is_refused)
    await stand.timed("flood: its connection is ended", began_s, is_ended)
    return stand.clock.now_us()


async def undo(stand: Stand) -> None:
    """Release both; what was kept apart is sent again."""
    drill = stand.drill
    stand.spoof = TRUE
    began_s = time.monotonic()
    await stand.post(f"/devices/{SPOOFED}/isolation/release")
    await stand.timed("undo: it is on the live stream again", began_s, stand.is_live)
    drill.check(holds=FALSE not in drill.live, otherwise="the live stream showed what was kept apart, once it was released")
    await stand.timed("undo: true values are on the screen", began_s, lambda: shows(stand, TRUE))
    await stand.timed("undo: the ward's alarm is over", began_s, stand.is_not_isolated)
    stored = await stand.stored(SPOOFED)
    apart = {number for number in stand.acknowledged[SPOOFED] - stored if number < max(stored, default=0)}
    kept = await stand.timed("undo: all of it is kept apart", began_s, lambda: _as_many(stand, len(apart))) or []
    drill.kept_apart = len(kept)
    for reject in kept[:_SENT_AGAIN]:
        await stand.post(f"/rejects/{reject['sequence']}/resubmit", {})
    await stand.timed(
        "undo: what was kept apart is stored", time.monotonic(), lambda: _are_back(stand, apart, len(kept[:_SENT_AGAIN]))
    )
    began_s = time.monotonic()
    await stand.post(f"/devices/{FLOODER}/isolation/release")
    await stand.connected("mon-2")
    drill.seconds["undo: the flooder's token opens again"] = time.monotonic() - began_s


async def _more_live(stand: Stand, frames: int) -> bool:
    return stand.live_frames > frames + _LIVE_FRAMES


async def shows(stand: Stand, value: float) -> bool:
    """Whether its newest reading has this value."""
    return [row["value"] for row in await stand.values(SPOOFED, limit=1)] == [value]


async def _as_many(stand: Stand, wanted: int) -> list[dict[str, Any]]:
    """What is kept apart once it is just so many."""
    kept = await stand.rejects()
    return kept if len(kept) == wanted else []


async def _are_back(stand: Stand, apart: set[int], wanted: int) -> bool:
    """Whether just so many of these numbers are stored by now."""
    return len(apart & await stand.stored(SPOOFED)) == wanted > 0


async def honest_lost(stand: Stand) -> dict[str, int]:
    """Readings of honest devices that were acknowledged and are not there, once there was time to store them."""
    lost = {device: len(stand.acknowledged[device]) for device in HONEST}
    until_s = time.monotonic() + _DEADLINE_S
    while any(lost.values()) and time.monotonic() < until_s:
        for device in HONEST:
            sequences = set(stand.acknowledged[device])
            lost[device] = len(sequences - await stand.stored(device)) if sequences else 1
        await asyncio.sleep(0.1)
    return lost


async def play(platform: RunningPlatform) -> Drill:
    """The whole drill on a running platform."""
    stand = Stand(platform)
    try:
        await stand.furnish()
        await stand.begin()
        began_s = time.monotonic()
        await stand.timed("all send", began_s, lambda: shows(stand, TRUE))
        await flood(stand)
        await cut_off(stand)
        await undo(stand)
        lost = await honest_lost(stand)
        stand.drill.check(holds=not any(lost.values()), otherwise=f"honest readings lost: {lost}")
        await stand.look()
        return stand.drill
    finally:
        await stand.close()


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="vitalgrid-drill-") as folder:
        platform = start_platform(Path(folder) / "var", SECURITY__PROFILE="standard", **SETTINGS)
        try:
            drill = asyncio.run(play(platform))
        finally:
            platform.stop()
    sys.stdout.write(f"{drill}\n")
    return 1 if drill.problems else 0


if __name__ == "__main__":
    sys.exit(main())
