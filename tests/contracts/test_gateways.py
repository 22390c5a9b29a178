"""One suite for every format of readings that doors take, found in the registry."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import RejectedInput
from domain.frames import encode_frame
from domain.readings import ReadingBatch
from gateways.formats import ALL_FORMATS, BY_NAME, BY_TOPIC, FORMATS
from tests.doors import MONITOR, NOW_US, assert_same_rows

FORMAT = pytest.mark.parametrize("row", FORMATS, ids=lambda row: row.name)

# the same two readings of one monitor, as each format says them
SAMPLES = {
    "readings": json.dumps({"readings": [{"metric": "hr", "value": 72}, {"metric": "spo2.1", "value": 97}],
                            "time": NOW_US // 1000}).encode(),
    "thingsboard": json.dumps({"ts": NOW_US // 1000, "values": {"hr": 72, "spo2.1": 97}}).encode(),
    "frame": encode_frame(ReadingBatch.of(handle=7, metric=[1, 4], instance=[0, 1], time_us=NOW_US, value=[72.0, 97.0]),
                          source=7, sequence=1, arrival_us=0),
}  # fmt: skip


def test_formats_do_not_collide():
    assert len(BY_NAME) == len(BY_TOPIC) == len({row.path for row in ALL_FORMATS}) == len(ALL_FORMATS)
    assert set(SAMPLES) == {row.name for row in FORMATS}, "a format without a sample is not tested"


@FORMAT
@pytest.mark.clause("5.4d")
def test_the_same_readings_are_the_same_record_in_every_format(row):
    assert_same_rows(row.decode(SAMPLES[row.name], MONITOR, NOW_US), BY_NAME["frame"].decode(SAMPLES["frame"], MONITOR, NOW_US))


@FORMAT
def test_decoding_keeps_no_state(row):
    first = row.decode(SAMPLES[row.name], MONITOR, NOW_US)
    with pytest.raises(RejectedInput):
        row.decode(b"broken", MONITOR, NOW_US)
    assert_same_rows(row.decode(SAMPLES[row.name], MONITOR, NOW_US), first)


@FORMAT
@pytest.mark.clause("8.1")
@given(payload=st.binary(max_size=300))
def test_any_bytes_are_readings_or_a_reject_with_a_reason(row, payload):
    _total(row, payload)


@FORMAT
@given(data=st.data())
def test_a_damaged_message_is_readings_or_a_reject_with_a_reason(row, data):
    payload = bytearray(SAMPLES[row.name])
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    _total(row, bytes(payload[: data.draw(st.integers(0, len(payload)))]))


KEYS = ["metric", "value", "unit", "time", "seq", "readings", "values", "ts", "hr"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(["hr", "ts", "°F", "open", ""]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@pytest.mark.parametrize("name", ["readings", "thingsboard"])
@given(message=JSON)
def test_any_json_is_readings_or_a_reject_with_a_reason(name, message):
    _total(BY_NAME[name], json.dumps(message).encode())


def _total(row, payload):
    """Decodes, or refuses with a reason and a sentence; nothing else may happen."""
    try:
        batch = row.decode(payload, MONITOR, NOW_US)
    except RejectedInput as refused:
        reason, detail = refused.reason, refused.detail
    else:
        assert len(batch) > 0
        assert (batch.source == MONITOR.handle).all() or (batch.source == batch.handle).all()
        return
    assert reason
    assert reason == reason.lower()
    assert 15 < len(detail) < 400
