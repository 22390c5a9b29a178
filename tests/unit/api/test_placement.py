"""Hospitals that are given a shard and a host of their own, and back."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine

from domain.messages import HostHeartbeat, ShardHeld, encode
from runtime.clock import ManualClock
from runtime.sql.access import list_writes
from tests.unit.api.conftest import client_of, make

HOSPITAL = {"id": "sz.h001", "name": "福田区人民医院", "tier": "tertiary", "beds": 1200}
PATH = "hospitals/sz.h001/placement"
DEDICATED = {"placement": "dedicated"}


@pytest.fixture(autouse=True)
async def two_hospitals(client: httpx.AsyncClient) -> None:
    """In shards 0 and 1 of four."""
    await make(client, "hospitals", HOSPITAL)
    await make(client, "hospitals", HOSPITAL | {"id": "sz.h002"})


def beat(app: FastAPI, clock: ManualClock, name: str, *shards: int) -> None:
    held = [ShardHeld(shard, 1, 0, 0, 0, 0, 1, 1) for shard in shards]
    app.state.backend.hosts.receive(encode(HostHeartbeat(name, 1, clock.now_us(), clock.now_us(), held)), "")


async def test_a_placement_is_ordered_and_shown_with_the_host_that_holds_it(
    client: httpx.AsyncClient, app: FastAPI, clock: ManualClock
) -> None:
    shown = {"hospital_id": "sz.h001", "placement": "shared", "shard": 0, "to_shard": None, "host": None, "is_alone": False}
    assert (await client.get(PATH)).json() == shown
    assert (await client.get("hospitals/sz.h001")).json()["placement"] == "shared"
    beat(app, clock, "host-1", 0, 1, 2, 3)
    answer = await client.put(PATH, json=DEDICATED)
    assert (answer.status_code, answer.json()) == (202, shown | DEDICATED | {"host": "host-1"})
    beat(app, clock, "host-1", 1, 2, 3)
    beat(app, clock, "host-3", 0)
    assert (await client.get(PATH)).json() == shown | DEDICATED | {"host": "host-3", "is_alone": True}
    assert (await client.get("hospitals/sz.h001")).json()["placement"] == "dedicated"
    assert (await client.put(PATH, json={"placement": "shared"})).json()["to_shard"] == 2


async def test_the_order_is_in_the_write_log_once_however_often_it_is_given(client: httpx.AsyncClient, engine: Engine) -> None:
    for _ in range(2):
        await client.put(PATH, json=DEDICATED, headers={"X-Reason": "a large one"})
    written = [row for row in list_writes(engine, limit=9).rows if row["action"] == "hospital.place"]
    assert [(row["target"], row["who"], row["reason"], row["detail"]) for row in written] == [
        ("sz.h001", "ada", "a large one", DEDICATED)
    ]


async def test_what_cannot_be_is_said(client: httpx.AsyncClient, app: FastAPI) -> None:
    assert (await client.put("hospitals/sz.nobody/placement", json=DEDICATED)).status_code == 404
    assert (await client.get("hospitals/sz.nobody/placement")).status_code == 404
    assert (await client.put(PATH, json={"placement": "elsewhere"})).status_code == 422
    await client.put(PATH, json=DEDICATED)
    refused = await client.post("hospitals/sz.h002/hand-over", json={"shard": 0})
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    for number in (3, 4):
        await make(client, "hospitals", HOSPITAL | {"id": f"sz.h00{number}"})
    await client.post("hospitals/sz.h003/hand-over", json={"shard": 1})
    refused = await client.put("hospitals/sz.h002/placement", json=DEDICATED)
    assert refused.status_code == 409
    assert "no shard is left for a hospital alone" in refused.json()["detail"]
    async with client_of(app, token=None) as anonymous:
        assert (await anonymous.put(f"/api/v1/{PATH}", json=DEDICATED)).status_code == 401
