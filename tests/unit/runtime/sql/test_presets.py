"""Limits of one patient, and maintenance windows: what hosts would misread is refused."""

from __future__ import annotations

from math import inf, nan

import pytest
from sqlalchemy import Engine

from domain.errors import Conflict, InvalidInput, NotFound, StaleVersion
from domain.messages import LimitsPreset, MaintenanceSet
from runtime.sql import presets
from runtime.sql.presets import PresetLimits
from tests.sql_fixtures import ADA, ALL, HOSPITAL, MINUTE_US, NOW_US, SmallHospital, add_hospital, later, told


def at(minutes: float) -> int:
    return NOW_US + round(minutes * MINUTE_US)


@pytest.mark.parametrize(
    "limits",
    [
        (None, None, None, None), (90.0, 85.0, None, None), (None, None, 130.0, 120.0), (None, 100.0, 100.0, None),
        (50.0, None, None, 40.0), (nan, 90.0, None, None), (None, 90.0, inf, None),
    ],
)  # fmt: skip
def test_limits_that_would_alarm_always_or_never_are_refused(
    engine: Engine, hospital: SmallHospital, limits: PresetLimits
) -> None:
    with pytest.raises(InvalidInput, match="must rise"):
        presets.set_preset(engine, ADA, hospital.patient["patient_key"], "heart_rate", limits)
    assert presets.list_presets(engine, hospital.patient["patient_key"]) == []


@pytest.mark.clause("6.3f")
def test_a_preset_counts_its_versions_and_refuses_a_stale_one(engine: Engine, hospital: SmallHospital) -> None:
    key = hospital.patient["patient_key"]
    with pytest.raises(NotFound):
        presets.set_preset(engine, ADA, key, "spo2", (None, 90.0, None, None), version=1)
    assert presets.set_preset(engine, ADA, key, "spo2", (85.0, 85.0, None, None))["version"] == 1
    changed = presets.set_preset(engine, later(5), key, "spo2", (None, 88.0, None, 101.0), version=1)
    assert (changed["version"], changed["set_us"], changed["limits"]) == (2, NOW_US + 5_000_000, [None, 88.0, None, 101.0])
    with pytest.raises(StaleVersion):
        presets.set_preset(engine, ADA, key, "spo2", (None, 80.0, None, None), version=1)
    assert [row["limits"] for row in presets.list_presets(engine, key)] == [[None, 88.0, None, 101.0]]
    assert [message.limits for message in told(engine, LimitsPreset)] == [
        (85.0, 85.0, None, None), (None, 88.0, None, 101.0),
    ]  # fmt: skip


def test_one_window_at_a_time_because_hosts_hold_one(engine: Engine, hospital: SmallHospital) -> None:
    handle = hospital.monitor["handle"]
    window = presets.start_maintenance(engine, ADA, HOSPITAL, from_us=at(0), until_us=at(30), handle=handle)
    for start, end in ((10, 20), (40, 50)):
        with pytest.raises(Conflict, match=f"window {window['id']} already"):
            presets.start_maintenance(engine, ADA, HOSPITAL, from_us=at(start), until_us=at(end), handle=handle)
    presets.start_maintenance(engine, ADA, HOSPITAL, from_us=at(0), until_us=at(30), ward_id="icu")
    presets.start_maintenance(engine, ADA, HOSPITAL, from_us=at(0), until_us=at(30), handle=hospital.pump["handle"])
    again = presets.start_maintenance(engine, later(1_800), HOSPITAL, from_us=at(30), until_us=at(40), handle=handle)
    assert len(presets.list_maintenance(engine, HOSPITAL, reach=ALL)) == 4
    assert [row["id"] for row in presets.list_maintenance(engine, HOSPITAL, reach=ALL, open_at_us=at(35))] == [again["id"]]


@pytest.mark.clause("9.2c")
def test_a_planned_window_can_be_called_off_and_makes_room(engine: Engine, hospital: SmallHospital) -> None:
    handle = hospital.monitor["handle"]
    planned = presets.start_maintenance(engine, ADA, HOSPITAL, from_us=at(60), until_us=at(90), handle=handle)
    off = presets.end_maintenance(engine, later(60), planned["id"], version=1)
    assert (off["from_us"], off["until_us"]) == (at(60), at(60))
    assert told(engine, MaintenanceSet)[-1] == MaintenanceSet(HOSPITAL, at(60), at(60), handle)
    with pytest.raises(Conflict, match="is over already"):
        presets.end_maintenance(engine, later(61), planned["id"])
    presets.start_maintenance(engine, later(62), HOSPITAL, from_us=at(70), until_us=at(80), handle=handle)


def test_a_window_lies_ahead_and_is_of_something_of_the_hospital(engine: Engine, hospital: SmallHospital) -> None:
    add_hospital(engine, "sz.h002")
    handle = hospital.monitor["handle"]
    with pytest.raises(InvalidInput, match="after now"):
        presets.start_maintenance(engine, ADA, HOSPITAL, from_us=at(-9), until_us=at(0), handle=handle)
    with pytest.raises(NotFound, match="device with handle"):
        presets.start_maintenance(engine, ADA, "sz.h002", from_us=at(0), until_us=at(9), handle=handle)
    with pytest.raises(NotFound, match="ward 'icu'"):
        presets.start_maintenance(engine, ADA, "sz.h002", from_us=at(0), until_us=at(9), ward_id="icu")
    assert told(engine, MaintenanceSet) == []
