"""How permissions are stated and refused: guards over all routes, and what the refused are told. Clauses 7.2b, 9.3c."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from sqlalchemy import Engine

import api.routes
from api.permissions import permissions_of
from api.routing import OPERATION, ROUTERS
from domain.permissions import everywhere
from runtime.sql import devices, erasures, patients, places
from tests.callers import caller_as
from tests.sql_fixtures import ADA, HOUR_US, NOW_US
from tests.unit.api.conftest import API, client_of
from tests.unit.api.two_hospitals import Ward, fill

FOLDER = Path(api.routes.__file__).parent
HANDLERS = [route for router in (*ROUTERS, OPERATION) for route in router.routes if isinstance(route, APIRoute)]


@pytest.fixture
def wards(engine: Engine) -> list[Ward]:
    return fill(engine)


# --- guards ---


@pytest.mark.clause("7.2b")
@pytest.mark.parametrize("route", HANDLERS, ids=lambda route: f"{min(route.methods)} {route.path}")
def test_every_handler_states_one_permission_and_before_all_else(route: APIRoute) -> None:
    assert len(list(permissions_of(route.dependant))) == 1
    first = route.dependant.dependencies[0]
    assert list(permissions_of(first)), "what comes before it is told to whom nothing may be told"


@pytest.mark.parametrize("route", [route for route in HANDLERS if "{" not in route.path_format], ids=lambda route: route.path)
def test_a_path_that_is_spelled_out_is_met_by_no_route_that_takes_a_part_of_it_for_a_name(route: APIRoute) -> None:
    """PATCH of `/risks/look` asked for a risk called `look`, and a 405 offered that."""
    own = [other for other in HANDLERS if other.path_format == route.path_format]
    others = [other for other in HANDLERS if other not in own and other.path_regex.match(route.path_format)]
    assert {method for other in others for method in other.methods} <= {method for other in own for method in other.methods}


@pytest.mark.clause("9.3c")
@pytest.mark.parametrize("route", HANDLERS, ids=lambda route: f"{min(route.methods)} {route.path}")
def test_what_a_permission_is_judged_by_the_handler_heeds_too(route: APIRoute) -> None:
    """Else a query for one's own ward would be judged, and the whole hospital shown."""
    judged, heeded = set[str](), set[str]()
    for dependant, is_judged in _parts(route.dependant):
        names = {field.alias for field in dependant.query_params}
        (judged if is_judged else heeded).update(names)
    assert judged <= heeded


@pytest.mark.clause("7.2b")
def test_a_handler_whose_place_stands_in_the_body_asks_for_it() -> None:
    found = list(_unplaced_handlers())
    assert len(found) >= 9
    assert [name for name, asks in found if not asks] == []


def _parts(dependant: Dependant, *, is_judged: bool = False) -> Iterator[tuple[Dependant, bool]]:
    is_judged = is_judged or hasattr(dependant.call, "permission")
    yield dependant, is_judged
    for part in dependant.dependencies:
        yield from _parts(part, is_judged=is_judged)


def _unplaced_handlers() -> Iterator[tuple[str, bool]]:
    """Handlers with an Unplaced caller, and whether they call its `at`."""
    for path in sorted(FOLDER.glob("*.py")):
        tree = ast.parse(path.read_text())
        aliases = {
            node.targets[0].id for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
            and ast.unparse(node.value).startswith("Annotated[Unplaced,")
        }  # fmt: skip
        for handler in tree.body:
            if not isinstance(handler, ast.AsyncFunctionDef):
                continue
            callers = {one.arg for one in handler.args.args if one.annotation and ast.unparse(one.annotation) in aliases}
            if callers:
                calls = {ast.unparse(node.func) for node in ast.walk(handler) if isinstance(node, ast.Call)}
                yield f"{path.name} {handler.name}", all(f"{name}.at" in calls for name in callers)


# --- what the refused are told ---


@pytest.mark.clause("9.3c")
@pytest.mark.as_role("nurse@sz.h001/icu")
async def test_of_what_is_out_of_reach_it_is_not_told_that_it_exists(client: httpx.AsyncClient, wards: list[Ward]) -> None:
    own, ward, hospital = wards

    async def asked(path: str) -> tuple[int, Any]:
        answer = await client.get(path)
        told = answer.json()
        return answer.status_code, {name: told[name] for name in told if name not in ("request_id", "instance")}

    for template, unknown in (("patients/{}", "0" * 32), ("alarms/{}", "9" * 32), ("readings/latest?handle={}", "999999")):

        def key(one: Ward, template: str = template) -> object:
            return {"p": one.patient_key, "a": one.alarm_id, "r": one.handle}[template[0]]

        missing = await asked(template.format(unknown))
        assert missing[0] == 404
        for foreign in (ward, hospital):
            status, told = await asked(template.format(key(foreign)))
            assert (status, told) == (404, missing[1] | {"detail": told["detail"]})
            assert told["detail"] == missing[1]["detail"].replace(unknown, str(key(foreign)))
    assert (await client.get(f"patients/{own.patient_key}")).status_code == 200


@pytest.mark.clause("9.3c")
@pytest.mark.as_role("nurse@sz.h001/icu")
async def test_a_device_of_another_ward_is_refused_as_one_that_is_not(client: httpx.AsyncClient, wards: list[Ward]) -> None:
    for path in ("devices/sz.h001/{}", "devices/sz.h001/{}/state"):
        told = {(await client.get(path.format(name))).json()["detail"].replace(name, "…") for name in ("mon-2", "nothing")}
        assert len(told) == 1
        assert "may not" in told.pop()
    assert (await client.get(f"devices/sz.h001/{wards[0].device_id}")).status_code == 200


@pytest.mark.clause("7.2b")
@pytest.mark.as_role("nurse@sz.h001/icu")
async def test_the_refused_are_told_what_is_missing_and_where_they_may(client: httpx.AsyncClient, wards: list[Ward]) -> None:
    for path, words in (
        ("writes", "may not audit.read: no role of theirs allows it anywhere"),
        ("patients?hospital=sz.h002", "may not patient.read at sz.h002"),
        ("patients?hospital=sz.h001&ward=er", "may not patient.read at sz.h001/er"),
    ):
        answer = await client.get(path)
        assert (answer.status_code, words in answer.json()["detail"]) == (403, True), answer.text
    listed = (await client.get("patients?hospital=sz.h001&ward=icu")).json()["items"]
    assert [row["patient_key"] for row in listed] == [wards[0].patient_key]


@pytest.mark.clause("7.2b")
@pytest.mark.as_role("nurse@sz.h001/icu")
async def test_whose_purpose_does_not_fit_is_told_so_and_which_do(client: httpx.AsyncClient, wards: list[Ward]) -> None:
    for path, words in (
        ("patients", "their roles do not allow it for HRESCH, but for TREAT, ETREAT (X-Purpose)"),
        ("writes", "no role of theirs allows it anywhere"),
    ):
        answer = await client.get(path, headers={"X-Purpose": "HRESCH"})
        assert (answer.status_code, words in answer.json()["detail"]) == (403, True), answer.text


@pytest.mark.clause("9.3c")
@pytest.mark.as_role("nurse@sz.h001/icu")
async def test_a_filter_that_a_path_does_not_know_is_refused(client: httpx.AsyncClient, wards: list[Ward]) -> None:
    for path, says in (
        ("patients?name=司徒", "(name): expected"),
        ("patients?q=x&司徒=1", "(a name that none has): expected"),
        (f"patients/{wards[0].patient_key}?hospital=sz.h001", "(hospital): expected tz"),
        ("alarms?stat=ended", "state"),
    ):
        answer = await client.get(path)
        assert (answer.status_code, says in answer.json()["detail"]) == (422, True), answer.text
        assert "司徒" not in answer.json()["detail"]
    assert (await client.get("writes?name=x")).status_code == 403  # permission is asked first


@pytest.mark.clause("9.3c")
@pytest.mark.as_role("nurse@sz.h001/icu")
async def test_a_body_is_not_looked_at_before_the_permission_is_given(client: httpx.AsyncClient, wards: list[Ward]) -> None:
    for ward, status in zip(wards, (422, 404, 404), strict=True):
        answer = await client.post(f"patients/{ward.patient_key}/observations", json={"wrong": 1})
        assert answer.status_code == status


@pytest.mark.clause("9.3c")
@pytest.mark.as_role("nurse@sz.h001/icu")
async def test_records_are_asked_for_with_a_purpose(client: httpx.AsyncClient, wards: list[Ward]) -> None:
    path = f"patients/{wards[0].patient_key}"
    for purpose, status in (("TREAT", 200), ("etreat", 200), ("HRESCH", 403), ("CURIOSITY", 422)):
        answer = await client.get(path, headers={"X-Purpose": purpose})
        assert answer.status_code == status, answer.text
    assert "expected one of TREAT, ETREAT" in answer.text


@pytest.mark.clause("9.3a")
@pytest.mark.parametrize("role", ["nurse", "administrator"])
async def test_a_patient_raised_to_the_strictest_level_is_seen_with_two_factors_alone(
    app: FastAPI, client: httpx.AsyncClient, wards: list[Ward], role: str
) -> None:
    path = f"patients/{wards[0].patient_key}"
    raised = await client.patch(path, json={"level": 5}, headers={"If-Match": '"1"'})
    assert (raised.status_code, raised.json()["level"]) == (200, 5)
    async with client_of(app, f"{role}@sz.h001") as other:
        for hidden in (path, f"{path}/state", f"{path}/care-team", f"associations?patient={wards[0].patient_key}"):
            answer = await other.get(f"/api/v1/{hidden}")
            assert answer.status_code == 404, answer.text
        listed = (await other.get("/api/v1/patients?hospital=sz.h001")).json()["items"]
        assert [row["patient_key"] for row in listed] == [wards[1].patient_key]
        assert (await other.get(f"/api/v1/alarms/{wards[0].alarm_id}")).status_code == 200  # never withheld


@pytest.mark.clause("9.3a")
@pytest.mark.parametrize("who", ["nurse@sz.h001/icu", "integration@sz.h001", "administrator@sz"])
async def test_with_one_factor_nobody_lowers_the_strictest_level_to_read_the_record(
    app: FastAPI, client: httpx.AsyncClient, wards: list[Ward], who: str
) -> None:
    path = f"patients/{wards[0].patient_key}"
    raised = await client.patch(path, json={"level": 5}, headers={"If-Match": '"1"'})
    assert raised.status_code == 200, raised.text
    holders = app.state.backend.services.callers._holders
    holders["somebody"] = replace(caller_as(who), treats=frozenset({wards[0].patient_key}))
    async with client_of(app, "somebody", under=API) as other:
        for level in (None, 4, 5):
            answer = await other.patch(path, json={"level": level}, headers={"If-Match": '"2"'})
            assert answer.status_code == 404, answer.text
        assert (await other.get(path)).status_code == 404


@pytest.mark.clause("9.3a")
async def test_what_is_reported_of_a_patient_of_the_strictest_level_needs_one_factor(
    app: FastAPI, client: httpx.AsyncClient, wards: list[Ward]
) -> None:
    path = f"patients/{wards[0].patient_key}"
    assert (await client.patch(path, json={"level": 5}, headers={"If-Match": '"1"'})).status_code == 200
    async with client_of(app, "integration@sz.h001", under=API) as other:
        moved = await other.patch(path, json={"bed_id": "bed-1"}, headers={"If-Match": '"2"'})
        assert (moved.status_code, moved.json()["name"]) == (200, "王**")


# --- what was done once, and is asked for again ---

KEY = {"Idempotency-Key": "k-1"}
GONE = {
    "raised": lambda engine, key: patients.update_patient(engine, ADA, key, {"level": 5}, version=None),
    "moved": lambda engine, key: patients.update_patient(engine, ADA, key, {"ward_id": "er"}, version=None),
    "to be erased": lambda engine, key: erasures.request_erasure(engine, ADA, key, retention_us=0, grace_us=HOUR_US),
}


@pytest.mark.clause("9.3c")
@pytest.mark.parametrize("how", GONE)
@pytest.mark.as_role("nurse@sz.h001/icu")
async def test_an_answer_is_not_given_again_of_a_patient_who_is_out_of_reach_by_now(
    client: httpx.AsyncClient, wards: list[Ward], engine: Engine, how: str
) -> None:
    key = wards[0].patient_key
    path = f"patients/{key}/discharge"
    first, again = [await client.post(path, json={}, headers={"If-Match": '"1"', **KEY}) for _ in range(2)]
    assert (first.status_code, first.json()["name"], again.text) == (200, "王小明", first.text)
    GONE[how](engine, key)
    refused = await client.post(path, json={}, headers={"If-Match": '"1"', **KEY})
    assert (refused.status_code, "王" in refused.text) == (403, False)
    assert "this was done" in refused.text


@pytest.mark.clause("9.3c")
@pytest.mark.as_role("nurse@sz.h001/icu")
async def test_who_was_admitted_by_a_request_is_judged_when_it_comes_again(
    client: httpx.AsyncClient, wards: list[Ward], engine: Engine
) -> None:
    body = {"hospital_id": "sz.h001", "ref": "MRN-9", "name": "李四", "ward_id": "icu"}
    first, again = [await client.post("patients", json=body, headers=KEY) for _ in range(2)]
    assert (first.status_code, again.text) == (201, first.text)
    GONE["moved"](engine, first.json()["patient_key"])
    refused = await client.post("patients", json=body, headers=KEY)
    assert (refused.status_code, "李" in refused.text) == (403, False)


@pytest.mark.clause("9.3c")
@pytest.mark.as_role("nurse@sz.h001/icu")
async def test_an_alarm_that_was_answered_stays_where_it_was_raised(
    client: httpx.AsyncClient, wards: list[Ward], engine: Engine
) -> None:
    path, body = f"alarms/{wards[0].alarm_id}/acknowledge", {"outcome": "actionable"}
    first = await client.post(path, json=body, headers=KEY)
    GONE["moved"](engine, wards[0].patient_key)
    again = await client.post(path, json=body, headers=KEY)
    assert (first.status_code, again.text) == (200, first.text)


# --- where a record is moved to ---


@pytest.mark.clause("9.3c")
@pytest.mark.as_role("nurse@sz.h001/icu")
async def test_a_patient_is_transferred_by_who_may_do_so_in_both_wards(
    app: FastAPI, client: httpx.AsyncClient, wards: list[Ward]
) -> None:
    path = f"patients/{wards[0].patient_key}"
    for ward in ("er", "icv", None):
        answer = await client.patch(path, json={"ward_id": ward}, headers={"If-Match": '"1"'})
        assert (answer.status_code, "may not patient.manage" in answer.text) == (403, True)
    stays = await client.patch(path, json={"ward_id": "icu", "bed_id": "extra-1"}, headers={"If-Match": '"1"'})
    assert (stays.status_code, stays.json()["bed_id"]) == (200, "extra-1")
    async with client_of(app, "integration@sz.h001", under=API) as other:
        moved = await other.patch(path, json={"ward_id": "er", "bed_id": "bed-2"}, headers={"If-Match": '"2"'})
        assert (moved.status_code, moved.json()["ward_id"]) == (200, "er")
    assert (await client.get(path)).status_code == 404


@pytest.mark.clause("9.3c")
async def test_a_device_is_moved_by_who_may_do_so_in_both_wards(app: FastAPI, wards: list[Ward]) -> None:
    path, match = f"devices/sz.h001/{wards[0].device_id}", {"If-Match": '"1"'}
    async with client_of(app, "biomedical-engineer@sz.h001/icu", under=API) as engineer:
        for ward in ("er", None):
            assert (await engineer.patch(path, json={"ward_id": ward}, headers=match)).status_code == 403
        assert (await engineer.patch(path, json={"bed_id": "bed-1"}, headers=match)).status_code == 200
    async with client_of(app, "biomedical-engineer@sz.h001", under=API) as engineer:
        moved = await engineer.patch(path, json={"ward_id": "er"}, headers={"If-Match": '"2"'})
        assert (moved.status_code, moved.json()["ward_id"]) == (200, "er")


@pytest.mark.clause("7.2b")
@pytest.mark.parametrize(
    "who", ["doctor@sz.h001", "integration@sz.h001", "hospital-administrator@sz.h001", "scenario-runner@sz"]
)
async def test_a_ward_that_is_written_wrong_is_made_by_who_keeps_places_alone(
    app: FastAPI, engine: Engine, wards: list[Ward], who: str
) -> None:
    makes = who.startswith(("hospital-administrator", "scenario-runner"))
    requests: list[tuple[str, str, Any]] = []
    if not who.startswith("hospital-administrator"):
        new = {"hospital_id": "sz.h001", "ref": "MRN-9", "ward_id": "icv"}
        requests += [("POST", "patients", new), ("PATCH", f"patients/{wards[0].patient_key}", {"ward_id": "icv"})]
    if who.startswith(("integration", "hospital-administrator")):
        rows = [{"device_id": "mon-8", "model": "monitor", "ward_id": "icw"}]
        new = {"hospital_id": "sz.h001", "device_id": "mon-9", "model": "monitor", "ward_id": "icx", "bed_id": "b"}
        requests += [("POST", "devices", new), ("PATCH", "devices/sz.h001/mon-1", {"ward_id": "icy"})]
        requests += [("POST", "devices/import?hospital=sz.h001", rows)]
    before = set(_wards_of(engine))
    async with client_of(app, who, under=API) as client:
        for method, path, body in requests:
            answer = await client.request(method, path, json=body, headers={"If-Match": '"1"'})
            if "import" in path:
                assert ("is unknown" in answer.text) is not makes, answer.text
            else:
                assert answer.is_success if makes else answer.status_code == 404, answer.text
                assert makes or "is unknown" in answer.text
    assert (set(_wards_of(engine)) == before) is not makes


def _wards_of(engine: Engine) -> list[str]:
    found = places.list_wards(engine, "sz.h001", reach=everywhere("sz"), limit=50)
    return [row["id"] for row in found.rows]


async def test_a_patients_facts_are_corrected_though_their_ward_is_gone(
    app: FastAPI, engine: Engine, wards: list[Ward]
) -> None:
    key = wards[0].patient_key
    patients.discharge_patient(engine, ADA, key, NOW_US + 1, version=None)
    devices.retire_device(engine, replace(ADA, now_us=NOW_US + 2), wards[0].handle, version=None)
    places.remove_bed(engine, ADA, "sz.h001", "bed-1", version=None)
    places.remove_ward(engine, ADA, "sz.h001", "icu", version=None)
    async with client_of(app, "integration@sz.h001", under=API) as client:
        answer = await client.patch(f"patients/{key}", json={"age_years": 40}, headers={"If-Match": '"2"'})
    assert answer.status_code == 200, answer.text
    assert "icu" not in _wards_of(engine)
