"""Devices cut off over REST: who may, who has to be named, what is told to doors and hosts, what is answered."""

from __future__ import annotations

from dataclasses import dataclass

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine

from domain.messages import DeviceIsolated
from domain.principals import Grant, Place, Role
from domain.sightings import Sighting
from runtime.sql import users
from runtime.sql.devices import find_device
from runtime.sql.sightings import keep_sightings
from tests.sql_fixtures import ADA, told
from tests.unit.api.conftest import API, client_of, make

pytestmark = [pytest.mark.clause("8.4d"), pytest.mark.clause("9.4")]
BECAUSE = {"X-Reason": "it floods"}
PATH = "devices/sz.h001/mon-7/isolation"


@dataclass(frozen=True)
class Bed:
    patient_key: str


@pytest.fixture
async def bed(client: httpx.AsyncClient) -> Bed:
    """A monitor on a patient of the ICU, and a spare one."""
    await make(client, "hospitals", {"id": "sz.h001", "name": "A", "tier": "tertiary", "beds": 10})
    await make(client, "hospitals/sz.h001/wards", {"id": "er", "name": "ER"})
    for name in ("mon-7", "mon-8"):
        await make(client, "devices", {"hospital_id": "sz.h001", "device_id": name, "model": "monitor", "ward_id": "icu"})
    key = (await make(client, "patients", {"hospital_id": "sz.h001", "ref": "R-1", "ward_id": "icu"}))["patient_key"]
    await make(client, "associations", {"hospital_id": "sz.h001", "device_id": "mon-7", "patient_key": key})
    return Bed(key)


def staff(engine: Engine, name: str, role: Role, place: str) -> None:
    users.create_user(engine, ADA, name, "stored", Grant(role, Place.parse(place)))


async def test_without_a_named_person_a_patient_is_not_cut_off_and_the_answer_says_what_to_do(
    client: httpx.AsyncClient, bed: Bed, engine: Engine
) -> None:
    answer = await client.post(PATH, json={}, headers=BECAUSE)
    assert (answer.status_code, answer.json()["code"]) == (409, "patient-attached")
    assert bed.patient_key in answer.json()["detail"]
    assert "confirmed_by" in answer.json()["detail"]
    assert told(engine, DeviceIsolated) == []
    assert (await client.get("isolations")).json()["items"] == []


@pytest.mark.parametrize(
    ("role", "place", "status"),
    [
        (Role.NURSE, "sz.h001/icu", 201), (Role.DOCTOR, "sz.h001", 201), (Role.DEPARTMENT_HEAD, "sz.h001/icu", 201),
        (Role.NURSE, "sz.h001/er", 422), (Role.BIOMEDICAL_ENGINEER, "sz.h001", 422), (Role.ADMINISTRATOR, "sz", 422),
        (Role.STATION, "sz.h001/icu", 422),
    ],
)  # fmt: skip
async def test_the_named_person_is_a_clinician_who_answers_alarms_there(
    client: httpx.AsyncClient, bed: Bed, engine: Engine, role: Role, place: str, status: int
) -> None:
    staff(engine, "li.na", role, place)
    answer = await client.post(PATH, json={"confirmed_by": "li.na"}, headers=BECAUSE)
    assert answer.status_code == status, answer.text
    assert [message.is_over for message in told(engine, DeviceIsolated)] == ([False] if status == 201 else [])


async def test_neither_somebody_unknown_nor_a_disabled_user_is_named(
    client: httpx.AsyncClient, bed: Bed, engine: Engine
) -> None:
    staff(engine, "li.na", Role.NURSE, "sz.h001/icu")
    users.disable_user(engine, ADA, "li.na")
    refused = [await client.post(PATH, json={"confirmed_by": name}, headers=BECAUSE) for name in ("li.na", "nobody")]
    assert [answer.status_code for answer in refused] == [422, 422]
    assert refused[0].json()["detail"].replace("li.na", "nobody") == refused[1].json()["detail"]  # tells of no account


async def test_it_is_undone_and_both_are_listed_with_who_and_why(client: httpx.AsyncClient, bed: Bed, engine: Engine) -> None:
    made = await make(client, "devices/sz.h001/mon-8/isolation", {}, **BECAUSE)
    assert (made["patients"], made["reason"], made["released"]) == (0, "it floods", None)
    (listed,) = (await client.get("isolations", params={"hospital": "sz.h001", "ward": "icu"})).json()["items"]
    assert listed == made
    assert (await client.get("devices/sz.h001/mon-8")).json()["is_isolated"]
    assert not (await client.get("devices/sz.h001/mon-7")).json()["is_isolated"]
    again = await client.post("devices/sz.h001/mon-8/isolation", json={}, headers=BECAUSE)
    assert again.status_code == 409
    released = await client.post("devices/sz.h001/mon-8/isolation/release", headers={"X-Reason": "it was a test"})
    assert released.status_code == 200
    assert released.json()["release_reason"] == "it was a test"
    assert (await client.get("isolations")).json()["items"] == []
    (past,) = (await client.get("devices/sz.h001/mon-8/isolations")).json()["items"]
    assert past == released.json()
    assert [message.is_over for message in told(engine, DeviceIsolated)] == [False, True]
    actions = [row["action"] for row in (await client.get("writes")).json()["items"][:2]]
    assert actions == ["device.release", "device.isolate"]


async def test_a_reason_is_needed(client: httpx.AsyncClient, bed: Bed) -> None:
    assert (await client.post("devices/sz.h001/mon-8/isolation", json={})).status_code == 422
    assert (await client.post("devices/sz.h001/mon-8/isolation/release")).status_code == 422


async def test_nobody_is_put_on_an_isolated_device(client: httpx.AsyncClient, bed: Bed) -> None:
    await make(client, "devices/sz.h001/mon-8/isolation", {}, **BECAUSE)
    span = {"hospital_id": "sz.h001", "device_id": "mon-8", "patient_key": bed.patient_key}
    refused = await client.post("associations", json=span)
    assert (refused.status_code, "isolated" in refused.json()["detail"]) == (409, True)


async def test_doors_are_told(app: FastAPI, client: httpx.AsyncClient, bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    async def publish(subject: str, payload: bytes) -> None:
        said.append(subject)

    monkeypatch.setattr(app.state.backend.services.bus, "core_publish", publish)
    await make(client, "devices/sz.h001/mon-8/isolation", {}, **BECAUSE)
    assert "directory.changed" in said


async def test_a_nurse_may_not_isolate_and_her_station_neither(app: FastAPI, bed: Bed) -> None:
    for role in ("nurse", "doctor", "station"):
        async with client_of(app, f"{role}@sz.h001/icu", under=API) as other:
            assert (await other.post(PATH, json={}, headers=BECAUSE)).status_code == 403


@pytest.mark.clause("7.2b")
@pytest.mark.parametrize(
    ("who", "shown"),
    [
        ("biomedical-engineer@sz.h001/icu", True), ("biomedical-engineer@sz.h001", True), ("security-administrator@sz", True),
        ("biomedical-engineer@sz.h001/er", False), ("biomedical-engineer@sz.h002", False),
    ],
)  # fmt: skip
async def test_whoever_is_elsewhere_sees_neither_isolations_nor_addresses(
    app: FastAPI, client: httpx.AsyncClient, bed: Bed, engine: Engine, who: str, *, shown: bool
) -> None:
    await make(client, "hospitals", {"id": "sz.h002", "name": "B", "tier": "primary", "beds": 10})
    handle = find_device(engine, "sz.h001", "mon-8")["handle"]
    keep_sightings(engine, [Sighting(handle, "mqtt", "10.0.0.8", True, "mon-8", 1)])
    await make(client, "devices/sz.h001/mon-8/isolation", {}, **BECAUSE)
    async with client_of(app, who, under=API) as other:
        assert len((await other.get("isolations")).json()["items"]) == shown
        assert (await other.get("security/blocklist")).text == ("10.0.0.8\n" if shown else "")
        named = await other.get("devices/sz.h001/mon-8/isolations")
        assert named.status_code == (200 if shown else 403)
        released = await other.post("devices/sz.h001/mon-8/isolation/release", headers=BECAUSE)
        assert released.status_code == (200 if shown else 403)
