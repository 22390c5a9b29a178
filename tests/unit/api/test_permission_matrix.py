"""Every route, asked by every role at its own place and elsewhere: answered as the second opinion says, or it fails.

The application and its database are real. Handlers are let go up to their first write, or to what is not there (bus,
lake): by then it is decided. Clauses 5.1, 7.2b, 9.3b, 9.3c, 9.4.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI
from sqlalchemy import Engine

from api import services as services_module
from api.app import create_app
from api.auth import OPEN_PATHS
from api.live.feed import Feed
from api.paths import PREFIX
from domain.principals import Caller, Role
from runtime.clock import ManualClock
from runtime.sealing import Sealer
from tests.callers import KnownCallers, caller_as
from tests.oracle_permissions import is_allowed
from tests.sql_fixtures import NOW_US, copy_of
from tests.unit.api.conftest import client_of, services_of
from tests.unit.api.house import RULES
from tests.unit.api.route_permissions import OWN, ROUTES, Route
from tests.unit.api.two_hospitals import Reached, RejectsBus, Ward, fill, reached

OWN_WARD, OWN_HOSPITAL, REGION = "sz.h001/icu", "sz.h001", "sz"
one_loop = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True)
class Stage:
    app: FastAPI
    wards: list[Ward]  # own ward, a foreign one of the own hospital, one of a foreign hospital
    callers: dict[str, Caller]


@pytest.fixture(scope="module")
def database(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory, sealer: Sealer) -> Iterator[Engine]:
    with copy_of(sqlite_template, tmp_path_factory.mktemp("matrix"), sealer) as engine:
        yield engine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(database: Engine) -> AsyncIterator[Stage]:
    wards = fill(database)
    names = [f"{role}@{place}" for role in Role for place in (OWN_WARD, OWN_HOSPITAL, REGION)]
    callers = {name: caller_as(name, wards[0].patient_key if name.startswith("patient@") else None) for name in names}
    missing = dict.fromkeys(
        ("readings", "large_readings", "lake", "intake", "log", "passwords", "scenarios", "second_factors"), Reached()
    )
    app = create_app(
        services_of(
            engine=database,
            clock=ManualClock(NOW_US),
            bus=RejectsBus(),
            callers=KnownCallers(callers),
            sign_in_rules=RULES,
            **missing,
        ),
        background=False,
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(services_module.Backend, "author", reached)
        patched.setattr(Feed, "join", reached)
        async with app.router.lifespan_context(app):
            yield Stage(app, wards, callers)


def test_no_route_is_forgotten(stage: Stage) -> None:
    known = {f"{method.upper()} {path.removeprefix(PREFIX)}" for path, method, _ in _operations(stage.app)}
    assert known == set(ROUTES)


@pytest.mark.clause("7.2b")
def test_each_route_names_its_one_permission_in_the_openapi_document(stage: Stage) -> None:
    for path, method, operation in _operations(stage.app):
        (action,) = {route.action for route in ROUTES[f"{method.upper()} {path.removeprefix(PREFIX)}"]}
        assert operation.get("x-permission") == action.value, (method, path)
        assert {"401", "403"} <= set(operation["responses"]), (method, path)
        if any(route.is_hidden for route in ROUTES[f"{method.upper()} {path.removeprefix(PREFIX)}"]):
            assert "404" in operation["responses"], (method, path)


@one_loop
@pytest.mark.clause("5.4a")
async def test_without_a_token_no_route_answers(stage: Stage) -> None:
    async with client_of(stage.app, None) as client:
        for name in ROUTES:
            assert (await _ask(client, name, ROUTES[name][0], stage.wards[0])).status_code == 401, name


@one_loop
@pytest.mark.clause("5.1")
@pytest.mark.clause("7.2b")
@pytest.mark.clause("9.3b")
@pytest.mark.clause("9.3c")
@pytest.mark.clause("9.4")
@pytest.mark.parametrize("role", Role)
async def test_every_route_answers_each_role_as_the_second_opinion_says(stage: Stage, role: Role) -> None:
    wrong: list[str] = []
    for place, wards in ((OWN_WARD, stage.wards), (OWN_HOSPITAL, stage.wards[1:]), (REGION, stage.wards[:1])):
        caller = stage.callers[f"{role}@{place}"]
        async with client_of(stage.app, f"{role}@{place}") as client:
            for name, routes in ROUTES.items():
                for route in routes:
                    for ward in wards if route.is_placed else wards[:1]:
                        answer = await _ask(client, name, route, ward)
                        ought = _ought(caller, route, ward)
                        if _said(answer, route, ward) != ought:
                            said = f"{answer.status_code} {answer.text[:200]}"
                            wrong.append(f"{role}@{place} {name} in {ward.place} ought to be {ought}: {said}")
    assert not wrong, "\n".join(wrong)


def _ought(caller: Caller, route: Route, ward: Ward) -> str:
    actions = [route.action] if route.also is None else [route.action, route.also]
    if route.is_list:
        records = [
            replace(one, patient_key=caller.patient_key) if one.patient_key == OWN else one for one in route.records(ward)
        ]
        found = [is_allowed(caller, route.action, one, None, NOW_US) for one in records]
        return "allowed" if any(found) else "refused"
    allowed = all(is_allowed(caller, action, record, None, NOW_US) for action in actions for record in route.records(ward))
    return "allowed" if allowed else "refused"


def _said(answer: httpx.Response, route: Route, ward: Ward) -> str:
    if answer.status_code == 403 and " may not " in answer.text:
        return "refused"
    if answer.status_code == 404 and answer.json()["detail"] in _unknown(ward):
        return "refused" if route.is_hidden else "told to be unknown"
    return "allowed" if answer.status_code not in (401, 500) else "broken"


def _unknown(ward: Ward) -> set[str]:
    """What is said of what is there, to whom it is out of reach."""
    return {
        f"patient {ward.patient_key!r} is unknown", f"alarm {ward.alarm_id!r} is unknown",
        f"association {ward.association_id} is unknown", f"maintenance window {ward.window_id} is unknown",
        f"handle {ward.handle} is unknown", f"reject {ward.number} is unknown", f"message {ward.receipt} is unknown",
        f"hold {ward.hold_id} is unknown",
        f"grant {ward.grant_id} of user {ward.user!r} is unknown", f"session {ward.session_id!r} is unknown",
    }  # fmt: skip


async def _ask(client: httpx.AsyncClient, name: str, route: Route, ward: Ward) -> httpx.Response:
    method, _, template = name.partition(" ")
    query = None if route.query is None else route.query(ward)
    body = None if route.body is None else route.body(ward)
    if body is None and method in ("POST", "PUT", "PATCH"):
        body = {}
    return await client.request(method, PREFIX + ward.path(template), params=query, json=body)


def _operations(app: FastAPI) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in app.openapi()["paths"].items():
        if path not in OPEN_PATHS:
            for method, operation in methods.items():
                yield path, method, operation
