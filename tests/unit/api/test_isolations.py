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
from runtime.clock import ManualClock
from runtime.sql import users
from runtime.sql.devices import find_device, rotate_token
from runtime.sql.sightings import keep_sightings
from tests.sql_fixtures import ADA, NOW_US, told, with_certificate
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


@pytest.mark.parametrize("role", [Role.NURSE, Role.BIOMEDICAL_ENGINEER])
async def test_whatever_else_cuts_it_off_needs_a_clinician_who_knows_too(
    client: httpx.AsyncClient, bed: Bed, engine: Engine, role: Role
) -> None:
    staff(engine, "li.na", role, "sz.h001/icu")
    handle = find_device(engine, "sz.h001", "mon-7")["handle"]
    with_certificate(engine, handle, NOW_US, 2 * NOW_US)
    rotate_token(engine, ADA, handle)  # its first
    for method, path, body in (
        ("POST", "token", None),
        ("PATCH", "", {"needs_certificate": True}),
        ("DELETE", "credentials/certificate-1", None),
        ("DELETE", "credentials/token", None),
    ):
        headers = {"If-Match": (await client.get("devices/sz.h001/mon-7")).headers["etag"]} if method == "PATCH" else {}
        url = f"devices/sz.h001/mon-7/{path}".rstrip("/")
        unsaid = await client.request(method, url, json=body, headers=headers)
        assert (unsaid.status_code, unsaid.json()["code"]) == (409, "patient-attached"), url
        assert bed.patient_key in unsaid.json()["detail"]
        said = await client.request(method, url, json=body, headers=headers, params={"confirmed_by": "li.na"})
        assert said.status_code in ({200, 201, 204} if role is Role.NURSE else {422}), said.text
    logged = [row for row in (await client.get("writes")).json()["items"] if "li.na" in str(row["detail"])]
    assert len(logged) == (4 if role is Role.NURSE else 0)


async def test_a_worn_device_is_retired_once_its_association_has_ended(
    client: httpx.AsyncClient, bed: Bed, engine: Engine, clock: ManualClock
) -> None:
    staff(engine, "li.na", Role.NURSE, "sz.h001/icu")
    headers = {"If-Match": (await client.get("devices/sz.h001/mon-7")).headers["etag"]}
    refused = await client.post("devices/sz.h001/mon-7/retire", headers=headers, params={"confirmed_by": "li.na"})
    assert (refused.status_code, refused.json()["code"]) == (409, "patient-attached")
    assert "end the association first" in refused.json()["detail"]
    (span,) = (await client.get("associations", params={"device": "sz.h001/mon-7"})).json()
    clock.advance(60)
    ended = await client.post(f"associations/{span['id']}/end", json={})
    assert ended.is_success, ended.text
    retired = await client.post("devices/sz.h001/mon-7/retire", headers=headers)
    assert (retired.status_code, retired.json()["status"]) == (200, "retired")


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
