"""Signing in with a browser: a cookie that stays at home, forms of our own pages only, and pages that say why."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pyotp
import pytest
from sqlalchemy import Engine

from api.app import create_app
from api.browsers import local_path
from runtime.clock import ManualClock
from runtime.security_profile import SecondFactorRule
from runtime.sql import access, users
from tests.sql_fixtures import ADA
from tests.unit.api.house import NEW_PASSWORD, PASSWORD, House, open_house, sign_in

OURS = {"Sec-Fetch-Site": "same-origin"}
PAGE = {"Accept": "text/html,application/xhtml+xml", "Sec-Fetch-Mode": "navigate"}
LOGIN = {"username": "li.na", "password": PASSWORD, "next": "/docs"}


@pytest.fixture
async def house(engine: Engine, clock: ManualClock, tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(engine, clock, tmp_path) as opened:
        yield opened


@pytest.fixture
async def browser(house: House) -> AsyncIterator[httpx.AsyncClient]:
    """Keeps cookies, as one does."""
    async with house.client() as client:
        yield client


@pytest.mark.clause("5.4a")
async def test_a_second_factor_is_set_up_in_the_browser_and_then_asked_for(browser: httpx.AsyncClient, house: House) -> None:
    async def post(path: str, **form: str) -> httpx.Response:
        return await browser.post(path, data=form, headers=OURS)

    await enter(browser)
    assert "Begin" in (await browser.get("/second-factor", headers=PAGE)).text
    assert (await post("/second-factor", present="wrong")).status_code == 403
    page = await post("/second-factor", present=PASSWORD)
    assert (page.status_code, page.headers["cache-control"]) == (200, "no-store")
    assert "<svg" in page.text
    assert not re.search(r"<script|https?://|\sstyle=|\son\w+=", page.text)
    secret = re.search(r"<code>([A-Z2-7]{32})</code>", page.text)
    assert secret is not None
    totp = pyotp.TOTP(secret[1])
    refused = await post("/second-factor/confirm", code="000000")
    assert (refused.status_code, secret[1] in refused.text, "<svg" in refused.text) == (422, False, False)
    step = house.clock.now_us() // 30_000_000
    confirmed = await post("/second-factor/confirm", code=totp.generate_otp(step))
    codes = re.findall(r"<code>([A-Z2-7-]{19})</code>", confirmed.text)
    assert len(codes) == 10
    assert codes[0] not in (await browser.get("/second-factor", headers=PAGE)).text
    assert "one-time code" in (await browser.get("/login")).text.lower()
    for form, status, says in (
        ({}, 401, "with it, a code"), ({"totp": totp.generate_otp(step)}, 401, "used before"), ({"totp": codes[0]}, 303, ""),
    ):  # fmt: skip
        entered = await enter(browser, **form)
        assert (entered.status_code, says in entered.text) == (status, True), entered.text
        assert PASSWORD not in entered.text
    gone = await post("/second-factor/remove", present=PASSWORD, code=codes[1])
    assert (gone.status_code, "Begin" in gone.text) == (200, True)
    assert (await enter(browser)).status_code == 303


@pytest.mark.clause("7.2a")
async def test_who_has_to_have_a_second_factor_is_led_to_its_page(engine: Engine, clock: ManualClock, tmp_path: Path) -> None:
    async with open_house(engine, clock, tmp_path, SecondFactorRule.EVERYBODY) as house, house.client() as browser:
        assert (await enter(browser)).status_code == 303
        assert (await browser.get("/docs", headers=PAGE)).headers["location"] == "/second-factor"
        assert "set it up first" in (await browser.get("/second-factor", headers=PAGE)).text
        late = await browser.post("/password", data={}, headers=OURS)
        assert (late.status_code, late.headers["location"]) == (303, "/second-factor")


async def enter(browser: httpx.AsyncClient, **more: str) -> httpx.Response:
    return await browser.post("/login", data=LOGIN | more, headers=OURS)


@pytest.mark.clause("5.4a")
async def test_a_person_without_a_session_is_led_to_the_form_and_back(browser: httpx.AsyncClient) -> None:
    sent = await browser.get("/docs", headers=PAGE)
    assert (sent.status_code, sent.headers["location"]) == (303, "/login?next=/docs")
    form = await browser.get(sent.headers["location"])
    assert form.status_code == 200
    assert 'value="/docs"' in form.text
    entered = await enter(browser)
    assert (entered.status_code, entered.headers["location"]) == (303, "/docs")
    assert (await browser.get("/docs", headers=PAGE)).status_code == 200
    home = await browser.get("/", headers=PAGE)
    assert "li.na" in home.text
    assert "administrator @ sz" in home.text


@pytest.mark.clause("5.4a")
async def test_the_cookie_is_kept_from_scripts_and_other_sites(browser: httpx.AsyncClient, house: House) -> None:
    cookie = (await enter(browser)).headers["set-cookie"]
    assert re.fullmatch(r"vitalgrid=vgs_[\w-]{43}; HttpOnly; Path=/; SameSite=strict", cookie)


ELSEWHERE = (
    {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Sec-Fetch-Site": "none"}, {},
    {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://test.evil.example"},
    {"Origin": "http://[x"}, {"Origin": "http://"}, {"Origin": "test"},
)  # fmt: skip


@pytest.mark.clause("9.1b")
async def test_another_site_changes_nothing_signs_nobody_in_and_nobody_out(browser: httpx.AsyncClient) -> None:
    for headers in ELSEWHERE:
        assert (await browser.post("/login", data=LOGIN, headers=headers)).status_code == 403, headers
    assert "vitalgrid" not in browser.cookies
    await enter(browser)
    for headers in ELSEWHERE:
        made = await browser.post("/api/v1/users", json={"name": "eve", "role": "administrator"}, headers=headers)
        assert made.status_code == 403, headers
        assert (await browser.post("/logout", headers=headers)).status_code == 403, headers
        assert (await browser.get("/api/v1/me", headers=headers)).status_code == 200


async def test_a_page_of_ours_changes_what_its_user_may(browser: httpx.AsyncClient) -> None:
    await enter(browser)
    for name, headers in (("zhang.min", OURS), ("wang.fang", {"Origin": "http://test"})):
        assert (await browser.post("/api/v1/users", json={"name": name}, headers=headers)).status_code == 201


@pytest.mark.clause("7.2d")
async def test_a_page_says_why_its_session_ended(browser: httpx.AsyncClient, house: House) -> None:
    await enter(browser)
    await sign_in(house)
    sent = await browser.get("/", headers=PAGE)
    assert sent.headers["location"] == "/login?next=/&why=session-superseded"
    assert "signed in again" in (await browser.get(sent.headers["location"])).text
    told = await browser.get("/api/v1/me", headers={"Sec-Fetch-Mode": "cors"})
    assert (told.status_code, told.json()["code"]) == (401, "session-superseded")
    assert "Basic" not in told.headers["www-authenticate"]  # else a dialogue of the browser's own opens over the page


@pytest.mark.clause("7.2d")
async def test_a_form_that_comes_after_its_session_ended_leads_to_the_login_page(
    browser: httpx.AsyncClient, house: House
) -> None:
    await enter(browser)
    await sign_in(house)
    form = {"present": PASSWORD, "new": NEW_PASSWORD, "again": NEW_PASSWORD}
    sent = await browser.post("/password", data=form, headers=OURS)
    assert (sent.status_code, sent.headers["location"]) == (303, "/login?next=/password&why=session-superseded")


@pytest.mark.clause("7.2d")
async def test_signing_out_ends_the_session_and_not_the_cookie_alone(browser: httpx.AsyncClient, house: House) -> None:
    await enter(browser)
    token = browser.cookies["vitalgrid"]
    out = await browser.post("/logout", headers=OURS)
    assert (out.status_code, out.headers["location"]) == (303, "/login")
    assert "vitalgrid" not in browser.cookies
    async with house.client(token) as thief:
        assert (await thief.get("/api/v1/me")).json()["code"] == "session-signed-out"
    assert (await browser.post("/logout", headers=OURS)).status_code == 303


@pytest.mark.clause("7.2a")
async def test_a_first_password_leads_to_its_change_whatever_page_was_wanted(browser: httpx.AsyncClient, house: House) -> None:
    users.set_password(house.engine, ADA, "li.na", house.hashes.make(PASSWORD), must_change=True)
    assert (await enter(browser)).headers["location"] == "/password"
    assert (await browser.get("/docs", headers=PAGE)).headers["location"] == "/password"
    page = await browser.get("/password", headers=PAGE)
    assert "change it first" in page.text

    async def change(present: str, new: str, again: str) -> httpx.Response:
        form = {"present": present, "new": new, "again": again}
        return await browser.post("/password", data=form, headers=OURS)

    for form, status, says in (
        (("x", NEW_PASSWORD, NEW_PASSWORD), 403, "another one"), ((PASSWORD, NEW_PASSWORD, "other"), 422, "not the same"),
        ((PASSWORD, "shenzhen2026", "shenzhen2026"), 422, "guessed"),
    ):  # fmt: skip
        refused = await change(*form)
        assert (refused.status_code, says in refused.text) == (status, True), refused.text
    assert (await change(PASSWORD, NEW_PASSWORD, NEW_PASSWORD)).headers["location"] == "/"
    assert (await browser.get("/docs", headers=PAGE)).status_code == 200


@pytest.mark.clause("7.2a")
async def test_a_refused_sign_in_shows_the_form_again_without_the_password(browser: httpx.AsyncClient) -> None:
    name = '"><script>alert(1)</script>'
    refused = await enter(browser, username=name, password="not it at all", next="//evil.example")
    assert refused.status_code == 401
    assert "Basic" not in refused.headers["www-authenticate"]
    assert "not it at all" not in refused.text
    assert "<script" not in refused.text
    assert "evil.example" not in refused.text
    assert refused.headers["cache-control"] == "no-store"


@pytest.mark.clause("9.1b")
async def test_pages_load_nothing_from_elsewhere_and_run_no_script(browser: httpx.AsyncClient) -> None:
    await enter(browser)
    for path in ("/login", "/", "/password", "/second-factor"):
        page = await browser.get(path, headers=PAGE)
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert not re.search(r"<script|https?://|\son\w+=", page.text)


def test_nobody_is_sent_to_another_host_after_signing_in() -> None:
    for text in ("//evil.example", "/\\evil", "https://evil", "javascript:x", "", None, "/a\nb", "/docs?x=//e", "docs"):
        assert local_path(text) == "/", text
    for text in ("/", "/docs", "/api/v1/me"):
        assert local_path(text) == text


async def test_a_token_has_no_session_to_end_and_sees_the_pages(house: House) -> None:
    async with house.client(access.create_token(house.engine, ADA, "planner")) as client:
        page = await client.get("/", headers=PAGE)
    assert (page.status_code, "Sign out" in page.text) == (200, False)


async def test_over_tls_the_cookie_is_bound_to_this_host(house: House) -> None:
    services = replace(house.app.state.backend.services, over_tls=True)
    house.app = create_app(services, background=False)
    async with house.app.router.lifespan_context(house.app), house.client() as browser:
        browser.base_url = httpx.URL("https://test")
        cookie = (await enter(browser)).headers["set-cookie"]
        assert re.fullmatch(r"__Host-vitalgrid=vgs_[\w-]{43}; HttpOnly; Path=/; SameSite=strict; Secure", cookie)
        assert (await browser.get("/api/v1/me")).status_code == 200
