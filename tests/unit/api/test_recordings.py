"""A recording is begun over REST: granted as other reading is, noted before it begins, and told what to leave out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine, select, update

from api.app import create_app
from domain import subjects
from domain.audit_reading import answered, said
from domain.errors import StorageFull
from domain.labels import WITHHELD
from domain.messages import LogState, encode
from runtime.access_journal import IN_MEMORY, AccessJournal, WaitingAccess
from runtime.clock import ManualClock
from runtime.lake import Lake
from runtime.sql.engine import reading, writing
from runtime.sql.tables import exports, patients
from tests.unit.api.conftest import API, BusAway, client_of, services_of
from tests.unit.api.two_hospitals import Ward, fill

pytestmark = [pytest.mark.clause("6.1b", "9.3e"), pytest.mark.clause("9.3c")]
RUNNER = "scenario-runner@sz"
MINUTE: dict[str, Any] = {"duration_s": 60}


@dataclass
class Region:
    """The application over two hospitals with a patient in each of three wards, each on a monitor."""

    app: FastAPI
    engine: Engine
    journal: AccessJournal
    wards: list[Ward]

    async def begin(self, who: str, **body: Any) -> httpx.Response:
        async with client_of(self.app, who, under=API) as client:
            return await client.post("recordings", json=MINUTE | body, headers={"X-Reason": "a replay"})

    async def left_out(self, who: str, hospital: str | None = None) -> list[int]:
        async with client_of(self.app, who, under=API) as client:
            query = {} if hospital is None else {"hospital": hospital}
            return list((await client.get("recordings/left-out", params=query)).raise_for_status().json()["left_out_handles"])

    def raise_level(self, ward: Ward, level: int) -> None:
        with writing(self.engine) as connection:
            connection.execute(update(patients).where(patients.c.patient_key == ward.patient_key).values(level=level))

    def handles(self, ward: Ward) -> set[int]:
        """Of a ward's patient and of the monitor on them."""
        with reading(self.engine) as connection:
            of_patient = select(patients.c.handle).where(patients.c.patient_key == ward.patient_key)
            return {ward.handle, connection.execute(of_patient).scalar_one()}

    def exports(self) -> list[Any]:
        with reading(self.engine) as connection:
            return list(connection.execute(select(exports)))

    def noted(self) -> list[WaitingAccess]:
        return self.journal.waiting(1_000)


@pytest.fixture
async def region(engine: Engine, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Region]:
    wards, journal = fill(engine), AccessJournal.open(IN_MEMORY)
    lake = Lake(tmp_path / "lake")
    services = services_of(engine=engine, clock=clock, lake=lake, accesses=journal, bus=BusAway())
    app = create_app(services, background=False)
    async with app.router.lifespan_context(app):
        yield Region(app, engine, journal, wards)


@pytest.mark.parametrize(
    ("who", "hospital"),
    [(RUNNER, None), (RUNNER, "sz.h001"), ("doctor@sz.h001", "sz.h001"), ("administrator@sz.h002", "sz.h002")],
)
async def test_whoever_reads_all_of_a_place_records_it_and_the_log_and_the_exports_say_so(
    region: Region, who: str, hospital: str | None
) -> None:
    answer = await region.begin(who, hospital_id=hospital)
    assert (answer.status_code, answer.json()["left_out_handles"]) == (201, []), answer.text
    access = region.noted()[-1]
    told, event = answered(access.event), msgspec.json.decode(access.event)
    assert told is not None
    assert (told.who, told.action, told.route) == (who, "reading.read", "POST /recordings")
    assert (told.place or "").endswith(hospital or "sz")
    assert event["action"] == "R"
    (export,) = region.exports()
    theirs = {handle for ward in region.wards if ward.hospital_id == hospital for handle in region.handles(ward)}
    assert (export.id, export.who) == (answer.json()["id"], who)
    assert (None if export.handles is None else set(export.handles)) == (theirs or None)


@pytest.mark.parametrize(
    ("who", "hospital"),
    [
        ("local-operator@sz", None), ("local-operator@sz", "sz.h001"), ("data-scientist@sz", None),
        ("biomedical-engineer@sz.h001", "sz.h001"), ("nurse@sz.h001/icu", "sz.h001"), ("doctor@sz.h001", "sz.h002"),
        ("doctor@sz.h001", None),
    ],
)  # fmt: skip
async def test_whoever_does_not_is_refused_and_the_log_says_that(region: Region, who: str, hospital: str | None) -> None:
    refused = await region.begin(who, hospital_id=hospital)
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    line = said(region.noted()[-1].event)
    assert line is not None
    assert (line.who, line.action, line.status) == (who, "reading.read", "403")
    assert region.exports() == []


async def test_while_the_log_takes_nothing_no_recording_begins(region: Region) -> None:
    state = region.app.state.backend.log_state
    state.receive(encode(LogState(0, 7, 0, "tile/0/000 is damaged")), subjects.LOG_STATE)
    refused = await region.begin(RUNNER)
    assert (refused.status_code, refused.json()["code"]) == (503, "audit-unavailable")
    assert region.exports() == []


async def test_one_that_cannot_be_noted_is_not_granted(region: Region, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_accesses: Any) -> None:
        raise StorageFull("no room")

    monkeypatch.setattr(region.app.state.backend.trail._journal, "add", full)
    refused = await region.begin(RUNNER)
    assert (refused.status_code, refused.json()["code"]) == (503, "audit-unavailable")
    assert "left_out_handles" not in refused.text


@pytest.mark.parametrize(
    ("who", "level", "is_theirs"),
    [(RUNNER, WITHHELD, False), ("administrator@sz", WITHHELD, False), (RUNNER, 5, False), (RUNNER, 4, True)],
)
async def test_whom_the_caller_may_not_see_is_left_out_with_what_measured_them(
    region: Region, who: str, level: int, is_theirs: bool
) -> None:
    icu, _, elsewhere = region.wards
    region.raise_level(icu, level)
    closed = set() if is_theirs else region.handles(icu)
    for hospital in (None, icu.hospital_id):
        assert set((await region.begin(who, hospital_id=hospital)).json()["left_out_handles"]) == closed
        assert set(await region.left_out(who, hospital)) == closed
    assert closed.isdisjoint(region.exports()[-1].handles)
    assert await region.left_out(who, elsewhere.hospital_id) == []


async def test_who_holds_a_ward_elsewhere_beside_a_hospital_is_told_exactly(region: Region) -> None:
    icu, er, elsewhere = region.wards
    region.raise_level(er, WITHHELD)
    callers = region.app.state.backend.services.callers
    of_hospital, of_ward = [await callers.caller_of(who) for who in ("doctor@sz.h001", f"nurse@{elsewhere.hospital_id}/icu")]
    callers._holders["both"] = replace(of_hospital, grants=of_hospital.grants + of_ward.grants)
    assert set(await region.left_out("both", icu.hospital_id)) == region.handles(er)


async def test_a_patient_who_is_withheld_meanwhile_is_left_out_at_the_end(region: Region) -> None:
    icu = region.wards[0]
    assert (await region.begin(RUNNER)).json()["left_out_handles"] == []
    region.raise_level(icu, WITHHELD)
    assert set(await region.left_out(RUNNER)) == region.handles(icu)


@pytest.mark.parametrize("seconds", [0, -1, 86_401, "nan"])
async def test_a_recording_has_an_end(region: Region, seconds: Any) -> None:
    assert (await region.begin(RUNNER, duration_s=seconds)).status_code == 422


async def test_of_an_unknown_hospital_nothing_is_recorded(region: Region) -> None:
    assert (await region.begin(RUNNER, hospital_id="sz.none")).status_code == 404
    assert (await region.begin(RUNNER, hospital_id="NONE")).status_code == 422
    assert region.exports() == []
