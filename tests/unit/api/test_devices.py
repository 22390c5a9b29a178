"""Devices: registration, lists, import by CSV and JSON, tokens, retirement; whole fleets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest
from fastapi import FastAPI, Response
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine

from api.device_lists import read_device_list
from domain.errors import InvalidInput
from domain.fleet_manifest import DeviceColumns, FleetManifest, FleetRegistered, HospitalManifest, PatientColumns, Tier
from runtime.sql.devices import NewDevice, device_of_token, list_devices
from tests.sql_fixtures import ALL
from tests.unit.api.conftest import client_of, make

MONITOR = {"hospital_id": "sz.h001", "device_id": "mon-7", "model": "monitor", "ward_id": "icu", "with_token": True}


@pytest.fixture
async def hospital(client: httpx.AsyncClient) -> str:
    await make(client, "hospitals", {"id": "sz.h001", "name": "A", "tier": "tertiary", "beds": 10})
    return "sz.h001"


async def test_no_devices_without_a_token(app: FastAPI) -> None:
    async with client_of(app, token=None) as anonymous:
        assert (await anonymous.get("/api/v1/devices")).status_code == 401
        assert (await anonymous.post("/api/v1/fleets", content=b"{}")).status_code == 401


@pytest.mark.clause("5.4a")
async def test_a_device_is_registered_with_a_token_that_is_shown_once(
    client: httpx.AsyncClient, hospital: str, engine: Engine
) -> None:
    made = await make(client, "devices", MONITOR)
    row = device_of_token(engine, made["token"])
    assert row is not None
    assert row["device_id"] == "mon-7"
    shown = (await client.get("devices/sz.h001/mon-7")).json()
    assert made["token"] not in str(shown)
    assert shown["device"]["has_token"]
    assert shown["device"]["model"] == "monitor@1"
    assert shown["live"] is None  # no host in this test
    assert "nobody answers" in shown["live_unavailable"]
    assert (await client.get("devices/sz.h001/mon-7/state")).status_code == 503


@pytest.mark.parametrize(
    ("change", "status"), [({"model": "toaster"}, 404), ({"device_id": "a b"}, 422), ({"hospital_id": "sz.h9"}, 404), ({}, 409)]
)
async def test_a_wrong_device_is_refused(client: httpx.AsyncClient, hospital: str, change: dict, status: int) -> None:
    await make(client, "devices", MONITOR)
    assert (await client.post("devices", json=MONITOR | change)).status_code == status


@pytest.mark.clause("9.3e")
@pytest.mark.parametrize("value", [r'"\ud800"', "NaN", "-Infinity", "1e999"])
async def test_attributes_that_no_text_can_hold_are_refused(client: httpx.AsyncClient, hospital: str, value: str) -> None:
    """Half a surrogate pair: JSON can spell it, UTF-8 cannot, and the access log could never be told of the write.

    A number that is none: Python's JSON spells it, and no other reads it.
    """
    half, headers = f'{{"attributes": {{"a": [{value}]}}}}', {"Content-Type": "application/json", "If-Match": '"1"'}
    posted = await client.post("devices", content=json.dumps(MONITOR)[:-1] + "," + half[1:], headers=headers)
    await make(client, "devices", MONITOR)
    patched = await client.patch("devices/sz.h001/mon-7", content=half, headers=headers)
    for refused in (posted, patched):
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid-input")
        assert "attributes cannot be kept" in refused.json()["detail"]


async def test_devices_are_listed_by_filters(client: httpx.AsyncClient, hospital: str) -> None:
    for name, ward, model in (("mon-1", "icu", "monitor"), ("mon-2", "er", "monitor"), ("pump-1", "icu", "infusion-pump")):
        await make(client, "devices", {"hospital_id": hospital, "device_id": name, "model": model, "ward_id": ward})

    async def listed(**params: str) -> list[str]:
        return [row["device_id"] for row in (await client.get("devices", params=params)).json()["items"]]

    assert await listed(ward="icu") == ["mon-1", "pump-1"]
    assert await listed(model="monitor") == ["mon-1", "mon-2"]
    assert await listed(q="MON") == ["mon-1", "mon-2"]
    assert await listed(hospital="sz.h002") == []


async def test_a_retired_device_keeps_its_row_and_loses_its_token(
    client: httpx.AsyncClient, hospital: str, engine: Engine
) -> None:
    token = (await make(client, "devices", MONITOR))["token"]
    fresh = (await make(client, "devices/sz.h001/mon-7/token", {}))["token"]
    assert device_of_token(engine, token) is None
    assert device_of_token(engine, fresh) is not None
    assert (await client.post("devices/sz.h001/mon-7/retire")).status_code == 428
    etag = (await client.get("devices/sz.h001/mon-7")).headers["etag"]
    retired = await client.post("devices/sz.h001/mon-7/retire", headers={"If-Match": etag})
    assert (retired.status_code, retired.json()["status"]) == (200, "retired")
    assert device_of_token(engine, fresh) is None
    assert (await client.post("devices/sz.h001/mon-7/token")).status_code == 409


async def test_a_device_is_moved(client: httpx.AsyncClient, hospital: str) -> None:
    await make(client, "devices", MONITOR)
    etag = (await client.get("devices/sz.h001/mon-7")).headers["etag"]
    moved = (await client.patch("devices/sz.h001/mon-7", json={"bed_id": "icu-2"}, headers={"If-Match": etag})).json()
    assert (moved["ward_id"], moved["bed_id"], moved["status"]) == ("icu", "icu-2", "in-use")
    etag = f'"{moved["version"]}"'
    away = await client.patch("devices/sz.h001/mon-7", json={"status": "maintenance"}, headers={"If-Match": etag})
    assert away.json()["status"] == "maintenance"
    assert (
        await client.patch("devices/sz.h001/mon-7", json={"status": "retired"}, headers={"If-Match": etag})
    ).status_code == 422


CSV = (
    "device_id,model,ward_id,bed_id,gateway_id,with_token\n"
    "gw-1,gateway,,,,true\nmon-1,monitor,icu,icu-1,gw-1,\nmon-1,monitor,,,,\nbad id,monitor,,,,\n"
    "mon-3,toaster,,,,\nmon-4,monitor,,,gw-9,\nmon-5,monitor,,,,perhaps\n,monitor,,,,\n"
)


@pytest.mark.clause("8.1")
@pytest.mark.parametrize("dry_run", [True, False])
async def test_an_import_reports_on_every_row_and_takes_the_right_ones(
    client: httpx.AsyncClient, hospital: str, engine: Engine, dry_run: bool
) -> None:
    response = await client.post(
        "devices/import", params={"hospital": hospital, "dry_run": dry_run}, content=CSV, headers={"Content-Type": "text/csv"}
    )
    report = response.json()
    assert (report["rows"], report["accepted"], report["refused"]) == (8, 2, 6)
    assert [row["row"] for row in report["reports"]] == list(range(1, 9))
    said = {row["row"]: row["error"] for row in report["reports"]}
    assert said[1] is None
    assert "twice" in said[3]
    assert "bad id" in said[4]
    assert "toaster" in said[5]
    assert "gw-9" in said[6]
    assert "perhaps" in said[7]
    assert "required" in said[8]
    registered = [row["device_id"] for row in list_devices(engine, reach=ALL, limit=50).rows]
    assert registered == ([] if dry_run else ["gw-1", "mon-1"])
    assert bool(report["reports"][0]["token"]) is not dry_run


async def test_json_lists_are_imported_alike(client: httpx.AsyncClient, hospital: str) -> None:
    rows = [
        {"device_id": "mon-1", "model": "monitor", "attributes": {"serial": "X1"}},
        {"device_id": 7, "model": "monitor"},
        {"device_id": "mon-2", "model": "monitor", "colour": "red"},
    ]
    report = (await client.post("devices/import", params={"hospital": hospital}, json=rows)).json()
    assert [row["error"] is None for row in report["reports"]] == [True, False, False]
    assert (await client.get("devices/sz.h001/mon-1")).json()["device"]["attributes"] == {"serial": "X1"}


@pytest.mark.parametrize("body", [b"", b"device_id\nx\n", b"device_id,model,colour\n", b"\xff\xfe", b"{}", b"[1, 2]"])
async def test_a_list_that_cannot_be_read_is_refused(client: httpx.AsyncClient, hospital: str, body: bytes) -> None:
    media = "application/json" if body[:1] in b"{[" and body else "text/csv"
    response = await client.post("devices/import", params={"hospital": hospital}, content=body, headers={"Content-Type": media})
    assert (response.status_code, response.json()["code"]) == (422, "invalid-input")


@given(st.binary(max_size=300), st.sampled_from(["text/csv", "application/json"]))
def test_any_bytes_are_a_list_or_a_clear_error(body: bytes, media: str) -> None:
    try:
        rows = read_device_list(body, media)
    except InvalidInput:
        return
    assert all(isinstance(row, NewDevice) or row.error for row in rows)


async def test_a_fleet_is_registered_in_one_call(client: httpx.AsyncClient) -> None:
    devices = DeviceColumns(["gw", "m1"], ["gateway", "monitor"], [None, "icu"], [None, "b1"], [None, "gw"], [True, False])
    patients = PatientColumns(["r1"], [None], [50.0], [False], [1], ["icu"], ["b1"], [1_700_000_000_000_000], [["m1"]])
    manifest = FleetManifest([HospitalManifest("sz.h005", "E", Tier.PRIMARY, 20, devices, patients)])
    response = await client.post("fleets", content=msgspec.json.encode(manifest))
    assert response.status_code == 201
    made = msgspec.json.decode(response.content, type=FleetRegistered).hospitals[0]
    assert len(made.handles) == 2
    assert set(made.tokens) == {"gw"}
    assert len(made.patient_keys) == 1
    associations = (await client.get("associations", params={"device": "sz.h005/m1"})).json()
    assert [row["patient_key"] for row in associations] == made.patient_keys
    wrong = await client.post("fleets", content=b'{"hospitals": [{"name": 3}]}')
    assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid-input")


async def test_a_body_too_large_is_refused(client: httpx.AsyncClient) -> None:
    async def in_chunks() -> AsyncIterator[bytes]:
        for _ in range(12):
            yield b" " * 2**18

    for content in (b" " * (3 * 2**20), in_chunks()):
        response = await client.post("hospitals", content=content, headers={"Content-Type": "application/json"})
        assert (response.status_code, response.json()["code"]) == (413, "body-too-large")
        assert response.headers["x-request-id"]


async def test_a_key_makes_a_repeated_registration_one(client: httpx.AsyncClient, hospital: str) -> None:
    headers = {"Idempotency-Key": "k-1"}
    first, second = await asyncio.gather(*(client.post("devices", json=MONITOR, headers=headers) for _ in range(2)))
    third = await client.post("devices", json=MONITOR, headers=headers)
    assert first.status_code == second.status_code == third.status_code == 201
    assert first.json() == second.json() == third.json()
    other = await client.post("devices", json=MONITOR | {"device_id": "mon-8"}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (409, "conflict")


async def test_a_key_does_not_answer_what_was_asked_for_otherwise(client: httpx.AsyncClient, hospital: str) -> None:
    headers = {"Idempotency-Key": "k-3", "Content-Type": "application/json"}
    rows = json.dumps([{"device_id": "mon-9", "model": "monitor"}])
    for dry_run in (True, False):
        answer = await client.post(f"devices/import?hospital=sz.h001&dry_run={dry_run}", content=rows, headers=headers)
        assert (answer.status_code, answer.json()["dry_run"]) == (200, dry_run)
    assert (await client.get("devices/sz.h001/mon-9")).status_code == 200


async def test_an_answer_that_nobody_may_store_is_not_kept(client: httpx.AsyncClient, app: FastAPI, hospital: str) -> None:
    headers, counted = {"Idempotency-Key": "k-4"}, iter(range(9))

    @app.post("/api/v1/secrets")
    async def secret(response: Response) -> int:
        response.headers["Cache-Control"] = "no-store"
        return next(counted)

    assert [(await client.post("secrets", headers=headers)).json() for _ in range(2)] == [0, 1]


async def test_a_key_is_free_after_an_error_and_after_a_day(client: httpx.AsyncClient, hospital: str, clock) -> None:
    headers = {"Idempotency-Key": "k-2"}
    assert (await client.post("devices", json=MONITOR | {"model": "toaster"}, headers=headers)).status_code == 404
    assert (await client.post("devices", json=MONITOR, headers=headers)).status_code == 201
    clock.advance(86_401)
    assert (await client.post("devices", json=MONITOR, headers=headers)).status_code == 409  # it exists: done anew
