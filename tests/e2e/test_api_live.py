"""Live streams over a real server and a real bus: pushed at once, resumable, honest about silence and slowness."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Callable

import httpx
import msgspec
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine

from api.app import create_app
from api.limits import RequestLimits
from api.live.subscription import Subscription
from cluster.serving import serving
from domain import subjects
from domain.alarms import INTENDED_USE, AlarmEvent, AlarmSubject, AlertType, Phase, Priority
from domain.frames import encode_frame
from domain.messages import DeviceIsolated, HostHeartbeat, ShardHeld, encode
from domain.metrics import metric_of
from domain.readings import ReadingBatch
from runtime.bus import Bus
from runtime.clock import SystemClock
from runtime.sql.isolations import isolate, release
from runtime.sql.records import Author
from tests.sql_fixtures import HOSPITAL, SmallHospital, told
from tests.unit.api.conftest import TOKEN, services_of
from tests.waiting import until

pytestmark = pytest.mark.integration


def alarm(number: int, hospital_id: str = "sz.h001", priority: Priority = Priority.HIGH) -> AlarmEvent:
    return AlarmEvent(
        event_id=f"e{number}", alarm_id=f"a{number}", phase=Phase.START, alert_type=AlertType.PHYSIOLOGICAL,
        priority=priority, rule="limit.very-low", rule_version=1, subject=AlarmSubject(hospital_id, handle=number),
        onset_us=1_700_000_000_000_000, event_us=1_700_000_000_000_000, arrival_us=1_700_000_000_000_000, text="SpO2 is low",
    )  # fmt: skip


async def notify(bus: Bus, event: AlarmEvent) -> int:
    return await bus.publish(subjects.alarm(event.subject.hospital_id), msgspec.json.encode(event), event.event_id)


async def events(lines: AsyncIterator[str]) -> AsyncIterator[tuple[str, str | None, dict]]:
    """(event, id, data) of a Server-Sent Events stream."""
    name, identity = "", None
    async for line in lines:
        key, _, value = line.partition(": ")
        if key == "event":
            name = value
        elif key == "id":
            identity = value
        elif key == "data":
            yield name, identity, json.loads(value)
            name, identity = "", None


async def next_of(stream: AsyncIterator[tuple[str, str | None, dict]], wanted: str) -> tuple[str | None, dict]:
    async with asyncio.timeout(30):
        async for name, identity, data in stream:
            if name == wanted:
                return identity, data
    raise AssertionError(f"the stream ended without {wanted}")


@pytest.fixture
async def app(bus: Bus, engine: Engine) -> FastAPI:
    return create_app(services_of(engine=engine, bus=bus, clock=SystemClock()), background=False)


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(app, "127.0.0.1", 0) as port:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/api/v1", headers=headers, timeout=30) as client:
            yield client


@contextlib.asynccontextmanager
async def live(client: httpx.AsyncClient, path: str, **headers: str) -> AsyncIterator[AsyncIterator]:
    async with client.stream(
        "GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()}
    ) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        yield events(response.aiter_lines())


async def test_no_live_stream_without_a_token(client: httpx.AsyncClient) -> None:
    response = await client.get("/live/alarms", headers={"Authorization": "Bearer wrong"})
    assert response.status_code == 401


@pytest.mark.clause("9.2c")
@pytest.mark.clause("6.3f")
async def test_an_alarm_is_pushed_with_its_intended_use(client: httpx.AsyncClient, bus: Bus) -> None:
    async with live(client, "/live/alarms") as stream:
        _, hello = await next_of(stream, "hello")
        assert hello["intended_use"] == INTENDED_USE
        sequence = await notify(bus, alarm(1))
        identity, data = await next_of(stream, "alarm")
    assert identity == str(sequence)
    assert data["event"]["alarm_id"] == "a1"
    assert data["intended_use"] == INTENDED_USE
    assert data["times"]["onset"] == "2023-11-14T22:13:20Z"


async def test_a_client_gets_only_what_it_asked_for(client: httpx.AsyncClient, bus: Bus) -> None:
    async with live(client, "/live/alarms?hospital=sz.h002&priority=2") as stream:
        await next_of(stream, "hello")
        await notify(bus, alarm(1, "sz.h001"))
        await notify(bus, alarm(2, "sz.h002", Priority.LOW))
        await notify(bus, alarm(3, "sz.h002"))
        _, data = await next_of(stream, "alarm")
    assert data["event"]["alarm_id"] == "a3"


async def test_a_client_goes_on_behind_the_last_event_it_saw(client: httpx.AsyncClient, bus: Bus) -> None:
    sequences = [await notify(bus, alarm(n)) for n in range(1, 51)]
    async with live(client, "/live/alarms", Last_Event_ID=str(sequences[9])) as stream:
        old = [await next_of(stream, "alarm") for _ in range(40)]
        sequences.append(await notify(bus, alarm(51)))
        old.append(await next_of(stream, "alarm"))
    assert [int(identity or 0) for identity, _ in old] == sequences[10:]


async def sequences_of(stream: AsyncIterator, count: int) -> list[int]:
    return [int((await next_of(stream, "alarm"))[0] or 0) for _ in range(count)]


async def test_catching_up_while_alarms_go_on_misses_and_doubles_nothing(client: httpx.AsyncClient, bus: Bus) -> None:
    for n in range(200):
        await notify(bus, alarm(n))

    async def go_on() -> None:
        for n in range(200, 400):
            await notify(bus, alarm(n))

    writing = asyncio.create_task(go_on())
    async with live(client, "/live/alarms", Last_Event_ID="0") as first, live(client, "/live/alarms?after=100") as second:
        seen = [
            [int((await next_of(stream, "alarm"))[0] or 0) for _ in range(count)]
            for stream, count in ((first, 400), (second, 300))
        ]
    await writing
    assert seen[0] == list(range(1, 401))
    assert seen[1] == list(range(101, 401))


@pytest.mark.clause("9.1b")
async def test_one_more_stream_than_a_caller_may_have_is_refused_until_one_is_closed(bus: Bus, engine: Engine) -> None:
    services = services_of(engine=engine, bus=bus, clock=SystemClock())
    app = create_app(services, background=False, limits=RequestLimits(live_streams=2))
    async with serving(app, "127.0.0.1", 0) as port:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/api/v1", headers=headers, timeout=30) as client:
            async with live(client, "/live/alarms") as first, live(client, "/live/alarms?after=0") as second:
                await next_of(first, "hello")
                await next_of(second, "hello")
                refused = await client.get("/live/alarms")
            assert (refused.status_code, refused.json()["code"]) == (429, "too-many-requests")
            assert int(refused.headers["Retry-After"]) >= 1
            await until(lambda: app.state.backend.alarm_feed.client_count == 0)
            async with live(client, "/live/alarms") as again:
                await next_of(again, "hello")


async def test_an_event_id_that_is_none_of_ours_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.get("/live/alarms", headers={"Last-Event-ID": "yesterday"})
    assert response.status_code == 422
    assert "yesterday" in response.json()["detail"]


async def test_heartbeats_carry_high_water_and_lag_and_say_when_a_shard_is_silent(client: httpx.AsyncClient, bus: Bus) -> None:
    now_us = SystemClock().now_us()
    held = [ShardHeld(shard=0, epoch=1, applied=9, committed=9, lag=0, high_water_us=now_us - 250_000, devices=5, channels=9)]
    async with live(client, "/live/alarms") as stream:
        _, before = await next_of(stream, "heartbeat")
        after = before
        async with asyncio.timeout(60):
            while after["high_water_us"] is None:  # said again, as a host does: what is old counts for nothing
                said_us = SystemClock().now_us()
                await bus.core_publish("heartbeat.host.h0", encode(HostHeartbeat("h0", 1, said_us, said_us, held)))
                _, after = await next_of(stream, "heartbeat")
    assert before["high_water_us"] is None
    assert before["lag_ms"] is None
    assert after["high_water_us"] == now_us - 250_000
    assert 250 <= after["lag_ms"] < 60_000
    assert after["connected"]


async def test_heartbeats_come_at_least_every_second(client: httpx.AsyncClient) -> None:
    loop = asyncio.get_running_loop()
    async with live(client, "/live/alarms") as stream:
        await next_of(stream, "heartbeat")
        at = [loop.time()]
        for _ in range(5):
            await next_of(stream, "heartbeat")
            at.append(loop.time())
    between_s = sorted(later - earlier for earlier, later in itertools.pairwise(at))
    assert between_s[2] < 1.0, "most: on a busy machine one may be late"


async def test_a_slow_client_is_told_and_disconnected(
    client: httpx.AsyncClient, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Subscription.__init__

    def short(self: Subscription, *args: object, **limits: int) -> None:
        original(self, *args, max_events=5)

    monkeypatch.setattr(Subscription, "__init__", short)

    take, close = Subscription.take, Subscription.close
    closed = asyncio.Event()

    def noted_close(self: Subscription) -> None:
        close(self)
        closed.set()

    async def slow_take(self: Subscription) -> bytes | None:
        await closed.wait()  # the socket takes nothing meanwhile
        return await take(self)

    monkeypatch.setattr(Subscription, "close", noted_close)
    monkeypatch.setattr(Subscription, "take", slow_take)
    async with client.stream("GET", "/live/alarms") as response:
        for n in range(10):
            await notify(bus, alarm(n))
        body = (await response.aread()).decode()
    names = [line.removeprefix("event: ") for line in body.splitlines() if line.startswith("event: ")]
    assert names[-1] == "overflow"
    seen = [int(line.removeprefix("id: ")) for line in body.splitlines() if line.startswith("id: ")]
    assert seen == list(range(1, len(seen) + 1))  # without a hole up to where it ended
    assert len(seen) < 10


async def test_the_last_client_to_leave_stops_the_follower(app: FastAPI, client: httpx.AsyncClient) -> None:
    async with live(client, "/live/alarms") as stream:
        await next_of(stream, "hello")
        assert app.state.backend.alarm_feed.client_count == 1
    await until(lambda: app.state.backend.alarm_feed._follower is None)


class Ward:
    """A monitor behind a gateway and a pump of its own, which both say something at once; orders reach the stream."""

    def __init__(self, bus: Bus, engine: Engine, hospital: SmallHospital) -> None:
        self.monitor, self.pump, self.gateway = (
            each["handle"] for each in (hospital.monitor, hospital.pump, hospital.gateway)
        )  # fmt: skip
        self._bus, self._engine, self._said = bus, engine, 0

    async def send(self) -> None:
        now_us, self._said = SystemClock().now_us(), self._said + 1
        batch = ReadingBatch.of(
            handle=[self.monitor, self.pump], metric=metric_of("heart_rate").id, time_us=now_us, value=float(self._said),
            source=[self.gateway, self.pump],
        )  # fmt: skip
        frame = encode_frame(batch, source=self.gateway, sequence=0, arrival_us=now_us)
        await self._bus.publish(subjects.reading(0), frame, f"frame-{self._said}")

    async def order(self, what: Callable[..., object]) -> None:
        what(self._engine, Author("ada", "a drill", SystemClock().now_us()), self.monitor)
        message = told(self._engine, DeviceIsolated)[-1]
        await self._bus.publish(subjects.control(0), encode(message), f"order-{what.__name__}")


async def values(stream: AsyncIterator, until_value: float) -> list[tuple[str, float]]:
    """Devices and values that come up to and with the frame that says `until_value`."""
    found: list[tuple[str, float]] = []
    while not found or found[-1][1] < until_value:
        rows = (await next_of(stream, "readings"))[1]["readings"]
        found += [(one["device_id"].rpartition("/")[2], one["value"]) for one in rows]
    return found


@pytest.mark.clause("8.4d")
async def test_nothing_of_an_isolated_device_is_shown_live_until_its_release_nor_afterwards(
    client: httpx.AsyncClient, bus: Bus, engine: Engine, hospital: SmallHospital
) -> None:
    ward, path, again = Ward(bus, engine, hospital), f"/live/readings?hospital={HOSPITAL}", {"Last_Event_ID": "0"}
    async with live(client, path) as stream:
        await next_of(stream, "hello")
        await ward.send()
        assert await values(stream, 1) == [("mon-7", 1), ("pump-3", 1)]
        await ward.order(isolate)
        await ward.send()
        async with live(client, path, **again) as later:
            await ward.send()
            assert await values(later, 3) == [("pump-3", 1), ("pump-3", 2), ("pump-3", 3)]
        await ward.order(release)
        await ward.send()
        assert await values(stream, 4) == [("pump-3", 2), ("pump-3", 3), ("mon-7", 4), ("pump-3", 4)]
    async with live(client, path, **again) as later:
        whole = await values(later, 4)
    assert [value for device, value in whole if device == "mon-7"] == [1, 4]
    assert [value for device, value in whole if device == "pump-3"] == [1, 2, 3, 4]
