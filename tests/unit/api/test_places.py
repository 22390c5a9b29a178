"""Hospitals, wards and beds."""

from __future__ import annotations

from dataclasses import replace

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine

from api.hand_overs import SETTLE_S, _lead
from domain import subjects
from runtime.bus import StreamState
from runtime.clock import ManualClock
from runtime.sql.access import list_writes
from runtime.sql.outbox import mark_published, unpublished
from tests.unit.api.conftest import NoBus, client_of, make

HOSPITAL = {"id": "sz.h001", "name": "福田区人民医院", "tier": "tertiary", "beds": 1200}


async def test_no_places_without_a_token(app: FastAPI) -> None:
    async with client_of(app, token=None) as anonymous:
        assert (await anonymous.get("/api/v1/hospitals")).status_code == 401


@pytest.mark.clause("5.1")
async def test_hospitals_are_created_listed_page_by_page_and_shown(client: httpx.AsyncClient) -> None:
    for number in range(1, 6):
        await make(client, "hospitals", HOSPITAL | {"id": f"sz.h{number:03}"})
    seen, url, pages = [], "/api/v1/hospitals?limit=2", 0
    while url:
        response = await client.get(f"http://test{url}")
        seen += [row["id"] for row in response.json()["items"]]
        url, pages = response.json()["next"], pages + 1
        assert ('rel="next"' in response.headers.get("link", "")) == bool(url)
    assert seen == [f"sz.h{number:03}" for number in range(1, 6)]
    assert pages == 3
    shown = (await client.get("hospitals/sz.h003")).json()
    assert shown["name"] == HOSPITAL["name"]
    assert 0 <= shown["shard"] < 4


async def test_times_are_shown_in_the_zone_asked_for(client: httpx.AsyncClient) -> None:
    await make(client, "hospitals", HOSPITAL)
    assert (await client.get("hospitals/sz.h001")).json()["created"] == "2023-11-14T22:13:20Z"
    there = await client.get("hospitals/sz.h001", params={"tz": "Asia/Shanghai"})
    assert there.json()["created"] == "2023-11-15T06:13:20+08:00"
    wrong = await client.get("hospitals/sz.h001", params={"tz": "Mars/Olympus"})
    assert wrong.status_code == 422
    assert "Mars/Olympus" in wrong.json()["detail"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (HOSPITAL, 409, "conflict"),
        (HOSPITAL | {"id": "H 1"}, 422, "invalid-input"),
        (HOSPITAL | {"id": "sz.h9", "tier": "huge"}, 422, "validation"),
        (HOSPITAL | {"id": "sz.h9", "bedz": 1}, 422, "validation"),
        ({}, 422, "validation"),
    ],
)
async def test_a_wrong_hospital_is_refused_in_words(client: httpx.AsyncClient, body: dict, status: int, code: str) -> None:
    await make(client, "hospitals", HOSPITAL)
    response = await client.post("hospitals", json=body)
    assert (response.status_code, response.json()["code"]) == (status, code)


async def test_validation_lists_each_field(client: httpx.AsyncClient) -> None:
    problem = (await client.post("hospitals", json={"id": "sz.h001", "beds": -1})).json()
    assert {field["where"] for field in problem["fields"]} == {"body.name", "body.tier", "body.beds"}
    assert "3 fields are wrong" in problem["detail"]


async def test_an_update_needs_the_version_it_was_made_on(client: httpx.AsyncClient) -> None:
    created = await client.post("hospitals", json=HOSPITAL)
    etag = created.headers["etag"]
    missing = await client.patch("hospitals/sz.h001", json={"beds": 5})
    assert (missing.status_code, missing.json()["code"]) == (428, "precondition-required")
    changed = await client.patch("hospitals/sz.h001", json={"beds": 5}, headers={"If-Match": etag})
    assert changed.status_code == 200
    assert changed.json()["beds"] == 5
    assert changed.json()["name"] == HOSPITAL["name"]
    stale = await client.patch("hospitals/sz.h001", json={"beds": 6}, headers={"If-Match": etag})
    assert (stale.status_code, stale.json()["code"]) == (412, "stale-version")
    again = await client.patch("hospitals/sz.h001", json={"beds": 6}, headers={"If-Match": changed.headers["etag"]})
    assert again.json()["beds"] == 6
    wrong = await client.patch("hospitals/sz.h001", json={"beds": 6}, headers={"If-Match": "yesterday"})
    assert wrong.status_code == 422


@pytest.mark.clause("9.3e")
async def test_each_write_is_logged_with_who_and_why(client: httpx.AsyncClient, engine: Engine) -> None:
    await make(client, "hospitals", HOSPITAL, **{"X-Reason": "%E6%96%B0%E9%99%A2%E5%8C%BA opened"})
    row = list_writes(engine, limit=1).rows[0]
    assert (row["who"], row["action"], row["target"]) == ("ada", "hospital.create", "sz.h001")
    assert row["reason"] == "新院区 opened"


async def test_wards_and_beds(client: httpx.AsyncClient) -> None:
    await make(client, "hospitals", HOSPITAL)
    ward = await client.post("hospitals/sz.h001/wards", json={"id": "icu", "name": "重症医学科"})
    await make(client, "hospitals/sz.h001/beds", {"id": "icu-01", "ward_id": "icu"})
    await make(client, "hospitals/sz.h001/beds", {"id": "hall-01"})
    renamed = await client.patch(
        "hospitals/sz.h001/wards/icu", json={"name": "ICU"}, headers={"If-Match": ward.headers["etag"]}
    )
    assert renamed.json()["name"] == "ICU"
    assert [row["id"] for row in (await client.get("hospitals/sz.h001/wards")).json()["items"]] == ["icu"]
    beds = (await client.get("hospitals/sz.h001/beds", params={"ward": "icu"})).json()["items"]
    assert [row["id"] for row in beds] == ["icu-01"]
    bed = await client.patch("hospitals/sz.h001/beds/hall-01", json={"ward_id": "icu"}, headers={"If-Match": '"1"'})
    assert bed.json()["ward_id"] == "icu"
    for path, etag, status in (("wards/icu", '"2"', 409), ("beds/icu-01", '"1"', 204), ("beds/hall-01", '"1"', 412),
                               ("beds/hall-01", '"2"', 204), ("wards/icu", '"2"', 204), ("wards/icu", '"2"', 404)):  # fmt: skip
        gone = await client.delete(f"hospitals/sz.h001/{path}", headers={"If-Match": etag})
        assert gone.status_code == status, (path, gone.text)
    await make(client, "hospitals/sz.h001/wards", {"id": "icu", "name": "again"})
    assert (await client.post("hospitals/sz.h999/wards", json={"id": "x", "name": "x"})).status_code == 404
    assert (await client.post("hospitals/sz.h001/wards", json={"id": "icu", "name": "x"})).status_code == 409


async def test_a_cursor_of_other_filters_is_refused(client: httpx.AsyncClient) -> None:
    for number in range(3):
        await make(client, "hospitals", HOSPITAL | {"id": f"sz.h{number:03}"})
    link = (await client.get("hospitals?limit=1&tier=tertiary")).json()["next"]
    assert (await client.get(f"http://test{link}")).status_code == 200
    response = await client.get(f"http://test{link.replace('tertiary', 'primary')}")
    assert response.status_code == 422
    assert "other filters" in response.json()["detail"]
    assert (await client.get("hospitals?cursor=nonsense")).status_code == 422
    assert (await client.get("hospitals?limit=1001")).status_code == 422


class Streams(NoBus):
    """A stream that has what it is told, and who is told that a directory changed."""

    def __init__(self) -> None:
        self.told: list[str] = []

    async def stream_state(self, _stream: str) -> StreamState:
        return StreamState(1, 700, 700, 0)

    async def core_publish(self, subject: str, payload: bytes) -> None:
        self.told.append(subject)


async def test_a_hospital_is_handed_over_from_wherever_its_hand_over_stands(
    client: httpx.AsyncClient, app: FastAPI, engine: Engine, clock: ManualClock
) -> None:
    shard = (await make(client, "hospitals", HOSPITAL))["shard"]
    assert (await client.get("hospitals/sz.h001/hand-over")).status_code == 404
    answer = await client.post("hospitals/sz.h001/hand-over", json={"shard": (shard + 1) % 4})
    assert (answer.status_code, answer.json()["state"]) == (202, "begun")
    assert (await client.post("hospitals/sz.h001/hand-over", json={"shard": (shard + 2) % 4})).status_code == 409
    assert (await client.post("hospitals/sz.h001/hand-over", json={"shard": 99})).status_code == 422
    bus = Streams()
    backend = replace(app.state.backend, services=replace(app.state.backend.services, bus=bus))
    assert await _lead(backend), "the shards are not told yet"
    mark_published(engine, [row["id"] for row in unpublished(engine)], clock.now_us())
    assert not await _lead(backend)
    assert (await client.get("hospitals/sz.h001")).json()["shard"] == (shard + 1) % 4
    assert bus.told == [subjects.DIRECTORY_CHANGED]
    await _lead(backend)
    assert (await client.get("hospitals/sz.h001/hand-over")).json()["state"] == "switched"
    clock.advance(SETTLE_S)
    await _lead(backend)
    assert (await client.get("hospitals/sz.h001/hand-over")).json()["state"] == "settled"
