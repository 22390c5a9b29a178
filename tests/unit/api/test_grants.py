"""What is given to whom, by whom, for how long; care teams; patients' own accounts. Clauses 7.2b, 9.3b."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine, insert

from domain.accesses import write_event
from domain.errors import Conflict
from domain.permissions import everywhere
from domain.principals import PROGRAMS, Grant, Place, Role
from runtime.clock import ManualClock
from runtime.sql import access, grants, patients, users
from runtime.sql.engine import writing
from runtime.sql.identity_tables import care_teams
from runtime.sql.patients import NewPatient
from tests.sql_fixtures import ADA
from tests.unit.api.conftest import API, client_of, make
from tests.unit.api.house import PASSWORD, House, get, open_house, sign_in
from tests.unit.api.two_hospitals import Ward, fill


@pytest.fixture
def wards(engine: Engine) -> list[Ward]:
    return fill(engine)


@pytest.fixture
async def house(engine: Engine, clock: ManualClock, tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(engine, clock, tmp_path) as opened:
        yield opened


@pytest.mark.clause("9.3b")
async def test_what_is_given_holds_at_once_at_its_place_and_as_long_as_it_is_said(house: House, wards: list[Ward]) -> None:
    nurse = (await sign_in(house, "wang.wei"))["access_token"]
    own, other, _ = (f"/api/v1/patients/{ward.patient_key}" for ward in wards)
    async with house.client((await sign_in(house))["access_token"], under=API) as client:
        assert await get(house, nurse, own) == (403, "forbidden")
        given = await make(client, "users/wang.wei/grants", {"role": "nurse", "place": "sz.h001/icu"})
        assert await get(house, nurse, own) == (200, "")
        assert await get(house, nurse, other) == (404, "not-found")
        assert (await client.post("users/wang.wei/grants", json={"role": "nurse", "place": "sz.h001/icu"})).status_code == 409
        assert (await client.delete(f"users/wang.wei/grants/{given['id']}")).status_code == 204
        assert await get(house, nurse, own) == (403, "forbidden")
        assert (await client.delete(f"users/wang.wei/grants/{given['id']}")).status_code == 404
        house.clock.advance(1)
        ends = house.clock.now_us() + 60_000_000
        grants.give(
            house.engine,
            replace(ADA, now_us=house.clock.now_us()),
            "wang.wei",
            Grant(Role.NURSE, Place.parse("sz.h001"), until_us=ends),
        )
        await house.app.state.backend.user_changed(users.get_user(house.engine, "wang.wei", now_us=0)["id"])
        assert await get(house, nurse, other) == (200, "")
        house.clock.advance(60)
        assert await get(house, nurse, other) == (403, "forbidden")
        listed = (await client.get("users/wang.wei/grants")).json()
    assert [(row["role"], row["place"], row["ended"] is None) for row in listed] == [
        ("nurse", "sz.h001/icu", False), ("nurse", "sz.h001", True),
    ]  # fmt: skip


@pytest.mark.clause("9.3b")
async def test_a_care_team_is_reached_while_it_is_one(house: House, wards: list[Ward]) -> None:
    doctor = (await sign_in(house, "wang.wei"))["access_token"]
    patient = f"patients/{wards[0].patient_key}"
    async with house.client((await sign_in(house))["access_token"], under=API) as client:
        await make(client, "users/wang.wei/grants", {"role": "doctor", "place": "sz.h001", "relation": "care-team"})
        assert await get(house, doctor, f"/api/v1/{patient}") == (403, "forbidden")
        await make(client, f"{patient}/care-team", {"user": "wang.wei"})
        assert await get(house, doctor, f"/api/v1/{patient}") == (200, "")
        assert await get(house, doctor, f"/api/v1/patients/{wards[1].patient_key}") == (404, "not-found")
        assert (await client.post(f"{patient}/care-team", json={"user": "wang.wei"})).status_code == 409
        house.clock.advance(1)
        assert (await client.delete(f"{patient}/care-team/wang.wei")).status_code == 204
        assert await get(house, doctor, f"/api/v1/{patient}") == (403, "forbidden")
        (member,) = (await client.get(f"{patient}/care-team")).json()
    assert (member["user"], member["until"] is None) == ("wang.wei", False)


@pytest.mark.clause("9.3b")
async def test_nobody_joins_a_care_team_by_themselves_and_a_discharge_ends_it(house: House, wards: list[Ward]) -> None:
    doctor = (await sign_in(house, "wang.wei"))["access_token"]
    patient = f"patients/{wards[0].patient_key}"
    async with house.client((await sign_in(house))["access_token"], under=API) as client:
        refused = await client.post(f"{patient}/care-team", json={"user": "li.na"})
        assert (refused.status_code, "may not join a care team by themselves" in refused.text) == (403, True)
        await make(client, "users/wang.wei/grants", {"role": "doctor", "place": "sz.h001", "relation": "care-team"})
        await make(client, f"{patient}/care-team", {"user": "wang.wei"})
        assert await get(house, doctor, f"/api/v1/{patient}") == (200, "")
        house.clock.advance(1)
        etag = (await client.get(patient)).headers["ETag"]
        (await client.post(f"{patient}/discharge", json={}, headers={"If-Match": etag})).raise_for_status()
        assert await get(house, doctor, f"/api/v1/{patient}") == (403, "forbidden")
        (member,) = (await client.get(f"{patient}/care-team")).json()
    assert (member["user"], member["until"] is None) == ("wang.wei", False)


@pytest.mark.clause("9.3a", "9.3e")
async def test_a_patients_own_account_treats_nobody_and_one_that_did_is_logged_by_its_id(
    house: House, wards: list[Ward]
) -> None:
    own, other = wards[0].patient_key, wards[1].patient_key
    id_ = users.create_user(house.engine, ADA, "wang.fang", "stored", patient_key=own)["id"]
    async with house.client((await sign_in(house))["access_token"], under=API) as client:
        for patient in (own, other):
            refused = await client.post(f"patients/{patient}/care-team", json={"user": "wang.fang"})
            assert (refused.status_code, "a patient's own account" in refused.text) == (409, True)
        with writing(house.engine) as connection:  # as could be before
            for patient in (own, other):
                row = {"patient_key": patient, "principal_id": id_, "from_us": house.clock.now_us(), "until_us": None}
                connection.execute(insert(care_teams).values(row))
        house.clock.advance(1)
        assert (await client.delete(f"patients/{own}/care-team/wang.fang")).status_code == 204
        etag = (await client.get(f"patients/{other}")).headers["ETag"]
        (await client.post(f"patients/{other}/discharge", json={}, headers={"If-Match": etag})).raise_for_status()
    left = [row for row in access.list_writes(house.engine, limit=99).rows if row["action"] == "care-team.leave"]
    assert [(row["target"], row["detail"]["user"]) for row in left] == [(other, id_), (own, id_)]
    assert "wang.fang" not in str(access.list_writes(house.engine, limit=99).rows)


@pytest.mark.clause("9.3b")
async def test_nobody_gives_to_themselves_nor_more_than_they_may(app: FastAPI, engine: Engine, wards: list[Ward]) -> None:
    users.create_user(engine, ADA, "boss", "stored", Grant(Role.ADMINISTRATOR, Place("sz")))
    users.create_user(engine, ADA, "li.na", "stored", Grant(Role.SYSTEM_ADMINISTRATOR, Place("sz")))
    async with client_of(app, "security-administrator@sz") as guard, client_of(app, "local-operator@sz") as operator:
        for client, method, path, body, says in (
            (guard, "POST", "users/li.na/grants", {"role": "administrator"}, "that is given by one of them alone"),
            (guard, "POST", "tokens", {"name": "t", "role": "administrator"}, "that is given by one of them alone"),
            (guard, "POST", "users/boss/reset", None, "may not change an account"),
            (guard, "POST", "users/li.na/grants", {"role": "audit-administrator"}, "never one person's"),
            (guard, "POST", "users/li.na/grants", {"role": "nurse", "place": "sz.h009/icu"}, "there is no place"),
            (guard, "POST", "users/li.na/grants", {"role": "nurse", "place": "bj.h001"}, "not of this region"),
            (guard, "POST", "users/security-administrator@sz/grants", {"role": "doctor", "place": "sz"}, "themselves"),
        ):
            answer = await client.request(method, f"/api/v1/{path}", json=body)
            assert says in answer.json()["detail"], answer.text
        assert (await operator.post("/api/v1/tokens", json={"name": "t", "role": "administrator"})).status_code == 403
        assert (await operator.post("/api/v1/tokens", json={"name": "runner", "role": "scenario-runner"})).status_code == 201
        assert (await operator.get("/api/v1/patients", params={"hospital": "sz.h001"})).status_code == 403
        made = await guard.post("/api/v1/tokens", json={"name": "t", "role": "station", "place": "sz.h001/icu"})
    assert (made.status_code, made.json()["place"]) == (201, "sz.h001/icu")
    assert access.authenticate(engine, made.json()["token"])["place"] == "sz.h001/icu"


@pytest.mark.clause("9.3b")
@pytest.mark.parametrize("role", [role for role in Role if role not in PROGRAMS])
async def test_no_token_makes_a_person_of_whoever_made_it(app: FastAPI, engine: Engine, role: Role) -> None:
    for who in ("security-administrator@sz", "local-operator@sz", "administrator@sz"):
        async with client_of(app, who, under=API) as client:
            refused = await client.post("tokens", json={"name": "sneaky", "role": role, "place": "sz"})
        assert (refused.status_code, "is a person's role" in refused.json()["detail"]) == (422, True), refused.text
    assert access.list_tokens(engine, reach=everywhere("sz"), region_id="sz", limit=9).rows == []


@pytest.mark.clause("9.3e")
async def test_a_token_that_shows_patients_by_name_is_not_made_unseen(
    app: FastAPI, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    assert {Role.DOCTOR, Role.NURSE, Role.PATIENT, Role.PRIVACY_OFFICER, Role.DEPARTMENT_HEAD}.isdisjoint(PROGRAMS)
    roles = sorted(PROGRAMS - {Role.ADMINISTRATOR})
    async with client_of(app, "security-administrator@sz", under=API) as guard:
        for role in roles:
            await make(guard, "tokens", {"name": f"t-{role}", "role": role, "place": "sz"})
    warned = [record.token for record in caplog.records if "shows patients by name" in record.getMessage()]
    assert warned == ["t-integration", "t-scenario-runner"]
    written = {row["target"]: msgspec.json.decode(write_event(row, "sz")) for row in access.list_writes(engine, limit=99).rows}
    for role in roles:
        event = written[f"t-{role}"]
        assert {coding["code"] for coding in (event["type"], *event["subtype"])} >= {"110113", "token.create", "110137"}
        assert role in event["entity"][-1]["detail"][-1]["valueString"]


@pytest.mark.clause("9.3b")
@pytest.mark.parametrize(
    "role", [Role.NURSE, Role.DOCTOR, Role.PRIVACY_OFFICER, Role.STATION, Role.INTEGRATION, Role.HEALTH_COMMISSION]
)
async def test_nobody_gets_the_whole_region_because_no_place_was_said(app: FastAPI, engine: Engine, role: Role) -> None:
    users.create_user(engine, ADA, "li.na", "stored")
    grant = {"role": role}
    async with client_of(app, "security-administrator@sz", under=API) as guard:
        for path, body in (
            ("users", {"name": "wu.di", "grants": [grant]}),
            ("users/li.na/grants", grant),
            ("tokens", {"name": "t", **grant}),
        ):
            refused = await guard.post(path, json=body)
            assert (refused.status_code, "is one at a place: say which" in refused.json()["detail"]) == (422, True), (
                refused.text
            )
        assert (await make(guard, "users/li.na/grants", grant | {"place": "sz"}))["place"] == "sz"
        assert (await make(guard, "users/li.na/grants", {"role": "audit-administrator"}))["place"] == "sz"


@pytest.mark.clause("9.3b")
async def test_the_last_who_can_give_anything_keeps_that(house: House, wards: list[Ward]) -> None:
    async with house.client((await sign_in(house))["access_token"], under=API) as client:
        (own,) = (await client.get("users/li.na/grants")).json()
        last = await client.delete(f"users/li.na/grants/{own['id']}")
        assert (last.status_code, "is the last" in last.text) == (409, True)
        await make(client, "users/wang.wei/grants", {"role": "security-administrator"})
        assert (await client.delete(f"users/li.na/grants/{own['id']}")).status_code == 204


@pytest.mark.clause("9.3b")
def test_the_last_token_of_an_administrator_is_not_revoked(engine: Engine) -> None:
    access.create_first_token(engine, Role.ADMINISTRATOR, now_us=1)
    with pytest.raises(Conflict, match="is the last that can give anybody anything"):
        access.revoke_token(engine, ADA, "admin")
    users.create_user(engine, ADA, "li.na", "stored", Grant(Role.ADMINISTRATOR, Place("sz")))
    access.revoke_token(engine, ADA, "admin")


@pytest.mark.clause("7.2b")
async def test_patients_have_an_account_that_reaches_themselves(house: House, wards: list[Ward]) -> None:
    own = wards[0].patient_key
    patients.admit_patient(house.engine, ADA, "sz.h001", NewPatient("MRN-9", ward_id="icu"))
    async with house.client((await sign_in(house))["access_token"], under=API) as client:
        body = {"name": "wang.fang", "patient_key": own, "grants": [{"role": "patient", "relation": "self"}]}
        await make(client, "users", body)
        assert (await client.post("users", json=body | {"name": "x.y", "patient_key": "0" * 32})).status_code == 404
    users.set_password(house.engine, ADA, "wang.fang", house.hashes.make(PASSWORD), must_change=False)
    token = (await sign_in(house, "wang.fang"))["access_token"]
    assert await get(house, token, f"/api/v1/patients/{own}") == (200, "")
    assert await get(house, token, f"/api/v1/patients/{wards[1].patient_key}") == (404, "not-found")
    assert await get(house, token, f"/api/v1/alarms?patient={own}") == (200, "")
    assert await get(house, token, "/api/v1/alarms?hospital=sz.h001") == (200, "")  # with their own in it
    async with house.client(token) as client:
        body = {"present": PASSWORD, "new": "another long way to say 7"}
        assert (await client.post("/api/v1/me/password", json=body)).status_code == 200
    assert "wang.fang" not in str(access.list_writes(house.engine, limit=99).rows)
