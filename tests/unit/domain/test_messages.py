"""Messages survive the wire, and arbitrary bytes are refused in our own words."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import InvalidInput, RejectedInput
from domain.fleet_manifest import DeviceColumns, FleetManifest, HospitalManifest, Tier
from domain.messages import (
    AssociationSpan,
    DeviceAssociated,
    DeviceEvent,
    DeviceIsolated,
    DevicesRegistered,
    FreshnessQuery,
    LatestQuery,
    LimitsPreset,
    MaintenanceSet,
    PatientAdmitted,
    TailQuery,
    decode_control,
    decode_query,
    encode,
)

CONTROLS = [
    DevicesRegistered("sz.h1", [1, 2], ["m-1", "m-2"], ["monitor@1", "fridge@1"], ["icu", None], ["b1", None]),
    PatientAdmitted("sz.h1", "p-key", 9, age_years=71.5, pregnant=False, spo2_scale=2, admitted_us=5),
    DeviceAssociated("sz.h1", 1, [AssociationSpan(9, 5, 10), AssociationSpan(11, 10)]),
    LimitsPreset("sz.h1", 9, "heart_rate", (None, 50.0, 130.0, None)),
    LimitsPreset("sz.h1", 9, "heart_rate", None),
    MaintenanceSet("sz.h1", 1, 2, handle=3),
    DeviceEvent("sz.h1", 1, "offline", 5, "will"),
    DeviceEvent("sz.h1", 1, "lead_off", 5, brought_by=9),
    DeviceIsolated("sz.h1", 1, 7, 5, "bo.li", "li.na", carried=[2, 3]),
    DeviceIsolated("sz.h1", 1, 7, 5, "bo.li", is_over=True),
]
QUERIES = [TailQuery(5, handles=[1]), LatestQuery(hospital_id="sz.h1"), FreshnessQuery(handles=[1, 2])]


@pytest.mark.parametrize("message", CONTROLS, ids=lambda message: type(message).__name__)
def test_a_control_message_survives_the_wire(message):
    assert decode_control(encode(message)) == message


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: type(query).__name__)
def test_a_query_survives_the_wire(query):
    assert decode_query(encode(query)) == query


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_in_our_own_words(noise):
    with pytest.raises(RejectedInput) as refused:
        decode_control(noise)
    assert refused.value.reason == "malformed-control"
    with pytest.raises(InvalidInput):
        decode_query(noise)


@pytest.mark.parametrize("wrong", [
    b'{"type":"no-such"}', b'{"type":"device-event","hospital_id":"sz.h1"}', b"[]", b'{"type":"limits-preset","hospital_id":7}',
    b'\xff{"type":"x"}', b'{"type":"device-event","hospital_id":"\xff"}',
])  # fmt: skip
def test_well_formed_json_that_is_no_message_is_refused_too(wrong):
    with pytest.raises(RejectedInput):
        decode_control(wrong)


def test_tags_on_the_wire_are_the_ones_we_published():
    tags = [msgspec.json.decode(encode(message))["type"] for message in (*CONTROLS, *QUERIES)]
    assert tags == ["devices-registered", "patient-admitted", "device-associated", "limits-preset", "limits-preset",
                    "maintenance-set", "device-event", "device-event", "device-isolated", "device-isolated",
                    "tail", "latest", "freshness"]  # fmt: skip


def test_an_event_of_before_it_was_said_who_brought_it_is_read_as_the_devices_own():
    old = b'{"type":"device-event","hospital_id":"sz.h1","handle":1,"event":"lead_off","at_us":5,"detail":null,"mode":0}'
    assert decode_control(old) == DeviceEvent("sz.h1", 1, "lead_off", 5)


def test_a_fleet_manifest_survives_the_wire_and_needs_no_optional_part():
    manifest = FleetManifest([HospitalManifest("sz.h1", "First", Tier.TERTIARY, 1200, DeviceColumns(["m-1"], ["monitor"]))])
    assert msgspec.json.decode(msgspec.json.encode(manifest), type=FleetManifest) == manifest
