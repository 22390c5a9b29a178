"""Passwords that people change, and users that an administrator makes. Clauses 7.2a, 9.3b."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from api import sign_in as sign_in_module
from api.attempts import BURST
from runtime.clock import ManualClock
from runtime.password_hashes import PasswordHashes
from runtime.security_profile import PasswordScheme
from runtime.soft_keys import SoftKeys
from runtime.sql import access, users
from runtime.sql.engine import writing
from runtime.sql.users import FIRST_USER
from tests.sql_fixtures import ADA
from tests.unit.api.conftest import API
from tests.unit.api.house import NEW_PASSWORD, PASSWORD, House, ask, get, open_house, sign_in


@pytest.fixture
async def house(engine: Engine, clock: ManualClock, tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(engine, clock, tmp_path) as opened:
        yield opened


@pytest.mark.clause("7.2a")
async def test_a_password_given_by_somebody_else_opens_nothing_but_its_change(house: House) -> None:
    users.set_password(house.engine, ADA, "li.na", house.hashes.make(PASSWORD), must_change=True)
    first = house.folder / "first-password"
    first.write_text(PASSWORD)
    issued = await sign_in(house)
    assert issued["must_change"] is True
    token = issued["access_token"]
    for path in ("/api/v1/hospitals", "/docs", "/openapi.json", "/health", "/api/v1/me/passwords"):
        assert await get(house, token, path) == (403, "password-change-required"), path
    async with house.client(token) as client:
        assert (await client.get("/api/v1/me")).json()["must"] == "password-change"
        answer = await client.post("/api/v1/me/password", json={"present": PASSWORD, "new": NEW_PASSWORD})
    assert answer.status_code == 200, answer.text
    assert await get(house, token) == (401, "session-password-changed")
    assert await get(house, answer.json()["access_token"], "/api/v1/hospitals") == (200, "")
    assert first.exists()  # it was another user's
    assert await sign_in(house, password=NEW_PASSWORD)


async def test_the_first_password_is_forgotten_once_it_was_changed(house: House) -> None:
    stored = house.hashes.make(PASSWORD)
    users.create_user(house.engine, ADA, FIRST_USER, stored)
    first = house.folder / "first-password"
    first.write_text(PASSWORD)
    token = (await sign_in(house, FIRST_USER))["access_token"]
    async with house.client(token) as client:
        answer = await client.post("/api/v1/me/password", json={"present": PASSWORD, "new": NEW_PASSWORD})
    assert answer.status_code == 200
    assert not first.exists()


@pytest.mark.clause("7.2a")
async def test_a_new_password_has_to_be_good_and_new_and_the_present_one_known(house: House) -> None:
    token = (await sign_in(house))["access_token"]

    async def change(present: str, new: str) -> tuple[int, str]:
        async with house.client(token) as client:
            answer = await client.post("/api/v1/me/password", json={"present": present, "new": new})
        assert new not in answer.text
        return answer.status_code, answer.json().get("detail", "")

    for new, says in (
        ("short", "5 characters"),
        ("shenzhen2026", "guessed"),
        ("li.na.li.na.1", "guessed"),
        (PASSWORD, "last 5"),
    ):
        status, detail = await change(PASSWORD, new)
        assert (status, says in detail) == (422, True), detail
    assert (await change("wrong", NEW_PASSWORD))[0] == 403
    for _ in range(4):
        await change("wrong", NEW_PASSWORD)
    status, detail = await change(PASSWORD, NEW_PASSWORD)
    assert (status, "too often" in detail) == (403, True)


@pytest.mark.clause("9.1b")
async def test_who_chooses_a_password_holds_up_nobody_who_signs_in(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, release = threading.Event(), threading.Event()

    def estimate(*_: object, **__: object) -> None:
        begun.set()
        release.wait(30)

    monkeypatch.setattr(sign_in_module, "check_password", estimate)
    token = (await sign_in(house))["access_token"]
    async with house.client(token) as client:
        changing = asyncio.create_task(client.post("/api/v1/me/password", json={"present": PASSWORD, "new": NEW_PASSWORD}))
        assert await asyncio.to_thread(begun.wait, 20)
        try:
            assert await asyncio.wait_for(sign_in(house, "wang.wei"), 10)
        finally:
            release.set()
        assert (await changing).status_code == 200


@pytest.mark.clause("9.1b")
async def test_new_passwords_that_are_refused_are_slowed_as_guesses_are(house: House) -> None:
    async with house.client((await sign_in(house))["access_token"]) as client:
        for last in (422, 429):
            for _ in range(BURST if last == 422 else 1):
                answer = await client.post("/api/v1/me/password", json={"present": PASSWORD, "new": "short"})
                assert answer.status_code == last


async def test_a_first_password_file_that_cannot_be_removed_keeps_no_password_from_being_changed(house: House) -> None:
    users.create_user(house.engine, ADA, FIRST_USER, house.hashes.make(PASSWORD))
    (house.folder / "first-password").mkdir()  # a folder is not unlinked
    token = (await sign_in(house, FIRST_USER))["access_token"]
    async with house.client(token) as client:
        answer = await client.post("/api/v1/me/password", json={"present": PASSWORD, "new": NEW_PASSWORD})
    assert answer.status_code == 200
    assert await get(house, token) == (401, "session-password-changed")


async def test_a_token_has_no_password_to_change(house: House) -> None:
    token = access.create_token(house.engine, ADA, FIRST_USER)
    with writing(house.engine) as connection:  # as a first start does on an installation that has such a token
        users._create(connection, ADA, FIRST_USER, house.hashes.make(PASSWORD))
    async with house.client(token) as client:
        answer = await client.post("/api/v1/me/password", json={"present": PASSWORD, "new": NEW_PASSWORD})
        me = (await client.get("/api/v1/me")).json()
    assert answer.status_code == 403
    assert (me["kind"], me["name"], me["session"]) == ("service", FIRST_USER, None)


@pytest.mark.clause("9.3b")
async def test_an_administrator_makes_resets_disables_and_unlocks_users(house: House) -> None:
    async with house.client((await sign_in(house))["access_token"], under=API) as client:
        made = (await client.post("users", json={"name": "Zhang.Min"})).json()
        assert made["name"] == "zhang.min"
        session = await sign_in(house, "zhang.min", made["first_password"])
        assert session["must_change"] is True
        assert (await client.post("users", json={"name": "zhang.min"})).status_code == 409
        assert (await client.post("users", json={"name": "no name"})).status_code == 422
        reset = (await client.post("users/zhang.min/reset")).json()
        assert await get(house, session["access_token"]) == (401, "session-password-changed")
        session = await sign_in(house, "zhang.min", reset["first_password"])
        assert (await client.post("users/zhang.min/disable")).json()["status"] == "disabled"
        assert await get(house, session["access_token"]) == (401, "session-disabled")
        assert (await client.post("users/zhang.min/enable")).json()["status"] == "active"
        for _ in range(5):
            await ask(house, grant_type="password", username="zhang.min", password="wrong")
        await house.settled()
        assert (await client.get("users/zhang.min")).json()["locked_until"]
        assert (await client.post("users/zhang.min/unlock")).json()["locked_until"] is None
        assert await sign_in(house, "zhang.min", reset["first_password"])
        assert (await client.post("users/li.na/disable")).status_code == 409
        assert (await client.post("users/li.na/reset")).status_code == 403  # of their own
        for verb in ("reset", "disable", "enable", "unlock"):
            assert (await client.post(f"users/nobody/{verb}")).status_code == 404
        listed = (await client.get("users?limit=2")).json()
        assert [row["name"] for row in listed["items"]] == ["li.na", "wang.wei"]
        assert [row["name"] for row in (await client.get(listed["next"].removeprefix("/api/v1/"))).json()["items"]] == [
            "zhang.min"
        ]
        assert "password" not in str((await client.get("users/li.na")).json()).replace("password_changed", "")


async def test_a_stored_password_of_other_iterations_is_made_anew_at_sign_in(house: House) -> None:
    def stored() -> str:
        row = users.find_for_sign_in(house.engine, "li.na")
        assert row is not None
        return str(row["password"])

    slower = PasswordHashes(SoftKeys(house.folder / "keys"), iterations=1_001)
    users.set_password(house.engine, ADA, "li.na", slower.make(PASSWORD), must_change=False)
    assert "i=1001" in stored()
    await sign_in(house)
    assert "i=1000" in stored()
    await sign_in(house)


@pytest.mark.clause("7.2a")
async def test_a_stored_password_of_another_scheme_is_made_anew_at_sign_in(house: House) -> None:
    by_argon2 = PasswordHashes(SoftKeys(house.folder / "keys"), iterations=1_000, scheme=PasswordScheme.ARGON2ID)
    users.set_password(house.engine, ADA, "li.na", by_argon2.make(PASSWORD), must_change=False)
    await sign_in(house)
    row = users.find_for_sign_in(house.engine, "li.na")
    assert row is not None
    assert row["password"].startswith("$pbkdf2-sm3$")
    assert await sign_in(house)


@pytest.mark.clause("7.2a")
async def test_a_first_password_that_was_not_used_in_time_opens_nothing_and_says_so(house: House) -> None:
    users.set_password(house.engine, ADA, "wang.wei", house.hashes.make(PASSWORD), must_change=True)
    house.clock.advance(7 * 86_400)
    form = {"grant_type": "password", "username": "wang.wei"}
    assert "code" not in (await ask(house, **form, password="wrong")).json()
    assert (await ask(house, **form, password=PASSWORD)).json()["code"] == "first-password-expired"
    assert await sign_in(house)  # theirs was not given
    async with house.client((await sign_in(house))["access_token"]) as client:
        given = (await client.post("/api/v1/users/wang.wei/reset")).json()["first_password"]
    assert (await sign_in(house, "wang.wei", given))["must_change"] is True
