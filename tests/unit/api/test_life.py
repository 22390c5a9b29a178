"""Erasure, restriction, holds and retention over REST. Clauses 9.3a, 9.3h."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine

from api.app import create_app
from domain.errors import Conflict
from domain.retention import RULES
from runtime.clock import ManualClock
from runtime.lake import Lake
from runtime.log_store import LogReader
from runtime.sql import erasures
from tests.unit.api.conftest import API, client_of, make, services_of

OFFICER, NURSE, DEVELOPER = "privacy-officer@sz", "nurse@sz.h001/icu", "administrator@sz"
WHY = {"X-Reason": "the person asked"}


@pytest.fixture
async def app(engine: Engine, clock: ManualClock, tmp_path: Path) -> AsyncIterator[FastAPI]:
    services = services_of(engine=engine, clock=clock, lake=Lake(tmp_path / "lake"), log=LogReader(tmp_path / "audit"))
    made = create_app(services, background=False)
    async with made.router.lifespan_context(made):
        yield made


@pytest.fixture
async def key(client: httpx.AsyncClient) -> str:
    """A patient of the ICU, discharged."""
    await make(client, "hospitals", {"id": "sz.h001", "name": "A", "tier": "tertiary", "beds": 10})
    await make(client, "devices", {"hospital_id": "sz.h001", "device_id": "mon-1", "model": "monitor", "ward_id": "icu"})
    made = await make(client, "patients", {"hospital_id": "sz.h001", "ref": "MRN-1", "name": "王小芳", "ward_id": "icu"})
    answer = await client.post(f"patients/{made['patient_key']}/discharge", json={}, headers={"If-Match": '"1"'})
    assert answer.is_success, answer.text
    return str(made["patient_key"])


@pytest.fixture
async def officer(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app, OFFICER, under=API) as connected:
        yield connected


@pytest.mark.clause("9.3h")
async def test_refused_by_law_the_answer_says_until_when_and_nobody_is_served(
    app: FastAPI, officer: httpx.AsyncClient, key: str
) -> None:
    answer = await officer.post(f"patients/{key}/erasure", headers=WHY)
    assert answer.status_code == 202, answer.text
    body = answer.json()
    assert (body["state"], body["refused_until"][:4], body["holds"]) == ("restricted", "2053", [])
    for token in (NURSE, DEVELOPER, OFFICER):
        async with client_of(app, token) as client:
            for path in ("", "/state", "/presets", "/care-team"):
                refused = await client.get(f"/api/v1/patients/{key}{path}")
                assert refused.status_code in (403, 404), (token, path, refused.text)
            listed = await client.get("/api/v1/patients", params={"hospital": "sz.h001"})
            assert key not in listed.text
    kept = await officer.get(f"patients/{key}/erasure/record")
    assert (kept.status_code, "王小芳" in kept.text) == (200, False)
    unmasked = await officer.get(f"patients/{key}/erasure/record", headers=WHY | {"X-Unmask": "true"})
    assert unmasked.json()["name"] == "王小芳"
    assert (await officer.get(f"patients/{key}/erasure/certificate")).status_code == 404
    lifted = await officer.delete(f"patients/{key}/erasure", headers=WHY)
    assert lifted.json()["state"] == "withdrawn"
    async with client_of(app, NURSE) as nurse:
        assert (await nurse.get(f"/api/v1/patients/{key}")).json()["name"] == "王小芳"
    assert (await officer.delete(f"patients/{key}/erasure", headers=WHY)).status_code == 409


@pytest.mark.clause("9.3h")
async def test_whoever_is_in_the_hospital_is_neither_erased_nor_restricted_and_a_reason_is_wanted(
    client: httpx.AsyncClient, officer: httpx.AsyncClient, key: str
) -> None:
    assert (await officer.post(f"patients/{key}/erasure")).status_code == 422
    await make(client, "patients", {"hospital_id": "sz.h001", "ref": "MRN-1", "name": "王小芳"})
    refused = await officer.post(f"patients/{key}/erasure", headers=WHY)
    assert (refused.status_code, "care goes on" in refused.text) == (409, True)
    assert (await officer.get(f"patients/{key}/erasure")).status_code == 404
    assert (await client.get(f"patients/{key}")).status_code == 200
    assert (await officer.post(f"patients/{'f' * 32}/erasure", headers=WHY)).status_code == 404


@pytest.mark.clause("9.3h")
async def test_who_comes_back_while_restricted_is_admitted_and_served(
    app: FastAPI, client: httpx.AsyncClient, officer: httpx.AsyncClient, key: str
) -> None:
    await officer.post(f"patients/{key}/erasure", headers=WHY)
    async with client_of(app, NURSE) as nurse:
        body = {"hospital_id": "sz.h001", "ref": "MRN-1", "name": "王小芳", "ward_id": "icu"}
        back = await nurse.post("/api/v1/patients", json=body)
        assert (back.status_code, back.json()["patient_key"]) == (201, key)
        assert (await nurse.get(f"/api/v1/patients/{key}")).status_code == 200
    assert (await officer.get(f"patients/{key}/erasure")).json()["state"] == "withdrawn"


@pytest.mark.clause("9.3h")
async def test_while_a_job_runs_it_cannot_be_taken_back_nor_the_patient_admitted(
    client: httpx.AsyncClient, officer: httpx.AsyncClient, engine: Engine, key: str, clock: ManualClock
) -> None:
    await officer.post(f"patients/{key}/erasure", headers=WHY)
    row = erasures.begin_next(engine, clock.now_us() + 40 * 365 * 86_400_000_000)
    assert row is not None
    assert (await officer.get(f"patients/{key}/erasure")).json()["step"] == "sever"
    assert (await officer.delete(f"patients/{key}/erasure", headers=WHY)).status_code == 409
    with pytest.raises(Conflict, match="being erased"):
        raise Conflict((await client.post("patients", json={"hospital_id": "sz.h001", "ref": "MRN-1"})).json()["detail"])


@pytest.mark.clause("9.3h")
async def test_holds_are_placed_listed_and_lifted_and_stand_in_the_way(
    client: httpx.AsyncClient, officer: httpx.AsyncClient, key: str
) -> None:
    body = {"kind": "patient", "target": key, "until": "2053-01-01T00:00:00Z"}
    held = await officer.post("holds", json=body, headers={"X-Reason": "case 7"})
    assert held.status_code == 201, held.text
    assert (await officer.post("holds", json={"kind": "hospital", "target": "sz.none"}, headers=WHY)).status_code == 404
    assert (await officer.post("holds", json={"kind": "ward", "target": "x"}, headers=WHY)).status_code == 422
    asked = (await officer.post(f"patients/{key}/erasure", headers=WHY)).json()
    assert asked["holds"] == [{"id": held.json()["id"], "until": "2053-01-01T00:00:00Z"}]
    (listed,) = (await officer.get("holds")).json()["items"]
    assert (listed["target"], listed["lifted"]) == (key, None)
    lifted = await officer.delete(f"holds/{listed['id']}", headers=WHY)
    assert lifted.json()["lifted_by"] == OFFICER
    assert (await officer.get(f"patients/{key}/erasure")).json()["holds"] == []
    assert (await officer.delete("holds/99", headers=WHY)).status_code == 404


@pytest.mark.clause("9.3a")
@pytest.mark.clause("9.3h")
async def test_retention_tells_each_rule_what_is_held_and_what_goes_next(officer: httpx.AsyncClient, key: str) -> None:
    rules = {rule["kind"]: rule for rule in (await officer.get("retention")).json()}
    assert set(rules) == set(RULES)
    assert (rules["patients"]["rows"], rules["patients"]["days"], rules["patients"]["next"][:4]) == (1, 10958, "2053")
    assert (rules["readings"]["rows"], rules["readings"]["oldest"]) == (0, None)
    assert rules["write_log"]["end"] == "kept"
