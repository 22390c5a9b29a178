"""The inventory over REST: most exposed first, paged, filtered, within reach, as CSV; many tokens at once; a list to block."""

from __future__ import annotations

from typing import Any

import httpx
import polars as pl
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine

from api.inventory import is_within, newest_firmware, version_of
from domain.instants import DAY_US
from domain.labels import label_of
from domain.permissions import Level, Located, Reach
from domain.principals import Place
from domain.sightings import Sighting
from runtime.clock import ManualClock
from runtime.sql.devices import device_of_token, find_device
from runtime.sql.sightings import keep_sightings
from tests.sql_fixtures import with_certificate
from tests.unit.api.conftest import client_of, make

pytestmark = [pytest.mark.clause("8.4a"), pytest.mark.clause("8.4b")]
DEVICES: tuple[dict[str, Any], ...] = (
    {"device_id": "gw-1", "model": "gateway", "with_token": True, "attributes": {"serial": "G", "firmware": "1.0"}},
    {"device_id": "mon-1", "ward_id": "icu", "with_token": True,
     "attributes": {"serial": "A", "firmware": "V2.9", "manufacturer": "M"}},
    {"device_id": "mon-2", "ward_id": "icu", "with_token": True,
     "attributes": {"serial": "B", "firmware": "V2.10", "manufacturer": "M"}},
    {"device_id": "mon-3", "ward_id": "er", "gateway_id": "gw-1", "attributes": {"configuration": "default"}},
)  # fmt: skip


@pytest.fixture
async def tokens(client: httpx.AsyncClient, engine: Engine, clock: ManualClock) -> dict[str, str]:
    """A hospital whose two monitors of the ICU came by TLS, one of them with an older firmware than the other."""
    await make(client, "hospitals", {"id": "sz.h001", "name": "A", "tier": "tertiary", "beds": 10})
    made = {}
    for device in DEVICES:
        answer = await make(client, "devices", {"hospital_id": "sz.h001", "model": "monitor"} | device)
        made[device["device_id"]] = answer["token"]
        handle = answer["device"]["handle"]
        if device["device_id"] != "mon-3":
            over_tls, address = device["model" if "model" in device else "ward_id"] == "icu", f"10.0.0.{handle}"
            keep_sightings(engine, [Sighting(handle, "mqtt", address, over_tls, device["device_id"], clock.now_us())])
    return made


async def listed(client: httpx.AsyncClient, **params: Any) -> list[tuple[str, int, list[str]]]:
    answer = await client.get("security/inventory", params=params)
    assert answer.status_code == 200, answer.text
    return [(row["device_id"], row["score"], row["findings"]) for row in answer.json()["items"]]


async def test_the_most_exposed_come_first_with_their_findings(client: httpx.AsyncClient, tokens: dict[str, str]) -> None:
    assert await listed(client) == [
        ("mon-3", 55, ["default-configuration", "shared-credential", "firmware-unknown", "serial-unknown", "life-depends"]),
        ("mon-1", 30, ["firmware-outdated", "life-depends"]),
        ("gw-1", 25, ["plain-link"]),
        ("mon-2", 0, []),
    ]


async def test_it_is_filtered_and_paged(client: httpx.AsyncClient, tokens: dict[str, str]) -> None:
    assert [name for name, *_ in await listed(client, ward="icu", hospital="sz.h001")] == ["mon-1", "mon-2"]
    assert [name for name, *_ in await listed(client, min_score=30)] == ["mon-3", "mon-1"]
    assert [name for name, *_ in await listed(client, model="gateway")] == ["gw-1"]
    assert [name for name, *_ in await listed(client, finding="firmware-outdated")] == ["mon-1"]
    assert (await client.get("security/inventory", params={"finding": "magic"})).status_code == 422
    first = (await client.get("security/inventory", params={"limit": 3})).json()
    assert first["matched"] == 4
    rest = (await client.get(f"http://test{first['next']}")).json()
    assert ([row["device_id"] for row in rest["items"]], rest["next"]) == (["mon-2"], None)


async def test_it_is_exported_as_csv_and_arrow(client: httpx.AsyncClient, tokens: dict[str, str]) -> None:
    text = (await client.get("security/inventory", params={"format": "csv"})).text
    rows = pl.read_csv(text.encode(), comment_prefix="#")
    assert rows["device_id"].to_list() == ["mon-3", "mon-1", "gw-1", "mon-2"]
    assert rows["findings"][1] == "firmware-outdated|life-depends"
    arrow = (await client.get("security/inventory", params={"format": "arrow"})).content
    assert pl.read_ipc_stream(arrow)["score"].to_list() == rows["score"].to_list()


async def test_in_csv_no_text_of_a_device_is_a_formula(client: httpx.AsyncClient, tokens: dict[str, str]) -> None:
    attributes = {"serial": "=cmd|' /C calc'!A0", "firmware": "-1", "manufacturer": "@SUM(1)"}
    device = {"hospital_id": "sz.h001", "model": "monitor", "device_id": "mon-4", "attributes": attributes}
    await make(client, "devices", device)
    await make(client, "devices", device | {"device_id": "mon-5", "attributes": {"serial": "\t=1", "manufacturer": "A=B"}})
    text = (await client.get("security/inventory", params={"format": "csv"})).text
    rows = {row["device_id"]: row for row in pl.read_csv(text.encode(), comment_prefix="#").to_dicts()}
    four, five = rows["mon-4"], rows["mon-5"]
    assert [four[name] for name in ("serial", "firmware", "maker")] == ["'=cmd|' /C calc'!A0", "'-1", "'@SUM(1)"]
    assert (five["serial"], five["maker"]) == ("'\t=1", "A=B")
    assert isinstance(four["score"], int)
    shown = (await client.get("security/inventory", params={"min_score": 0})).json()["items"]
    assert {row["serial"] for row in shown} >= {attributes["serial"]}  # programs get what is there


@pytest.mark.parametrize(
    ("role", "names"), [("biomedical-engineer@sz.h001/icu", ["mon-1", "mon-2"]), ("nurse@sz.h001/icu", None)]
)
async def test_it_holds_what_is_within_reach(app: FastAPI, tokens: dict[str, str], role: str, names: list[str] | None) -> None:
    async with client_of(app, role) as other:
        answer = await other.get("/api/v1/security/inventory")
        assert answer.status_code == (403 if names is None else 200)
        if names is not None:
            assert [row["device_id"] for row in answer.json()["items"]] == names


async def test_one_device_is_shown_with_remedies_and_what_changed(
    client: httpx.AsyncClient, tokens: dict[str, str], engine: Engine, clock: ManualClock
) -> None:
    row = device_of_token(engine, tokens["mon-2"])
    assert row is not None
    keep_sightings(engine, [Sighting(row["handle"], "http", "10.9.9.9", False, "curl/8", clock.now_us() + 1)])
    shown = (await client.get("security/inventory/sz.h001/mon-2")).json()
    assert [one["code"] for one in shown["findings"]] == ["plain-link", "fingerprint-changed", "life-depends"]
    assert shown["device"]["score"] == sum(one["points"] for one in shown["findings"])
    assert all(one["remedy"] for one in shown["findings"])
    assert (shown["fingerprint_parts_before"]["door"], shown["fingerprint_parts"]["door"]) == ("mqtt", "http")
    unseen = (await client.get("security/inventory/sz.h001/mon-3")).json()
    assert unseen["fingerprint_parts"] is None
    assert (await client.get("security/inventory/sz.h001/nothing")).status_code == 404
    await make(client, "devices/sz.h001/mon-3/retire", None, **{"If-Match": '"1"'})
    assert (await client.get("security/inventory/sz.h001/mon-3")).status_code == 404


async def test_who_asks_first_after_a_pause_is_answered_by_what_is_so_now(
    client: httpx.AsyncClient, tokens: dict[str, str], clock: ManualClock
) -> None:
    before = (await client.get("security/inventory")).json()
    await make(client, "devices", {"hospital_id": "sz.h001", "device_id": "mon-9", "model": "monitor"})
    clock.advance(19 * 60)
    after = (await client.get("security/inventory")).json()
    assert after["matched"] == before["matched"] + 1
    assert after["as_of"] > before["as_of"]


async def test_a_certificate_is_shown_and_the_token_beside_it_is_found(
    client: httpx.AsyncClient, tokens: dict[str, str], engine: Engine, clock: ManualClock
) -> None:
    shown = (await client.get("security/inventory/sz.h001/mon-2")).json()
    handle, made_us = find_device(engine, "sz.h001", "mon-2")["handle"], clock.now_us()
    with_certificate(engine, handle, made_us, made_us + 30 * DAY_US)
    both = (await client.get("security/inventory/sz.h001/mon-2")).json()
    assert (shown["device"]["has_certificate"], shown["device"]["certificate_until"]) == (False, None)
    assert both["device"]["has_certificate"]
    assert both["device"]["certificate_until"] is not None
    assert "token-beside-certificate" in [one["code"] for one in both["findings"]]
    clock.advance(31 * 86_400)
    ended = (await client.get("security/inventory/sz.h001/mon-2")).json()
    assert "token-beside-certificate" not in [one["code"] for one in ended["findings"]]


async def test_many_credentials_are_rotated_or_none(client: httpx.AsyncClient, tokens: dict[str, str], engine: Engine) -> None:
    wrong = {"hospital_id": "sz.h001", "device_ids": ["mon-1", "mon-9"]}
    assert (await client.post("security/credentials/rotation", json=wrong)).status_code == 404
    assert device_of_token(engine, tokens["mon-1"]) is not None
    right = {"hospital_id": "sz.h001", "device_ids": ["mon-1", "mon-2"]}
    answer = await client.post("security/credentials/rotation", json=right)
    assert answer.status_code == 201
    for row in answer.json():
        assert device_of_token(engine, tokens[row["device_id"]]) is None
        found = device_of_token(engine, row["token"])
        assert found is not None
        assert found["device_id"] == row["device_id"]


async def test_a_monitor_on_a_patient_is_not_cut_off_among_many(client: httpx.AsyncClient, tokens: dict[str, str]) -> None:
    key = (await make(client, "patients", {"hospital_id": "sz.h001", "ref": "R-1", "ward_id": "er"}))["patient_key"]
    await make(client, "associations", {"hospital_id": "sz.h001", "device_id": "mon-3", "patient_key": key})
    both = {"hospital_id": "sz.h001", "device_ids": ["mon-1", "gw-1"]}  # the gateway carries the monitor
    refused = await client.post("security/credentials/rotation", json=both)
    assert (refused.status_code, refused.json()["code"]) == (409, "patient-attached")
    assert all(word in refused.json()["detail"] for word in ("mon-3", '"even_on_patients": true'))
    meant = await client.post("security/credentials/rotation", json=both | {"even_on_patients": True})
    assert len(meant.json()) == 2


@pytest.mark.clause("8.4d")
async def test_the_list_to_block_has_addresses_of_isolated_devices_that_no_other_device_has(
    client: httpx.AsyncClient, tokens: dict[str, str], engine: Engine, clock: ManualClock
) -> None:
    assert (await client.get("security/blocklist")).text == ""
    for name in ("mon-1", "gw-1"):
        await make(client, f"devices/sz.h001/{name}/isolation", {}, **{"X-Reason": "test"})
    rows = {name: device_of_token(engine, token) for name, token in tokens.items() if token}
    assert rows["mon-1"] is None
    other = rows["mon-2"]
    assert other is not None
    answer = await client.get("security/blocklist")
    assert answer.headers["content-type"].startswith("text/plain")
    both = answer.text.splitlines()
    assert len(both) == 2
    keep_sightings(engine, [Sighting(other["handle"], "mqtt", both[0], True, "mon-2", clock.now_us() + 1)])
    assert (await client.get("security/blocklist")).text.splitlines() == both[1:]  # behind it is one that is well


def test_versions_are_compared_by_their_numbers_within_a_kind_and_maker() -> None:
    assert version_of("V2.10-b3") == (2, 10, 3) > version_of("2.9")
    assert version_of("unknown") == ()
    frame = pl.DataFrame({"model": ["a", "a", "b"], "maker": ["M", None, "M"], "firmware": ["1.2", "3", None]})
    assert newest_firmware(frame) == {("a", "M"): (1, 2), ("a", None): (3,)}


PLACES = [
    Place("sz"),
    Place("sx"),
    Place("sz", "futian"),
    Place.parse("sz.h001"),
    Place.parse("sz.h001/icu"),
    Place.parse("sz.h002"),
]


@given(st.dictionaries(st.sampled_from(PLACES), st.sampled_from(Level), max_size=4))
def test_a_frame_is_cut_to_a_reach_as_a_reach_itself_would(levels: dict[Place, Level]) -> None:
    rows = [
        (hospital, district, ward, level)
        for hospital, district in (("sz.h001", "futian"), ("sz.h002", None), ("sx.h001", "futian"))
        for ward in (None, "icu", "er")
        for level in (None, 3, 5)
    ]
    frame = pl.DataFrame(rows, schema=["hospital", "district", "ward", "level"], orient="row")
    reach = Reach(levels, {})
    ought = [
        reach.holds(Located(Place(hospital.partition(".")[0], district, hospital, ward), label_of("devices", level)))
        for hospital, district, ward, level in rows
    ]
    assert frame.with_columns(is_within=is_within(reach))["is_within"].to_list() == ought
