"""Readings over a real lake and a real hot tail: ranges, pages, formats, summaries, joins, search."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine, select

from api.app import create_app
from domain.audit_reading import asked, concerned
from domain.instants import from_us
from domain.metrics import metric_of
from domain.quality import Mark, Mode, Origin, Validity, pack
from domain.readings import ReadingBatch
from runtime.access_journal import NewAccess
from runtime.clock import ManualClock
from runtime.large_questions import LargeReadings
from runtime.sql.engine import reading
from runtime.sql.places import get_hospital
from runtime.sql.tables import exports
from tests.unit.api.conftest import client_of, make, services_of
from tests.unit.api.small_platform import SmallPlatform

START_US = 1_700_000_000_000_000
HEART, SPO2 = metric_of("heart_rate").id, metric_of("spo2").id


def at(seconds: float) -> str:
    return from_us(START_US + round(seconds * 1e6)).isoformat().replace("+00:00", "Z")


@pytest.fixture
def platform(tmp_path: Path, engine: Engine) -> SmallPlatform:
    return SmallPlatform(tmp_path, engine)


@pytest.fixture
async def app(platform: SmallPlatform, engine: Engine, clock: ManualClock) -> AsyncIterator[FastAPI]:
    services = services_of(
        engine=engine, clock=clock, bus=platform, lake=platform.lake, readings=platform.store,
        large_readings=LargeReadings(platform),
    )  # fmt: skip
    made = create_app(services, background=False)
    async with made.router.lifespan_context(made):
        yield made


async def device(client: httpx.AsyncClient, name: str = "mon-7", hospital: str = "sz.h001", ward: str = "icu") -> int:
    if (await client.get(f"hospitals/{hospital}")).status_code == 404:
        await make(client, "hospitals", {"id": hospital, "name": hospital, "tier": "tertiary", "beds": 10})
    body = {"hospital_id": hospital, "device_id": name, "model": "monitor", "ward_id": ward}
    return (await make(client, "devices", body))["device"]["handle"]


def beats(handle: int, count: int, start_s: float = 0.0, metric: int = HEART, value: float = 70.0) -> ReadingBatch:
    times = [START_US + round((start_s + n) * 1e6) for n in range(count)]
    return ReadingBatch.of(
        handle=handle, metric=metric, time_us=times, value=[value + n for n in range(count)],
        sequence=list(range(1, count + 1)), source=handle + 1000 * metric,
    )  # fmt: skip


@pytest.fixture
async def filled(client: httpx.AsyncClient, platform: SmallPlatform, engine: Engine) -> int:
    """One monitor with 40 heart rates and 40 saturations: the first half of each in the lake, the rest in the tail."""
    handle = await device(client)
    shard = get_hospital(engine, "sz.h001")["shard"]
    for start in (0, 20):
        for metric in (HEART, SPO2):
            part = beats(handle, 40, metric=metric, value=60.0).take(slice(start, start + 20))
            platform.take(shard, part, START_US + (start + 20) * 1_000_000)
        if start == 0:
            platform.commit()
    return handle


async def test_no_readings_without_a_token(app: FastAPI) -> None:
    async with client_of(app, token=None) as anonymous:
        for path in ("readings", "readings/latest", "readings/buckets", "readings/search", "aggregates/fleet", "freshness"):
            assert (await anonymous.get(f"/api/v1/{path}")).status_code == 401


@pytest.mark.clause("7.1a")
async def test_a_range_is_whole_across_lake_and_tail(client: httpx.AsyncClient, filled: int) -> None:
    params = {"device": "sz.h001/mon-7", "metric": "heart_rate", "from": at(0), "until": at(100)}
    table = (await client.get("readings", params=params)).json()
    assert [row["value"] for row in table["items"]] == [60.0 + n for n in range(40)]
    assert table["incomplete_shards"] == []
    assert table["lake_version"] > 0
    assert table["items"][0] | {"arrival": ""} == {
        "hospital": "sz.h001", "device_id": "mon-7", "patient_key": None, "handle": filled, "metric": "heart_rate",
        "instance": 0, "time": "2023-11-14T22:13:20.000000Z", "value": 60.0, "unit": "/min", "validity": "valid",
        "mode": "real", "origin": "measured", "marks": [], "quality": 0, "raw_value": None, "raw_unit": None,
        "source": filled + 1000 * HEART, "sequence": 1, "arrival": "", "clock_offset_us": 0,
        "clock_uncertainty_us": 0,
    }  # fmt: skip


async def test_until_is_exclusive_and_from_inclusive(client: httpx.AsyncClient, filled: int) -> None:
    params = {"handle": filled, "metric": "spo2", "from": at(5), "until": at(8)}
    assert [row["value"] for row in (await client.get("readings", params=params)).json()["items"]] == [65.0, 66.0, 67.0]


@pytest.mark.clause("7.1c")
async def test_several_metrics_at_once_page_by_page_give_each_reading_once(client: httpx.AsyncClient, filled: int) -> None:
    for descending in (False, True):
        url = f"/api/v1/readings?device=sz.h001/mon-7&metric=spo2&metric=heart_rate&limit=7&descending={descending}"
        seen = []
        while url:
            table = (await client.get(f"http://test{url}")).json()
            seen += [(row["metric"], row["value"]) for row in table["items"]]
            url = table["next"]
        assert len(seen) == 80
        assert len(set(seen)) == 80
        hearts = [value for metric, value in seen if metric == "heart_rate"]
        assert hearts == sorted(hearts, reverse=descending)


async def test_times_come_in_the_zone_asked_for(client: httpx.AsyncClient, filled: int) -> None:
    params = {"handle": filled, "limit": 1, "tz": "Asia/Shanghai"}
    row = (await client.get("readings", params=params)).json()["items"][0]
    assert row["time"] == "2023-11-15T06:13:20.000000+08:00"


async def test_csv_has_units_and_names_the_lake_version(client: httpx.AsyncClient, filled: int, engine: Engine) -> None:
    params = {"handle": filled, "tz": "Asia/Shanghai"}
    response = await client.get("readings", params=params, headers={"Accept": "text/csv", "X-Reason": "audit"})
    assert response.headers["content-type"].startswith("text/csv")
    version = response.headers["x-lake-version"]
    comments = [line for line in response.text.splitlines() if line.startswith("#")]
    assert f"# lake version: {version}" in comments
    assert "# units: heart_rate /min; spo2 %" in comments
    assert "# time zone: Asia/Shanghai" in comments
    lines = [line for line in response.text.splitlines() if not line.startswith("#")]
    rows = list(csv.DictReader(io.StringIO("\n".join(lines))))
    assert len(rows) == 80
    assert {row["unit"] for row in rows} == {"/min", "%"}
    with reading(engine) as connection:
        export = connection.execute(select(exports)).mappings().one()
    listed = (await client.get("exports")).json()["items"]
    assert [(row["id"], row["lake_version"], row["query"]["rows"]) for row in listed] == [(export["id"], int(version), 80)]
    assert (export["who"], export["lake_version"], export["handles"]) == ("ada", int(version), [filled])


async def test_arrow_comes_as_a_stream_with_typed_times(client: httpx.AsyncClient, filled: int) -> None:
    response = await client.get("readings", params={"handle": filled, "format": "arrow"})
    table = pa.ipc.open_stream(response.content).read_all()
    assert table.num_rows == 80
    assert table.schema.field("time").type == pa.timestamp("us", tz="UTC")
    assert table.schema.metadata[b"lake_version"].decode() == response.headers["x-lake-version"]
    assert table.column("value").to_pylist()[:3] == [60.0, 61.0, 62.0]


async def test_an_unknown_format_is_not_acceptable(client: httpx.AsyncClient, filled: int) -> None:
    response = await client.get("readings", params={"handle": filled}, headers={"Accept": "image/png"})
    assert (response.status_code, response.json()["code"]) == (406, "not-acceptable")


@pytest.mark.parametrize(
    ("params", "status"),
    [
        ({"device": "sz.h001/nobody"}, 404),
        ({"device": "mon-7"}, 422),
        ({"handle": 999}, 404),
        ({"patient": "nobody"}, 404),
        ({"hospital": "sz.h999"}, 404),
        ({"ward": "icu"}, 422),
        ({"handle": 1, "device": "sz.h001/mon-7"}, 422),
        ({"handle": 1, "metric": "mana"}, 422),
        ({"handle": 1, "from": "yesterday"}, 422),
        ({"handle": 1, "from": "2026-01-01T00:00:00Z", "until": "2025-01-01T00:00:00Z"}, 422),
        ({"handle": 1, "limit": 50_000}, 422),
        ({"handle": 1, "cursor": "abc"}, 422),
    ],
)
async def test_a_wrong_question_is_refused_in_words(client: httpx.AsyncClient, filled: int, params: dict, status: int) -> None:
    response = await client.get("readings", params=params)
    assert response.status_code == status
    assert len(response.json()["detail"]) > 10


async def test_what_was_not_measured_is_null_and_says_why(
    client: httpx.AsyncClient, platform: SmallPlatform, engine: Engine
) -> None:
    handle = await device(client)
    quality = pack(Validity.NOT_AVAILABLE, Mode.TEST, Origin.ENTERED, int(Mark.BACKFILL))
    batch = ReadingBatch.of(
        handle=handle, metric=HEART, time_us=START_US, value=float("nan"), quality=quality, raw_value=-999.0
    )
    platform.take(get_hospital(engine, "sz.h001")["shard"], batch, START_US)
    row = (await client.get("readings", params={"handle": handle})).json()["items"][0]
    assert (row["value"], row["raw_value"]) == (None, -999.0)
    assert (row["validity"], row["mode"], row["origin"]) == ("not-available", "test", "entered")
    assert "backfill" in row["marks"]


async def test_a_host_that_does_not_answer_is_named(
    client: httpx.AsyncClient, platform: SmallPlatform, filled: int, engine: Engine
) -> None:
    shard = get_hospital(engine, "sz.h001")["shard"]
    platform.silent.add(shard)
    table = (await client.get("readings", params={"handle": filled, "metric": "spo2"})).json()
    assert table["incomplete_shards"] == [shard]
    assert len(table["items"]) == 20  # what the lake has


async def test_latest_comes_from_the_hosts_with_the_channels_state(client: httpx.AsyncClient, filled: int) -> None:
    table = (await client.get("readings/latest", params={"hospital": "sz.h001", "ward": "icu", "limit": 100})).json()
    assert {(row["metric"], row["value"]) for row in table["items"]} == {("heart_rate", 99.0), ("spo2", 99.0)}
    assert all(row["state"] for row in table["items"])
    page = (await client.get("readings/latest", params={"hospital": "sz.h001", "limit": 1})).json()
    rest = (await client.get(f"http://test{page['next']}")).json()
    assert [row["metric"] for row in page["items"] + rest["items"]] == ["heart_rate", "spo2"]
    assert rest["next"] is None
    assert (await client.get("readings/latest")).status_code == 422


async def test_buckets_are_the_same_as_the_readings_say(client: httpx.AsyncClient, filled: int) -> None:
    params = {"handle": filled, "metric": "heart_rate", "from": at(0), "until": at(60), "bucket_s": 20}
    rows = (await client.get("readings/buckets", params=params)).json()["items"]
    assert [(row["count"], row["min"], row["max"], row["mean"], row["last"]) for row in rows] == [
        (20, 60.0, 79.0, 69.5, 79.0), (20, 80.0, 99.0, 89.5, 99.0),
    ]  # fmt: skip
    assert rows[0]["bucket"] == "2023-11-14T22:13:20.000000Z"
    assert (await client.get("readings/buckets", params={"handle": filled})).status_code == 422
    many = {"handle": filled, "from": "2000-01-01T00:00:00Z", "bucket_s": 1}
    assert "too many" in (await client.get("readings/buckets", params=many)).json()["detail"]


@pytest.mark.clause("7.1b")
async def test_aggregates_by_hospital_metric_and_hour(
    client: httpx.AsyncClient, platform: SmallPlatform, filled: int, engine: Engine
) -> None:
    other = await device(client, "mon-9", "sz.h002")
    platform.take(get_hospital(engine, "sz.h002")["shard"], beats(other, 10, value=100.0), START_US + 10_000_000)
    params = {"metric": "heart_rate", "from": at(-3600), "until": at(3600)}
    rows = (await client.get("aggregates/fleet", params=params)).json()["items"]
    assert {(row["hospital"], row["count"], row["mean"]) for row in rows} == {("sz.h001", 40, 79.5), ("sz.h002", 10, 104.5)}


@pytest.mark.clause("7.1b")
@pytest.mark.parametrize(
    ("params", "found"),
    [
        ({"q": "ON-7"}, 80), ({"q": "icu"}, 80), ({"q": "nothing"}, 0), ({"q": "mon", "metric": "spo2"}, 40),
        ({"above": 97.5}, 4), ({"q": "mon", "below": 60.5, "metric": "heart_rate"}, 1), ({"q": "王"}, 80), ({"q": "100%"}, 0),
    ],
)  # fmt: skip
async def test_search_by_part_of_a_name_or_threshold(client: httpx.AsyncClient, filled: int, params: dict, found: int) -> None:
    patient = await make(client, "patients", {"hospital_id": "sz.h001", "ref": "R1", "name": "王小芳"})
    link = {"hospital_id": "sz.h001", "device_id": "mon-7", "patient_key": patient["patient_key"], "start": at(0)}
    await make(client, "associations", link)
    params = {name: value + "小" if name == "q" and value == "王" else value for name, value in params.items()}
    table = (await client.get("readings/search", params=params)).json()
    assert len(table["items"]) == found
    assert (await client.get("readings/search")).status_code == 422


@pytest.mark.clause("6.1d")
async def test_readings_join_their_patients_as_of_their_time(client: httpx.AsyncClient, filled: int) -> None:
    keys = []
    for ref, start, end in (("R1", 0, 15), ("R2", 15, 30)):
        keys.append((await make(client, "patients", {"hospital_id": "sz.h001", "ref": ref}))["patient_key"])
        link = {"hospital_id": "sz.h001", "device_id": "mon-7", "patient_key": keys[-1], "start": at(start), "end": at(end)}
        await make(client, "associations", link)
    params = {"hospital": "sz.h001", "metric": "heart_rate", "from": at(0), "until": at(60)}
    rows = (await client.get("readings/by-patient", params=params)).json()["items"]
    whose = {row["value"] - 60: (row["patient_key"], row["ambiguous"]) for row in rows}
    assert len(whose) == 40
    assert whose[8] == (keys[0], False)
    assert whose[15] == (None, True)  # at the very hand-over: told to nobody
    assert whose[22] == (keys[1], False)
    assert whose[36] == (None, False)  # on nobody
    only = (await client.get("readings", params={"patient": keys[1], "metric": "heart_rate"})).json()["items"]
    assert {row["value"] - 60 for row in only} == {float(n) for n in range(17, 28)}


@pytest.mark.clause("6.1d")
@pytest.mark.parametrize("skew_s", [120.0, -120.0, 0.0])
async def test_the_join_by_patient_equals_what_the_cell_decided_when_the_gateways_clock_is_off(
    client: httpx.AsyncClient, platform: SmallPlatform, engine: Engine, skew_s: float
) -> None:
    handle, gateway = await device(client), await device(client, "gw-1")
    for ref, start, end in (("R1", -9999, 310), ("R2", 310, 420), ("R1b", 425, None)):
        patient = (await make(client, "patients", {"hospital_id": "sz.h001", "ref": ref}))["patient_key"]
        link = {"hospital_id": "sz.h001", "device_id": "mon-7", "patient_key": patient, "start": at(start)}
        await make(client, "associations", link if end is None else link | {"end": at(end)})
    shard = get_hospital(engine, "sz.h001")["shard"]
    decided = platform.decisions(shard)
    late_s = np.random.default_rng(5).choice([0.1, 0.2, 1.5, 0.3, 150.0], 60, p=[0.4, 0.3, 0.1, 0.1, 0.1])
    for number in range(60):
        sent = beats(handle, 1, start_s=10.0 * number - late_s[number] + skew_s).with_columns(
            source=np.array([gateway]), sequence=np.array([number + 1])
        )
        platform.take(shard, sent, START_US + round(10e6 * number))
        if number == 40:
            platform.commit()
    rows = (await client.get("readings/by-patient", params={"handle": handle, "limit": 100})).json()["items"]
    told = {row["sequence"]: (row["patient_key"], row["ambiguous"]) for row in rows}
    assert told == dict(enumerate(decided, 1))
    assert len(set(told.values())) == 4  # two patients and a third, and ambiguous
    assert any(row["clock_offset_us"] != 0 for row in rows) == (skew_s != 0)


async def test_freshness_counts_expected_against_received(client: httpx.AsyncClient, filled: int) -> None:
    await device(client, "mon-8")
    # the second monitor never spoke
    body = (await client.get("freshness", params={"hospital": "sz.h001", "limit": 1})).json()
    assert body["devices"] >= 1
    assert sum(body["states"].values()) == body["devices"]
    assert body["expected_per_min"] > 0
    assert (body["clocks_off"], body["items"][0]["clock_offset_s"]) == (0, 0)
    assert len(body["items"]) == 1
    assert (await client.get("freshness", params={"hospital": "sz.h999"})).status_code == 404


async def test_the_state_of_a_device_has_times_in_words(client: httpx.AsyncClient, filled: int) -> None:
    state = (await client.get("devices/sz.h001/mon-7/state")).json()
    heart = next(channel for channel in state["channels"] if channel["metric"] == "heart_rate")
    assert (heart["value"], heart["time"]) == (99.0, "2023-11-14T22:13:59Z")
    shown = (await client.get("devices/sz.h001/mon-7")).json()
    assert shown["live"]["channels"] == state["channels"]
    assert shown["device"]["handle"] == filled


async def test_an_empty_answer_is_a_table_in_each_format(client: httpx.AsyncClient) -> None:
    handle = await device(client)
    for wanted in ("json", "csv", "arrow"):
        for path in ("readings", "readings/latest", "readings/by-patient"):
            response = await client.get(path, params={"handle": handle, "format": wanted})
            assert response.status_code == 200, response.text
    assert isinstance(pl.read_ipc_stream(response.content), pl.DataFrame)


@pytest.mark.clause("6.1b", "9.3e")
@pytest.mark.parametrize(
    ("path", "params", "whose"),
    [
        ("readings", {"device": "sz.h001/mon-7", "from": at(0), "until": at(5)}, "first"),
        ("readings", {"hospital": "sz.h001", "ward": "icu", "from": at(20), "until": at(30)}, "second"),
        ("readings", {"device": "sz.h001/mon-7", "from": at(0), "until": at(30), "format": "csv"}, "first second"),
        ("readings/buckets", {"device": "sz.h001/mon-7", "from": at(20), "until": at(30), "bucket_s": 10}, "second"),
        ("readings/latest", {"device": "sz.h001/mon-7"}, "second"),
        ("associations", {"device": "sz.h001/mon-7"}, "first second"),
        ("readings", {"device": "sz.h001/mon-7", "from": at(100), "until": at(110)}, ""),
    ],
)
async def test_who_wore_the_devices_whose_readings_are_shown_is_noted(
    client: httpx.AsyncClient, app: FastAPI, filled: int, monkeypatch: pytest.MonkeyPatch, path: str, params: dict, whose: str
) -> None:
    worn = {"first": (at(0), at(10)), "second": (at(15), None)}
    keys = {}
    for ref, (start, end) in worn.items():
        keys[ref] = (await make(client, "patients", {"hospital_id": "sz.h001", "ref": ref}))["patient_key"]
        link = {"hospital_id": "sz.h001", "device_id": "mon-7", "patient_key": keys[ref], "start": start}
        await make(client, "associations", link if end is None else link | {"end": end})
    noted: list[NewAccess] = []
    monkeypatch.setattr(app.state.backend.services.accesses, "add", noted.extend)
    assert (await client.get(path, params=params)).status_code == 200
    assert concerned(noted[-1].event).patients == {keys[ref] for ref in whose.split()}
    access = asked(noted[-1].event)
    assert access is not None
    assert access.wards == ({"sz.h001/icu"} if whose else set())
