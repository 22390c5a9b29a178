"""Whole fleets in one call: what exists already needs the permissions that it needs elsewhere. Clauses 5.4a, 7.2b, 9.3c."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine, update

from domain.labels import WITHHELD
from runtime.sql.devices import device_of_token
from runtime.sql.engine import writing
from runtime.sql.tables import patients
from tests.unit.api.conftest import API, client_of, make

SYSTEM, RUNNER = "system-administrator@sz", "scenario-runner@sz"
DEEP = 100_000


def fleet_of(device_id: str = "mon-7", *refs: str, with_token: bool = True) -> dict[str, Any]:
    devices = {
        "device_ids": [device_id], "models": ["monitor"], "ward_ids": ["icu"], "bed_ids": [None], "gateway_ids": [None],
        "with_token": [with_token],
    }  # fmt: skip
    count = len(refs)
    people = {
        "refs": list(refs), "names": [None] * count, "ages_years": [50] * count, "pregnant": [False] * count,
        "spo2_scales": [1] * count, "ward_ids": ["icu"] * count, "bed_ids": [None] * count,
        "admitted_us": [1_795_420_800_000_000] * count, "device_ids": [[]] * count,
    }  # fmt: skip
    one = {"hospital_id": "sz.h001", "name": "A", "tier": "tertiary", "beds": 9, "devices": devices, "patients": people}
    return {"hospitals": [one]}


@pytest.fixture
async def first(client: httpx.AsyncClient) -> dict[str, Any]:
    """What there is: mon-7 with a token, and a patient."""
    return (await make(client, "fleets", fleet_of("mon-7", "MRN-1")))["hospitals"][0]


@pytest.mark.clause("5.4a")
async def test_whoever_registers_fleets_alone_gets_no_token_of_a_device_that_exists(
    app: FastAPI, engine: Engine, first: dict[str, Any]
) -> None:
    async with client_of(app, SYSTEM, under=API) as system:
        refused = await system.post("fleets", json=fleet_of())
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
        assert "device.credential at sz.h001" in refused.json()["detail"]
        assert device_of_token(engine, first["tokens"]["mon-7"]) is not None
        assert (await system.post("fleets", json=fleet_of(with_token=False))).status_code == 201
        assert (await system.post("fleets", json=fleet_of("mon-8", "MRN-2"))).status_code == 201


@pytest.mark.clause("9.3c")
async def test_whoever_registers_fleets_alone_is_told_no_key_of_a_patient_who_exists(
    app: FastAPI, first: dict[str, Any]
) -> None:
    async with client_of(app, SYSTEM, under=API) as system:
        refused = await system.post("fleets", json=fleet_of("mon-8", "MRN-1"))
        assert refused.status_code == 403
        assert "patient.manage at sz.h001" in refused.json()["detail"]
        assert first["patient_keys"][0] not in refused.text
        assert (await system.get("devices/sz.h001/mon-8")).status_code == 404


async def test_a_scenario_registers_its_fleet_again(app: FastAPI, engine: Engine, first: dict[str, Any]) -> None:
    async with client_of(app, RUNNER, under=API) as runner:
        again = (await make(runner, "fleets", fleet_of("mon-7", "MRN-1")))["hospitals"][0]
    assert again["patient_keys"] == first["patient_keys"]
    assert device_of_token(engine, again["tokens"]["mon-7"]) is not None


@pytest.mark.clause("9.3c")
async def test_a_patient_whose_records_are_withheld_is_told_to_nobody(
    app: FastAPI, client: httpx.AsyncClient, engine: Engine, first: dict[str, Any]
) -> None:
    with writing(engine) as connection:
        connection.execute(update(patients).values(level=WITHHELD))
    refused = await client.post("fleets", json=fleet_of("mon-8", "MRN-1"))
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert "patient 1 of the manifest" in refused.json()["detail"]
    assert first["patient_keys"][0] not in refused.text
    async with client_of(app, SYSTEM, under=API) as system:  # who is not told that they are withheld either
        assert (await system.post("fleets", json=fleet_of("mon-8", "MRN-1"))).status_code == 403


@pytest.mark.clause("9.4")
@pytest.mark.parametrize(
    "body",
    [b'[{"device_id": "m", "model": "monitor", "attributes": {"a": ' + b"[" * DEEP, b'{"unknown": ' + b"[" * DEEP],
    ids=["import", "fleet"],
)
async def test_a_body_too_deep_to_read_is_refused(client: httpx.AsyncClient, first: dict[str, Any], body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    path = "devices/import?hospital=sz.h001" if body.startswith(b"[") else "fleets"
    answer = await client.post(path, content=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-input")
