"""Signing in by the token endpoint: RFC 6749's answers, one session a user, guessing that ends. Clauses 5.4a, 7.2a, 7.2d."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine
from starlette.types import Message, Receive, Scope, Send

from api.attempts import BURST, REFILL_US, RIGHT_BURST, RIGHT_REFILL_US
from api.auth import Authentication
from domain.principals import Grant, Place, Role
from runtime.clock import ManualClock
from runtime.sql import access, grants, users
from runtime.sql.engine import writing
from tests.sql_fixtures import ADA
from tests.unit.api.house import PASSWORD, House, ask, get, open_house, sign_in


@pytest.fixture
async def house(engine: Engine, clock: ManualClock, tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(engine, clock, tmp_path) as opened:
        yield opened


@pytest.mark.clause("5.4a")
async def test_a_user_signs_in_and_is_known_with_what_they_were_given(house: House) -> None:
    answer = await ask(house, grant_type="password", username=" Li.Na ", password=PASSWORD)
    issued = answer.json()
    assert answer.headers["cache-control"] == "no-store"
    assert (issued["token_type"], issued["expires_in"], issued["must_change"]) == ("Bearer", 43_200, False)
    async with house.client(issued["access_token"]) as client:
        me = (await client.get("/api/v1/me")).json()
    grant = {"role": "administrator", "place": "sz", "relation": "any", "until_us": None}
    assert (me["kind"], me["name"], me["grants"]) == ("user", "li.na", [grant])
    assert await get(house, issued["access_token"], "/api/v1/hospitals") == (200, "")


@pytest.mark.clause("5.4a")
async def test_who_was_given_nothing_signs_in_and_may_do_nothing(house: House) -> None:
    token = (await sign_in(house, "wang.wei"))["access_token"]
    assert await get(house, token) == (200, "")
    assert await get(house, token, "/api/v1/hospitals") == (403, "forbidden")


@pytest.mark.clause("7.2d")
async def test_the_second_sign_in_ends_the_first_at_once_and_tells_it_why(house: House) -> None:
    first = (await sign_in(house))["access_token"]
    assert await get(house, first) == (200, "")  # which is remembered from here on
    second = (await sign_in(house))["access_token"]
    assert await get(house, first) == (401, "session-superseded")
    assert await get(house, second) == (200, "")


@pytest.mark.clause("7.2d")
async def test_who_does_nothing_has_to_sign_in_again_and_polling_is_nothing(house: House) -> None:
    token = (await sign_in(house))["access_token"]
    for _ in range(20):
        house.clock.advance(60)
        assert (await get(house, token))[0] == 200
    for path, headers in (("/health", {}), ("/api/v1/me", {"X-Passive": "1"}), ("/ready", {}), ("/api/v1/health", {})) * 5:
        house.clock.advance(44)
        async with house.client(token) as client:
            assert (await client.get(path, headers=headers)).status_code != 401
    house.clock.advance(20)
    assert await get(house, token) == (401, "session-idle")


@pytest.mark.clause("7.2d")
async def test_no_session_lasts_longer_than_it_may(house: House) -> None:
    token = (await sign_in(house))["access_token"]
    for _ in range(71):
        house.clock.advance(600)
        assert (await get(house, token))[0] == 200
    house.clock.advance(600)
    assert await get(house, token) == (401, "session-expired")


async def test_a_refresh_gives_new_tokens_and_a_second_use_of_one_ends_the_session(house: House) -> None:
    first = await sign_in(house)
    second = (await ask(house, grant_type="refresh_token", refresh_token=first["refresh_token"])).json()
    assert await get(house, first["access_token"]) == (401, "session-refreshed")
    assert await get(house, second["access_token"]) == (200, "")
    again = await ask(house, grant_type="refresh_token", refresh_token=first["refresh_token"])
    assert (again.status_code, again.json()["error"], again.json()["code"]) == (400, "invalid_grant", "session-refresh-reused")
    assert await get(house, second["access_token"]) == (401, "session-refresh-reused")


async def test_signing_out_is_answered_alike_whatever_the_token_was(house: House) -> None:
    token = (await sign_in(house))["access_token"]
    for given in (token, token, "vgs_nobodys", "x"):
        assert (await ask(house, "/oauth/revoke", token=given)).status_code == 200
    assert await get(house, token) == (401, "session-signed-out")


@pytest.mark.clause("7.2a")
async def test_strangers_learn_nothing_from_answer_or_work(house: House) -> None:
    users.disable_user(house.engine, ADA, "wang.wei")
    for _ in range(5):
        await ask(house, grant_type="password", username="li.na", password="wrong")
    await house.settled()
    house.checks.clear()
    told = set()
    for name, password in (
        ("nobody", "wrong"), ("li.na", "wrong"), ("li.na", PASSWORD), ("wang.wei", PASSWORD), ("wang.wei", "wrong"),
        ("no such name", "wrong"), ("li.na", "x" * 10_000), ("nobody", "x" * 200),
    ):  # fmt: skip
        answer = await ask(house, grant_type="password", username=name, password=password)
        told.add((answer.status_code, answer.text))
    assert len(told) == 1
    assert next(iter(told))[0] == 400
    # one derivation each (see test_password_hashes), of their own scheme where there is somebody
    assert house.checks == [False, True, True, True, True, False, True, False]


@pytest.mark.clause("7.2a")
async def test_how_long_a_refusal_takes_does_not_tell_whether_the_user_is_there(house: House) -> None:
    """What is written of a failure is not waited for."""
    with writing(house.engine):  # nobody else can write meanwhile
        answers = [
            await asyncio.wait_for(ask(house, grant_type="password", username=name, password="wrong"), 10)
            for name in ("nobody", "li.na")
        ]
    assert answers[0].text == answers[1].text


@pytest.mark.clause("7.2a")
async def test_guesses_that_were_answered_are_counted_before_anybody_is_let_in(house: House) -> None:
    with writing(house.engine):  # so that none can be counted yet
        for number in range(5):
            await ask(house, grant_type="password", username="li.na", password=f"wrong {number}")
        right = asyncio.create_task(ask(house, grant_type="password", username="li.na", password=PASSWORD))
        await asyncio.wait({right}, timeout=0.2)
        assert not right.done()
    assert (await right).status_code == 400
    assert users.get_user(house.engine, "li.na", now_us=house.clock.now_us())["locked_until_us"] is not None


@pytest.mark.clause("7.2a")
async def test_the_sixth_try_is_refused_with_the_right_password_too_until_time_has_passed(house: House) -> None:
    for _ in range(5):
        await ask(house, grant_type="password", username="li.na", password="wrong")
    assert (await ask(house, grant_type="password", username="li.na", password=PASSWORD)).status_code == 400
    assert await sign_in(house, "wang.wei")
    house.clock.advance(15 * 60)
    assert await sign_in(house)


@pytest.mark.clause("7.2a")
async def test_an_address_that_fails_is_slowed_before_it_costs_work_and_who_is_right_is_not(house: House) -> None:
    for _ in range(BURST + 2):
        assert await sign_in(house)
        house.clock.advance(RIGHT_REFILL_US / 1e6)
    for number in range(BURST):
        answer = await ask(house, grant_type="password", username=f"nobody{number}", password="wrong")
        assert answer.status_code == 400
    house.checks.clear()
    answer = await ask(house, grant_type="password", username="li.na", password=PASSWORD)
    assert (answer.status_code, answer.json()["error"]) == (429, "temporarily_unavailable")
    assert int(answer.headers["retry-after"]) > 0
    assert house.checks == []
    house.clock.advance(REFILL_US / 1e6)
    assert await sign_in(house)


@pytest.mark.clause("7.2a")
@pytest.mark.parametrize(("path", "form"), [
    ("/oauth/token", {"grant_type": "refresh_token", "refresh_token": "vgr_x"}), ("/oauth/revoke", {"token": "vgs_x"}),
])  # fmt: skip
async def test_rubbish_for_tokens_is_slowed_and_tokens_that_are_good_cost_nothing(
    house: House, path: str, form: dict[str, str]
) -> None:
    for _ in range(BURST + 2):
        issued = await sign_in(house)
        house.clock.advance(RIGHT_REFILL_US / 1e6)
        issued = (await ask(house, grant_type="refresh_token", refresh_token=issued["refresh_token"])).json()
        assert (await ask(house, "/oauth/revoke", token=issued["access_token"])).status_code == 200
    told = [(await ask(house, path, **form)).status_code for _ in range(BURST + 1)]
    assert (429 in told[:BURST], told[BURST]) == (False, 429)


@pytest.mark.clause("9.1b")
async def test_a_flood_of_sign_ins_is_refused_and_everybody_else_is_answered(house: House) -> None:
    token = (await sign_in(house))["access_token"]
    release = threading.Event()
    check = house.hashes.check
    house.hashes.check = lambda password, stored: release.wait(30) and check(password, stored)  # type: ignore[method-assign]
    flood = [asyncio.ensure_future(ask(house, grant_type="password", username=f"n{n}", password="wrong")) for n in range(20)]
    ending = asyncio.as_completed(flood)
    refused = [(await asyncio.wait_for(next(ending), 20)).status_code for _ in range(18)]
    assert refused == [503] * 18
    assert await get(house, token, "/api/v1/hospitals") == (200, "")
    release.set()
    assert [(await each).status_code for each in ending] == [400] * 2


@pytest.mark.clause("9.1b")
async def test_who_knows_a_password_cannot_have_it_checked_without_end(house: House) -> None:
    for _ in range(RIGHT_BURST):
        assert await sign_in(house)
    house.checks.clear()
    answer = await ask(house, grant_type="password", username=" LI.na", password=PASSWORD)
    assert (answer.status_code, house.checks) == (429, [])
    assert await sign_in(house, "wang.wei")


async def test_refreshes_that_come_together_from_one_address_are_all_answered(house: House) -> None:
    tokens = [(await sign_in(house, name))["refresh_token"] for name in ("li.na", "wang.wei")]
    again = [ask(house, grant_type="refresh_token", refresh_token=token) for token in tokens]
    rubbish = [ask(house, grant_type="refresh_token", refresh_token=f"vgr_{n}") for n in range(3 * BURST)]
    statuses = [answer.status_code for answer in await asyncio.gather(*rubbish, *again)]
    assert statuses[-2:] == [200, 200]
    assert (statuses.count(400), statuses.count(429)) == (BURST, 2 * BURST)  # guesses are all counted


WRONG_FORMS: list[tuple[dict[str, str], str]] = [
    ({}, "invalid_request"),
    ({"grant_type": "password", "username": "li.na"}, "invalid_request"),
    ({"grant_type": "password", "username": "", "password": "x"}, "invalid_request"),
    ({"grant_type": "authorization_code", "code": "x"}, "unsupported_grant_type"),
    ({"grant_type": "refresh_token", "refresh_token": "vgr_x"}, "invalid_grant"),
    ({"grant_type": "client_credentials"}, "invalid_request"),
    ({"grant_type": "client_credentials", "client_id": "planner", "client_secret": "x"}, "invalid_grant"),
]
FORM = "application/x-www-form-urlencoded"
NO_FORMS = [
    (b'{"grant_type": "password"}', "application/json"), (b"grant_type=password&grant_type=password", FORM),
    (b"grant_type=%ff%fe", FORM), (b"\xff\xfe", FORM), (b"&".join(b"a%d=1" % n for n in range(50)), FORM),
    (b"password=" + b"x" * 100_000, FORM), (b"", ""),
]  # fmt: skip


async def test_errors_are_in_the_words_of_the_rfc(house: House) -> None:
    for form, error in WRONG_FORMS:
        answer = await ask(house, **form)
        assert (answer.status_code, answer.json()["error"]) == (400, error), form
        assert answer.headers["cache-control"] == "no-store"
        assert answer.json()["error_description"]


async def test_what_is_no_form_is_refused_and_not_quoted(house: House) -> None:
    async with house.client() as client:
        for path in ("/oauth/token", "/oauth/revoke"):
            for content, media in NO_FORMS:
                headers = {"Content-Type": media, "Idempotency-Key": "again"}
                answer = await client.post(path, content=content, headers=headers)
                assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request"), content[:50]
                assert "xxxx" not in answer.text


@pytest.mark.clause("5.4a")
async def test_a_service_gets_an_hour_for_its_token(house: House) -> None:
    token = access.create_token(house.engine, ADA, "planner")
    by_form = await ask(house, grant_type="client_credentials", client_id="planner", client_secret=token)
    async with house.client() as client:
        basic = base64.b64encode(f"planner:{token}".encode()).decode()
        form = {"grant_type": "client_credentials"}
        by_basic = await client.post("/oauth/token", data=form, headers={"Authorization": f"Basic {basic}"})
        refused = await client.post("/oauth/token", data=form, auth=httpx.BasicAuth("planner", "wrong"))
    assert (refused.status_code, refused.json()["error"]) == (401, "invalid_client")
    assert "Basic" in refused.headers["www-authenticate"]
    for answer in (by_form.json(), by_basic.json()):
        assert (answer["expires_in"], answer.get("refresh_token")) == (3600, None)
        assert await get(house, answer["access_token"], "/api/v1/hospitals") == (200, "")
    house.clock.advance(3600)
    assert (await get(house, by_form.json()["access_token"], "/api/v1/hospitals"))[0] == 401


@pytest.mark.clause("5.4a")
async def test_a_users_password_is_no_token(house: House) -> None:
    house.checks.clear()
    async with house.client() as client:
        answer = await client.get("/api/v1/me", auth=httpx.BasicAuth("li.na", PASSWORD))
    assert answer.status_code == 401
    assert house.checks == []  # nothing is hashed for a request


@pytest.mark.clause("7.2d")
async def test_the_second_sign_in_ends_the_live_stream_of_the_first(house: House) -> None:
    serving, gone = await stream_of(house, (await sign_in(house))["access_token"])
    await sign_in(house)
    await asyncio.wait_for(serving, 10)
    assert gone == ["http.disconnect"]


@pytest.mark.clause("7.2b")
@pytest.mark.parametrize("change", ["given", "taken back"])
async def test_a_change_of_grants_ends_the_live_stream_that_was_judged_by_them(house: House, change: str) -> None:
    grant = Grant(Role.NURSE, Place("sz"))
    row = grants.give(house.engine, ADA, "wang.wei", grant) if change == "taken back" else None
    serving, gone = await stream_of(house, (await sign_in(house, "wang.wei"))["access_token"])
    async with house.client((await sign_in(house))["access_token"]) as client:
        path = "/api/v1/users/wang.wei/grants"
        if row is None:
            assert (await client.post(path, json={"role": "nurse", "place": "sz"})).status_code == 201
        else:
            assert (await client.delete(f"{path}/{row['id']}")).status_code == 204
    await asyncio.wait_for(serving, 10)
    assert gone == ["http.disconnect"]


async def stream_of(house: House, token: str) -> tuple[asyncio.Task[None], list[str]]:
    """An application that, like a live stream, goes on until its client is gone; and what it was told then."""
    gone: list[str] = []

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        gone.append((await receive())["type"])

    async def receive() -> Message:
        await asyncio.Event().wait()
        return {}

    async def send(message: Message) -> None:
        pass

    guarded = Authentication(stream, house.app.state.backend.services.callers, "vitalgrid")
    scope = {
        "type": "http", "method": "GET", "path": "/api/v1/live/alarms",
        "headers": [(b"authorization", f"Bearer {token}".encode())],
    }  # fmt: skip
    serving = asyncio.create_task(guarded(scope, receive, send))
    await asyncio.wait({serving}, timeout=0.2)
    assert not serving.done()
    return serving, gone
