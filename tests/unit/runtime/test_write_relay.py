"""Rows of the write log as records: of each there is one, always the same, which the log can read."""

from __future__ import annotations

import msgspec
import pytest

from domain.log_entries import read_record
from runtime.write_relay import SOURCE, record_of

ROW = {"id": 7, "at_us": 5, "who": "ada", "action": "device.update", "target": "sz.h001/d", "reason": None, "detail": None}


def told(row):
    payload = record_of(row)
    assert record_of(dict(reversed(row.items()))) == payload
    record = read_record(payload, 1, 1)
    assert (record.id, record.by, record.n, record.at_us) == ("w-7", SOURCE, 7, 5)
    return msgspec.json.decode(record.event)


@pytest.mark.clause("9.3e")
@pytest.mark.parametrize("detail", [None, {"a": "b", "c": [1, 10**30]}, {"a": float("nan")}])
def test_a_row_is_told_as_it_is(detail):
    event = told(ROW | {"detail": detail})
    assert event == {"kind": "write", **ROW, "detail": {"a": None} if detail and detail.get("a") != "b" else detail}


@pytest.mark.clause("9.3e")
def test_what_cannot_be_encoded_is_spelled_out():
    event = told(ROW | {"who": "\ud800", "detail": {"a": "\ud800", "\udfff": 1}})
    assert event == {"kind": "write", **ROW, "who": "\\ud800", "detail": '{"a": "\\ud800", "\\udfff": 1}'}
