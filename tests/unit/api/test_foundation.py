"""What holds for every path: no answer without a token, errors as problems, request ids, offline documentation."""

from __future__ import annotations

import asyncio
import re
import threading
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import Message

from api import documentation
from api.auth import OPEN_PATHS
from domain.permissions import Purpose
from tests.callers import TOKEN, TOKEN_OF_NOBODY
from tests.unit.api.conftest import client_of
from tests.waiting import until

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PATHS = (
    "/", "/docs", "/redoc", "/openapi.json", "/docs-assets/swagger-ui.css", "/metrics", "/health", "/ready",
    "/api/v1/metrics-table", "/api/v1/nowhere",
)  # fmt: skip


@pytest.mark.clause("5.4a")
@pytest.mark.parametrize("path", PATHS)
async def test_no_path_answers_without_a_token(plain_app: FastAPI, path: str) -> None:
    async with client_of(plain_app, token=None) as client:
        response = await client.get(path)
    assert response.status_code == 401
    assert response.headers["content-type"] == "application/problem+json"
    assert "Bearer" in response.headers["www-authenticate"]
    assert "Basic" in response.headers["www-authenticate"]
    assert response.json()["code"] == "unauthenticated"


@pytest.mark.clause("5.4a")
def test_strangers_are_let_through_where_they_sign_in_and_nowhere_else() -> None:
    assert {"/oauth/token", "/oauth/revoke", "/login", "/logout"} == OPEN_PATHS


@pytest.mark.clause("5.4a")
@pytest.mark.parametrize("header", ["Bearer wrong", "Bearer", "Basic !!!", "Basic YTpi", "Digest x", TOKEN])
async def test_a_wrong_credential_is_refused(plain_app: FastAPI, header: str) -> None:
    async with client_of(plain_app, token=None) as client:
        response = await client.get("/api/v1/metrics-table", headers={"Authorization": header})
    assert response.status_code == 401


@pytest.mark.clause("5.4a")
@pytest.mark.parametrize(("method", "path"), [("GET", "hospitals"), ("POST", "hospitals"), ("POST", "patients")])
async def test_a_caller_without_a_role_may_do_nothing(plain_app: FastAPI, method: str, path: str) -> None:
    async with client_of(plain_app, TOKEN_OF_NOBODY) as client:
        response = await client.request(method, f"/api/v1/{path}", json={})
    assert (response.status_code, response.json()["code"]) == (403, "forbidden")
    assert "eve may not" in response.json()["detail"]


@pytest.mark.clause("5.4a")
async def test_what_is_no_request_of_http_is_closed(plain_app: FastAPI) -> None:
    sent = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    await plain_app({"type": "websocket", "path": "/api/v1/live", "headers": []}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]


@pytest.mark.parametrize("path", ["/api/v1/metrics-table", "/docs"])
async def test_the_token_works_as_a_basic_password(plain_app: FastAPI, path: str) -> None:
    async with client_of(plain_app, token=None) as client:
        response = await client.get(path, auth=httpx.BasicAuth("anyone", TOKEN))
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/api/v1/nowhere", 404, "not-found"),
        ("DELETE", "/api/v1/metrics-table", 405, "method-not-allowed"),
        ("GET", "/api/v1/thing-models/toaster", 404, "not-found"),
        ("GET", "/api/v1/metrics-table?group=magic", 422, "validation"),
    ],
)
async def test_errors_are_problems(plain_client: httpx.AsyncClient, method: str, path: str, status: int, code: str) -> None:
    response = await plain_client.request(method, path)
    problem = response.json()
    assert response.status_code == problem["status"] == status
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["code"] == code
    assert problem["detail"]
    assert problem["request_id"] == response.headers["x-request-id"]


async def test_a_method_that_is_not_offered_is_answered_with_all_that_are(plain_client: httpx.AsyncClient) -> None:
    described = (await plain_client.get("/openapi.json")).json()["paths"]
    for path in ("/api/v1/devices", "/api/v1/devices/{hospital_id}/{device_id}"):
        answer = await plain_client.request("OPTIONS", path.format(hospital_id="sz.h001", device_id="mon-1"))
        assert answer.status_code == 405
        assert answer.headers["allow"].split(", ") == sorted(method.upper() for method in described[path])


async def test_no_query_and_no_header_is_described_as_null_and_purposes_are_listed(plain_client: httpx.AsyncClient) -> None:
    document = (await plain_client.get("/openapi.json")).json()
    operations = [one for path in document["paths"].values() for one in path.values()]
    given = [one for operation in operations for one in operation.get("parameters", ()) if one["in"] in ("query", "header")]
    assert [one["name"] for one in given if {"type": "null"} in one["schema"].get("anyOf", ())] == []
    purposes = {tuple(one["schema"]["enum"]) for one in given if one["name"] == "x-purpose"}
    assert purposes == {tuple(Purpose)}


async def test_a_defect_is_a_problem_that_tells_no_secrets(plain_app: FastAPI) -> None:
    async def broken() -> None:
        raise RuntimeError("secret detail")

    plain_app.add_api_route("/broken", broken)
    async with client_of(plain_app) as client:
        response = await client.get("/broken", headers={"X-Request-Id": TRACE})
    assert response.status_code == 500
    assert response.json()["code"] == "internal-error"
    assert response.headers["x-request-id"] == TRACE
    assert "secret detail" not in response.text


async def test_no_browser_or_proxy_keeps_an_answer_but_those_that_say_so(plain_client: httpx.AsyncClient) -> None:
    for path in ("/api/v1/thing-models/monitor", "/api/v1/nothing", "/health"):
        assert (await plain_client.get(path)).headers["cache-control"] == "no-store"
    assert "cache-control" not in (await plain_client.get("/docs-assets/favicon.png")).headers


@pytest.mark.clause("9.3h")
@pytest.mark.parametrize("given", [
    "440305199001011234", "Ouyang.Kanali", "13800138000", "44030519900101123444030519900101", "trace-0001", "ad" * 15,
    "44030519-9001-0112-3444-030519900101", "ad" * 17, "wang" * 8,
])  # fmt: skip
async def test_a_request_is_never_named_by_what_may_be_somebodys(plain_client: httpx.AsyncClient, given: str) -> None:
    response = await plain_client.get("/api/v1/nowhere", headers={"X-Request-Id": given})
    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["x-request-id"])
    assert response.headers["x-request-id"] != given


@pytest.mark.parametrize("given", [TRACE, "0F47AC10-58cc-4372-a567-0e02b2c3d479"])
async def test_a_callers_own_id_is_taken_if_it_is_one(plain_client: httpx.AsyncClient, given: str) -> None:
    assert (await plain_client.get("/api/v1/nowhere", headers={"X-Request-Id": given})).headers["x-request-id"] == given


async def test_each_request_has_its_own_id(plain_client: httpx.AsyncClient) -> None:
    ids = {(await plain_client.get("/api/v1/thing-models/monitor")).headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
async def test_documentation_needs_no_network(plain_client: httpx.AsyncClient, page: str) -> None:
    response = await plain_client.get(page)
    assert response.status_code == 200
    assert not re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", response.text)
    for asset in re.findall(r'(?:src|href)="(/[^"]+)"', response.text):
        assert (await plain_client.get(asset)).status_code == 200, asset


async def test_openapi_names_problems_security_and_examples_on_every_body(plain_client: httpx.AsyncClient) -> None:
    document = (await plain_client.get("/openapi.json")).json()
    assert set(document["components"]["securitySchemes"]) == {"token", "password", "basic"}
    assert document["security"]
    without = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert "application/problem+json" in operation["responses"]["401"]["content"], path
            assert "HTTPValidationError" not in str(operation["responses"].get("422")), path
            for media, content in operation.get("requestBody", {}).get("content", {}).items():
                if not _has_example(content, document):
                    without.append(f"{method} {path} {media}")
    assert without == []


async def test_the_openapi_document_is_made_once_whoever_asks_for_it_meanwhile(
    plain_app: FastAPI, plain_client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    makes, may_go_on, made = documentation.get_openapi, threading.Event(), []

    def slowly(**parts: Any) -> dict[str, Any]:
        made.append(threading.current_thread())
        assert may_go_on.wait(30)
        return makes(**parts)

    monkeypatch.setattr(documentation, "get_openapi", slowly)
    at_the_start = asyncio.create_task(asyncio.to_thread(plain_app.openapi))  # as the API's process does
    await until(lambda: made, 30)
    asked = asyncio.create_task(plain_client.get("/openapi.json"))
    await asyncio.wait({asked}, timeout=0.1)
    may_go_on.set()
    assert (await asked).json() == await at_the_start
    assert len(made) == 1


def _has_example(content: dict, document: dict) -> bool:
    schema = content.get("schema", {})
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return any(key in holder for holder in (content, schema) for key in ("example", "examples"))


async def test_big_answers_are_compressed_on_request(plain_client: httpx.AsyncClient) -> None:
    response = await plain_client.get("/api/v1/metrics-table", headers={"Accept-Encoding": "gzip"})
    assert response.headers["content-encoding"] == "gzip"
    assert any(row["code"] == "heart_rate" for row in response.json())
