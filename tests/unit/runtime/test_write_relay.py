"""Rows of the write log as records: of each there is one, always the same, which the log can read."""

from __future__ import annotations

import msgspec
import pytest
from fhir.resources.R4B.auditevent import AuditEvent

from domain.log_entries import read_record
from runtime.write_relay import SOURCE, record_of

ROW = {"id": 7, "at_us": 5, "who": "ada", "action": "device.update", "target": "sz.h001/d", "reason": None, "detail": None}


def told(row):
    payload = record_of(row, "sz")
    assert record_of(dict(reversed(row.items())), "sz") == payload
    record = read_record(payload, 1, 1)
    assert (record.id, record.by, record.n, record.at_us) == ("w-7", SOURCE, 7, 5)
    AuditEvent.model_validate_json(bytes(record.event))
    event = msgspec.json.decode(record.event)
    (entity,) = event["entity"]
    details = {item["type"]: item["valueString"] for item in entity.get("detail", [])}
    return event["agent"][0]["who"]["display"], event["subtype"][0]["code"], entity["what"]["identifier"]["value"], details


@pytest.mark.clause("9.3e")
@pytest.mark.parametrize(
    ("detail", "said"),
    [
        (None, {}),
        ({"c": [1, 10**30], "a": "b"}, {"detail": '{"a":"b","c":[1,1000000000000000000000000000000]}'}),
        ({"a": float("nan")}, {"detail": '{"a":null}'}),
    ],
)
def test_a_row_is_told_as_it_is(detail, said):
    row = ROW | {"detail": detail, "reason": "new gateway"}
    assert told(row) == ("ada", "device.update", "sz.h001/d", {"reason": "new gateway"} | said)


@pytest.mark.clause("9.3e")
def test_what_cannot_be_encoded_is_spelled_out():
    who, _, _, details = told(ROW | {"who": "\ud800", "detail": {"a": "\ud800", "\udfff": 1}})
    assert who == "\\ud800"
    assert "\\ud800" in details["detail"]


@pytest.mark.clause("9.3e")
@pytest.mark.parametrize(
    ("action", "letter", "kind", "sub"),
    [
        ("session.begin", "E", "110114", "110122"), ("session.end", "E", "110114", "110123"),
        ("user.lock", "U", "110113", "110135"),
        ("token.create", "C", "110113", "110137"), ("patient.admit", "C", "110110", None), ("export.make", "C", "110106", None),
        ("ward.remove", "D", "110100", None),
    ],
)  # fmt: skip
def test_a_write_is_called_what_dicom_calls_it(action, letter, kind, sub):
    event = msgspec.json.decode(read_record(record_of(ROW | {"action": action}, "sz"), 1, 1).event)
    assert (event["action"], event["type"]["code"]) == (letter, kind)
    assert [coding["code"] for coding in event["subtype"]] == [action] + ([] if sub is None else [sub])


def test_whose_record_was_written_is_named():
    event = msgspec.json.decode(read_record(record_of(ROW | {"target": f"mon-7 -> {'a' * 32}"}, "sz"), 1, 1).event)
    assert event["entity"][0]["what"] == {"reference": f"Patient/{'a' * 32}"}


@pytest.mark.clause("9.3e")
def test_who_wrote_is_named_as_in_the_access_of_the_same_request():
    event = msgspec.json.decode(read_record(record_of(ROW | {"by_kind": "user", "by_id": "u-1"}, "sz"), 1, 1).event)
    AuditEvent.model_validate(event)
    assert event["agent"][0]["who"] == {"identifier": {"system": "urn:vitalgrid:user", "value": "u-1"}, "display": "ada"}
    unknown = msgspec.json.decode(read_record(record_of(ROW | {"by_kind": None, "by_id": None}, "sz"), 1, 1).event)
    assert unknown["agent"][0]["who"] == {"display": "ada"}
