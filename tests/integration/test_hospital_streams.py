"""A hospital's program on the bus, from its certificate to its alarms: real server, database and application."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from nats.aio.msg import Msg
from nats.errors import OutboundBufferLimitError
from sqlalchemy import Engine

from api.live import hospital_streams
from domain.enrolment import MAX_REQUEST_BYTES
from domain.errors import Unavailable
from domain.principals import Role
from runtime.bus import Bus
from runtime.certificates import read_certificate
from runtime.keys import KeyMissing
from runtime.sql import patients
from runtime.sql.engine import writing
from runtime.sql.patients import NewPatient
from runtime.sql.tables import patients as patient_table
from runtime.tasks import end
from tests.bus_program import program_of_the_howto
from tests.hospital_district import OTHER, OWN, District, running_district
from tests.sql_fixtures import ADA
from tests.waiting import eventually, until

pytestmark = [pytest.mark.integration, pytest.mark.clause("9.4"), pytest.mark.clause("9.3e")]


@pytest.fixture
async def district(tmp_path: Path, engine: Engine) -> AsyncIterator[District]:
    async with running_district(tmp_path, engine) as made:
        yield made


async def test_a_program_hears_what_its_role_may_see_and_it_is_noted_first(district: District) -> None:
    whole, ward, other = [
        await district.program(*one) for one in (("his-1", OWN), ("icu-1", f"{OWN}/icu"), ("his-2", OTHER))
    ]  # fmt: skip
    before = await district.notify(1)
    assert await whole.ask(after=before - 1) == (None, '{"lease_s":30.0}')
    assert await ward.ask() == await other.ask() == (None, '{"lease_s":30.0}')
    noted = district.noted()
    assert {event["agent"][2]["who"]["display"] for event in noted} == {"his-1", "icu-1", "his-2"}
    assert {event["agent"][0]["who"]["display"] for event in noted} == {
        f"bus certificate {program.made['id']}" for program in (whole, ward, other)
    }
    await district.notify(2)
    await district.notify(3, ward_id="icu")
    await district.notify(4, OTHER)
    await until(lambda: (whole.alarms(), ward.alarms(), other.alarms()) == (["e1", "e2", "e3"], ["e3"], ["e4"]))
    assert [number for event, number, _ in whole.heard if event == "alarm"] == [1, 2, 3]
    assert whole.heard[0][0] == "hello"
    await until(lambda: any(event == "heartbeat" for event, _, _ in whole.heard))
    answers = await asyncio.gather(*(program.go_on() for program in (whole, ward, other)))
    assert {code for code, _ in answers} == {None}
    assert whole.numbers == list(range(1, len(whole.numbers) + 1))
    assert len(district.noted()) == 3


async def test_who_is_withheld_is_withheld_here_too(district: District) -> None:

    key = patients.admit_patient(district.engine, ADA, OWN, NewPatient("MRN-1", "王小明", ward_id="icu"))["patient_key"]
    with writing(district.engine) as connection:
        connection.execute(patient_table.update().where(patient_table.c.patient_key == key).values(level=9))
    program = await district.program("his-1", OWN)
    assert (await program.ask())[0] is None
    await district.notify(1, ward_id="icu", patient=key)
    await district.notify(2, ward_id="icu")
    await until(lambda: program.alarms() == ["e2"])


async def test_the_certificate_alone_opens_nothing_and_neither_does_another_token(
    district: District, caplog: pytest.LogCaptureFixture
) -> None:
    program = await district.program("his-1", OWN)
    another, own = district.token("his-2", Role.STATION, OTHER), program.token
    for token in ("", "rubbish", another):
        program.token = token
        code, said = await program.ask()
        assert code == "unauthenticated", said
        assert not token or token not in said
    shown = [record for record in caplog.records if "another token" in record.message]
    assert [(record.certificate, record.hospital) for record in shown] == [(program.made["id"], OWN)] * 3
    assert not any(another in str(vars(record)) for record in caplog.records)
    code, _ = await program.ask(after="x")
    assert code == "invalid-input"
    program.token = own
    code, said = await program.ask(after=-5)
    assert (code, "Last-Event-ID" in said) == ("invalid-input", True), said
    integration = await district.program("planner", OWN, Role.CAPACITY_PLANNER)
    code, said = await integration.ask()
    assert (code, "may not alarm.read" in said) == ("forbidden", True), said
    assert program.heard == integration.heard == []


async def test_who_says_no_more_that_they_hear_is_sent_no_more(district: District, monkeypatch) -> None:
    program = await district.program("his-1", OWN)
    assert (await program.go_on())[0] == "conflict"
    with monkeypatch.context() as patched:
        patched.setattr(hospital_streams, "LEASE_S", 1.5)
        await program.ask()
    await until(lambda: program.heard and program.heard[-1][0] == "end")
    await district.notify(1)
    assert (await program.go_on())[0] == "conflict"
    await program.ask(after=0)
    await until(lambda: program.alarms() == ["e1"])


async def test_while_the_database_is_away_who_hears_alarms_goes_on_and_nobody_else_begins(
    district: District, monkeypatch
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise Unavailable("the business database does not answer")

    program = await district.program("his-1", OWN)
    assert (await program.go_on())[0] == "conflict"
    await program.ask()
    monkeypatch.setattr(hospital_streams, "check_shown", away)
    assert await program.go_on() == (None, '{"lease_s":30.0}')
    assert (await program.ask())[0] == "unavailable"
    program.token = district.token("his-2", Role.STATION, OWN)
    assert (await program.go_on())[0] == "unavailable"


async def test_an_answer_that_another_program_has_sent_here_is_no_message_of_a_stream(district: District) -> None:
    program, sly = await district.program("his-1", OWN), await district.program("his-2", OWN)
    await program.ask()
    question = json.dumps({"token": sly.token}).encode()
    await sly.client.publish(sly.made["asks"], question, reply=program.made["hears"])
    await until(lambda: program.unnumbered)
    assert program.unnumbered == [b'{"lease_s":30.0}']
    await until(lambda: len(program.numbers) > 1)
    assert (await program.go_on())[0] is None
    foreign = await district.program("his-3", OTHER)
    await foreign.client.publish(foreign.made["asks"], b"rubbish", reply=program.made["hears"])
    assert (await foreign.ask())[0] is None
    assert len(program.unnumbered) == 1


async def test_what_is_caught_up_with_comes_at_a_pace_and_alarms_behind_it(district: District, monkeypatch) -> None:
    monkeypatch.setattr(hospital_streams, "_BYTES_A_S", 20_000)
    for number in range(20):
        await district.notify(number)
    program, loop = await district.program("his-1", OWN), asyncio.get_running_loop()
    began_s = loop.time()
    await program.ask(after=0)
    await district.notify(20)
    await until(lambda: program.alarms() == [f"e{number}" for number in range(21)], 20)
    assert loop.time() - began_s > 0.5


async def test_who_floods_with_questions_is_answered_few_of_them_and_others_all(
    district: District, monkeypatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hospital_streams, "_SAY_S", 0.0)
    flooding, other = await district.program("his-1", OWN), await district.program("his-2", OTHER)
    answers: list[str] = []

    async def take(message: Msg) -> None:
        answers.append(message.data.decode())

    inbox = f"{flooding.made['inbox']}.x"
    await flooding.client.subscribe(inbox, cb=take)
    for _ in range(3_000):
        await flooding.client.publish(flooding.made["asks"], b"{}", reply=inbox)
    await flooding.client.flush()
    assert (await other.ask())[0] is None
    await until(lambda: sum(getattr(record, "unanswered", 0) for record in caplog.records) > 2_900, 20)
    assert 0 < len(answers) < 40
    await district.notify(1, OTHER)
    await until(lambda: other.alarms() == ["e1"])


async def test_an_api_that_stops_says_so_to_who_hears_alarms(district: District) -> None:
    program = await district.program("his-1", OWN)
    await program.ask()
    await until(lambda: program.heard)
    await end(district.streams)
    await until(lambda: program.heard[-1][0] == "end")
    assert program.numbers == list(range(1, len(program.numbers) + 1))


async def test_a_bus_that_does_not_take_it_keeps_no_stream_from_its_end_and_is_said_once_of_each(
    district: District, monkeypatch, caplog: pytest.LogCaptureFixture
) -> None:
    programs = [await district.program(*one) for one in (("his-1", OWN), ("his-2", OTHER))]
    for program in programs:
        await program.ask()
        await until(lambda program=program: program.heard)
    failing = set[str]()
    takes = Bus.core_publish

    async def fails(self: Bus, subject: str, payload: bytes, headers: dict[str, str] | None = None) -> None:
        if payload == hospital_streams._END and subject == programs[0].made["hears"]:
            failing.add(subject)
            raise OutboundBufferLimitError
        await takes(self, subject, payload, headers)

    monkeypatch.setattr(Bus, "core_publish", fails)
    await end(district.streams)
    assert failing == {programs[0].made["hears"]}
    await until(lambda: programs[1].heard[-1][0] == "end")
    said = [record for record in caplog.records if "alarms end" in record.message]
    assert [record.subject for record in said] == [programs[0].made["hears"]]


async def test_what_was_lost_on_the_way_is_found_and_comes_when_it_is_asked_for_anew(district: District) -> None:
    program = await district.program("his-1", OWN)
    await program.ask(after=0)
    await until(lambda: program.heard)
    assert (await program.ask(goes_on=1_000))[0] == "conflict"  # that many were never sent
    assert program.hearing is not None
    await program.hearing.unsubscribe()  # as a connection that breaks and comes back: what is said meanwhile is said to nobody
    await program.client.flush()
    before = program.numbers[-1]
    assert await program.ask(goes_on=before) == (None, '{"lease_s":30.0}')  # it may be on its way
    await district.notify(1)
    await program.listen()
    await until(lambda: program.numbers[-1] > before + 1)
    await program.ask(goes_on=before)
    code, said = await program.ask(goes_on=before)
    assert (code, "lost" in said) == ("conflict", True), said
    await program.ask(after=0)
    await until(lambda: program.numbers.count(1) == 2 and program.alarms_of_this_stream() == ["e1"])


async def test_the_program_of_the_howto_misses_nothing_when_its_connection_breaks(district: District) -> None:
    (district.folder / "his.token").write_text(district.token("his-1", Role.STATION, OWN))
    file, made = await district.certify("his-1")
    for name in ("his.pem", "his.key"):
        (district.folder / name).write_bytes(file.read_bytes())
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-u", "-c", program_of_the_howto(district.server.url, made), cwd=district.folder, stdout=PIPE
    )
    assert running.stdout is not None

    async def until_said(*words: str) -> None:
        line = ""
        async with asyncio.timeout(30):
            while not all(word in line for word in words):
                assert not line.startswith("alarm ")  # each comes once
                line = (await running.stdout.readline()).decode()

    async def second_is_notified() -> bool:
        with contextlib.suppress(Unavailable):
            return bool(await district.notify(2))
        return False

    try:
        await until_said("hello ")
        await district.notify(1)
        await until_said("alarm ", '"e1"')
        district.server.kill()
        await district.server.start()
        await eventually(second_is_notified, 20)  # the program comes back two seconds later
        await until_said("alarm ", '"e2"')
    finally:
        running.kill()
        await running.wait()


@pytest.mark.parametrize("what", ["certificate", "token"])
async def test_revoked_it_hears_nothing_more_and_is_cut_off(district: District, what: str) -> None:
    program, other = await district.program("his-1", OWN), await district.program("his-2", OWN)
    await program.ask()
    await other.ask()
    path = "/tokens/his-1" if what == "token" else f"/tokens/his-1/bus-certificates/{program.made['id']}"
    assert (await district.http.delete(path)).status_code == 204
    await district.hospitals.look()  # as `run` does every two seconds
    await until(lambda: not program.client.is_connected)
    await district.notify(1)
    await until(lambda: other.alarms() == ["e1"])
    assert (other.client.is_connected, program.alarms()) == (True, [])
    if what == "certificate":
        assert (await district.http.delete(path)).status_code == 404
        listed = (await district.http.get("/tokens/his-1/bus-certificates")).json()
        assert [row["state"] for row in listed] == ["revoked"]


async def test_who_revokes_is_told_when_the_bus_does_not_take_it_up(district: District, monkeypatch) -> None:
    async def fails() -> None:
        raise Unavailable("nats-server does not take up its configuration")

    program = await district.program("his-1", OWN)
    with monkeypatch.context() as patched:
        patched.setattr(district.hospitals, "_reload", fails)
        answer = await district.http.delete(f"/tokens/his-1/bus-certificates/{program.made['id']}")
    assert (answer.status_code, "the bus may let it in" in answer.json()["detail"]) == (202, True), answer.text
    assert program.client.is_connected
    await district.hospitals.look()  # as `run` does every two seconds
    await until(lambda: not program.client.is_connected)


async def test_what_is_no_request_or_no_program_of_a_hospital_gets_none(district: District) -> None:
    district.token("region-1", Role.HEALTH_COMMISSION, "sz")
    district.token("his-1", Role.STATION, OWN)
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, SHA256())
    body = {"request": request.public_bytes(Encoding.PEM).decode()}

    async def status(name: str, body: Any) -> int:
        return (await district.http.post(f"/tokens/{name}/bus-certificates", json=body)).status_code

    assert await status("region-1", body) == 422
    assert await status("nobody", body) == 404
    assert await status("his-1", {"request": "rubbish"}) == 422
    made, again = [(await district.http.post("/tokens/his-1/bus-certificates", json=body)).json() for _ in range(2)]
    assert made == again
    district.token("his-2", Role.STATION, OWN)
    assert await status("his-2", body) == 409  # a key has one certificate, ever
    for large in ("x" * (MAX_REQUEST_BYTES + 1), "é" * MAX_REQUEST_BYTES):
        answer = await district.http.post("/tokens/his-1/bus-certificates", json={"request": large})
        assert (answer.status_code, str(MAX_REQUEST_BYTES) in answer.text) == (422, True)
    for _ in range(3):
        await district.certify("his-1")
    assert (await district.http.post("/tokens/his-1/bus-certificates", json=_another())).status_code == 409
    made = read_certificate(_written(district.folder, (await _listed(district, "his-1"))[-1]["certificate"]))
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
    assert [name.endswith(".hospitals.vitalgrid") for name in names] == [True]
    assert (await district.http.get("/tokens/nobody/bus-certificates")).status_code == 404


async def test_who_gets_no_certificate_now_is_told_and_gets_it_by_asking_again(district: District, monkeypatch) -> None:
    def fails(*_: Any) -> None:
        raise KeyMissing("the authority's key is missing")

    district.token("his-1", Role.STATION, OWN)
    body = _another()
    with monkeypatch.context() as patched:
        patched.setattr(district.hospitals, "_sign", fails)
        answer = await district.http.post("/tokens/his-1/bus-certificates", json=body)
    assert (answer.status_code, "ask again" in answer.json()["detail"]) == (503, True), answer.text
    (asked,) = await _listed(district, "his-1")
    assert asked["state"] == "asked"
    made = (await district.http.post("/tokens/his-1/bus-certificates", json=body)).json()
    assert (made["id"], made["state"]) == (asked["id"], "good")


def _another() -> dict[str, str]:
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    signed = request.sign(ec.generate_private_key(ec.SECP256R1()), SHA256())
    return {"request": signed.public_bytes(Encoding.PEM).decode()}


def _written(folder: Path, pem: str) -> Path:
    (folder / "written.pem").write_text(pem)
    return folder / "written.pem"


async def _listed(district: District, name: str) -> list[dict[str, Any]]:
    return list((await district.http.get(f"/tokens/{name}/bus-certificates")).json())
