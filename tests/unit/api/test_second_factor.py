"""Second factors over REST: set up, shown at sign-in, taken away, and who has to have one. Clauses 5.4a, 7.2a, 9.3b, 9.3c."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pyotp
import pytest
from sqlalchemy import Engine

from api.attempts import BURST, RIGHT_REFILL_US
from domain.principals import Grant, Place, Role
from runtime.clock import ManualClock
from runtime.security_profile import SecondFactorRule
from runtime.sql import access, grants, patients, users
from runtime.sql.patients import NewPatient
from tests.sql_fixtures import ADA, HOSPITAL, add_hospital
from tests.unit.api.house import NEW_PASSWORD, PASSWORD, House, ask, get, open_house, sign_in

FACTOR = "/api/v1/me/second-factor"
REGION = Place("sz")


@pytest.fixture
async def house(engine: Engine, clock: ManualClock, tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(engine, clock, tmp_path) as opened:
        yield opened


@pytest.fixture
async def strict(engine: Engine, clock: ManualClock, tmp_path: Path) -> AsyncIterator[House]:
    """A house whose administrators have to have a second factor."""
    async with open_house(engine, clock, tmp_path, SecondFactorRule.ADMINISTRATORS) as opened:
        yield opened


def code_of(house: House, secret: str, steps: int = 0) -> str:
    return pyotp.TOTP(secret).generate_otp(house.clock.now_us() // 30_000_000 + steps)


async def post(house: House, token: str, path: str, **body: str) -> httpx.Response:
    async with house.client(token) as client:
        return await client.post(path, json=body)


async def set_up(house: House, token: str) -> tuple[str, list[str]]:
    """The secret, and the recovery codes."""
    proposed = await post(house, token, FACTOR, present=PASSWORD)
    assert proposed.status_code == 200, proposed.text
    secret = proposed.json()["secret"]
    confirmed = await post(house, token, f"{FACTOR}/confirm", code=code_of(house, secret))
    assert confirmed.status_code == 200, confirmed.text
    assert [answer.headers["cache-control"] for answer in (proposed, confirmed)] == ["no-store"] * 2
    return secret, confirmed.json()["recovery_codes"]


async def me(house: House, token: str) -> dict[str, Any]:
    async with house.client(token) as client:
        return dict((await client.get("/api/v1/me")).json())


@pytest.mark.clause("7.2b")
async def test_effective_rights_are_those_with_the_factors_that_the_user_has(house: House) -> None:
    def level_of(shown: dict[str, Any]) -> int:
        rights = [right for given in shown["grants"] for right in given["rights"]]
        return int(next(right["level"] for right in rights if right["action"] == "patient.read"))

    token = (await sign_in(house))["access_token"]
    both = ["password", "totp"]
    for factors, others, levels in ((both[:1], both, (4, 5)), (both, both[:1], (5, 4))):
        async with house.client(token) as client:
            shown = (await client.get("/api/v1/users/li.na/permissions")).json()
            assert (await client.get("/api/v1/me/permissions")).json() == shown
        assert (shown["factors"], shown["otherwise"]["factors"]) == (factors, others)
        assert (level_of(shown), level_of(shown["otherwise"])) == levels
        assert "self" not in {right["action"] for given in shown["otherwise"]["grants"] for right in given["rights"]}
        if factors != both:
            await set_up(house, token)


@pytest.mark.clause("9.3c")
async def test_a_privacy_officer_shows_nobody_by_a_password_alone(strict: House) -> None:
    grants.give(strict.engine, ADA, "wang.wei", Grant(Role.PRIVACY_OFFICER, REGION))
    token = (await sign_in(strict, "wang.wei"))["access_token"]
    unmask = {"X-Unmask": "1", "X-Reason": "a request"}
    assert await get(strict, token, "/api/v1/patients", **unmask) == (403, "second-factor-setup-required")
    await set_up(strict, token)
    assert await get(strict, token, "/api/v1/patients", **unmask) == (200, "")


@pytest.mark.clause("5.4a")
async def test_who_set_up_a_factor_signs_in_with_it_and_is_told_what_is_missing(house: House) -> None:
    token = (await sign_in(house))["access_token"]
    assert (await me(house, token))["second_factor"] == {"since": None, "recovery_codes_left": 0}
    secret, codes = await set_up(house, token)
    shown = await me(house, token)  # the session goes on, with the factor
    assert shown["second_factor"]["since"]
    assert shown["second_factor"]["recovery_codes_left"] == len(codes) == 10
    assert set(shown["signed_in"]["factors"]) == {"password", "totp"}
    async with house.client(token) as client:
        listed = (await client.get("/api/v1/users")).json()["items"]
    assert {row["name"]: row["second_factor"] for row in listed} == {"li.na": True, "wang.wei": False}
    form = {"grant_type": "password", "username": "li.na", "password": PASSWORD}
    for more, code in (
        ({}, "second-factor-required"), ({"totp": code_of(house, secret)}, "second-factor-wrong"),  # it was used to confirm
        ({"totp": "000000"}, "second-factor-wrong"), ({"totp": "nothing like it"}, "second-factor-wrong"),
    ):  # fmt: skip
        refused = await ask(house, **form, **more)
        assert (refused.status_code, refused.json()["error"], refused.json()["code"]) == (400, "invalid_grant", code), more
    assert await get(house, token) == (200, "")
    house.clock.advance(30)
    again = (await sign_in(house, totp=code_of(house, secret)))["access_token"]
    assert await get(house, token) == (401, "session-superseded")
    assert set((await me(house, again))["signed_in"]["factors"]) == {"password", "totp"}
    assert (await ask(house, **form, totp=code_of(house, secret))).json()["code"] == "second-factor-wrong"  # a replay
    await sign_in(house, totp=codes[3].lower())
    assert (await ask(house, **form, totp=codes[3])).json()["code"] == "second-factor-wrong"


@pytest.mark.clause("7.2a")
async def test_strangers_learn_of_no_second_factor(house: House) -> None:
    await set_up(house, (await sign_in(house))["access_token"])
    told = set()
    for name in ("li.na", "wang.wei", "nobody"):
        for more in ({}, {"totp": "123456"}):
            answer = await ask(house, grant_type="password", username=name, password="wrong", **more)
            told.add((answer.status_code, answer.text))
    assert len(told) == 1


@pytest.mark.clause("7.2a")
async def test_wrong_codes_lock_the_user_and_missing_ones_cost_nothing(house: House) -> None:
    secret, _ = await set_up(house, (await sign_in(house))["access_token"])
    form = {"grant_type": "password", "username": "li.na", "password": PASSWORD}
    for _ in range(BURST + 2):
        assert (await ask(house, **form)).json()["code"] == "second-factor-required"
        house.clock.advance(RIGHT_REFILL_US / 1e6)
    for _ in range(5):
        assert (await ask(house, **form, totp="000000")).json()["code"] == "second-factor-wrong"
    house.clock.advance(30)
    assert "code" not in (await ask(house, **form, totp=code_of(house, secret))).json()  # locked, as whoever is
    house.clock.advance(15 * 60)
    assert await sign_in(house, totp=code_of(house, secret))


@pytest.mark.clause("7.2a")
async def test_a_factor_is_begun_with_the_password_and_confirmed_in_time_by_who_began(house: House) -> None:
    token = (await sign_in(house))["access_token"]
    assert (await post(house, token, FACTOR, present="wrong")).status_code == 403
    assert (await post(house, token, f"{FACTOR}/confirm", code="123456")).status_code == 409  # nothing was begun
    secret = (await post(house, token, FACTOR, present=PASSWORD)).json()["secret"]
    assert (await post(house, token, f"{FACTOR}/confirm", code="000000")).status_code == 422
    assert "totp" not in (await me(house, token))["signed_in"]["factors"]
    assert await sign_in(house)  # not confirmed: asked of nobody
    token = (await sign_in(house))["access_token"]
    house.clock.advance(14 * 60)
    assert await get(house, token) == (200, "")
    house.clock.advance(60)
    assert (await post(house, token, f"{FACTOR}/confirm", code=code_of(house, secret))).status_code == 409
    await set_up(house, token)
    assert (await post(house, token, FACTOR, present=PASSWORD)).status_code == 409
    token = access.create_token(house.engine, ADA, "planner")
    assert (await post(house, token, FACTOR, present=PASSWORD)).status_code == 403
    assert (await post(house, token, f"{FACTOR}/confirm", code="123456")).status_code == 409


@pytest.mark.clause("7.2a")
async def test_a_new_password_keeps_the_factor_and_removing_it_takes_both_proofs(house: House) -> None:
    token = (await sign_in(house))["access_token"]
    secret, _ = await set_up(house, token)
    changed = await post(house, token, "/api/v1/me/password", present=PASSWORD, new=NEW_PASSWORD)
    token = changed.json()["access_token"]
    assert set((await me(house, token))["signed_in"]["factors"]) == {"password", "totp"}
    house.clock.advance(30)
    for body, status in (
        ({"present": PASSWORD, "code": code_of(house, secret)}, 403), ({"present": NEW_PASSWORD, "code": "000000"}, 403),
        ({"present": NEW_PASSWORD, "code": code_of(house, secret)}, 204),
        ({"present": NEW_PASSWORD, "code": code_of(house, secret)}, 409),
    ):  # fmt: skip
        answer = await post(house, token, f"{FACTOR}/remove", **body)
        assert answer.status_code == status, answer.text
    assert (await me(house, token))["signed_in"]["factors"] == ["password"]
    assert await sign_in(house, password=NEW_PASSWORD)


@pytest.mark.clause("9.3b")
async def test_an_administrator_lets_in_who_lost_their_factor_and_nobody_resets_their_own(house: House) -> None:
    users.create_user(house.engine, ADA, "zhang.min", house.hashes.make(PASSWORD))
    users.set_password(house.engine, ADA, "zhang.min", house.hashes.make(PASSWORD), must_change=False)
    ling = await sign_in(house)
    token = (await sign_in(house, "zhang.min"))["access_token"]
    await set_up(house, token)
    reset = "/api/v1/users/{}/second-factor/reset".format
    assert (await post(house, ling["access_token"], reset("zhang.min"))).status_code == 204
    assert await get(house, token) == (401, "session-second-factor-reset")
    assert await sign_in(house, "zhang.min")
    assert (await post(house, ling["access_token"], reset("zhang.min"))).status_code == 409
    assert (await post(house, ling["access_token"], reset("nobody"))).status_code == 404
    await set_up(house, ling["access_token"])
    assert (await post(house, ling["access_token"], reset("li.na"))).status_code == 403
    lesser = Grant(Role.SECURITY_ADMINISTRATOR, REGION)
    users.create_user(house.engine, ADA, "chen.hao", house.hashes.make(PASSWORD), lesser)
    users.set_password(house.engine, ADA, "chen.hao", house.hashes.make(PASSWORD), must_change=False)
    token = (await sign_in(house, "chen.hao"))["access_token"]
    assert (await post(house, token, reset("li.na"))).status_code == 403
    assert await get(house, ling["access_token"]) == (200, "")


@pytest.mark.clause("7.2a")
async def test_who_has_to_have_a_factor_can_do_nothing_but_set_one_up(strict: House) -> None:
    token = (await sign_in(strict))["access_token"]
    for path in ("/api/v1/hospitals", "/docs", "/openapi.json", "/metrics", "/api/v1/me/password", "/api/v1/live/alarms"):
        assert await get(strict, token, path) == (403, "second-factor-setup-required"), path
    assert (await me(strict, token))["must"] == "second-factor"
    await set_up(strict, token)
    assert (await me(strict, token))["must"] is None
    assert await get(strict, token, "/api/v1/hospitals") == (200, "")
    other = (await sign_in(strict, "wang.wei"))["access_token"]
    assert (await me(strict, other))["must"] is None  # no administrator
    grants.give(strict.engine, ADA, "wang.wei", Grant(Role.SECURITY_ADMINISTRATOR, REGION))
    strict.app.state.backend.services.callers.forget((await me(strict, other))["id"])
    assert (await me(strict, other))["must"] == "second-factor"


@pytest.mark.clause("7.2a")
async def test_a_first_password_is_changed_before_the_factor_is_set_up(strict: House) -> None:
    users.set_password(strict.engine, ADA, "li.na", strict.hashes.make(PASSWORD), must_change=True)
    token = (await sign_in(strict))["access_token"]
    assert (await me(strict, token))["must"] == "password-change"
    assert (await post(strict, token, FACTOR, present=PASSWORD)).json()["code"] == "password-change-required"
    changed = await post(strict, token, "/api/v1/me/password", present=PASSWORD, new=NEW_PASSWORD)
    assert (await me(strict, changed.json()["access_token"]))["must"] == "second-factor"


@pytest.mark.clause("7.2a")
async def test_a_lost_key_is_said_and_lets_nobody_in(house: House) -> None:
    secret, codes = await set_up(house, (await sign_in(house))["access_token"])
    shutil.rmtree(house.folder / "keys" / "totp")
    house.clock.advance(30)
    form = {"grant_type": "password", "username": "li.na", "password": PASSWORD}
    refused = await ask(house, **form, totp=code_of(house, secret))
    assert (refused.status_code, refused.json()["code"]) == (503, "key-missing")
    assert (await ask(house, **form, totp=codes[0])).status_code == 200  # which no key is needed for


@pytest.mark.clause("9.3c")
async def test_the_strictest_level_opens_to_who_showed_both_factors(house: House) -> None:
    add_hospital(house.engine)
    key = patients.admit_patient(house.engine, ADA, HOSPITAL, NewPatient("MRN-1"))["patient_key"]
    patients.update_patient(house.engine, ADA, key, {"level": 5}, version=None)
    token = (await sign_in(house))["access_token"]
    assert (await get(house, token, f"/api/v1/patients/{key}"))[0] == 404
    await set_up(house, token)
    assert await get(house, token, f"/api/v1/patients/{key}") == (200, "")


async def test_what_is_shown_once_is_kept_under_no_idempotency_key(house: House) -> None:
    token = (await sign_in(house))["access_token"]
    secrets = set()
    async with house.client(token, **{"Idempotency-Key": "again"}) as client:
        for _ in range(2):
            secrets.add((await client.post(FACTOR, json={"present": PASSWORD})).json()["secret"])
    assert len(secrets) == 2
