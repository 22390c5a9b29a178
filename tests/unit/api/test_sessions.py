"""Who is signed in, what ends with a session, and what goes on without it. Clauses 7.2a, 7.2d."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import Engine
from starlette.types import Message, Receive, Scope, Send

from api.auth import Authentication
from api.live.feed import Feed
from api.live.stream import EventStream
from api.live.subscription import Subscription
from api.telemetry import Telemetry
from domain.principals import Grant, Place, Role
from runtime import callers
from runtime.clock import ManualClock
from runtime.sql import access, users
from tests.sql_fixtures import ADA, HOSPITAL, add_hospital
from tests.unit.api.conftest import API
from tests.unit.api.house import PASSWORD, House, get, open_house, sign_in


@pytest.fixture
async def house(engine: Engine, clock: ManualClock, tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(engine, clock, tmp_path) as opened:
        yield opened


class Stream:
    """A client that reads a live stream until it is over."""

    def __init__(self, house: House, token: str) -> None:
        self.ended: list[str] = []
        guarded = Authentication(self._application, house.app.state.backend.services.callers, "vitalgrid")
        headers = [(b"authorization", f"Bearer {token}".encode())]
        scope = {"type": "http", "method": "GET", "path": "/api/v1/live/alarms", "headers": headers}
        self.serving = asyncio.create_task(guarded(scope, self._stay, self._take))

    async def goes_on(self) -> bool:
        await asyncio.wait({self.serving}, timeout=0.2)
        return not self.serving.done()

    async def _application(self, _scope: Scope, receive: Receive, _send: Send) -> None:
        self.ended.append((await receive())["type"])

    async def _stay(self) -> Message:
        await asyncio.Event().wait()
        return {}

    async def _take(self, message: Message) -> None:
        pass


@pytest.mark.clause("7.2d")
async def test_the_second_sign_in_ends_the_firsts_live_stream_at_once(house: House) -> None:
    stream = Stream(house, (await sign_in(house))["access_token"])
    assert await stream.goes_on()
    await sign_in(house)
    await asyncio.wait_for(stream.serving, callers.LOOK_AGAIN_S / 2)  # it is told, not found at the next look
    assert stream.ended == ["http.disconnect"]


class ShownStream(Stream):
    """And what it gets, by the platform's own stream of events."""

    def __init__(self, house: House, token: str) -> None:
        self.got, self._house = b"", house
        super().__init__(house, token)

    async def _application(self, scope: Scope, receive: Receive, send: Send) -> None:
        feed = Feed(self._house.app.state.backend.services.bus, "ALARMS", (), lambda message: message)
        await EventStream(feed, Subscription(None, lambda _: None, lambda: b""), "alarms", Telemetry())(scope, receive, send)

    async def _take(self, message: Message) -> None:
        self.got += message.get("body", b"")


@pytest.mark.clause("7.2d")
async def test_a_live_stream_says_why_it_ends(house: House) -> None:
    stream = ShownStream(house, (await sign_in(house))["access_token"])
    assert await stream.goes_on()
    await sign_in(house)
    await asyncio.wait_for(stream.serving, callers.LOOK_AGAIN_S / 2)
    assert b'event: end\ndata: {"code":"session-superseded","detail":"' in stream.got


@pytest.mark.clause("5.4a")
async def test_a_token_that_is_revoked_ends_its_live_streams_at_once(house: House) -> None:
    add_hospital(house.engine)
    token = access.create_token(house.engine, ADA, "icu-display", Role.STATION, Place.parse(HOSPITAL))
    stream = Stream(house, token)
    assert await stream.goes_on()
    async with house.client((await sign_in(house))["access_token"], under=API) as client:
        assert (await client.delete("tokens/icu-display")).status_code == 204
    await asyncio.wait_for(stream.serving, callers.LOOK_AGAIN_S / 2)  # it is told, not found at the next look
    assert stream.ended == ["http.disconnect"]
    assert await get(house, token) == (401, "unauthenticated")


@pytest.mark.clause("7.2a")
async def test_an_administrator_sees_who_is_signed_in_and_ends_a_session_with_its_streams(house: House) -> None:
    watcher, watched = (await sign_in(house))["access_token"], (await sign_in(house, "wang.wei"))["access_token"]
    stream = Stream(house, watched)
    assert await stream.goes_on()
    async with house.client(watcher, under=API) as client:
        first = (await client.get("sessions?limit=1")).json()
        rest = (await client.get(first["next"].removeprefix("/api/v1/"))).json()
        (shown,) = (await client.get("sessions?user=wang.wei")).json()["items"]
        assert [row["user"] for row in first["items"] + rest["items"]] == ["li.na", "wang.wei"]
        assert rest["items"] == [shown]
        assert (shown["address"], shown["factors"]) == ("127.0.0.1", ["password"])
        assert shown["since"] == shown["active"] < shown["ends"]
        assert (await client.delete(f"sessions/{shown['id']}")).status_code == 204
        assert (await client.delete(f"sessions/{shown['id']}")).status_code == 404
        assert (await client.get("sessions?user=wang.wei")).json()["items"] == []
        me = (await client.get("me")).json()
        assert (me["signed_in"]["user"], me["signed_in"]["id"]) == ("li.na", me["session"])
    await asyncio.wait_for(stream.serving, 10)
    assert await get(house, watched) == (401, "session-ended")


async def test_what_has_idled_or_lasted_too_long_is_nobody_signed_in(house: House) -> None:
    await sign_in(house, "wang.wei")
    house.clock.advance(14 * 60)
    token = (await sign_in(house))["access_token"]
    house.clock.advance(60)
    async with house.client(token) as client:
        assert [row["user"] for row in (await client.get("/api/v1/sessions")).json()["items"]] == ["li.na"]


@pytest.mark.clause("9.3b")
async def test_who_watches_users_ends_no_session_of_somebody_with_more_power(house: House) -> None:
    users.create_user(
        house.engine, ADA, "chen.hao", house.hashes.make(PASSWORD), Grant(Role.SECURITY_ADMINISTRATOR, Place("sz"))
    )
    users.set_password(house.engine, ADA, "chen.hao", house.hashes.make(PASSWORD), must_change=False)
    await sign_in(house)
    token = (await sign_in(house, "chen.hao"))["access_token"]
    async with house.client(token) as client:
        (shown,) = (await client.get("/api/v1/sessions?user=li.na")).json()["items"]
        assert (await client.delete(f"/api/v1/sessions/{shown['id']}")).status_code == 403
    token = (await sign_in(house, "wang.wei"))["access_token"]
    assert await get(house, token, "/api/v1/sessions") == (403, "forbidden")


@pytest.mark.clause("7.2d")
async def test_a_station_goes_on_showing_alarms_when_its_user_is_idle(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ward's display has a token of its own; the nurse who answers there signs in and out beside it."""
    monkeypatch.setattr(callers, "LOOK_AGAIN_S", 0.05)
    add_hospital(house.engine)
    station = access.create_token(house.engine, ADA, "icu-display", Role.STATION, Place.parse(HOSPITAL))
    nurse = (await sign_in(house, "wang.wei"))["access_token"]
    display, own = Stream(house, station), Stream(house, nurse)
    assert await display.goes_on()
    assert await own.goes_on()
    house.clock.advance(15 * 60)
    await asyncio.wait_for(own.serving, 10)
    assert await get(house, nurse) == (401, "session-idle")
    assert await display.goes_on()
    assert await get(house, station) == (200, "")
    display.serving.cancel()


@pytest.mark.clause("7.2d")
async def test_background_polling_is_no_activity(house: House) -> None:
    token = (await sign_in(house))["access_token"]
    stream = Stream(house, token)
    for _ in range(14):
        house.clock.advance(60)
        for path, headers in (("/api/v1/me", {"X-Passive": "1"}), ("/health", {}), ("/api/v1/ready", {}), ("/metrics", {})):
            async with house.client(token) as client:
                assert (await client.get(path, headers=headers)).status_code != 401
    assert await stream.goes_on()
    house.clock.advance(60)
    assert await get(house, token, **{"X-Passive": "1"}) == (401, "session-idle")
    stream.serving.cancel()


@pytest.mark.clause("9.3b")
async def test_nobody_holds_two_administrators_powers_whoever_gives_them_and_however(house: House) -> None:
    async with house.client((await sign_in(house))["access_token"], under=API) as client:
        apart = [Role.SYSTEM_ADMINISTRATOR, Role.SECURITY_ADMINISTRATOR, Role.AUDIT_ADMINISTRATOR]
        for held in apart:
            name = f"keeper.{held}"
            assert (await client.post("users", json={"name": name, "grants": [{"role": held}]})).status_code == 201
            for other in apart:
                given = await client.post(f"users/{name}/grants", json={"role": other})
                assert given.status_code == 409, (held, other)
        both = {"name": "both", "grants": [{"role": role} for role in apart[:2]]}
        assert (await client.post("users", json=both)).status_code == 409
        assert (await client.get("users/both")).status_code == 404
