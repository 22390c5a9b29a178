"""Patients, associations and their correction, presets, maintenance, tokens and the write log."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI

from domain.instants import from_us
from tests.unit.api.conftest import client_of, make

NOW_US = 1_700_000_000_000_000
PATIENT = {"hospital_id": "sz.h001", "ref": "MRN-1", "name": "王小芳", "age_years": 67, "ward_id": "icu", "bed_id": "icu-1"}


def at(minutes: float) -> str:
    return from_us(NOW_US + round(minutes * 60e6)).isoformat()


@pytest.fixture
async def place(client: httpx.AsyncClient) -> None:
    await make(client, "hospitals", {"id": "sz.h001", "name": "A", "tier": "tertiary", "beds": 10})
    for name in ("mon-1", "mon-2"):
        await make(client, "devices", {"hospital_id": "sz.h001", "device_id": name, "model": "monitor", "ward_id": "icu"})


async def admit(client: httpx.AsyncClient, **facts: object) -> dict:
    return await make(client, "patients", PATIENT | facts)


async def associate(client: httpx.AsyncClient, patient: dict, device: str = "mon-1", **span: str) -> dict:
    link = {"hospital_id": "sz.h001", "device_id": device, "patient_key": patient["patient_key"]}
    return await make(client, "associations", link | span)


async def test_no_patients_without_a_token(app: FastAPI) -> None:
    async with client_of(app, token=None) as anonymous:
        for path in ("patients", "associations", "maintenance-windows", "writes"):
            assert (await anonymous.get(f"/api/v1/{path}")).status_code == 401


async def test_a_patient_is_admitted_found_moved_and_discharged(client: httpx.AsyncClient, place: None) -> None:
    patient = await admit(client)
    key = patient["patient_key"]
    assert patient["admitted"] == "2023-11-14T22:13:20Z"
    for q in ("小芳", "mrn-1"):
        found = (await client.get("patients", params={"q": q, "hospital": "sz.h001", "present": True})).json()["items"]
        assert [row["patient_key"] for row in found] == [key]
    etag = (await client.get(f"patients/{key}")).headers["etag"]
    moved = await client.patch(f"patients/{key}", json={"bed_id": "icu-9"}, headers={"If-Match": etag})
    assert (moved.json()["bed_id"], moved.json()["age_years"]) == ("icu-9", 67)
    assert (await client.patch(f"patients/{key}", json={"bed_id": "x"}, headers={"If-Match": etag})).status_code == 412
    gone = await client.post(f"patients/{key}/discharge", json={"at": at(60)}, headers={"If-Match": moved.headers["etag"]})
    assert gone.json()["discharged"] == "2023-11-14T23:13:20Z"
    assert (await client.get("patients", params={"present": True})).json()["items"] == []
    again = await client.post(f"patients/{key}/discharge", json={}, headers={"If-Match": gone.headers["etag"]})
    assert again.status_code == 409


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"hospital_id": "sz.h999"}, 404),
        ({"age_years": 200}, 422),
        ({"spo2_scale": 3}, 422),
        ({"admitted": "today"}, 422),
        ({}, 409),
    ],
)
async def test_a_wrong_patient_is_refused(client: httpx.AsyncClient, place: None, change: dict, status: int) -> None:
    await admit(client)
    assert (await client.post("patients", json=PATIENT | change)).status_code == status


async def test_two_patients_on_one_monitor_are_refused(client: httpx.AsyncClient, place: None) -> None:
    await associate(client, await admit(client), start=at(0))
    other = await admit(client, ref="MRN-2")
    link = {"hospital_id": "sz.h001", "device_id": "mon-1", "patient_key": other["patient_key"], "start": at(5)}
    refused = await client.post("associations", json=link)
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")


async def test_a_correction_tells_what_it_touches_and_deletes_nothing(client: httpx.AsyncClient, place: None) -> None:
    patient, other = await admit(client), await admit(client, ref="MRN-2")
    span = await associate(client, patient, start=at(0))
    ended = await make(client, f"associations/{span['id']}/end", {"end": at(30)})
    assert ended["end"] == "2023-11-14T22:43:20Z"
    body = {"patient_key": other["patient_key"], "start": at(10)}
    corrected = await make(client, f"associations/{ended['id']}/correct", body)
    assert corrected["association"]["patient_key"] == other["patient_key"]
    touched = corrected["touched"]
    assert set(touched["scores"]["patient_keys"]) == {patient["patient_key"], other["patient_key"]}
    assert (touched["scores"]["start"], touched["scores"]["end"]) == ("2023-11-14T22:13:20Z", "2023-11-14T22:43:20Z")
    assert touched["alarm_ids"] == touched["export_ids"] == []
    now = (await client.get("associations", params={"device": "sz.h001/mon-1"})).json()
    assert [row["patient_key"] for row in now] == [other["patient_key"]]
    withdrawn = await make(client, f"associations/{corrected['association']['id']}/correct", {"withdraw": True})
    assert withdrawn["association"]["superseded"]
    assert (await client.get("associations", params={"device": "sz.h001/mon-1"})).json() == []
    assert (await client.post(f"associations/{span['id']}/correct", json={"withdraw": True})).status_code == 409


async def test_what_was_believed_stays_readable(client: httpx.AsyncClient, place: None, clock) -> None:
    patient = await admit(client)
    span = await associate(client, patient, start=at(0))
    clock.advance(600)
    await make(client, f"associations/{span['id']}/correct", {"start": at(5)})
    params = {"patient": patient["patient_key"]}
    assert [row["start"] for row in (await client.get("associations", params=params)).json()] == ["2023-11-14T22:18:20Z"]
    before = (await client.get("associations", params=params | {"known_at": at(5)})).json()
    assert [row["start"] for row in before] == ["2023-11-14T22:13:20Z"]
    assert (await client.get("associations")).status_code == 422


@pytest.mark.clause("6.3f")
async def test_limits_are_preset_for_one_patient(client: httpx.AsyncClient, place: None) -> None:
    path = f"patients/{(await admit(client))['patient_key']}/presets"
    made = await client.put(f"{path}/spo2", json={"low": 88, "very_low": 84})
    assert (made.json()["very_low"], made.json()["low"], made.json()["high"]) == (84, 88, None)
    assert [row["metric"] for row in (await client.get(path)).json()] == ["spo2"]
    assert (await client.put(f"{path}/spo2", json={"low": 80, "very_low": 84})).status_code == 422
    assert (await client.put(f"{path}/mana", json={"low": 80})).status_code == 422
    assert (await client.delete(f"{path}/spo2")).status_code == 204
    assert (await client.delete(f"{path}/spo2")).status_code == 404


@pytest.mark.clause("9.2c")
async def test_maintenance_windows_open_and_end(client: httpx.AsyncClient, place: None) -> None:
    body = {"hospital_id": "sz.h001", "device_id": "mon-1", "until": at(60)}
    window = await make(client, "maintenance-windows", body, **{"X-Reason": "calibration"})
    assert (window["reason"], window["who"]) == ("calibration", "ada")
    await make(client, "maintenance-windows", {"hospital_id": "sz.h001", "ward_id": "icu", "until": at(60)})
    params = {"hospital": "sz.h001", "open_now": True}
    assert len((await client.get("maintenance-windows", params=params)).json()) == 2
    path = f"maintenance-windows/{window['id']}/end"
    assert (await client.post(path)).status_code == 428
    assert (await client.post(path, headers={"If-Match": f'"{window["version"]}"'})).status_code == 200
    assert len((await client.get("maintenance-windows", params=params)).json()) == 1
    both = body | {"ward_id": "icu"}
    assert (await client.post("maintenance-windows", json=both)).status_code == 422


@pytest.mark.clause("9.3e")
async def test_the_write_log_tells_who_did_what_and_why(client: httpx.AsyncClient, place: None) -> None:
    await make(client, "patients", PATIENT, **{"X-Reason": "transfer from ED"})
    page = (await client.get("writes", params={"limit": 1})).json()
    row = page["items"][0]
    assert (row["who"], row["action"], row["reason"]) == ("ada", "patient.admit", "transfer from ED")
    assert "王" not in str(page)  # opaque keys only
    assert page["next"]


@pytest.mark.clause("5.4a")
async def test_tokens_are_made_and_revoked(client: httpx.AsyncClient) -> None:
    made = await make(client, "tokens", {"name": "display", "role": "station", "place": "sz"})
    assert len(made["token"]) >= 40
    assert (await client.post("tokens", json={"name": "display", "role": "station", "place": "sz"})).status_code == 409
    listed = (await client.get("tokens")).json()["items"]
    assert [(row["name"], row["revoked"]) for row in listed] == [("display", None)]
    assert made["token"] not in str(listed)
    assert (await client.delete("tokens/display")).status_code == 204
    assert (await client.get("tokens")).json()["items"][0]["revoked"]
    assert (await client.delete("tokens/nobody")).status_code == 404


async def test_a_reason_too_long_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.post("tokens", json={"name": "x"}, headers={"X-Reason": "r" * 501})
    assert response.status_code == 422
