"""The layer that notes accesses: before the answer goes, with whom it shows; and what goes when nothing can be noted."""

from __future__ import annotations

import base64
from types import SimpleNamespace

import httpx
import msgspec
import pytest
from fastapi import FastAPI, HTTPException, Request
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse

from api.access_audit import AccessAudit, begin
from api.auth import Authentication
from api.emergency import is_of_a_hospital
from api.plain_words import PARAMETERS, plain_path, plain_query
from api.request_log import RequestLog
from api.telemetry import Telemetry
from domain.errors import AuditUnavailable
from domain.permissions import Action, Decision, Level, Located
from domain.principals import Caller, Grant, Kind, Place, Principal, Role
from runtime.clock import ManualClock
from tests.callers import TOKEN, KnownCallers

WARD = Place.parse("sz.h001/icu")
NURSE = Caller(Principal(Kind.USER, "u-1", "li"), (Grant(Role.NURSE, WARD),), session_id="s-1")
KEY = "a" * 32
REQUEST = "4bf92f3577b34da6a3ce929d0e0e4736"


class Trail:
    """Notes in memory; `is_full` while it cannot."""

    def __init__(self):
        self.noted = []
        self.is_full = False
        self.closed = None

    async def note(self, *accesses, is_emergency=False):
        if self.is_full and not is_emergency:
            raise AuditUnavailable("who sees what cannot be noted: no room")
        self.noted += [msgspec.json.decode(access.event) for access in accesses]

    def why_closed(self):
        return self.closed


@pytest.fixture
def trail():
    return Trail()


@pytest.fixture
def answered():
    return []


@pytest.fixture
async def client(trail, answered):
    def asked(request, action):
        return begin(request.scope, action, None, trail.closed)

    async def patient(request: Request):
        record = Located(WARD, Level.IDENTIFYING, request.path_params["key"])
        asked(request, Action.PATIENT_READ).judged(Action.PATIENT_READ, record, Decision(True, ("a policy",)), is_one=True)
        answered.append(len(trail.noted))
        if request.path_params["key"] != KEY:
            raise HTTPException(404)
        return PlainTextResponse("Wang Xiaoming")

    async def alarms(request: Request):
        shown = int(request.query_params.get("limit", 0))
        asked(request, Action.ALARM_READ).patients.update(f"{number:032x}" for number in range(shown))
        return PlainTextResponse("alarms")

    async def change(request: Request):
        asked(request, Action.PATIENT_MANAGE)
        return PlainTextResponse("done", int(request.query_params["status"]))

    async def recording(request: Request):
        asked(request, Action.READING_READ)
        return PlainTextResponse("left out: none", 201)

    async def health(request: Request):
        asked(request, Action.OPERATION_READ)
        return PlainTextResponse("alive", int(request.query_params.get("status", 200)))

    layers = [
        Middleware(RequestLog, telemetry=Telemetry()),
        Middleware(Authentication, callers=KnownCallers({TOKEN: NURSE}), cookie="vitalgrid"),
        Middleware(AccessAudit),
    ]
    app = FastAPI(middleware=layers)
    for path, handler in (("/patients/{key}", patient), ("/alarms", alarms), ("/health", health)):
        app.add_api_route(path, handler)
    app.add_api_route("/recordings", recording, methods=["POST"])
    app.add_api_route("/patients", change, methods=["POST", "DELETE", "PATCH"])
    app.state.backend = SimpleNamespace(trail=trail, services=SimpleNamespace(clock=ManualClock(), region_id="sz"))
    headers = {"Authorization": f"Bearer {TOKEN}", "X-Request-Id": REQUEST}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test", headers=headers) as client:
        yield client


@pytest.mark.clause("9.3e")
async def test_who_saw_whom_is_noted_with_the_request(client, trail):
    assert (await client.get(f"/patients/{KEY}")).text == "Wang Xiaoming"
    (event,) = trail.noted
    assert [entity["what"] for entity in event["entity"] if "what" in entity] == [
        {"reference": f"Patient/{KEY}"}, {"identifier": {"value": f"/patients/{KEY}"}},
        {"identifier": {"value": REQUEST}},
    ]  # fmt: skip
    assert event["agent"][2]["who"]["display"] == "li"
    assert event["agent"][2]["policy"] == ["urn:vitalgrid:policy:a%20policy"]


@pytest.mark.clause("9.3e")
async def test_nothing_is_shown_of_whom_nothing_can_be_noted(client, trail):
    trail.is_full = True
    answer = await client.get(f"/patients/{KEY}")
    assert (answer.status_code, answer.json()["code"]) == (503, "audit-unavailable")
    assert "Wang" not in answer.text


@pytest.mark.clause("9.3e")
async def test_alarms_go_on_in_an_emergency_and_the_answer_says_so(client, trail):
    trail.is_full, trail.closed = True, "the access log does not grow"
    answer = await client.get("/alarms?open=true")
    assert (answer.status_code, answer.headers["x-audit"]) == (200, "spooled")
    assert len(trail.noted) == 1


async def test_what_was_done_is_not_said_to_have_failed(client, trail):
    """Its write is in the write log, by its own transaction."""
    trail.is_full = True
    assert (await client.post("/patients?status=201")).status_code == 201
    assert (await client.post("/patients?status=409")).status_code == 503


@pytest.mark.clause("9.3e")
async def test_what_is_read_by_an_order_is_noted_as_read_and_refused_when_it_cannot_be(client, trail):
    assert (await client.post("/recordings")).status_code == 201
    assert [event["action"] for event in trail.noted] == ["R"]
    trail.is_full = True
    assert (await client.post("/recordings")).json()["code"] == "audit-unavailable"


@pytest.mark.clause("9.3e")
@pytest.mark.parametrize(
    ("method", "status", "action"), [("POST", 201, "C"), ("POST", 200, "U"), ("PATCH", 200, "U"), ("DELETE", 204, "D")]
)
async def test_changes_are_noted_as_what_they_are(client, trail, method, status, action):
    await client.request(method, f"/patients?status={status}")
    assert [event["action"] for event in trail.noted] == [action]


async def test_what_tells_nothing_of_anybody_is_noted_only_when_it_is_refused(client, trail):
    await client.get("/health")
    assert trail.noted == []
    await client.get("/health?status=403")
    assert [event["outcome"] for event in trail.noted] == ["4"]


async def test_a_question_is_kept_without_what_may_be_a_name(client, trail):
    await client.get("/alarms", params={"q": "王小明", "hospital": "sz.h001", "patient": "wang"})
    (query,) = [entity["query"] for entity in trail.noted[0]["entity"] if "query" in entity]
    assert base64.b64decode(query).decode() == "/alarms?q=&hospital=sz.h001&patient="


@pytest.mark.clause("9.3e")
@pytest.mark.parametrize("name", ["王小芳", "Wang%20Xiaofang", "WangXiaofang", "zhang.san"])
async def test_a_name_that_stands_for_a_key_is_not_kept(client, trail, name):
    assert (await client.get(f"/patients/{name}")).status_code == 404
    assert trail.noted[0]["entity"][1]["what"]["identifier"]["value"] == "/patients/…"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (b"q=%e7%8e%8b", "q="),
        (b"name=Wang", ""),  # no parameter of ours
        (b"patient=Wang", "patient="),
        (b"ward=Wang%20Xiaoming", "ward="),
        (b"\xff=1", ""),
        (b"ward=wang&device=sz.h001/wang&rule=wang&metric=wang&hospital=wang.li", "ward=&device=&rule=&metric=&hospital="),
        (b"hospital=sz.h001&handle=7&metric=spo2&open=true", "hospital=sz.h001&handle=7&metric=spo2&open=true"),
        (b"from=2026-01-02T03:04:05%2B08:00&tz=Wang&limit=5", "from=2026-01-02T03:04:05%2B08:00&tz=&limit=5"),
    ],
)  # fmt: skip
def test_no_name_stays_in_a_query(query, expected):
    assert plain_query(query, "sz", is_found=False) == expected


def test_what_was_found_is_an_id():
    assert plain_query(b"ward=icu&device=sz.h001/mon-1&q=wang", "sz", is_found=True) == "ward=icu&device=sz.h001/mon-1&q="
    template, values = "/devices/{hospital_id}/{device_id}", {"hospital_id": "sz.h001", "device_id": "mon-1"}
    assert plain_path(template, values, "sz", is_found=True) == "/devices/sz.h001/mon-1"
    assert plain_path(template, values, "sz", is_found=False) == "/devices/sz.h001/…"
    assert plain_path(None, values, "sz", is_found=True) == "…"


@pytest.mark.parametrize(
    ("grants", "is_so"), [(["sz.h001/icu"], True), (["sz", "sz.h001"], True), (["sz"], False), ([], False)]
)
def test_an_emergency_is_of_those_who_belong_to_a_hospital(grants, is_so):
    caller = Caller(NURSE.principal, tuple(Grant(Role.NURSE, Place.parse(grant)) for grant in grants))
    assert is_of_a_hospital(caller) is is_so


async def test_an_emergency_is_of_what_is_so_now(client, trail):
    """The history waits until accesses can be noted again."""
    trail.closed = "the access log does not grow"
    with pytest.raises(AuditUnavailable, match="does not grow"):
        await client.get("/patients/x")
    assert (await client.get("/alarms?state=active&state=latched")).status_code == 200
    for history in (
        "",
        "?open=false",
        "?state=closed",
        "?state=closed&open=true",
        "?state=active&state=closed",
        "?open=true&open=0",
    ):
        with pytest.raises(AuditUnavailable, match="does not grow"):
            await client.get(f"/alarms{history}")


@pytest.mark.clause("9.3e")
async def test_an_export_of_a_whole_region_is_noted_in_events_that_the_bus_can_bear(client, trail):
    await client.get("/alarms?limit=40000")
    named = [[e["what"]["reference"] for e in event["entity"] if "reference" in e.get("what", {})] for event in trail.noted]
    assert len({patient for part in named for patient in part}) == 40_000
    assert max(len(msgspec.json.encode(event)) for event in trail.noted) < 2**18
    assert len({event["id"] for event in trail.noted}) == len(trail.noted) == 80
    assert all(REQUEST in str(event["entity"]) for event in trail.noted)


def test_a_parameter_that_no_route_has_is_left_out_with_its_name() -> None:
    assert plain_query(b"zhangsan=1&limit=5&wang", "sz", is_found=True) == "limit=5"


def test_every_parameter_of_a_query_is_known(plain_app: FastAPI) -> None:
    operations = [operation for methods in plain_app.openapi()["paths"].values() for operation in methods.values()]
    parameters = [parameter for operation in operations for parameter in operation.get("parameters", ())]
    assert {parameter["name"] for parameter in parameters if parameter["in"] == "query"} == PARAMETERS
