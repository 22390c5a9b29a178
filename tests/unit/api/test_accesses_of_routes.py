"""No route forgets to leave a trace: each one is asked, by who may not and by who may."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine

from api.access_audit import EMERGENCY, UNPROTECTED
from api.app import create_app
from api.permissions import ANYBODYS, PERMISSION
from domain import subjects
from domain.audit_reading import asked as read_again
from domain.audit_reading import concerned, said
from domain.errors import StorageFull
from domain.fleet_manifest import Tier
from domain.messages import LogState, encode
from domain.principals import Caller, Grant, Kind, Place, Principal, Role
from runtime.access_journal import IN_MEMORY, AccessJournal, WaitingAccess
from runtime.log_store import LogReader
from runtime.sql.engine import reading
from runtime.sql.patients import NewPatient, admit_patient
from runtime.sql.places import create_hospital, create_ward
from runtime.sql.sealed import reason_shown, sealer_of
from runtime.sql.users import as_caller, create_user
from tests.callers import ADMINISTRATOR, NOBODY, TOKEN, TOKEN_OF_NOBODY, KnownCallers
from tests.sql_fixtures import ADA
from tests.unit.api.conftest import BusAway, client_of, services_of

NAME = "Ouyang Canary"
NURSES_TOKEN = "a-token-of-a-nurse"
NURSE = Caller(Principal(Kind.USER, "u-nurse", "li"), (Grant(Role.NURSE, Place.parse("sz.h001/icu")),))
OFFICERS_TOKEN = "a-token-of-a-privacy-officer"
OFFICER = Caller(Principal(Kind.USER, "u-officer", "zhao"), (Grant(Role.PRIVACY_OFFICER, Place.parse("sz")),))
VALUES = {"hospital_id": "sz.h001", "ward_id": "icu", "device_id": "mon-1", "index": "0", "version": "1", "metric": "spo2"}


@dataclass
class Asked:
    """An application with one patient, and what its journal has of requests to it."""

    app: FastAPI
    journal: AccessJournal
    patient_key: str
    callers: dict[str, Caller]

    def routes(self) -> list[tuple[str, str, str]]:
        """Method, path and permission of each route."""
        operations = [(path, *pair) for path, methods in self.app.openapi()["paths"].items() for pair in methods.items()]
        found = [(method.upper(), path, said[PERMISSION]) for path, method, said in operations if PERMISSION in said]
        assert len(found) > 80
        return found

    def path(self, template: str) -> str:
        values = VALUES | {"patient_key": self.patient_key}
        named = [(part.strip("{}").partition(":")[0], part) for part in template.split("/")]
        parts = [values.get(name, "1") if part.startswith("{") else part for name, part in named]
        return "/".join(parts)

    async def ask(self, method: str, template: str, token: str, **headers: str) -> tuple[httpx.Response, list[WaitingAccess]]:
        before = self.journal.count()
        async with client_of(self.app, token) as client:
            url, body = f"http://test{self.path(template)}", {} if method != "GET" else None
            answer = await client.request(method, url, json=body, headers={n.replace("_", "-"): v for n, v in headers.items()})
        return answer, self.journal.waiting(10**6)[before:]


@pytest.fixture
async def asked(engine: Engine, tmp_path: Path) -> AsyncIterator[Asked]:
    create_hospital(engine, ADA, hospital_id="sz.h001", name="First", tier=Tier.PRIMARY, bed_count=8, shards=4)
    create_ward(engine, ADA, "sz.h001", "icu", "Intensive care")
    patient = admit_patient(engine, ADA, "sz.h001", NewPatient("r-1", NAME, ward_id="icu"))
    journal = AccessJournal.open(IN_MEMORY)
    callers = {TOKEN: ADMINISTRATOR, TOKEN_OF_NOBODY: NOBODY, NURSES_TOKEN: NURSE, OFFICERS_TOKEN: OFFICER}
    services = services_of(
        engine=engine, accesses=journal, log=LogReader(tmp_path), callers=KnownCallers(callers), bus=BusAway()
    )  # fmt: skip
    app = create_app(services, background=False)
    async with app.router.lifespan_context(app):
        yield Asked(app, journal, patient["patient_key"], callers)


@pytest.mark.clause("9.3e", "9.4")
async def test_who_is_refused_leaves_a_trace_on_every_route(asked: Asked) -> None:
    untraced = []
    for method, path, permission in asked.routes():
        if permission in ANYBODYS:
            continue
        answer, noted = await asked.ask(method, path, TOKEN_OF_NOBODY)
        assert answer.status_code == 403, (method, path, answer.text)
        lines = [said(access.event) for access in noted]
        if [(line.who, line.what.split()[0]) for line in lines if line] != [("eve", permission)]:
            untraced.append((method, path, lines))
    assert not untraced


@pytest.mark.clause("6.1b", "9.3e")
async def test_who_reads_leaves_a_trace_wherever_something_is_protected(asked: Asked) -> None:
    """Live streams have a test of their own; they do not end."""
    routes = [route for route in asked.routes() if route[0] == "GET" and "/live/" not in route[1]]
    assert len(routes) > 40
    for method, path, permission in routes:
        answer, noted = await asked.ask(method, path, TOKEN)
        is_protected = permission not in UNPROTECTED or answer.status_code >= 400
        assert len(noted) == is_protected, (path, answer.status_code, answer.text[:200])


@pytest.mark.clause("6.1b", "9.3e")
async def test_the_patient_whose_record_was_read_is_named_by_key_and_never_by_name(asked: Asked) -> None:
    paths = ("/patients/{patient_key}", "/patients/{patient_key}/accesses", "/patients?q=Canary", "/patients?hospital=sz.h001")
    for path in (f"/api/v1{path}" for path in paths):
        answer, (access,) = await asked.ask("GET", path, TOKEN)
        assert answer.status_code == 200
        assert NAME.split()[1].encode() not in access.event
        event: dict[str, Any] = msgspec.json.decode(access.event)
        assert {"reference": f"Patient/{asked.patient_key}"} in [entity.get("what") for entity in event["entity"]]


@pytest.mark.clause("9.3a", "9.3e")
async def test_a_patients_own_account_is_noted_by_its_id_whoever_asks(asked: Asked, engine: Engine) -> None:
    create_user(engine, ADA, "ouyang.canary", "x", patient_key=asked.patient_key)
    patient = asked.callers["a-token-of-a-patient"] = as_caller(engine, "ouyang.canary", now_us=ADA.now_us)
    for method, path, token in (
        ("GET", "/api/v1/patients/{patient_key}", "a-token-of-a-patient"), ("GET", "/api/v1/users/ouyang.canary", TOKEN),
        ("POST", "/api/v1/users/ouyang.canary/unlock", TOKEN), ("GET", "/api/v1/users/ouyang.canary", TOKEN_OF_NOBODY),
        ("DELETE", "/api/v1/patients/{patient_key}/care-team/ouyang.canary", TOKEN),
    ):  # fmt: skip
        _, (access,) = await asked.ask(method, path, token)
        assert b"ouyang" not in access.event
        assert (patient.principal.id.encode() in access.event) == (token != TOKEN_OF_NOBODY)


@pytest.mark.clause("9.3e")
async def test_while_the_log_does_not_grow_the_wards_alarms_go_on_and_nothing_else(asked: Asked) -> None:
    state = asked.app.state.backend.log_state
    state.receive(encode(LogState(0, 7, 0, "tile/0/000 is damaged")), subjects.LOG_STATE)
    patient, alarms = "/api/v1/patients/{patient_key}", "/api/v1/alarms?open=true&hospital=sz.h001&ward=icu"
    answer, noted = await asked.ask("GET", patient, NURSES_TOKEN)
    assert (answer.status_code, answer.json()["code"]) == (503, "audit-unavailable")
    assert [line.what.endswith(": 503") for access in noted if (line := said(access.event))] == [True]
    answer, noted = await asked.ask("GET", alarms, NURSES_TOKEN)
    assert (answer.status_code, answer.headers["x-audit"], len(noted)) == (200, "spooled", 1)
    for history in ("/alarms?hospital=sz.h001", "/alarms/episodes?hospital=sz.h001", "/readings?hospital=sz.h001"):
        assert (await asked.ask("GET", f"/api/v1{history}", NURSES_TOKEN))[0].status_code == 503
    paths = {path.removeprefix("/api/v1") for _, path, _ in asked.routes()}
    assert paths >= EMERGENCY
    for path in (path for path in EMERGENCY if "/live/" not in path):
        method = "POST" if path.endswith(("acknowledge", "pause-audio")) else "GET"
        assert (await asked.ask(method, f"/api/v1{path}", NURSES_TOKEN))[0].json().get("code") != "audit-unavailable", path
    state.receive(encode(LogState(0, 8, 0)), subjects.LOG_STATE)
    assert (await asked.ask("GET", patient, NURSES_TOKEN))[0].status_code == 200
    assert "x-audit" not in (await asked.ask("GET", alarms, NURSES_TOKEN))[0].headers


@pytest.mark.clause("6.1b", "9.3e")
async def test_who_unmasks_a_patient_leaves_that_and_why_in_the_trail(asked: Asked, engine: Engine) -> None:
    path, why = "/api/v1/patients/{patient_key}", "Ouyang asked what is kept"
    answer, (masked,) = await asked.ask("GET", path, OFFICERS_TOKEN)
    assert NAME not in answer.text
    answer, (clear,) = await asked.ask("GET", path, OFFICERS_TOKEN, X_Unmask="true", X_Reason=why)
    assert NAME in answer.text
    assert (_detail(masked)["view"], _detail(clear)["view"]) == ("masked", "clear")
    assert b"who%20say%20why" not in masked.event
    assert b"say%20why" in clear.event  # the policy that let them
    line = said(clear.event)
    assert line is not None
    assert "Ouyang" not in line.why
    with reading(engine) as connection:
        assert reason_shown(sealer_of(connection), line, clear.at_us) == why


@pytest.mark.clause("6.1b", "9.3e")
@pytest.mark.parametrize(("unmask", "view"), [("false", "masked"), ("true", "clear")])
async def test_of_a_list_the_trail_says_whether_names_were_asked_for(asked: Asked, unmask: str, view: str) -> None:
    headers = {"X_Unmask": unmask, "X_Reason": "a request"}
    _, (access,) = await asked.ask("GET", "/api/v1/patients?hospital=sz.h001", OFFICERS_TOKEN, **headers)
    assert _detail(access)["view"] == view


@pytest.mark.clause("6.1", "9.3e")
async def test_of_a_list_the_trail_says_in_which_wards_those_are_whom_it_shows(asked: Asked, engine: Engine) -> None:
    create_ward(engine, ADA, "sz.h001", "er", "Emergency")
    admit_patient(engine, ADA, "sz.h001", NewPatient("r-2", "Li", ward_id="er"))
    for query, wards in (("?hospital=sz.h001", {"sz.h001/icu", "sz.h001/er"}), ("?hospital=sz.h001&ward=er", {"sz.h001/er"}),
                         ("?q=nobody", set())):  # fmt: skip
        answer, (access,) = await asked.ask("GET", f"/api/v1/patients{query}", OFFICERS_TOKEN)
        found = read_again(access.event)
        assert found is not None
        assert (answer.status_code, found.wards) == (200, wards)


@pytest.mark.clause("7.2b", "9.3e")
async def test_an_answer_that_is_given_again_is_noted_and_to_nobody_who_may_not_any_more(asked: Asked) -> None:
    path, body = "http://test/api/v1/patients", {"hospital_id": "sz.h001", "ref": "r-2", "name": NAME, "ward_id": "icu"}
    async with client_of(asked.app, NURSES_TOKEN) as client:
        client.headers["Idempotency-Key"] = "k-1"
        first = await client.post(path, json=body)
        assert (first.status_code, NAME in first.text) == (201, True)
        before = asked.journal.count()
        again = await client.post(path, json=body)
        assert (again.status_code, again.text) == (201, first.text)
        (access,) = asked.journal.waiting(10**6)[before:]
        assert concerned(access.event).patients == {first.json()["patient_key"]}
        assert msgspec.json.decode(access.event)["action"] == "R"
        asked.callers[NURSES_TOKEN] = replace(NURSE, grants=())
        refused = await client.post(path, json=body)
        assert (refused.status_code, NAME in refused.text) == (403, False)
        access = asked.journal.waiting(10**6)[-1]
        assert concerned(access.event).patients == frozenset()
        assert msgspec.json.decode(access.event)["outcome"] == "4"


@pytest.mark.clause("9.3e")
async def test_an_answer_that_is_given_again_is_given_to_nobody_while_that_cannot_be_noted(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is done by it that stands in the write log."""

    def full(_accesses: Any) -> None:
        raise StorageFull("no room")

    path, body = "http://test/api/v1/patients", {"hospital_id": "sz.h001", "ref": "r-3", "name": NAME, "ward_id": "icu"}
    async with client_of(asked.app, NURSES_TOKEN) as client:
        client.headers["Idempotency-Key"] = "k-2"
        assert NAME in (await client.post(path, json=body)).text
        monkeypatch.setattr(asked.app.state.backend.trail._journal, "add", full)
        again = await client.post(path, json=body)
    assert (again.status_code, NAME in again.text) == (503, False)


def _detail(access: WaitingAccess) -> dict[str, str]:
    entities = msgspec.json.decode(access.event)["entity"]
    return {part["type"]: part["valueString"] for entity in entities for part in entity.get("detail", ())}
