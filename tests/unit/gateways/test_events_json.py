"""The native JSON of device events: one event of what the device can say, or a reason why not."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import RejectedInput
from domain.messages import DeviceEvent
from domain.quality import Mode
from domain.thing_catalogue import thing_model
from gateways.formats import EVENTS
from tests.doors import CUFF, GATEWAY, MONITOR, NOW_US


def decoded(message: object, sender=MONITOR) -> DeviceEvent:
    payload = message if isinstance(message, bytes) else json.dumps(message).encode()
    return EVENTS.decode(payload, sender, NOW_US)


def test_an_event_has_its_time_detail_and_mode():
    said = {"event": "lead_off", "at": "2026-11-23T07:59:58Z", "detail": "RA", "mode": "test"}
    assert decoded(said) == DeviceEvent("sz.h001", 7, "lead_off", NOW_US - 2_000_000, "RA", Mode.TEST)


def test_without_a_time_it_happened_on_arrival():
    assert decoded({"event": "lead_off"}) == DeviceEvent("sz.h001", 7, "lead_off", NOW_US)


def test_a_time_may_be_unix_milliseconds():
    assert decoded({"event": "lead_on", "at": NOW_US // 1000 - 5}).at_us == NOW_US - 5_000


def test_a_gateway_speaks_for_its_devices_whatever_they_are():
    said = decoded({"event": "occlusion", "handle": 12}, GATEWAY)
    assert said == DeviceEvent("sz.h001", 12, "occlusion", NOW_US, brought_by=GATEWAY.handle)
    assert decoded({"event": "offline", "handle": 12}, GATEWAY).handle == 12
    assert decoded({"event": "occlusion"}, GATEWAY).brought_by == decoded({"event": "lead_off"}).brought_by == 0


@pytest.mark.clause("8.1")
@pytest.mark.parametrize(
    ("message", "sender", "reason", "sentence"),
    [
        (b"", MONITOR, "malformed-json", "not JSON"),
        (b"\xff", MONITOR, "malformed-json", "not JSON"),
        (b"[" * 5000, MONITOR, "malformed-value", "not of an event"),
        ([], MONITOR, "malformed-value", "not of an event"),
        ({}, MONITOR, "malformed-value", "event"),
        ({"event": ""}, MONITOR, "malformed-value", "event"),
        ({"event": "lead_off", "colour": 1}, MONITOR, "malformed-value", "colour"),
        ({"event": "lead_off", "mode": "party"}, MONITOR, "malformed-value", "mode"),
        ({"event": "lead_off", "at": "yesterday"}, MONITOR, "malformed-value", "yesterday"),
        ({"event": "lead_off", "at": 1}, MONITOR, "implausible-time", "1970"),
        ({"event": "lead_off", "handle": 0}, MONITOR, "malformed-value", "handle"),
        (
            {"event": "tea_time"},
            MONITOR,
            "unknown-event",
            "'tea_time' is not one of thing model monitor@1, which says lead_off",
        ),
        ({"event": "offline"}, MONITOR, "unknown-event", "'offline'"),
        ({"event": "lead_off"}, CUFF, "unknown-event", "says none"),
    ],
)
def test_what_is_no_event_of_the_device_is_refused_with_a_reason(message, sender, reason, sentence):
    with pytest.raises(RejectedInput, match=sentence) as refused:
        decoded(message, sender)
    assert refused.value.reason == reason


@given(payload=st.binary(max_size=200) | st.dictionaries(
    st.sampled_from(["event", "at", "detail", "handle", "mode"]),
    st.none() | st.integers() | st.text(max_size=5) | st.sampled_from(["lead_off", "test", "2026-11-23T08:00:00Z"]),
).map(lambda said: json.dumps(said).encode()))  # fmt: skip
def test_any_bytes_are_an_event_or_a_reject_with_a_reason(payload):
    try:
        event = EVENTS.decode(payload, MONITOR, NOW_US)
    except RejectedInput as error:
        event, reason, detail = None, error.reason, error.detail
    assert event.event in MONITOR.model.by_event if event else (reason and len(detail) > 10)


def test_every_event_of_every_model_can_be_said():
    for name in ("monitor", "ventilator", "infusion-pump", "wearable", "ct"):
        model = thing_model(name)
        for event in model.by_event:
            assert decoded({"event": event}, replace(MONITOR, model=model)).event == event
