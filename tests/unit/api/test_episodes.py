"""Episodes over REST: recomputed from lake and tail, whatever the order in which readings came."""

from __future__ import annotations

import csv
import io

import httpx
import numpy as np
import pyarrow as pa
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine

from runtime.sql.places import get_hospital
from tests.unit.api.conftest import client_of, make
from tests.unit.api.small_platform import SmallPlatform
from tests.unit.api.test_readings import START_US, app, at, beats, device, platform

__all__ = ["app", "platform"]  # fixtures


@pytest.fixture
async def filled(client: httpx.AsyncClient, platform: SmallPlatform, engine: Engine) -> int:
    """130 /min from 0 s to 9 s, then 80; the first half came last."""
    handle = await device(client)
    shard = get_hospital(engine, "sz.h001")["shard"]
    day = beats(handle, 20).with_columns(value=np.where(np.arange(20) < 10, 130.0, 80.0))
    platform.take(shard, day.take(slice(10, None)), START_US + 30_000_000)
    platform.commit()
    platform.take(shard, day.take(slice(0, 10)), START_US + 40_000_000)
    return handle


PARAMS = {"device": "sz.h001/mon-7", "metric": "heart_rate", "from": at(0), "until": at(100)}


async def test_no_episodes_without_a_token(app: FastAPI) -> None:
    async with client_of(app, token=None) as anonymous:
        assert (await anonymous.get("/api/v1/alarms/episodes")).status_code == 401


@pytest.mark.clause("6.3f")
async def test_an_episode_is_the_condition_in_event_time(client: httpx.AsyncClient, filled: int) -> None:
    table = (await client.get("alarms/episodes", params=PARAMS)).json()
    assert table["lake_version"] > 0
    assert table["items"] == [{
        "hospital": "sz.h001", "device_id": "mon-7", "handle": filled, "metric": "heart_rate", "instance": 0,
        "rule": "limit.high", "onset": at(0).replace("Z", ".000000Z"), "end": at(10).replace("Z", ".000000Z"),
        "patient_key": None, "limit": 120.0, "value": 130.0, "unit": "/min",
    }]  # fmt: skip


async def test_a_range_after_its_end_has_no_episode(client: httpx.AsyncClient, filled: int) -> None:
    table = (await client.get("alarms/episodes", params=PARAMS | {"from": at(15)})).json()
    assert table["items"] == []


async def test_episodes_as_csv_and_arrow_say_the_lakes_version(client: httpx.AsyncClient, filled: int) -> None:
    text = await client.get("alarms/episodes", params=PARAMS, headers={"Accept": "text/csv"})
    lines = [line for line in io.StringIO(text.text) if not line.startswith("#")]
    assert [row["rule"] for row in csv.DictReader(lines)] == ["limit.high"]
    assert int(text.headers["X-Lake-Version"]) > 0
    arrow = await client.get("alarms/episodes", params=PARAMS | {"format": "arrow"})
    assert pa.ipc.open_stream(arrow.content).read_all()["rule"].to_pylist() == ["limit.high"]


async def test_an_unknown_device_and_a_range_that_goes_back_are_problems(client: httpx.AsyncClient, filled: int) -> None:
    assert (await client.get("alarms/episodes", params={"device": "sz.h001/none"})).status_code == 404
    assert (await client.get("alarms/episodes", params=PARAMS | {"from": at(200)})).status_code == 422


@pytest.mark.clause("6.3f")
async def test_limits_are_those_of_the_patient_and_episodes_are_found_by_patient_and_ward(
    client: httpx.AsyncClient, filled: int
) -> None:
    child = (await make(client, "patients", {"hospital_id": "sz.h001", "ref": "R1", "age_years": 10}))["patient_key"]
    link = {"hospital_id": "sz.h001", "device_id": "mon-7", "patient_key": child, "start": at(-100)}
    await make(client, "associations", link)
    span = {"from": at(0), "until": at(100)}
    found = (await client.get("alarms/episodes", params=span | {"patient": child})).json()["items"]
    assert [(row["limit"], row["patient_key"], row["rule"]) for row in found] == [(118.0, child, "limit.high")]
    assert (await client.put(f"patients/{child}/presets/heart_rate", json={"low": 50, "high": 128})).status_code < 300
    found = (await client.get("alarms/episodes", params=span | {"hospital": "sz.h001", "ward": "icu"})).json()["items"]
    assert [row["limit"] for row in found] == [128.0]
