"""JSON in, readings out: native and ThingsBoard's shapes, and what is refused with which reason."""

from __future__ import annotations

import json

import numpy as np
import pytest

from domain.errors import NotFound, RejectedInput
from domain.metrics import metric_of
from domain.ports import Sender
from domain.quality import Mark, Mode, Validity, describe, has_mark, is_usable, mode_of, validity_of
from domain.thing_catalogue import thing_model
from domain.units import find_unit
from gateways.formats import ALL_FORMATS, BY_NAME, format_of
from tests.doors import CUFF, GATEWAY, MONITOR, NOW_US, assert_same_rows

HR, SPO2, TEMP = (metric_of(code).id for code in ("heart_rate", "spo2", "body_temp"))
DAY_US = 86_400_000_000


def native(message, sender=MONITOR):
    payload = message if isinstance(message, bytes) else json.dumps(message).encode()
    return BY_NAME["readings"].decode(payload, sender, NOW_US)


def telemetry(message, sender=MONITOR):
    payload = message if isinstance(message, bytes) else json.dumps(message).encode()
    return BY_NAME["thingsboard"].decode(payload, sender, NOW_US)


def test_one_native_reading():
    batch = native({"metric": "heart_rate", "value": 72, "unit": "/min", "time": "2026-11-23T15:59:59.5+08:00", "seq": 17})
    assert (batch.handle[0], batch.source[0], batch.metric[0], batch.instance[0]) == (7, 7, HR, 0)
    assert (batch.value[0], batch.sequence[0], batch.quality[0], batch.raw_unit[0]) == (72.0, 17, 0, 0)
    assert batch.time_us[0] == NOW_US - 500_000
    assert np.isnan(batch.raw_value[0])


def test_a_list_and_an_envelope_of_readings():
    listed = native([{"metric": "hr", "value": 72}, {"metric": "SpO2", "value": 97, "instance": 1, "seq": 4}])
    assert listed.metric.tolist() == [HR, SPO2]
    assert listed.instance.tolist() == [0, 1]
    assert listed.sequence.tolist() == [0, 4]
    assert listed.time_us.tolist() == [NOW_US, NOW_US]
    wrapped = native({"readings": [{"metric": "hr", "value": 72}, {"metric": "spo2.1", "value": 97, "time": NOW_US // 1000}],
                      "time": NOW_US // 1000 - 1000, "seq": 9, "mode": "demo"})  # fmt: skip
    assert wrapped.time_us.tolist() == [NOW_US - 1_000_000, NOW_US]
    assert wrapped.sequence.tolist() == [9, 9]
    assert mode_of(wrapped.quality).tolist() == [Mode.DEMO, Mode.DEMO]


DEEP = 100_000
BOMBS = {
    "lists": b"[" * DEEP + b"]" * DEEP,
    "objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "values": b'{"metric":"hr","value":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "unknown fields": b'{"metric":"hr","value":1,"x":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "no end": b'[{"values":' * DEEP,
}


@pytest.mark.clause("9.1b")
@pytest.mark.parametrize("row", ALL_FORMATS, ids=lambda row: row.name)
@pytest.mark.parametrize("bomb", BOMBS)
def test_what_is_nested_without_end_is_a_reject(row, bomb):
    """Nothing is unpacked level by level: it would be the interpreter's stack that ends."""
    with pytest.raises(RejectedInput):
        row.decode(BOMBS[bomb], MONITOR, NOW_US)


def test_sender_says_mode_and_validity():
    batch = native({"metric": "hr", "value": 72, "mode": "test", "validity": "calibrating"})
    assert describe(int(batch.quality[0])) == {"validity": "calibrating", "mode": "test", "origin": "measured", "marks": []}


@pytest.mark.clause("5.4d")
def test_thingsboards_three_shapes():
    flat = telemetry({"hr": 72, "spo2": 97.5})
    assert (flat.metric.tolist(), flat.value.tolist(), flat.time_us.tolist()) == ([HR, SPO2], [72, 97.5], [NOW_US] * 2)
    listed = telemetry([{"hr": 72}, {"spo2": 97.5}])
    timed = telemetry({"ts": NOW_US // 1000, "values": {"hr": 72, "spo2": 97.5}})
    timed_list = telemetry([{"ts": NOW_US // 1000, "values": {"hr": 72}}, {"ts": NOW_US // 1000, "values": {"spo2": 97.5}}])
    for other in (listed, timed, timed_list):
        assert_same_rows(other, flat)


@pytest.mark.clause("5.4d")
def test_native_and_thingsboard_give_the_same_record():
    assert_same_rows(native([{"metric": "hr", "value": 72}]), telemetry({"hr": 72}))


def test_another_unit_is_converted_and_the_raw_value_kept():
    batch = native({"metric": "body_temp", "value": 98.6, "unit": "°F"})
    assert batch.value[0] == pytest.approx(37.0)
    assert batch.raw_value[0] == 98.6
    assert batch.raw_unit[0] == find_unit("[degF]", "Cel").code
    assert has_mark(batch.quality, Mark.CONVERTED)[0]


@pytest.mark.parametrize("spelling", ["/min", "bpm", "1/min", "次/min"])
def test_another_spelling_of_the_metrics_unit_is_no_conversion(spelling):
    batch = native({"metric": "hr", "value": 72, "unit": spelling})
    assert (batch.value[0], batch.raw_unit[0], batch.quality[0]) == (72, 0, 0)


@pytest.mark.parametrize("sentinel", [-1, -999, -99.9, 8388607])
def test_a_models_sentinel_means_nothing_measured(sentinel):
    batch = native({"metric": "hr", "value": sentinel})
    assert np.isnan(batch.value[0])
    assert batch.raw_value[0] == sentinel
    assert validity_of(batch.quality)[0] == Validity.NOT_AVAILABLE
    assert not is_usable(batch.quality)[0]


def test_null_is_a_reading_without_a_value():
    batch = native({"metric": "hr", "value": None})
    assert np.isnan(batch.value[0])
    assert validity_of(batch.quality)[0] == Validity.NOT_AVAILABLE


@pytest.mark.clause("8.1")
@pytest.mark.parametrize(("value", "is_absurd"), [(300, False), (301, True), (0, False), (4000, True)])
def test_implausible_is_taken_and_marked(value, is_absurd):
    batch = native({"metric": "hr", "value": value})
    assert batch.value[0] == value
    assert has_mark(batch.quality, Mark.IMPLAUSIBLE)[0] == is_absurd
    assert validity_of(batch.quality)[0] == (Validity.QUESTIONABLE if is_absurd else Validity.VALID)


def test_coded_metrics_take_names_numbers_and_booleans():
    fridge = Sender("sz.h001/fridge-9", 9, "sz.h001", 3, thing_model("fridge"))
    for value in ("open", 1, True):
        assert native({"metric": "door_open", "value": value}, fridge).value[0] == 1


@pytest.mark.clause("8.1")
@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("malformed-json", b""),
        ("malformed-json", b"{"),
        ("malformed-json", b'{"metric": "hr", "value": NaN}'),
        ("malformed-json", b'{"metric": "hr", "value": "\xff"}'),
        ("malformed-value", b"[" * 5000),
        ("malformed-value", b"72"),
        ("malformed-value", {"metric": "hr"}),
        ("malformed-value", {"metric": "hr", "value": "72"}),
        ("malformed-value", {"metric": "hr", "value": True}),
        ("malformed-value", {"metric": "hr", "value": [72]}),
        ("malformed-value", {"metric": "hr", "value": 72, "unti": "bpm"}),
        ("malformed-value", {"metric": "hr", "value": 72, "seq": 0}),
        ("malformed-value", {"metric": "hr", "value": 72, "time": "yesterday"}),
        ("malformed-value", {"metric": "hr", "value": 72, "time": "2026-11-23T08:00:00"}),
        ("malformed-value", {"metric": "hr", "value": 72, "validity": "dubious"}),
        ("malformed-value", b'{"metric": "hr", "value": 1e999}'),
        ("malformed-value", b'{"metric": "hr", "value": 1e308, "unit": "Hz"}'),
        ("unknown-metric", {"metric": "mood", "value": 1}),
        ("unknown-metric", {"metric": "fridge_temp", "value": 4}),
        ("unknown-metric", {"metric": "hr", "value": 72, "instance": 1}),
        ("unknown-metric", [{"metric": "hr", "value": 72}, {"metric": "mood", "value": 1}]),
        ("wrong-unit", {"metric": "hr", "value": 72, "unit": "mmHg"}),
        ("implausible-time", {"metric": "hr", "value": 72, "time": 0}),
        ("implausible-time", {"metric": "hr", "value": 72, "time": "1999-12-31T23:59:59Z"}),
        ("implausible-time", {"metric": "hr", "value": 72, "time": (NOW_US + DAY_US) // 1000 + 1}),
        ("implausible-time", {"metric": "hr", "value": 72, "time": 10**30}),
        ("empty-message", []),
        ("empty-message", {"readings": []}),
    ],
)
def test_native_message_is_refused_with_a_reason(reason, message):
    with pytest.raises(RejectedInput) as refused:
        native(message)
    assert refused.value.reason == reason
    assert len(refused.value.detail) > 20


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("malformed-json", b'{"hr": }'),
        ("malformed-value", b'"hr"'),
        ("malformed-value", {"hr": "72"}),
        ("malformed-value", {"hr": {"value": 72}}),
        ("malformed-value", {"ts": "now", "values": {"hr": 72}}),
        ("malformed-value", {"ts": 1.5, "values": {"hr": 72}}),
        ("malformed-value", {"values": {"hr": 72}}),
        ("unknown-metric", {"mood": 1}),
        ("implausible-time", {"ts": 5, "values": {"hr": 72}}),
        ("empty-message", {}),
    ],
)
def test_telemetry_is_refused_with_a_reason(reason, message):
    with pytest.raises(RejectedInput) as refused:
        telemetry(message)
    assert refused.value.reason == reason


def test_time_up_to_a_day_ahead_is_taken():
    assert native({"metric": "hr", "value": 72, "time": (NOW_US + DAY_US) // 1000}).time_us[0] == NOW_US + DAY_US


def test_a_wearables_heart_rate_is_its_pulse_rate():
    assert native({"metric": "pulse_rate", "value": 60}, CUFF).metric[0] == metric_of("pulse_rate").id


def test_a_gateway_sends_no_json():
    with pytest.raises(RejectedInput, match="frames"):
        native({"metric": "hr", "value": 72}, GATEWAY)


def test_format_is_found_by_the_topic_or_path_that_a_reject_keeps():
    assert format_of("v1/devices/me/telemetry") is format_of("/api/v1/{token}/telemetry") is BY_NAME["thingsboard"]
    with pytest.raises(NotFound, match="v1/devices/me/frames"):
        format_of("v1/devices/me/attributes")
