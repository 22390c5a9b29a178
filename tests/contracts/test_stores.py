"""What the business store promises, on SQLite and on PostgreSQL alike: the same calls, the same answers, the same refusals."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, select

from domain.alarms import (
    AlarmEvent,
    AlarmState,
    AlarmSubject,
    AlertType,
    Outcome,
    Phase,
    Priority,
    event_id_of,
)
from domain.errors import Conflict, InvalidInput, NotFound, StaleVersion
from domain.messages import DeviceAssociated, DevicesRegistered, LimitsPreset, MaintenanceSet, PatientAdmitted
from runtime.sql import access, alarms, devices, patients, places, presets
from runtime.sql.devices import NewDevice
from runtime.sql.engine import reading
from runtime.sql.patients import NewPatient, associate, correct_association, end_association, list_associations
from runtime.sql.records import Row
from runtime.sql.tables import associations, handles, outbox, write_log
from runtime.sql.tables import devices as device_table
from tests.sql_fixtures import ADA, ALL, HOSPITAL, HOUR_US, MINUTE_US, NOW_US, SHARDS, add_hospital, count, later, told

OTHER = "sz.h002"


@pytest.fixture
def place(engine: Engine) -> str:
    """An empty hospital."""
    add_hospital(engine)
    return HOSPITAL


def device(engine: Engine, device_id: str = "mon-7", **more: Any) -> Row:
    return devices.register_device(engine, ADA, HOSPITAL, NewDevice(device_id, "monitor", **more))[0]


def patient(engine: Engine, ref: str = "MRN-1", **more: Any) -> Row:
    return patients.admit_patient(engine, ADA, HOSPITAL, NewPatient(ref, **more))


def ids(rows: list[Row], name: str = "id") -> list[Any]:
    return [row[name] for row in rows]


# --- places ---


@pytest.mark.clause("5.1")
def test_places_are_made_read_changed_and_listed_by_hospital(engine: Engine, place: str) -> None:
    add_hospital(engine, OTHER)
    places.create_ward(engine, ADA, place, "icu", "ICU")
    places.create_bed(engine, ADA, place, "icu-07", "icu")
    places.update_ward(engine, ADA, place, "icu", "重症监护室", version=1)
    assert ids(places.list_hospitals(engine, reach=ALL, limit=10).rows) == [HOSPITAL, OTHER]
    assert [(row["id"], row["name"], row["version"]) for row in places.list_wards(engine, place, reach=ALL, limit=10).rows] == [
        ("icu", "重症监护室", 2)
    ]
    assert ids(places.list_beds(engine, place, reach=ALL, ward_id="icu", limit=10).rows) == ["icu-07"]
    assert places.list_wards(engine, OTHER, reach=ALL, limit=10).rows == []
    with pytest.raises(Conflict, match="exists already"):
        places.create_ward(engine, ADA, place, "icu", "again")
    with pytest.raises(NotFound):
        places.get_hospital(engine, "sz.h999")


def test_a_change_for_a_version_that_is_gone_changes_nothing(engine: Engine, place: str) -> None:
    places.update_hospital(engine, ADA, place, {"name": "first"}, version=1)
    with pytest.raises(StaleVersion, match="version 2"):
        places.update_hospital(engine, ADA, place, {"name": "second"}, version=1)
    row = places.get_hospital(engine, place)
    assert (row["name"], row["version"]) == ("first", 2)


def test_hospitals_are_spread_over_the_shards(engine: Engine) -> None:
    made = [add_hospital(engine, f"sz.h{n:03}")["shard"] for n in range(2 * SHARDS)]
    assert sorted(made) == sorted(2 * list(range(SHARDS)))


# --- devices ---


@pytest.mark.clause("5.1", "8.1")
def test_an_import_reports_each_row_and_registers_those_that_are_right(engine: Engine, place: str) -> None:
    device(engine, "mon-1")
    rows = [
        NewDevice("gw-1", "gateway", with_token=True), NewDevice("mon-2", "monitor", "icu", "icu-02", "gw-1"),
        NewDevice("mon-1", "monitor"), NewDevice("mon-2", "monitor"), NewDevice("x-1", "toaster"),
        NewDevice("mon-3", "monitor", gateway_id="gw-9"), NewDevice("no good", "monitor"),
    ]  # fmt: skip
    dry = devices.import_devices(engine, ADA, place, rows, dry_run=True)
    assert count(engine, device_table) == 1
    made = devices.import_devices(engine, ADA, place, rows)
    assert [bool(report.error) for report in dry] == [bool(report.error) for report in made]
    assert [bool(report.error) for report in made] == [False, False, True, True, True, True, True]
    assert [report.row for report in made] == [1, 2, 3, 4, 5, 6, 7]
    assert (made[0].token is None, made[1].token is None) == (False, True)
    assert made[0].handle == devices.find_device(engine, place, "mon-2")["gateway_handle"]
    assert count(engine, device_table) == 3
    assert told(engine, DevicesRegistered)[-1].device_ids == ["gw-1", "mon-2"]  # type: ignore[union-attr]


def test_a_row_behind_a_faulty_gateway_is_reported_and_the_others_are_registered(engine: Engine, place: str) -> None:
    rows = [NewDevice("gw-1", "toaster"), NewDevice("mon-1", "monitor", gateway_id="gw-1"), NewDevice("mon-2", "monitor")]
    assert [bool(report.error) for report in devices.import_devices(engine, ADA, place, rows)] == [True, True, False]


def test_a_device_id_is_taken_within_its_hospital_only(engine: Engine, place: str) -> None:
    device(engine, "mon-7")
    add_hospital(engine, OTHER)
    devices.register_device(engine, ADA, OTHER, NewDevice("mon-7", "monitor"))
    with pytest.raises(Conflict, match="mon-7"):
        device(engine, "mon-7")
    with pytest.raises(NotFound, match="toaster"):
        devices.register_device(engine, ADA, place, NewDevice("t-1", "toaster"))


def test_handles_are_unique_and_never_used_again(engine: Engine, place: str) -> None:
    first = device(engine, "mon-1")["handle"]
    person = patient(engine)["handle"]
    many = [r.handle for r in devices.import_devices(engine, ADA, place, [NewDevice(f"m-{n}", "monitor") for n in range(50)])]
    with pytest.raises(Conflict):
        device(engine, "mon-1")
    last = device(engine, "mon-2")["handle"]
    assert len({first, person, *many, last}) == 53
    assert first > 0
    assert last == max(first, person, *(handle or 0 for handle in many), last)
    assert count(engine, handles) >= 53


@pytest.mark.clause("9.3b")
def test_a_token_ends_with_its_rotation_and_with_its_device(engine: Engine, place: str) -> None:
    row, first = devices.register_device(engine, ADA, place, NewDevice("pump-1", "infusion-pump", with_token=True))
    assert first is not None
    found = devices.device_of_token(engine, first)
    assert found is not None
    assert found["handle"] == row["handle"]
    second = devices.rotate_token(engine, ADA, row["handle"])
    assert devices.device_of_token(engine, first) is None
    assert devices.device_of_token(engine, second) is not None
    devices.retire_device(engine, ADA, row["handle"], version=2)
    assert devices.device_of_token(engine, second) is None
    with pytest.raises(Conflict, match="retired"):
        devices.rotate_token(engine, ADA, row["handle"])
    with reading(engine) as connection:
        stored = {str(row) for row in connection.execute(select(device_table))}
    assert not any(token in text for token in (first, second) for text in stored)


def test_devices_are_listed_by_filter_text_and_page(engine: Engine, place: str) -> None:
    for n in range(5):
        device(engine, f"mon-{n}", ward_id="icu" if n < 3 else "er", bed_id=f"b-{n}")
    pump, _ = devices.register_device(engine, ADA, place, NewDevice("PUMP_1", "infusion-pump", "icu"))
    devices.retire_device(engine, ADA, pump["handle"], version=None)
    seen: list[str] = []
    after = None
    while True:
        page = devices.list_devices(engine, reach=ALL, limit=2, after=after, hospital_id=place)
        assert len(page.rows) <= 2
        seen += ids(page.rows, "device_id")
        if (after := page.after) is None:
            break
    assert seen == ["mon-0", "mon-1", "mon-2", "mon-3", "mon-4", "PUMP_1"]

    def found(**filters: Any) -> list[str]:
        return ids(devices.list_devices(engine, reach=ALL, limit=10, **filters).rows, "device_id")

    assert found(ward_id="icu") == ["mon-0", "mon-1", "mon-2", "PUMP_1"]
    assert found(bed_id="b-3") == ["mon-3"]
    assert found(model="infusion-pump") == found(status="retired") == found(text="pump_") == ["PUMP_1"]
    assert found(text="%") == found(hospital_id=OTHER) == []


# --- patients and associations ---


@pytest.mark.clause("8.1")
def test_a_patient_is_told_to_hosts_without_the_name(engine: Engine, place: str) -> None:
    made = patient(engine, name="王小明", age_years=67.0)
    patients.update_patient(engine, ADA, made["patient_key"], {"bed_id": "icu-01", "ward_id": "icu"}, version=1)
    admitted = [message for message in told(engine, PatientAdmitted) if isinstance(message, PatientAdmitted)]
    assert [(message.age_years, message.bed_id) for message in admitted] == [(67.0, None), (67.0, "icu-01")]
    with reading(engine) as connection:
        assert not any("王小明".encode() in payload for payload in connection.execute(select(outbox.c.payload)).scalars())
        logged = " ".join(str(tuple(row)) for row in connection.execute(select(write_log)))
    assert "王小明" not in logged
    assert ids(patients.list_patients(engine, reach=ALL, clear=ALL, limit=5, text="小明").rows, "ref") == ["MRN-1"]
    with pytest.raises(Conflict) as refused:
        patient(engine, name="李四")
    assert "李四" not in str(refused.value)


@pytest.mark.clause("6.1")
def test_a_device_is_on_one_patient_at_a_time(engine: Engine, place: str) -> None:
    handle = device(engine)["handle"]
    one, two = patient(engine, "MRN-1")["patient_key"], patient(engine, "MRN-2")["patient_key"]
    span = associate(engine, ADA, handle, one, NOW_US)
    for start, end in ((NOW_US + HOUR_US, None), (NOW_US - HOUR_US, NOW_US + 1), (NOW_US - HOUR_US, None)):
        with pytest.raises(Conflict, match="one patient"):
            associate(engine, ADA, handle, two, start, end)
    associate(engine, ADA, handle, two, NOW_US - HOUR_US, NOW_US)
    end_association(engine, later(HOUR_US / 1e6), span["id"], NOW_US + HOUR_US)
    associate(engine, later(3601), handle, two, NOW_US + HOUR_US)
    with pytest.raises(InvalidInput, match="ends after it starts"):
        associate(engine, ADA, handle, one, NOW_US - HOUR_US, NOW_US - HOUR_US)
    assert [row["patient_key"] for row in list_associations(engine, reach=ALL, handle=handle)] == [two, one, two]
    message = told(engine, DeviceAssociated)[-1]
    assert isinstance(message, DeviceAssociated)
    assert [(span.start_us, span.end_us) for span in message.spans] == [
        (NOW_US - HOUR_US, NOW_US), (NOW_US, NOW_US + HOUR_US), (NOW_US + HOUR_US, None),
    ]  # fmt: skip


@pytest.mark.clause("6.1", "9.3e")
def test_a_correction_keeps_what_was_believed_and_names_what_it_touches(engine: Engine, place: str) -> None:
    handle = device(engine)["handle"]
    one, two = patient(engine, "MRN-1")["patient_key"], patient(engine, "MRN-2")["patient_key"]
    old = associate(engine, ADA, handle, one, NOW_US)
    within = event("a" * 32, handle=handle, at_us=NOW_US + MINUTE_US)
    outside = event("b" * 32, Phase.END, NOW_US - HOUR_US, handle=handle, onset_us=NOW_US - 2 * HOUR_US)
    other = event("c" * 32, handle=handle + 1000, at_us=NOW_US + MINUTE_US)
    alarms.apply_alarm_events(engine, [(1, within), (2, outside), (3, other)])
    export = {"lake_version": 3, "from_us": NOW_US, "until_us": NOW_US + HOUR_US, "query": {}}
    mine = access.record_export(engine, ADA, handles=[handle], **export)
    everything = access.record_export(engine, ADA, handles=None, **export)
    access.record_export(engine, ADA, handles=[handle + 1000], **export)
    new, touched = correct_association(engine, later(3600, "bob", "wrong bed"), old["id"], patient_key=two)
    assert touched.alarm_ids == ["a" * 32]
    assert touched.export_ids == [mine, everything]
    assert sorted(touched.patient_keys) == sorted([one, two])
    assert [row["patient_key"] for row in list_associations(engine, reach=ALL, handle=handle)] == [two]
    before = list_associations(engine, reach=ALL, handle=handle, known_at_us=NOW_US + MINUTE_US)
    assert [row["patient_key"] for row in before] == [one]
    assert list_associations(engine, reach=ALL, handle=handle, known_at_us=NOW_US - 1) == []
    assert (new["who"], new["reason"]) == ("bob", "wrong bed")
    assert count(engine, associations) == 2
    assert alarms.get_alarm(engine, "a" * 32)["alarm_id"] == "a" * 32
    with pytest.raises(Conflict, match="corrected before"):
        correct_association(engine, later(3700), old["id"], withdraw=True)
    correct_association(engine, later(3700), new["id"], withdraw=True)
    assert list_associations(engine, reach=ALL, handle=handle) == []
    assert count(engine, associations) == 2


def test_a_discharge_ends_spans_and_cannot_be_repeated(engine: Engine, place: str) -> None:
    key = patient(engine)["patient_key"]
    long, sudden = device(engine, "mon-1")["handle"], device(engine, "mon-2")["handle"]
    associate(engine, ADA, long, key, NOW_US)
    patients.discharge_patient(engine, later(60), key, NOW_US + MINUTE_US, version=None)
    assert [row["end_us"] for row in list_associations(engine, reach=ALL, handle=long)] == [NOW_US + MINUTE_US]
    assert patients.list_patients(engine, reach=ALL, limit=5, present_only=True).rows == []
    with pytest.raises(Conflict, match="discharged"):
        patients.discharge_patient(engine, later(61), key, NOW_US + MINUTE_US, version=None)
    second = patient(engine, "MRN-2")["patient_key"]
    associate(engine, ADA, sudden, second, NOW_US + MINUTE_US)
    patients.discharge_patient(engine, later(60), second, NOW_US + MINUTE_US, version=None)
    assert list_associations(engine, reach=ALL, handle=sudden) == []


# --- presets and maintenance ---


@pytest.mark.parametrize("limits", [(50, 40, 120, 130), (None, 120, 40, None), (None, None, None, None)])
def test_preset_limits_must_rise(engine: Engine, place: str, limits: presets.PresetLimits) -> None:
    key = patient(engine)["patient_key"]
    with pytest.raises(InvalidInput, match="rise"):
        presets.set_preset(engine, ADA, key, "heart_rate", limits)
    assert presets.list_presets(engine, key) == []


def test_limits_of_an_unknown_metric_are_refused(engine: Engine, place: str) -> None:
    with pytest.raises(InvalidInput, match="shoe_size"):
        presets.set_preset(engine, ADA, patient(engine)["patient_key"], "shoe_size", (1.0, 2.0, 3.0, 4.0))


@pytest.mark.clause("9.2c")
def test_presets_are_set_replaced_and_removed_and_hosts_are_told(engine: Engine, place: str) -> None:
    made = patient(engine)
    for limits in ((None, 50.0, 120.0, None), (40.0, 55.0, 110.0, 130.0)):
        presets.set_preset(engine, ADA, made["patient_key"], "heart_rate", limits)
    assert [row["limits"] for row in presets.list_presets(engine, made["patient_key"])] == [[40.0, 55.0, 110.0, 130.0]]
    presets.remove_preset(engine, ADA, made["patient_key"], "heart_rate")
    with pytest.raises(NotFound):
        presets.remove_preset(engine, ADA, made["patient_key"], "heart_rate")
    assert told(engine, LimitsPreset) == [
        LimitsPreset(HOSPITAL, made["handle"], "heart_rate", limits)
        for limits in ((None, 50.0, 120.0, None), (40.0, 55.0, 110.0, 130.0), None)
    ]


@pytest.mark.clause("9.2c")
def test_maintenance_is_of_one_device_or_ward_and_ends_early_but_never_late(engine: Engine, place: str) -> None:
    handle = device(engine, ward_id="icu")["handle"]
    span = {"from_us": NOW_US, "until_us": NOW_US + HOUR_US}
    window = presets.start_maintenance(engine, ADA, place, handle=handle, **span)
    for wrong in ({}, {"handle": handle, "ward_id": "icu"}):
        with pytest.raises(InvalidInput):
            presets.start_maintenance(engine, ADA, place, **span, **wrong)
    with pytest.raises(NotFound):
        presets.start_maintenance(engine, ADA, place, ward_id="attic", **span)
    presets.end_maintenance(engine, later(60), window["id"])
    assert told(engine, MaintenanceSet)[-1] == MaintenanceSet(place, NOW_US, NOW_US + MINUTE_US, handle)
    assert presets.list_maintenance(engine, place, reach=ALL, open_at_us=NOW_US + 2 * MINUTE_US) == []


def test_a_maintenance_window_that_is_over_is_not_stretched(engine: Engine, place: str) -> None:
    handle = device(engine)["handle"]
    window = presets.start_maintenance(engine, ADA, place, handle=handle, from_us=NOW_US, until_us=NOW_US + MINUTE_US)
    with contextlib.suppress(Conflict):  # to refuse is as good
        presets.end_maintenance(engine, later(3600), window["id"])
    assert presets.list_maintenance(engine, place, reach=ALL)[0]["until_us"] == NOW_US + MINUTE_US


# --- alarms ---


def event(alarm_id: str = "a" * 32, phase: Phase = Phase.START, at_us: int = NOW_US, **more: Any) -> AlarmEvent:
    about = {name: more.pop(name) for name in ("handle", "ward_id", "patient_key", "hospital_id") if name in more}
    given: dict[str, Any] = {"priority": Priority.MEDIUM, "rule": "limit", "text": "HR 140", "onset_us": NOW_US} | more
    return AlarmEvent(
        event_id=event_id_of(alarm_id, phase, at_us), alarm_id=alarm_id, phase=phase, alert_type=AlertType.PHYSIOLOGICAL,
        rule_version=1, subject=AlarmSubject(**{"hospital_id": HOSPITAL, "handle": 7, **about}), event_us=at_us,
        arrival_us=at_us + 1000, **given,
    )  # fmt: skip


def apply(engine: Engine, *events: AlarmEvent, first: int = 1) -> int:
    return alarms.apply_alarm_events(engine, list(enumerate(events, start=first)))


def state_of(engine: Engine, alarm_id: str = "a" * 32) -> str:
    return str(alarms.get_alarm(engine, alarm_id)["state"])


@pytest.mark.clause("9.2c")
def test_an_event_that_comes_twice_changes_nothing(engine: Engine) -> None:
    start = event()
    assert apply(engine, start, start) == 1
    before = alarms.get_alarm(engine, start.alarm_id)
    assert apply(engine, start, first=2) == 0
    assert alarms.get_alarm(engine, start.alarm_id) == before
    assert alarms.events_of(engine, start.alarm_id) == [start]
    assert alarms.position_of(engine) == 2


@pytest.mark.clause("9.2c")
@pytest.mark.parametrize(("latching", "ends_in"), [(True, AlarmState.LATCHED), (False, AlarmState.CLOSED)])
@pytest.mark.parametrize("is_in_order", [True, False])
def test_the_end_is_the_end_in_whatever_order_events_come(
    engine: Engine, latching: bool, ends_in: AlarmState, is_in_order: bool
) -> None:
    story = [event(latching=latching), event(phase=Phase.END, at_us=NOW_US + MINUTE_US, latching=latching)]
    for number, part in enumerate(story if is_in_order else reversed(story), start=1):
        apply(engine, part, first=number)
    row = alarms.get_alarm(engine, story[0].alarm_id)
    assert (row["state"], row["ended_us"], row["onset_us"]) == (ends_in, NOW_US + MINUTE_US, NOW_US)


@pytest.mark.clause("9.2c")
def test_an_escalation_opens_an_acknowledged_alarm_again(engine: Engine) -> None:
    apply(engine, event())
    answered = alarms.acknowledge(engine, later(10, "bob"), "a" * 32, Outcome.ACTIONABLE)
    assert (answered["state"], answered["acknowledged_by"], answered["outcome"]) == ("acknowledged", "bob", "actionable")
    apply(engine, event(phase=Phase.ESCALATE, at_us=NOW_US + MINUTE_US, priority=Priority.HIGH), first=2)
    row = alarms.get_alarm(engine, "a" * 32)
    assert (row["state"], row["priority"]) == (AlarmState.ACTIVE, Priority.HIGH)
    apply(engine, event(phase=Phase.DEESCALATE, at_us=NOW_US + 2 * MINUTE_US, priority=Priority.LOW), first=3)
    assert alarms.get_alarm(engine, "a" * 32)["priority"] == Priority.HIGH


@pytest.mark.clause("9.2c")
def test_sound_is_paused_for_an_hour_at_most_and_comes_back(engine: Engine) -> None:
    apply(engine, event())
    for wrong in (NOW_US, NOW_US + HOUR_US + 1):
        with pytest.raises(InvalidInput):
            alarms.pause_audio(engine, ADA, "a" * 32, wrong)
    alarms.pause_audio(engine, ADA, "a" * 32, NOW_US + MINUTE_US)
    assert alarms.expire_pauses(engine, NOW_US + MINUTE_US - 1) == 0
    assert state_of(engine) == AlarmState.AUDIO_PAUSED
    assert alarms.expire_pauses(engine, NOW_US + MINUTE_US) == 1
    assert state_of(engine) == AlarmState.ACTIVE


def test_what_the_table_does_not_allow_is_a_conflict(engine: Engine) -> None:
    apply(engine, event(), event(phase=Phase.END, at_us=NOW_US + 1))
    before = count(engine, write_log)
    answers: tuple[Callable[[], object], ...] = (
        lambda: alarms.acknowledge(engine, ADA, "a" * 32, Outcome.ARTEFACT),
        lambda: alarms.pause_audio(engine, ADA, "a" * 32, NOW_US + MINUTE_US),
    )
    for answer in answers:
        with pytest.raises(Conflict, match="closed"):
            answer()
    assert count(engine, write_log) == before
    with pytest.raises(NotFound):
        alarms.acknowledge(engine, ADA, "f" * 32, Outcome.ARTEFACT)


def test_alarms_are_listed_newest_first_by_filter_and_page(engine: Engine) -> None:
    kinds: list[dict[str, Any]] = [
        {"priority": Priority.HIGH}, {"rule": "news2"}, {"hospital_id": OTHER}, {"ward_id": "icu"}, {"live": False},
        {"patient_key": "p" * 32}, {"handle": 9},
    ]  # fmt: skip
    names = [f"{n}" * 32 for n in range(len(kinds))]
    apply(engine, *(event(name, at_us=NOW_US + n, **kind) for n, (name, kind) in enumerate(zip(names, kinds, strict=True))))
    alarms.acknowledge(engine, ADA, names[6], Outcome.ACTIONABLE)
    seen: list[str] = []
    after = None
    while True:
        page = alarms.list_alarms(engine, reach=ALL, limit=3, after=after)
        seen += ids(page.rows, "alarm_id")
        if (after := page.after) is None:
            break
    assert seen == names[::-1]
    filters: list[dict[str, Any]] = [
        {"min_priority": 3}, {"rule": "news2"}, {"hospital_id": OTHER}, {"ward_id": "icu"}, {"live": False},
        {"patient_key": "p" * 32}, {"handle": 9},
    ]  # fmt: skip
    found = [ids(alarms.list_alarms(engine, reach=ALL, limit=9, **one).rows, "alarm_id") for one in filters]
    assert found == [[name] for name in names]
    assert ids(alarms.list_alarms(engine, reach=ALL, limit=9, states=["acknowledged"]).rows, "alarm_id") == names[6:]
    assert ids(alarms.list_alarms(engine, reach=ALL, limit=9, since_us=NOW_US + 5 + 1000).rows, "alarm_id") == names[:4:-1]
