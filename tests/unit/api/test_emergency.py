"""While the log takes nothing: what was given at a hospital or in a ward counts, and nothing wider. Clauses 6.1b, 9.3e."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine

from domain import subjects
from domain.errors import StorageFull
from domain.messages import LogState, encode
from domain.principals import Caller, Factor, Grant, Kind, Place, Principal, Role
from runtime.clock import ManualClock
from tests.sql_fixtures import NOW_US
from tests.unit.api.conftest import client_of
from tests.unit.api.live_clients import LivePlatform, listening
from tests.unit.api.wards import Wards, ask
from tests.waiting import until

REGION, DISTRICT = Grant(Role.DOCTOR, Place("sz")), Grant(Role.DOCTOR, Place.parse("sz:futian"))
ICU = Grant(Role.NURSE, Place.parse("sz.h001/icu"))
OFFICER = Grant(Role.SECURITY_ADMINISTRATOR, Place.parse("sz.h001/icu"))  # a role that shows no alarm
CALLERS = {
    "both": (REGION, ICU), "district-too": (DISTRICT, ICU), "ward": (ICU,), "region": (REGION,),
    "no-clinician": (REGION, OFFICER), "display": (REGION, Grant(Role.STATION, Place.parse("sz.h001/icu"))),
}  # fmt: skip


@dataclass
class Region:
    """The application over two hospitals, and the log's word of itself."""

    wards: Wards
    platform: LivePlatform
    app: FastAPI

    def close(self) -> None:
        self._told(LogState(0, 7, 0, "tile/0/000 is damaged"))

    def open(self) -> None:
        self._told(LogState(0, 8, 0))

    def _told(self, state: LogState) -> None:
        self.app.state.backend.log_state.receive(encode(state), subjects.LOG_STATE)


@pytest.fixture
async def place(engine: Engine, tmp_path: Path) -> AsyncIterator[Region]:
    platform = LivePlatform(tmp_path, engine)
    wards = Wards(engine, platform, ManualClock(NOW_US + 10**7))
    for name, given in CALLERS.items():
        who = Principal(Kind.USER, f"u-{name}", name)
        wards.callers[name] = Caller(who, given, factors=frozenset({Factor.PASSWORD}))
    app = wards.app()
    async with app.router.lifespan_context(app):
        yield Region(wards, platform, app)


def devices(answer: httpx.Response) -> set[str]:
    assert answer.status_code == 200, answer.text
    return {row["device_id"] for row in answer.json()["items"]}


def is_shut(answer: httpx.Response) -> bool:
    return answer.status_code == 503 and answer.json()["code"] == "audit-unavailable"


@pytest.mark.clause("6.1b", "9.3e")
@pytest.mark.parametrize("who", ["both", "district-too"])
async def test_with_a_wider_grant_too_the_wards_alarms_and_vitals_are_served_and_nothing_beyond(
    place: Region, who: str
) -> None:
    alarms, latest = "alarms?open=true", "readings/latest?hospital=sz.h001"
    assert devices(await ask(place.app, who, alarms)) > {"mon-1", "mon-2"}
    assert devices(await ask(place.app, who, latest)) == {"mon-1", "mon-2", "free-1"}
    place.close()
    answer = await ask(place.app, who, alarms)
    assert devices(answer) == {"mon-1", "free-1"}
    assert (answer.headers["x-audit"], answer.headers["x-audit-within"]) == ("spooled", "sz.h001/icu")
    assert devices(await ask(place.app, who, latest)) == {"mon-1", "free-1"}
    assert devices(await ask(place.app, who, f"readings/latest?patient={place.wards.keys['p1']}")) == {"mon-1"}
    assert (await ask(place.app, who, "alarms/a-mon-1")).status_code == 200
    place.open()
    assert devices(await ask(place.app, who, alarms)) > {"mon-1", "mon-2"}
    assert "x-audit-within" not in (await ask(place.app, who, alarms)).headers


@pytest.mark.clause("6.1b", "9.3e")
async def test_a_log_that_is_silent_is_one_that_takes_nothing(place: Region) -> None:
    """Its process hangs, or is away: it says nothing of itself, good or bad."""
    alarms = "alarms?open=true"
    place.open()
    assert (await ask(place.app, "both", "patients")).status_code == 200
    place.wards.clock.advance(seconds=10)
    answer = await ask(place.app, "both", "patients")
    assert is_shut(answer)
    assert "is not heard of" in answer.json()["detail"]
    answer = await ask(place.app, "both", alarms)
    assert devices(answer) == {"mon-1", "free-1"}
    assert answer.headers["x-audit"] == "spooled"
    place.open()
    assert (await ask(place.app, "both", "patients")).status_code == 200


@pytest.mark.clause("6.1b", "9.3e")
async def test_what_lies_beyond_is_refused_and_the_refusal_says_what_goes_on(place: Region) -> None:
    keys, handles = place.wards.keys, place.wards.handles
    paths = [
        "alarms?open=true&hospital=sz.h002", "alarms?open=true&hospital=sz.h001&ward=w01",
        f"alarms?open=true&patient={keys['p2']}", f"alarms?open=true&handle={handles['mon-2']}", "alarms/a-mon-2",
        "alarms/a-mon-2/knowledge",
        "readings/latest?hospital=sz.h002", "readings/latest?hospital=sz.h001&ward=w01", "readings/latest?device=sz.h001/mon-2",
        "readings/latest?device=sz.h001/mon-1&device=sz.h001/mon-2", f"readings/latest?handle={handles['mon-2']}",
        f"readings/latest?patient={keys['p2']}", f"patients/{keys['p2']}/state", "devices/sz.h001/mon-2/state",
    ]  # fmt: skip
    usual = {path: (await ask(place.app, "both", path)).status_code for path in paths}
    place.close()
    for path in paths:
        answer = await ask(place.app, "both", path)
        assert is_shut(answer), (path, answer.text)
        assert "tile/0/000 is damaged" in answer.json()["detail"]
        assert "go on by what you were given at a hospital or in a ward (sz.h001/icu)" in answer.json()["detail"]
        assert usual[path] == 200 or "/state" in path, path
    live = ("live/alarms?hospital=sz.h002", "live/readings?device=sz.h001/mon-2", f"live/readings?handle={handles['mon-3']}")
    for path in live:
        async with listening(place.app, "both", path) as refused:
            assert (refused.status, refused.is_over, b"(sz.h001/icu)" in refused.body) == (503, True, True), path
    for who, path, status in (
        ("ward", "alarms/a-mon-2", 404), ("ward", "readings/latest?device=sz.h001/mon-2", 403),
        ("both", "alarms/none", 404), ("both", "readings/latest?handle=999999", 404),
    ):  # fmt: skip
        answer = await ask(place.app, who, path)  # what was refused before is refused as before
        assert answer.status_code == status, (who, path, answer.text)


@pytest.mark.clause("6.1b", "9.3e")
@pytest.mark.parametrize("who", ["region", "no-clinician"])
async def test_who_has_nothing_of_a_hospital_that_shows_it_is_refused(place: Region, who: str) -> None:
    for path in ("alarms?open=true", "readings/latest?hospital=sz.h001", "alarms/a-mon-1"):
        place.open()
        assert (await ask(place.app, who, path)).status_code == 200
        place.close()
        assert is_shut(await ask(place.app, who, path)), path
    async with listening(place.app, who, "live/alarms") as refused:
        assert (refused.status, refused.is_over) == (503, True)


@pytest.mark.clause("6.1b", "9.3e")
async def test_while_the_disk_takes_no_accesses_wider_grants_count_as_little(
    place: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_accesses: Any) -> None:
        raise StorageFull("no room")

    trail = place.app.state.backend.trail
    with monkeypatch.context() as patched:
        patched.setattr(trail._journal, "add", full)
        assert devices(await ask(place.app, "ward", "alarms?open=true")) == {"mon-1", "free-1"}
        answer = await ask(place.app, "both", "alarms?open=true")
        assert devices(answer) == {"mon-1", "free-1"}
        assert (answer.headers["x-audit"], answer.headers["x-audit-within"]) == ("spooled", "sz.h001/icu")
        assert is_shut(await ask(place.app, "both", "alarms/a-mon-2"))
    await until(lambda: trail.why_closed() is None)
    assert (await ask(place.app, "both", "alarms/a-mon-2")).status_code == 200


@pytest.mark.clause("9.3e")
async def test_an_answer_is_not_given_again_by_a_grant_that_does_not_count(place: Region) -> None:
    def acknowledged(device: str) -> Any:
        return client.post(f"http://test/api/v1/alarms/a-{device}/acknowledge", json={"outcome": "actionable"})

    async with client_of(place.app, "both") as client:
        client.headers["Idempotency-Key"] = "k-1"
        for device in ("mon-1", "mon-2"):
            answer = await acknowledged(device)
            assert answer.status_code == 200, answer.text
        place.close()
        assert (await acknowledged("mon-1")).status_code == 200
        assert is_shut(await acknowledged("mon-2"))
        client.headers["Idempotency-Key"] = "k-2"
        assert is_shut(await acknowledged("mon-2"))


@pytest.mark.clause("9.3e")
async def test_an_answer_with_names_is_not_given_again_by_a_grant_that_shows_none(place: Region) -> None:
    path, body = "http://test/api/v1/alarms/a-mon-1/acknowledge", {"outcome": "actionable"}
    async with client_of(place.app, "display") as client:
        client.headers["Idempotency-Key"] = "k-1"
        for _ in range(2):
            answer = await client.post(path, json=body)
            assert answer.status_code == 200, answer.text
        place.close()
        assert is_shut(await client.post(path, json=body))


@pytest.mark.clause("6.1b", "9.3e")
async def test_live_streams_that_were_open_are_judged_anew_when_an_emergency_begins_and_ends(place: Region) -> None:
    async with (
        listening(place.app, "ward", "live/alarms") as ward, listening(place.app, "both", "live/alarms") as both,
        listening(place.app, "region", "live/alarms") as region,
        listening(place.app, "both", "live/readings?hospital=sz.h001") as readings,
    ):  # fmt: skip
        place.platform.say("mon-2")
        await until(lambda: b"a-mon-2" in both.body and b"a-mon-2" in region.body)
        place.close()
        await until(lambda: both.is_over and region.is_over and readings.is_over)
        async with listening(place.app, "both", "live/alarms") as again:
            place.platform.say("mon-2")
            place.platform.say("mon-1")
            await until(lambda: b"a-mon-1" in again.body and b"a-mon-1" in ward.body)
            assert b"a-mon-2" not in again.body
            assert not again.is_over
            place.open()
            await until(lambda: again.is_over)
        assert not ward.is_over  # whose grants count always hears on


@pytest.mark.clause("9.3e")
async def test_who_connects_in_an_emergency_of_a_moment_does_not_go_on_with_less(place: Region) -> None:
    """It may begin and be over between two looks: each asks how a stream was judged, not what changed since the last."""
    place.close()
    feed = place.app.state.backend.alarm_feed
    async with listening(place.app, "both", "live/alarms") as both, listening(place.app, "ward", "live/alarms") as ward:
        feed.end_judged_else(is_emergency=True)
        place.platform.say("mon-1")
        await until(lambda: b"a-mon-1" in both.body and b"a-mon-1" in ward.body)
        feed.end_judged_else(is_emergency=False)
        await until(lambda: both.is_over)
        assert not ward.is_over
