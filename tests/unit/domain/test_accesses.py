"""Accesses as FHIR AuditEvents: valid, after IHE BALP, and without a word about anybody."""

from __future__ import annotations

import base64
from dataclasses import replace

import msgspec
import pytest
from fhir.resources.R4B.auditevent import AuditEvent

from domain.accesses import Access, Interaction, audit_event, write_event
from domain.audit_reading import Concerned, Said, asked, concerned, said
from domain.permissions import Action, Purpose, View
from domain.principals import Kind, Principal

PATIENT, OTHER = "0" * 32, "f" * 32
READ = Access(
    id="a-1", at_us=1_700_000_000_000_001, request_id="r-12345678", principal=Principal(Kind.USER, "u-1", "wang"),
    action=Action.PATIENT_READ, interaction=Interaction.READ, route="GET /api/v1/patients/{patient_key}",
    path=f"/api/v1/patients/{PATIENT}", status=200, session_id="s-1", address="10.0.0.7", place="sz.h001/icu",
    patients=(PATIENT,), purpose=Purpose.TREAT, policies=("nurse-reads-patients",),
)  # fmt: skip
LIST = replace(
    READ, action=Action.ALARM_READ, interaction=Interaction.SEARCH, route="GET /api/v1/alarms", path="/api/v1/alarms",
    query="hospital=sz.h001", patients=(PATIENT, OTHER),
)  # fmt: skip
CASES = {
    "one patient": READ,
    "a list": LIST,
    "a list of wards": replace(LIST, place=None, wards=("sz.h001/er", "sz.h001/icu")),
    "a list of nobody": replace(LIST, patients=()),
    "unmasked": replace(READ, view=View.CLEAR, reason="v1|0|c2VhbGVk"),
    "a list unmasked": replace(LIST, view=View.CLEAR, reason="v1|0|c2VhbGVk", place=None),
    "denied": replace(READ, status=404, policies=()),
    "failed": replace(READ, status=500),
    "created by a program": replace(
        READ, interaction=Interaction.CREATE, principal=Principal(Kind.SERVICE, "his", "his"), session_id=None
    ),
    "deleted": replace(READ, interaction=Interaction.DELETE, purpose=None, place=None, address=None),
}


@pytest.mark.clause("9.3e")
@pytest.mark.parametrize("access", CASES.values(), ids=CASES)
def test_an_access_is_a_valid_audit_event(access):
    AuditEvent.model_validate_json(audit_event(access, "sz"))


@pytest.mark.clause("9.3e")
@pytest.mark.parametrize(
    ("case", "profile", "action", "outcome"),
    [
        ("one patient", "PatientRead", "R", "0"),
        ("a list", "PatientQuery", "E", "0"),
        ("a list of nobody", "Query", "E", "0"),
        ("created by a program", "PatientCreate", "C", "0"),
        ("deleted", "PatientDelete", "D", "0"),
        ("denied", None, "R", "4"),
        ("failed", None, "R", "8"),
    ],
)
def test_it_follows_the_pattern_of_what_was_done(case, profile, action, outcome):
    event = msgspec.json.decode(audit_event(CASES[case], "sz"))
    profiles = event.get("meta", {"profile": [None]})["profile"]
    assert [url and url.rpartition(".")[2] for url in profiles] == [profile]
    assert (event["action"], event["outcome"]) == (action, outcome)


@pytest.mark.clause("9.3e")
def test_it_says_who_what_why_by_which_policy_and_when():
    event = msgspec.json.decode(audit_event(READ, "sz"))
    who = next(agent for agent in event["agent"] if agent["requestor"])
    assert who["who"] == {"identifier": {"system": "urn:vitalgrid:user", "value": "u-1"}, "display": "wang"}
    assert who["altId"] == "s-1"
    assert who["policy"] == ["urn:vitalgrid:policy:nurse-reads-patients"]
    assert event["recorded"] == "2023-11-14T22:13:20.000001Z"
    assert event["purposeOfEvent"][0]["coding"][0]["code"] == "TREAT"
    assert {"reference": f"Patient/{PATIENT}"} in [entity.get("what") for entity in event["entity"]]
    assert "r-12345678" in str(event["entity"])


@pytest.mark.parametrize(
    ("access", "wards"),
    [
        (READ, {"sz.h001/icu"}),
        (CASES["a list of wards"], {"sz.h001/er", "sz.h001/icu"}),
        (replace(READ, place="sz.h001"), set()),
    ],
)
def test_it_says_of_which_wards_records_were_shown(access, wards):
    found = asked(audit_event(access, "sz"))
    assert found is not None
    assert found.wards == wards


def test_a_search_keeps_its_question():
    event = msgspec.json.decode(audit_event(LIST, "sz"))
    (query,) = [entity["query"] for entity in event["entity"] if "query" in entity]
    assert base64.b64decode(query).decode() == "/api/v1/alarms?hospital=sz.h001"


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (audit_event(LIST, "sz"), Concerned(frozenset({"wang"}), frozenset({PATIENT, OTHER}))),
        (
            b'{"kind":"write","who":"ada","target":"mon-7 -> %s"}' % PATIENT.encode(),
            Concerned(frozenset({"ada"}), frozenset({PATIENT})),
        ),
        (b'{"kind":"write","who":"ada","target":"sz.h001/d"}', Concerned(frozenset({"ada"}), frozenset())),
        (b'{"agent": 5}', Concerned(frozenset(), frozenset())),
        (b"\xff\x00", Concerned(frozenset(), frozenset())),
        (b'"text"', Concerned(frozenset(), frozenset())),
    ],
)
def test_whom_an_event_concerns_is_found(event, expected):
    assert concerned(event) == expected


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (audit_event(READ, "sz"), Said("wang", "patient.read", READ.path, "", "200")),
        (audit_event(LIST, "sz"), Said("wang", "alarm.read", "GET /api/v1/alarms", "", "200")),
        (audit_event(CASES["unmasked"], "sz"), Said("wang", "patient.read", READ.target, "v1|0|c2VhbGVk", "200")),
        (audit_event(CASES["a list unmasked"], "sz"), Said("wang", "alarm.read", LIST.target, "v1|0|c2VhbGVk", "200")),
        (
            write_event(
                {"id": 1, "at_us": 5, "who": "ada", "action": "ward.close", "target": "w", "reason": "r", "detail": 1}, "sz"
            ),
            Said("ada", "ward.close", "w", "r"),
        ),
        (b'{"kind":"write","who":"ada","action":"ward.close","target":"w","reason":null}', Said("ada", "ward.close", "w")),
        (b'{"kind":"lost","from_sequence":2,"records":2}', None),
        (b"\xff", None),
    ],
)
def test_an_event_is_said_in_a_line(event, expected):
    assert said(event) == expected
