"""Health, readiness, Prometheus numbers, scenarios."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine

from api.app import create_app
from api.hosts import HighWater
from domain import subjects
from domain.alarms import INTENDED_USE
from domain.errors import Unavailable
from domain.messages import HostHeartbeat, LogState, ShardHeld, StorageLevel, StorageState, encode
from gateways.counters import DoorCounters
from runtime.bus import StreamState
from runtime.clock import ManualClock
from runtime.intake_lanes import IntakeCounters
from runtime.large_questions import LargeReadings
from scenarios.launch import ScenarioRuns
from tests.unit.api.conftest import services_of
from tests.unit.api.small_platform import SmallPlatform


class Bus(SmallPlatform):
    """The small platform, with a stream to ask for."""

    is_connected = True
    is_away = False

    async def stream_state(self, stream: str) -> StreamState:
        if self.is_away:
            raise Unavailable(f"stream {stream} does not answer")
        return StreamState(1, 9, 9, 1000)


@pytest.fixture
def platform(tmp_path: Path, engine: Engine) -> Bus:
    return Bus(tmp_path, engine)


@pytest.fixture
async def app(platform: Bus, engine: Engine, clock: ManualClock, tmp_path: Path) -> AsyncIterator[FastAPI]:
    runs = ScenarioRuns(tmp_path / "reports", tmp_path, clock)
    services = services_of(
        engine=engine,
        clock=clock,
        bus=platform,
        lake=platform.lake,
        readings=platform.store,
        large_readings=LargeReadings(platform),
        scenarios=runs,
    )
    made = create_app(services, background=False)
    async with made.router.lifespan_context(made):
        yield made


def beat(app: FastAPI, clock: ManualClock, shards: range = range(4), lag: int = 0, age_s: float = 0.5) -> None:
    """A host says that it holds these shards."""
    now_us = clock.now_us()
    reached_us = now_us - round(age_s * 1e6)
    held = [
        ShardHeld(shard=s, epoch=1, applied=9, committed=8, lag=lag, high_water_us=reached_us, devices=5, channels=9)
        for s in shards
    ]
    app.state.backend.hosts.receive(encode(HostHeartbeat("h0", 1, now_us, now_us, held)), "heartbeat.host.h0")
    log_says(app, None)


def log_says(app: FastAPI, problem: str | None) -> None:
    """The access log tells how it is."""
    app.state.backend.log_state.receive(encode(LogState(0, 7, 0, problem)), subjects.LOG_STATE)


@pytest.mark.clause("9.3e")
async def test_an_access_log_that_does_not_grow_makes_the_platform_unready(
    client: httpx.AsyncClient, app: FastAPI, clock: ManualClock
) -> None:
    beat(app, clock)
    log_says(app, "tile/0/000 is damaged")
    answer = await client.get("ready")
    assert answer.status_code == 503
    (audit,) = [check for check in answer.json()["checks"] if check["name"] == "access-log"]
    assert "tile/0/000 is damaged" in audit["detail"]


async def test_health_says_what_the_platform_is_for(client: httpx.AsyncClient) -> None:
    body = (await client.get("health")).json()
    assert (body["status"], body["region"], body["intended_use"]) == ("alive", "sz", INTENDED_USE)
    assert (await client.get("http://test/health")).status_code == 200


async def test_ready_when_everything_answers(app: FastAPI, client: httpx.AsyncClient, clock: ManualClock) -> None:
    beat(app, clock)
    response = await client.get("ready")
    assert response.status_code == 200, response.text
    assert {check["name"]: check["ok"] for check in response.json()["checks"]} == dict.fromkeys(
        ("bus", "database", "lake", "shards", "lag", "storage", "access-log"), True
    )


async def failing(client: httpx.AsyncClient) -> set[str]:
    response = await client.get("ready")
    assert response.status_code == 503
    assert response.json()["ready"] is False
    return {check["name"] for check in response.json()["checks"] if not check["ok"]}


async def test_not_ready_says_which_part(
    app: FastAPI, client: httpx.AsyncClient, clock: ManualClock, platform: Bus, engine: Engine
) -> None:
    assert await failing(client) == {"shards", "access-log"}
    beat(app, clock, range(3))
    assert await failing(client) == {"shards"}
    beat(app, clock, lag=1_000_000)
    assert await failing(client) == {"lag"}
    beat(app, clock, age_s=60)
    assert await failing(client) == {"lag"}
    beat(app, clock)
    platform.is_away = True
    assert await failing(client) == {"bus"}


async def test_ready_tells_of_the_access_log(app: FastAPI, client: httpx.AsyncClient, clock: ManualClock) -> None:
    beat(app, clock)

    def tell(*state: object) -> None:
        app.state.backend.log_state.receive(encode(LogState(clock.now_us(), 7, 0, *state)), subjects.LOG_STATE)

    async def detail() -> str:
        checks = (await client.get("ready")).json()["checks"]
        return str(next(check["detail"] for check in checks if check["name"] == "access-log")).partition("; 0 accesses")[0]

    tell()
    assert await detail() == "7 entries signed, by no witness"
    tell(None, 5, "w1: it does not answer")
    assert await detail() == "7 entries signed, 5 of them by every witness; w1: it does not answer"
    assert (await client.get("ready")).status_code == 200, "a witness that is away holds nothing up"
    assert "vitalgrid_log_unwitnessed 2.0" in (await client.get("metrics")).text
    tell("rolled-back: the log has 7 entries, and w1 has its signature for 9", 9)
    assert await failing(client) == {"access-log"}
    refused = "protected records are not shown: the access log does not grow: "
    assert await detail() == f"{refused}rolled-back: the log has 7 entries, and w1 has its signature for 9"


async def test_what_doors_count_is_shown_while_they_tell_it(
    app: FastAPI, client: httpx.AsyncClient, clock: ManualClock
) -> None:
    mqtt, intake = DoorCounters(connections=3, messages=9, bytes_received=800), IntakeCounters(waiting_readings=5, waited=2)
    mqtt.rejects["unknown-metric"] += 4
    told = encode({"doors": {"mqtt": mqtt, "http": DoorCounters()}, "intake": intake})  # as the doors' process does
    app.state.backend.doors.receive(told, "doors.counted")
    text = (await client.get("metrics")).text
    for line in (
        'vitalgrid_door_connections{door="mqtt"} 3.0', 'vitalgrid_door_messages_total{door="mqtt"} 9.0',
        'vitalgrid_door_messages_total{door="http"} 0.0', 'vitalgrid_door_received_bytes_total{door="mqtt"} 800.0',
        'vitalgrid_door_rejects_total{door="mqtt",reason="unknown-metric"} 4.0',
        "vitalgrid_intake_waiting_readings 5.0", "vitalgrid_intake_waited_total 2.0",
    ):  # fmt: skip
        assert line in text.splitlines(), line
    app.state.backend.doors.receive(b"{}", "doors.counted")  # cannot be read: what was told before stands
    assert 'vitalgrid_door_messages_total{door="mqtt"} 9.0' in (await client.get("metrics")).text
    clock.advance(11)
    assert "vitalgrid_door_messages_total{" not in (await client.get("metrics")).text


async def test_a_host_that_fell_silent_holds_nothing(app: FastAPI, client: httpx.AsyncClient, clock: ManualClock) -> None:
    beat(app, clock)
    clock.advance(6)
    assert "shards" in await failing(client)
    assert app.state.backend.hosts.high_water().silent_shards == (0, 1, 2, 3)


async def test_a_shard_that_was_taken_just_now_is_not_behind(
    app: FastAPI, client: httpx.AsyncClient, clock: ManualClock
) -> None:
    beat(app, clock, age_s=clock.now_us() / 1e6)  # it has heard of no time yet
    assert (await client.get("ready")).status_code == 200
    assert app.state.backend.hosts.high_water() == HighWater(None, ())


@pytest.mark.clause("9.3e")
async def test_a_shard_that_comes_to_no_time_for_seconds_is_silent(
    client: httpx.AsyncClient, app: FastAPI, clock: ManualClock
) -> None:
    hosts = app.state.backend.hosts
    beat(app, clock, age_s=clock.now_us() / 1e6)
    clock.advance(3)
    beat(app, clock, age_s=clock.now_us() / 1e6)
    assert hosts.high_water().silent_shards == ()
    for _ in range(2):
        clock.advance(3)
        beat(app, clock, range(1, 4), age_s=clock.now_us() / 1e6)  # nobody holds the first one for a moment
    assert hosts.high_water() == HighWater(None, (0, 1, 2, 3))
    beat(app, clock, age_s=clock.now_us() / 1e6)
    assert await failing(client) == {"shards"}
    assert "at no time yet: [0, 1, 2, 3]" in (await client.get("ready")).text
    beat(app, clock)
    assert (await client.get("ready")).status_code == 200
    assert hosts.high_water().silent_shards == ()


async def test_prometheus_is_shown_hosts_shards_and_requests(
    app: FastAPI, client: httpx.AsyncClient, clock: ManualClock
) -> None:
    beat(app, clock, range(3), lag=7)
    await client.get("hospitals/sz.h001")
    text = (await client.get("metrics")).text
    assert 'vitalgrid_shard_lag_messages{shard="2"} 7.0' in text
    assert "vitalgrid_shards_missing 1.0" in text
    assert "vitalgrid_hosts_alive 1.0" in text
    assert "vitalgrid_stream_age_seconds 0.5" in text
    assert 'vitalgrid_alarms_open{priority="high"} 0.0' in text
    assert "vitalgrid_rejects_kept 9.0" in text
    assert "vitalgrid_outbox_waiting 0.0" in text
    assert 'route="/hospitals/{hospital_id}",status="404"' in text
    assert "sz.h001" not in text


async def test_scenarios_are_listed_and_runs_are_looked_up(client: httpx.AsyncClient) -> None:
    names = [row["name"] for row in (await client.get("scenarios")).json()]
    assert "calm-district" in names
    assert (await client.get("scenario-runs")).json() == []
    assert (await client.post("scenarios/nothing/runs", json={})).status_code == 404
    wrong = await client.post("scenarios/calm-district/runs", json={"settings": {"fleet.colour": "red"}})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid-input")
    assert (await client.get("scenario-runs/20260101-000000-x/report")).status_code == 404
    assert (await client.get("scenario-runs/..%2F..%2Fetc/report")).status_code == 404


async def test_without_scenarios_the_api_says_so(plain_client: httpx.AsyncClient) -> None:
    response = await plain_client.get("/api/v1/scenarios")
    assert (response.status_code, response.json()["code"]) == (503, "unavailable")
    assert response.headers["retry-after"]


def told(clock: ManualClock, app: FastAPI, level: StorageLevel) -> None:
    state = StorageState("lake", "/data/lake", level, 5 * 2**20, f"the disk of the lake (/data/lake) is {level}")
    app.state.backend.storage.receive(msgspec.json.encode([state]), "storage.state")


async def test_a_disk_that_runs_full_is_named_by_health_and_makes_the_platform_unready(
    client: httpx.AsyncClient, app: FastAPI, clock: ManualClock
) -> None:
    beat(app, clock)
    told(clock, app, StorageLevel.FULL)
    (place,) = (await client.get("health")).json()["storage"]
    assert (place["name"], place["path"], place["level"], place["free_bytes"]) == ("lake", "/data/lake", "full", 5 * 2**20)
    answer = await client.get("ready")
    assert answer.status_code == 503
    assert "/data/lake" in next(check["detail"] for check in answer.json()["checks"] if check["name"] == "storage")
    assert 'vitalgrid_storage_troubled{place="lake"} 1.0' in (await client.get("metrics")).text
    told(clock, app, StorageLevel.OK)
    assert (await client.get("ready")).status_code == 200
    clock.advance(60)
    assert (await client.get("health")).json()["storage"] == []  # nothing was said lately


async def test_a_host_that_holds_back_for_the_lake_makes_the_platform_unready(
    client: httpx.AsyncClient, app: FastAPI, clock: ManualClock
) -> None:
    beat(app, clock)
    now_us = clock.now_us()
    app.state.backend.hosts.receive(
        encode(HostHeartbeat("h1", 2, now_us, now_us, [], full_since_us=now_us)), "heartbeat.host.h1"
    )
    answer = await client.get("ready")
    assert answer.status_code == 503
    assert "h1 takes no more of the stream" in answer.text
