"""What enters through the API: bedside observations and repaired rejects, over a real bus; and live readings."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine

from api.app import create_app
from cluster.serving import serving
from domain import subjects
from domain.frames import decode_frame, encode_frame
from domain.messages import Reject, encode
from domain.metrics import metric_of
from domain.quality import Origin, origin_of
from domain.readings import ReadingBatch
from runtime.bus import Bus
from runtime.clock import SystemClock
from runtime.identities import SqlIdentities
from runtime.intake import StreamIntake
from runtime.sealing import Sealer
from runtime.sql.outbox import waiting
from runtime.sql.places import get_hospital
from tests.sql_fixtures import copy_of
from tests.unit.api.conftest import TOKEN, client_of, make, services_of

pytestmark = pytest.mark.integration
HEART = metric_of("heart_rate").id


@pytest.fixture
def engine(sqlite_template: Path, tmp_path: Path, sealer: Sealer) -> Iterator[Engine]:
    with copy_of(sqlite_template, tmp_path, sealer) as opened:
        yield opened


@pytest.fixture
async def app(bus: Bus, engine: Engine) -> AsyncIterator[FastAPI]:
    clock = SystemClock()
    intake = StreamIntake(bus, SqlIdentities(engine), clock, source=2)
    made = create_app(services_of(bus=bus, engine=engine, clock=clock, intake=intake), background=False)
    async with made.router.lifespan_context(made):
        yield made
    await intake.close()


@pytest.fixture
async def handle(client: httpx.AsyncClient) -> int:
    await make(client, "hospitals", {"id": "sz.h001", "name": "A", "tier": "tertiary", "beds": 10})
    body = {"hospital_id": "sz.h001", "device_id": "mon-7", "model": "monitor", "ward_id": "icu"}
    return (await make(client, "devices", body))["device"]["handle"]


async def stored(bus: Bus, receipt: str) -> ReadingBatch:
    message = await bus.get_message(subjects.READINGS_STREAM, int(receipt.rpartition("-")[2]))
    assert message is not None
    return decode_frame(message.payload).readings


async def frames(bus: Bus) -> int:
    return (await bus.stream_state(subjects.READINGS_STREAM)).messages


async def test_a_fleet_is_answered_when_the_stream_has_all_of_it(bus: Bus, engine: Engine) -> None:
    """What its devices send next is then ordered behind, however many patients the hosts must be told of first."""
    people = [f"p{number}" for number in range(700)]
    fleet = {"hospitals": [{
        "hospital_id": "sz.h001", "name": "A", "tier": "tertiary", "beds": 700,
        "patients": {
            "refs": people, "names": [None] * 700, "ages_years": [60.0] * 700, "pregnant": [False] * 700,
            "spo2_scales": [1] * 700, "ward_ids": [None] * 700, "bed_ids": [None] * 700, "admitted_us": [1] * 700,
            "device_ids": [[] for _ in people],
        },
    }]}  # fmt: skip
    app = create_app(services_of(bus=bus, engine=engine, clock=SystemClock()), background=True)
    async with app.router.lifespan_context(app), client_of(app) as client:
        answer = await client.post("/api/v1/fleets", json=fleet, timeout=60)
        assert answer.status_code == 201, answer.text
        assert (await bus.stream_state(subjects.READINGS_STREAM)).messages == len(people)
        assert waiting(engine) == 0


OBSERVED = {
    "observations": [
        {"metric": "acvpu", "value": "voice"},
        {"metric": "oxygen_therapy", "value": "oxygen"},
        {"metric": "body_temp", "value": 101.3, "unit": "[degF]", "time": "2024-11-23T08:00:00+08:00"},
    ]
}


@pytest.mark.clause("8.1")
async def test_observations_are_answered_once_they_are_kept(client: httpx.AsyncClient, bus: Bus, handle: int) -> None:
    patient = await make(client, "patients", {"hospital_id": "sz.h001", "ref": "R1"})
    answer = await make(client, f"patients/{patient['patient_key']}/observations", OBSERVED)
    assert answer["accepted"] == 3
    rows = await stored(bus, answer["receipt"])
    assert set(rows.handle.tolist()) == {patient["handle"]}
    assert dict(zip(rows.metric.tolist(), rows.value.round(1).tolist(), strict=True)) == {
        metric_of("acvpu").id: 2.0, metric_of("oxygen_therapy").id: 1.0, metric_of("body_temp").id: 38.5,
    }  # fmt: skip
    assert set(origin_of(rows.quality).tolist()) == {Origin.ENTERED}
    log = (await client.get("writes", params={"limit": 1})).json()["items"][0]
    assert log["action"] == "observation.enter"


async def test_observations_with_a_key_are_entered_once(client: httpx.AsyncClient, bus: Bus, handle: int) -> None:
    patient = await make(client, "patients", {"hospital_id": "sz.h001", "ref": "R1"})
    path = f"patients/{patient['patient_key']}/observations"
    first = await make(client, path, OBSERVED, **{"Idempotency-Key": "round-8"})
    before = await frames(bus)
    second = await make(client, path, OBSERVED, **{"Idempotency-Key": "round-8"})
    assert second == first
    assert await frames(bus) == before
    other = {"observations": [{"metric": "acvpu", "value": "alert"}]}
    refused = await client.post(path, json=other, headers={"Idempotency-Key": "round-8"})
    assert refused.status_code == 409


@pytest.mark.clause("8.1")
@pytest.mark.parametrize(
    ("observation", "reason"),
    [
        ({"metric": "mana", "value": 1}, "unknown-metric"),
        ({"metric": "body_temp", "value": 38, "unit": "kg"}, "wrong-unit"),
        ({"metric": "acvpu", "value": "sleepy"}, "malformed-value"),
        ({"metric": "body_temp", "value": 38, "time": "1990-01-01T00:00:00Z"}, "implausible-time"),
    ],
)
async def test_a_wrong_observation_is_refused_with_its_reason(
    client: httpx.AsyncClient, bus: Bus, handle: int, observation: dict, reason: str
) -> None:
    patient = await make(client, "patients", {"hospital_id": "sz.h001", "ref": "R1"})
    before = await frames(bus)
    body = {"observations": [{"metric": "acvpu", "value": "alert"}, observation]}
    response = await client.post(f"patients/{patient['patient_key']}/observations", json=body)
    assert (response.status_code, response.json()["reason"]) == (422, reason)
    assert await frames(bus) == before  # nothing of it was stored
    assert (await client.post("patients/nobody/observations", json=OBSERVED)).status_code == 404


async def reject(bus: Bus, payload: bytes, number: int = 1, **facts: str | None) -> int:
    about = {"reason": "wrong-unit", "detail": "kg is no unit of a rate", "door": "mqtt", "principal": "sz.h001/mon-7",
             "hospital_id": "sz.h001", "topic": "v1/devices/me/readings"} | facts  # fmt: skip
    kept = Reject(reject_id=f"reject-{number}", received_us=1_700_000_000_000_000, payload=payload, **about)  # type: ignore[arg-type]
    return await bus.publish(subjects.reject(kept.hospital_id), encode(kept), kept.reject_id)


WRONG = b'{"metric": "heart_rate", "value": 72, "unit": "kg"}'


async def test_no_rejects_without_a_token(app: FastAPI) -> None:
    async with client_of(app, token=None) as anonymous:
        assert (await anonymous.get("/api/v1/rejects")).status_code == 401


@pytest.mark.clause("8.1")
async def test_rejects_are_listed_newest_first_and_shown_with_payload(client: httpx.AsyncClient, bus: Bus) -> None:
    for number in range(1, 6):
        await reject(bus, WRONG, number, reason="wrong-unit" if number % 2 else "malformed-json")
    page = (await client.get("rejects", params={"limit": 3})).json()
    rest = (await client.get(f"http://test{page['next']}")).json()
    assert [row["reject_id"] for row in page["items"] + rest["items"]] == [f"reject-{n}" for n in (5, 4, 3, 2, 1)]
    odd = (await client.get("rejects", params={"reason": "wrong-unit"})).json()["items"]
    assert [row["sequence"] for row in odd] == [5, 3, 1]
    shown = (await client.get("rejects/3")).json()
    assert shown["payload_text"] == WRONG.decode()
    assert base64.b64decode(shown["payload_base64"]) == WRONG
    assert (await client.get("rejects/99")).status_code == 404


async def test_binary_payloads_are_shown_as_base64_only(client: httpx.AsyncClient, bus: Bus) -> None:
    sequence = await reject(bus, b"\x00\xff\x01")
    shown = (await client.get(f"rejects/{sequence}")).json()
    assert shown["payload_text"] is None
    assert shown["payload_bytes"] == 3


@pytest.mark.clause("8.1")
async def test_a_repaired_reject_goes_through_the_intake_once_and_is_linked(
    client: httpx.AsyncClient, bus: Bus, handle: int
) -> None:
    sequence = await reject(bus, WRONG)
    path = f"rejects/{sequence}/resubmit"
    still_wrong = await client.post(path, json={})
    assert (still_wrong.status_code, still_wrong.json()["reason"]) == (422, "wrong-unit")
    answer = await make(client, path, {"payload_text": WRONG.decode().replace("kg", "/min")})
    rows = await stored(bus, answer["receipt"])
    assert (rows.handle.tolist(), rows.metric.tolist(), rows.value.tolist()) == ([handle], [HEART], [72.0])
    shown = (await client.get(f"rejects/{sequence}")).json()
    assert (shown["resubmitted_as"], shown["resubmitted_by"]) == (answer["receipt"], "ada")
    again = await client.post(path, json={"payload_text": "{}"})
    assert (again.status_code, again.json()["code"]) == (409, "conflict")


async def test_a_reject_of_an_unknown_sender_is_given_its_device(client: httpx.AsyncClient, bus: Bus, handle: int) -> None:
    sequence = await reject(bus, WRONG.replace(b"kg", b"/min"), principal=None, hospital_id=None, topic="strange/topic")
    path = f"rejects/{sequence}/resubmit"
    assert "name the device" in (await client.post(path, json={})).json()["detail"]
    assert (await client.post(path, json={"device": "sz.h001/mon-7"})).status_code == 404  # of no format we know
    assert (await client.post(path, json={"device": "sz.h001/mon-7", "format": "telex"})).status_code == 422
    answer = await make(client, path, {"device": "sz.h001/mon-7", "format": "readings"})
    assert (await stored(bus, answer["receipt"])).handle.tolist() == [handle]


@contextlib.asynccontextmanager
async def live(app_port: int, path: str) -> AsyncIterator[AsyncIterator[tuple[str, str, dict]]]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with (
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{app_port}/api/v1", headers=headers, timeout=30) as client,
        client.stream("GET", path) as response,
    ):
        assert response.status_code == 200, await response.aread()

        async def events() -> AsyncIterator[tuple[str, str, dict]]:
            name = identity = ""
            async for line in response.aiter_lines():
                key, _, value = line.partition(": ")
                name, identity = (value, identity) if key == "event" else (name, value) if key == "id" else (name, identity)
                if key == "data":
                    yield name, identity, json.loads(value)

        yield events()


async def test_live_readings_are_pushed_by_what_was_asked_for(
    bus: Bus, engine: Engine, client: httpx.AsyncClient, handle: int
) -> None:
    other = {"hospital_id": "sz.h001", "device_id": "mon-8", "model": "monitor"}
    other_handle = (await make(client, "devices", other))["device"]["handle"]
    shard = get_hospital(engine, "sz.h001")["shard"]
    batch = ReadingBatch.of(
        handle=[handle, other_handle, handle],
        metric=[HEART, HEART, HEART + 1],
        time_us=1_700_000_000_000_000,
        value=[70, 80, 71],
    )
    frame = encode_frame(batch, source=1, sequence=1, arrival_us=1_700_000_000_500_000)
    app = create_app(services_of(bus=bus, engine=engine, clock=SystemClock()), background=False)
    async with serving(app, "127.0.0.1", 0) as port:
        paths = ("device=sz.h001/mon-7", f"handle={other_handle}", "hospital=sz.h001&metric=heart_rate")
        found = []
        for path in paths:
            async with live(port, f"/live/readings?{path}") as stream, asyncio.timeout(30):
                async for name, identity, data in stream:
                    if name == "hello":
                        sequence = await bus.publish(subjects.reading(shard), frame, f"frame-{path}")
                    elif name == "readings":
                        assert int(identity) == data["sequence"] == sequence
                        found.append([(row["device_id"], row["metric"], row["value"]) for row in data["readings"]])
                    elif found and len(found) == paths.index(path) + 1 and name == "heartbeat":
                        assert data["high_water_us"] is not None
                        assert data["last_sequence"] >= sequence
                        break
    assert found == [
        [("sz.h001/mon-7", "heart_rate", 70.0), ("sz.h001/mon-7", "pulse_rate", 71.0)],
        [("sz.h001/mon-8", "heart_rate", 80.0)],
        [("sz.h001/mon-7", "heart_rate", 70.0), ("sz.h001/mon-8", "heart_rate", 80.0)],
    ]


async def test_live_readings_of_nothing_are_refused(client: httpx.AsyncClient, handle: int) -> None:
    assert (await client.get("live/readings")).status_code == 422
    assert (await client.get("live/readings", params={"device": "sz.h001/nobody"})).status_code == 404
