"""From the alarm stream to the desk, to people's answers, to the webhook: over a real bus and a real database."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import httpx
import msgspec
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine, update

from api import background
from api.app import create_app
from api.services import WebhookTarget
from cluster.serving import serving
from domain import subjects
from domain.alarms import INTENDED_USE, AlarmEvent, AlarmSubject, AlertType, KnownInput, Phase, Priority
from domain.instants import from_us
from domain.labels import WITHHELD
from domain.messages import LogState
from domain.permissions import Level
from domain.principals import Place
from runtime.access_journal import IN_MEMORY, AccessJournal, NewAccess
from runtime.bus import Bus
from runtime.certificates import Authority, Wanted
from runtime.clock import ManualClock
from runtime.sealing import Sealer, patient_owner
from runtime.sql.alarms import position_of
from runtime.sql.engine import writing
from runtime.sql.patients import NewPatient, admit_patient
from runtime.sql.tables import patients
from runtime.tls import CertificateFiles, TakenUp, Trust
from tests.sql_fixtures import ADA, add_hospital, copy_of
from tests.unit.api.conftest import client_of, services_of
from tests.waiting import eventually, until

pytestmark = pytest.mark.integration
NOW_US = 1_700_000_000_000_000
SECRET_KEY = b"a key of the webhook's test"
SECRET = "whsec_" + base64.b64encode(SECRET_KEY).decode()


def alarm(number: int, phase: Phase = Phase.START, at_s: float = 0.0, **about: object) -> AlarmEvent:
    missing = KnownInput("resp_rate", None, None, None, 4, used=False, note="missing")
    return AlarmEvent(
        event_id=f"e{number}-{phase}", alarm_id=f"a{number}", phase=phase, alert_type=AlertType.PHYSIOLOGICAL,
        priority=Priority.HIGH, rule="limit.very-low", rule_version=1, latching=True, value=82.0, limit=85.0, unit="%",
        subject=AlarmSubject("sz.h001", "icu", "icu-01", "mon-7", 7, patient_key="p1", metric="spo2"),
        onset_us=NOW_US, event_us=NOW_US + round(at_s * 1e6), arrival_us=NOW_US + round(at_s * 1e6), text="SpO2 is very low",
        inputs=(KnownInput("spo2", 82.0, NOW_US, 1.5, 0), missing), **about,
    )  # fmt: skip


async def notify(bus: Bus, *events: AlarmEvent) -> None:
    for event in events:
        await bus.publish(subjects.alarm(event.subject.hospital_id), msgspec.json.encode(event), event.event_id)


@pytest.fixture
def engine(sqlite_template: Path, tmp_path: Path, sealer: Sealer) -> Iterator[Engine]:
    with copy_of(sqlite_template, tmp_path, sealer) as opened:
        yield opened


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW_US)


@pytest.fixture
async def app(bus: Bus, engine: Engine, clock: ManualClock) -> AsyncIterator[FastAPI]:
    made = create_app(services_of(bus=bus, engine=engine, clock=clock))
    async with made.router.lifespan_context(made):
        yield made


async def applied(engine: Engine, sequence: int) -> None:
    await until(lambda: position_of(engine) >= sequence)


def moment(seconds: float) -> str:
    return from_us(NOW_US + round(seconds * 1e6)).isoformat()


async def test_no_alarms_without_a_token(app: FastAPI) -> None:
    async with client_of(app, token=None) as anonymous:
        assert (await anonymous.get("/api/v1/alarms")).status_code == 401
        assert (await anonymous.post("/api/v1/alarms/a1/acknowledge", json={"outcome": "artefact"})).status_code == 401


@pytest.mark.clause("9.2c")
@pytest.mark.clause("6.3f")
async def test_a_notified_alarm_is_listed_shown_and_explained(client: httpx.AsyncClient, bus: Bus, engine: Engine) -> None:
    await notify(bus, alarm(1), alarm(2), alarm(1, Phase.UPDATE, 10))
    await applied(engine, 3)
    page = (await client.get("alarms", params={"hospital": "sz.h001", "open": True, "priority": 3})).json()
    assert {row["alarm_id"] for row in page["items"]} == {"a1", "a2"}
    assert page["intended_use"] == INTENDED_USE
    shown = (await client.get("alarms/a1", params={"tz": "Asia/Shanghai"})).json()
    assert (shown["state"], shown["phase"], shown["priority_name"]) == ("active", "update", "high")
    assert shown["onset"] == "2023-11-15T06:13:20+08:00"
    assert shown["intended_use"] == INTENDED_USE
    knowledge = (await client.get("alarms/a1/knowledge")).json()
    first = knowledge["notifications"][0]
    assert [event["phase"] for event in knowledge["notifications"]] == ["start", "update"]
    assert first["inputs"][0] | {"quality": {}} == {
        "metric": "spo2", "value": 82.0, "time": "2023-11-14T22:13:20Z", "age_s": 1.5, "quality": {},
        "used": True, "note": None,
    }  # fmt: skip
    assert first["inputs"][0]["quality"]["validity"] == "valid"
    assert first["inputs"][1]["note"] == "missing"
    assert (first["rule"], first["rule_version"]) == ("limit.very-low", 1)
    assert first["patient"] == {"patient_key": "p1", "ambiguous": False}
    assert knowledge["intended_use"] == INTENDED_USE
    assert (await client.get("alarms/a9/knowledge")).status_code == 404


@pytest.mark.parametrize(
    ("params", "found"),
    [({"ward": "icu"}, 2), ({"ward": "er"}, 0), ({"patient": "p1"}, 2), ({"handle": 8}, 0), ({"state": "latched"}, 1),
     ({"rule": "limit.low"}, 0), ({"live": False}, 0), ({"since": "2030-01-01T00:00:00Z"}, 0)],
)  # fmt: skip
async def test_alarms_are_filtered(client: httpx.AsyncClient, bus: Bus, engine: Engine, params: dict, found: int) -> None:
    await notify(bus, alarm(1), alarm(2), alarm(2, Phase.END, 20))
    await applied(engine, 3)
    assert len((await client.get("alarms", params=params)).json()["items"]) == found


@pytest.mark.clause("9.2c")
async def test_a_person_acknowledges_with_an_outcome(
    client: httpx.AsyncClient, bus: Bus, engine: Engine, sealer: Sealer
) -> None:
    sealer.data_keys.of_owners([patient_owner("sz.h001", "p1")], are_new=True)  # as at their admission
    await notify(bus, alarm(1), alarm(1, Phase.END, 20))
    await applied(engine, 2)
    assert (await client.get("alarms/a1")).json()["state"] == "latched"
    answered = await client.post("alarms/a1/acknowledge", json={"outcome": "artefact", "note": "electrode"})
    assert answered.is_success, answered.text
    body = answered.json()
    assert body["note"] == "electrode"
    assert (body["state"], body["outcome"], body["acknowledged_by"]) == ("closed", "artefact", "ada")
    again = await client.post("alarms/a1/acknowledge", json={"outcome": "actionable"})
    assert (again.status_code, again.json()["code"]) == (409, "conflict")
    assert (await client.post("alarms/a1/acknowledge", json={"outcome": "fine"})).status_code == 422
    burden = (await client.get("alarms/counts")).json()
    assert (burden["open"], burden["total"]) == (0, 1)


async def test_audio_is_paused_with_an_end_and_comes_back(
    client: httpx.AsyncClient, bus: Bus, engine: Engine, clock: ManualClock
) -> None:
    await notify(bus, alarm(1))
    await applied(engine, 1)
    paused = (await client.post("alarms/a1/pause-audio", json={"until": moment(60)})).json()
    assert (paused["state"], paused["paused_until"]) == ("audio-paused", "2023-11-14T22:14:20Z")
    assert (await client.post("alarms/a1/pause-audio", json={"until": moment(7200)})).status_code == 422
    clock.advance(61)

    async def sounds_again() -> bool:
        return (await client.get("alarms/a1")).json()["state"] != "audio-paused"

    await eventually(sounds_again)
    assert (await client.get("alarms/a1")).json()["state"] == "active"


async def test_the_desk_goes_on_where_it_stopped(bus: Bus, engine: Engine, clock: ManualClock) -> None:
    for numbers in ((1, 2), (3, 4)):
        made = create_app(services_of(bus=bus, engine=engine, clock=clock))
        async with made.router.lifespan_context(made), client_of(made) as client:
            await notify(bus, *(alarm(number) for number in numbers))
            await applied(engine, numbers[-1])
            listed = (await client.get("/api/v1/alarms")).json()["items"]
            assert len(listed) == numbers[-1]


class Receiver:
    """A webhook receiver that verifies signatures by itself and answers as it is told."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.taken: list[dict] = []
        self.attempts: list[str] = []
        self.wrong: list[str] = []

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message.get("more_body", False)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        expected = base64.b64encode(hmac.new(SECRET_KEY, signed, hashlib.sha256).digest()).decode()
        if headers["webhook-signature"] != f"v1,{expected}":
            self.wrong.append(headers["webhook-signature"])
        self.attempts.append(headers["webhook-id"])
        status = self.answers.pop(0) if self.answers else 204
        if status < 300:
            self.taken.append(json.loads(body))
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture
async def receiver() -> AsyncIterator[tuple[Receiver, str]]:
    made = Receiver()
    async with serving(made, "127.0.0.1", 0) as port:
        yield made, f"http://127.0.0.1:{port}/alarms"


@pytest.mark.clause("9.2c")
async def test_the_webhook_delivers_signed_in_order_and_tries_again(
    bus: Bus, engine: Engine, clock: ManualClock, receiver: tuple[Receiver, str]
) -> None:
    told, url = receiver
    told.answers = [500, 503, 204, 400]  # the first event needs three attempts; the second is refused for good
    await notify(bus, alarm(0))  # before the webhook ever started: not delivered
    made = create_app(services_of(bus=bus, engine=engine, clock=clock, webhook=WebhookTarget(url, SECRET)))
    async with made.router.lifespan_context(made):
        await until(lambda: position_of(engine, "webhook") == 1)
        await notify(bus, alarm(1), alarm(2), alarm(3))
        await until(lambda: len(told.taken) == 2)
    assert told.wrong == []
    assert told.attempts == ["e1-start", "e1-start", "e1-start", "e2-start", "e3-start"]
    assert [event["data"]["event"]["alarm_id"] for event in told.taken] == ["a1", "a3"]
    assert told.taken[0]["type"] == "alarm.start"
    assert told.taken[0]["data"]["intended_use"] == INTENDED_USE


class Kept(AccessJournal):
    """The journal of accesses, and a copy of what it was given."""

    def add(self, accesses: Sequence[NewAccess]) -> None:
        super().add(accesses)
        self.events = [*getattr(self, "events", []), *(json.loads(access.event) for access in accesses)]


def of_patients(engine: Engine) -> list[AlarmEvent]:
    """An alarm each of a patient of the usual level, one of the strictest, and one whose records are withheld."""
    add_hospital(engine, "sz.h001")
    events = []
    for number, level in enumerate((None, Level.STRICT, WITHHELD), start=1):
        key = admit_patient(engine, ADA, "sz.h001", NewPatient(f"MRN-{number}", ward_id="icu"))["patient_key"]
        with writing(engine) as connection:
            connection.execute(update(patients).where(patients.c.patient_key == key).values(level=level))
        event = alarm(number)
        events.append(msgspec.structs.replace(event, subject=msgspec.structs.replace(event.subject, patient_key=key)))
    return events


@pytest.mark.clause("9.3c")
@pytest.mark.parametrize(
    ("scope", "taken"),
    [
        ({}, ["a1"]), ({"highest_level": Level.STRICT}, ["a1", "a2"]), ({"place": Place.parse("sz.h001/icu")}, ["a1"]),
        ({"place": Place.parse("sz.h002")}, []), ({"highest_level": Level.RESTRICTED}, []),
    ],
)  # fmt: skip
async def test_the_webhook_tells_what_its_place_and_level_allow_and_never_what_is_withheld(
    bus: Bus, engine: Engine, clock: ManualClock, receiver: tuple[Receiver, str], scope: dict, taken: list[str]
) -> None:
    told, url = receiver
    events = of_patients(engine)
    accesses = Kept.open(IN_MEMORY)
    await notify(bus, alarm(0))
    target = WebhookTarget(url, SECRET, **scope)
    made = create_app(services_of(bus=bus, engine=engine, clock=clock, accesses=accesses, webhook=target))
    async with made.router.lifespan_context(made):
        await until(lambda: position_of(engine, "webhook") == 1)
        await notify(bus, *events)
        await until(lambda: position_of(engine, "webhook") == 4)
    assert [event["data"]["event"]["alarm_id"] for event in told.taken] == taken
    noted = getattr(accesses, "events", [])
    assert [event["agent"][-1]["who"]["display"] for event in noted] == ["vitalgrid:webhook"] * len(taken)
    keys = [event.subject.patient_key for event in events[: len(taken)]]
    assert all(key in json.dumps(event) for key, event in zip(keys, noted, strict=True))


@pytest.mark.clause("9.3e")
async def test_the_webhook_waits_while_accesses_cannot_be_noted(
    bus: Bus, engine: Engine, clock: ManualClock, receiver: tuple[Receiver, str], caplog: pytest.LogCaptureFixture
) -> None:
    told, url = receiver
    await notify(bus, alarm(0))
    made = create_app(services_of(bus=bus, engine=engine, clock=clock, webhook=WebhookTarget(url, SECRET)))
    async with made.router.lifespan_context(made):
        await until(lambda: position_of(engine, "webhook") == 1)
        backend = made.state.backend
        backend.log_state.receive(msgspec.json.encode(LogState(NOW_US, 5, 0, "the disk is full")), subjects.LOG_STATE)
        await notify(bus, alarm(1))
        await until(lambda: "the webhook waits" in caplog.text)
        assert (told.attempts, position_of(engine, "webhook")) == ([], 1)
        backend.log_state.receive(msgspec.json.encode(LogState(NOW_US, 5, 0)), subjects.LOG_STATE)
        await until(lambda: position_of(engine, "webhook") == 2)
    assert told.attempts == ["e1-start"]


async def test_the_webhook_goes_on_behind_what_was_taken(
    bus: Bus, engine: Engine, clock: ManualClock, receiver: tuple[Receiver, str]
) -> None:
    told, url = receiver
    await notify(bus, alarm(0))
    for number in (1, 2):
        made = create_app(services_of(bus=bus, engine=engine, clock=clock, webhook=WebhookTarget(url, SECRET)))
        async with made.router.lifespan_context(made):
            await until(lambda: position_of(engine, "webhook") >= 1)
            await notify(bus, alarm(number))
            await until(lambda: position_of(engine, "webhook") == 1 + number)  # noqa: B023
    assert told.attempts == ["e1-start", "e2-start"]


@pytest.mark.clause("9.1a")
async def test_the_webhook_tells_no_alarm_to_a_receiver_that_another_authority_vouches_for(
    bus: Bus, engine: Engine, clock: ManualClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now, told = datetime.now(UTC), Receiver()
    ours, foreign = Authority(tmp_path / "ours"), Authority(tmp_path / "foreign")
    for authority in (ours, foreign):
        authority.make_missing("sz", now)
    ours.keep(Wanted("his", frozenset({"127.0.0.1"}), is_server=True), now)
    file = str(ours.file_of("his"))
    async with serving(told, "127.0.0.1", 0, tls=TakenUp.server(CertificateFiles(file, file))) as port:
        for authority, taken in ((foreign, []), (ours, ["e1-start"])):
            trust = Trust(str(authority.file))
            target = WebhookTarget(f"https://127.0.0.1:{port}/alarms", SECRET, trust)
            made = create_app(services_of(bus=bus, engine=engine, clock=clock, webhook=target))
            async with made.router.lifespan_context(made):
                if not taken:
                    await notify(bus, alarm(0))  # before its first start: not delivered
                    await until(lambda: position_of(engine, "webhook") == 1)
                    await notify(bus, alarm(1))
                    await until(lambda: "CERTIFICATE_VERIFY_FAILED" in caplog.text)
                else:
                    await until(lambda: position_of(engine, "webhook") == 2)
            assert told.attempts == taken


async def test_a_broken_task_is_started_again_and_counted(
    bus: Bus, engine: Engine, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    breaks: list[Exception] = [RuntimeError("a third time"), ValueError("twice"), ValueError("once")]
    original = background.apply_alarm_events

    def sometimes(*args: object) -> int:
        if breaks:
            raise breaks.pop()
        return original(*args)

    monkeypatch.setattr(background, "apply_alarm_events", sometimes)
    made = create_app(services_of(bus=bus, engine=engine, clock=clock))
    async with made.router.lifespan_context(made), client_of(made) as client:
        await notify(bus, alarm(1))
        await applied(engine, 1)
        assert len((await client.get("/api/v1/alarms")).json()["items"]) == 1
        text = (await client.get("/metrics")).text
    assert 'vitalgrid_background_failures_total{task="alarm-desk"} 3.0' in text
    assert sum("background task broke" in record.message for record in caplog.records) == 2  # the same again is not said again


async def test_an_application_that_stops_while_it_starts_does_stop(bus: Bus, engine: Engine, clock: ManualClock) -> None:
    for turns in range(0, 60, 3):
        made = create_app(services_of(bus=bus, engine=engine, clock=clock))
        async with asyncio.timeout(10), made.router.lifespan_context(made):
            for _ in range(turns):
                await asyncio.sleep(0.0005)
