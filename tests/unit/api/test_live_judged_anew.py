"""Live streams that go on while what their clients may see changes: they end, and who connects again sees it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from sqlalchemy import Engine

from runtime.clock import ManualClock
from runtime.sql.patients import NewPatient, admit_patient
from runtime.sql.places import get_hospital
from tests.sql_fixtures import ADA, NOW_US
from tests.unit.api.conftest import client_of
from tests.unit.api.live_clients import LivePlatform, listening
from tests.unit.api.wards import Wards
from tests.waiting import until

WHY = {"X-Reason": "the person asked"}
API = "http://test/api/v1/"


@pytest.fixture
async def place(engine: Engine, tmp_path: Path) -> AsyncIterator[tuple[Wards, LivePlatform, FastAPI]]:
    platform = LivePlatform(tmp_path, engine)
    wards = Wards(engine, platform, ManualClock(NOW_US + 10**7))
    app = wards.app()
    async with app.router.lifespan_context(app):
        yield wards, platform, app


async def withhold(app: FastAPI, key: str) -> None:
    """The patient is discharged, and their erasure is asked for: the law refuses it, and the records are withheld."""
    async with client_of(app, "doctor") as doctor, client_of(app, "privacy") as officer:
        gone = await doctor.post(f"{API}patients/{key}/discharge", json={}, headers={"If-Match": '"1"'})
        assert gone.is_success, gone.text
        asked = await officer.post(f"{API}patients/{key}/erasure", headers=WHY)
        assert asked.status_code == 202, asked.text


async def readmit(app: FastAPI, ref: str) -> str:
    async with client_of(app, "doctor") as doctor:
        body = {"hospital_id": "sz.h001", "ref": ref, "name": "王小芳", "ward_id": "icu"}
        back = await doctor.post(f"{API}patients", json=body)
        assert back.status_code == 201, back.text
        return str(back.json()["patient_key"])


@pytest.mark.clause("7.2b")
@pytest.mark.parametrize("who", ["nurse", "station", "doctor"])
async def test_alarms_of_who_was_withheld_and_comes_back_reach_boards_that_were_connected(
    place: tuple[Wards, LivePlatform, FastAPI], who: str
) -> None:
    wards, platform, app = place
    key = wards.keys["p1"]
    await withhold(app, key)
    async with listening(app, who, "live/alarms") as board:
        platform.say("mon-1", key)
        assert await readmit(app, "MRN-p1-77") == key
        await until(lambda: board.is_over)
        assert b"judged-anew" in board.body
        assert b"a-mon-1" not in board.body
    async with listening(app, who, "live/alarms") as board:
        platform.say("mon-1", key)
        await until(lambda: b"a-mon-1" in board.body)


@pytest.mark.clause("9.3h")
async def test_alarms_of_who_is_withheld_from_now_on_reach_boards_no_more(
    place: tuple[Wards, LivePlatform, FastAPI],
) -> None:
    wards, platform, app = place
    async with listening(app, "station", "live/alarms") as board:
        await withhold(app, wards.keys["p1"])
        await until(lambda: board.is_over)
    async with listening(app, "station", "live/alarms") as board:
        platform.say("mon-1", wards.keys["p1"])
        platform.say("mon-1")
        await until(lambda: b"a-mon-1" in board.body)
        assert wards.keys["p1"].encode() not in board.body


async def test_who_comes_back_and_was_not_withheld_ends_no_stream(place: tuple[Wards, LivePlatform, FastAPI]) -> None:
    wards, platform, app = place
    key = wards.keys["p1"]
    async with client_of(app, "doctor") as doctor:
        gone = await doctor.post(f"{API}patients/{key}/discharge", json={}, headers={"If-Match": '"1"'})
        assert gone.is_success, gone.text
    async with listening(app, "station", "live/alarms") as board:
        await readmit(app, "MRN-p1-77")
        platform.say("mon-1", key)
        await until(lambda: b"a-mon-1" in board.body)
        assert not board.is_over


@pytest.mark.clause("7.2b")
@pytest.mark.parametrize("asked", ["hospital=sz.h001&ward=icu", "device=sz.h001/mon-1", "hospital=sz.h001"])
async def test_a_device_that_comes_to_somebody_whom_one_may_see_is_in_a_stream_that_was_open(
    place: tuple[Wards, LivePlatform, FastAPI], asked: str
) -> None:
    """It was on a patient of the strictest level, whom the nurse does not treat: where nothing else was asked for, it waits."""
    wards, platform, app = place
    wards.raise_level("p1")
    new = NewPatient("MRN-p4", ward_id="icu", admitted_us=NOW_US - 10**9)
    wards.keys["p4"] = admit_patient(wards.engine, ADA, "sz.h001", new)["patient_key"]
    platform.learn()
    async with listening(app, "nurse", f"live/readings?{asked}") as board:
        assert (board.status, board.is_over) == (200, False), board.body
        wards.hand_over("mon-1", "p4", off_s=1, on_s=2)
        platform.learn()
        await until(lambda: board.is_over)
    async with listening(app, "nurse", f"live/readings?{asked}") as board:
        platform.measure(get_hospital(wards.engine, "sz.h001")["shard"], wards.handles["mon-1"])
        await until(lambda: b'"handle":%d,' % wards.handles["mon-1"] in board.body)


async def test_what_has_no_device_is_refused(place: tuple[Wards, LivePlatform, FastAPI]) -> None:
    _, _, app = place
    async with listening(app, "nurse", "live/readings?hospital=sz.h001&ward=w77") as board:
        assert board.status in (403, 404)
