"""Who wore what, when: what is refused, what a correction touches, how a stay ends and another begins."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from sqlalchemy import Engine

from domain.alarms import AlarmEvent, AlarmSubject, AlertType, Phase, Priority
from domain.errors import Conflict, InvalidInput, NotFound
from domain.messages import AssociationSpan, DeviceAssociated, PatientAdmitted
from runtime.sql import devices, patients
from runtime.sql.access import list_writes, record_export
from runtime.sql.alarms import apply_alarm_events
from runtime.sql.associations import FRAME, as_frame, associate, correct_association, end_association, list_associations
from runtime.sql.devices import NewDevice
from runtime.sql.patients import NewPatient
from runtime.sql.records import Row
from tests.sql_fixtures import ADA, ALL, HOSPITAL, MINUTE_US, NOW_US, SmallHospital, add_hospital, later, told


def at(minutes: float) -> int:
    return NOW_US + round(minutes * MINUTE_US)


@pytest.fixture
def other(engine: Engine, hospital: SmallHospital) -> Row:
    """A second patient of the same hospital."""
    return patients.admit_patient(engine, ADA, HOSPITAL, NewPatient("MRN-2"))


@pytest.fixture
def foreign(engine: Engine, hospital: SmallHospital) -> Row:
    """A patient of another hospital."""
    add_hospital(engine, "sz.h002")
    return patients.admit_patient(engine, ADA, "sz.h002", NewPatient("MRN-1"))


def wear(engine: Engine, hospital: SmallHospital, start: float = 0, end: float | None = None) -> Row:
    key = hospital.patient["patient_key"]
    return associate(engine, ADA, hospital.monitor["handle"], key, at(start), None if end is None else at(end))


def raise_alarm(engine: Engine, alarm_id: str, handle: int, onset: float, end: float | None = None) -> None:
    def event(phase: Phase, minutes: float) -> AlarmEvent:
        return AlarmEvent(
            f"{alarm_id}-{phase}", alarm_id, phase, AlertType.PHYSIOLOGICAL, Priority.HIGH, "r", 1,
            AlarmSubject(HOSPITAL, handle=handle), at(onset), at(minutes), at(minutes), "t",
        )  # fmt: skip

    said = [event(Phase.START, onset)] + ([] if end is None else [event(Phase.END, end)])
    apply_alarm_events(engine, list(enumerate(said, start=1)))


@pytest.mark.parametrize(("start", "end"), [(5, 6), (-1, 1), (9, 11), (-1, 11), (0, 10), (3, None), (-9, None)])
def test_two_patients_never_wear_a_device_at_a_time(
    engine: Engine, hospital: SmallHospital, other: Row, start: float, end: float | None
) -> None:
    wear(engine, hospital, 0, 10)
    with pytest.raises(Conflict, match="device 'mon-7' is on a patient in that time already"):
        associate(engine, ADA, hospital.monitor["handle"], other["patient_key"], at(start), None if end is None else at(end))


def test_one_patient_after_the_other_without_a_gap_is_right(engine: Engine, hospital: SmallHospital, other: Row) -> None:
    wear(engine, hospital, 0, 10)
    handle = hospital.monitor["handle"]
    associate(engine, ADA, handle, other["patient_key"], at(10))
    associate(engine, ADA, handle, other["patient_key"], at(-5), at(0))
    (message,) = told(engine, DeviceAssociated)[-1:]
    assert message == DeviceAssociated(
        HOSPITAL, handle,
        [
            AssociationSpan(other["handle"], at(-5), at(0)),
            AssociationSpan(hospital.patient["handle"], at(0), at(10)),
            AssociationSpan(other["handle"], at(10)),
        ],
    )  # fmt: skip


def test_device_and_patient_are_of_one_hospital_also_after_a_correction(
    engine: Engine, hospital: SmallHospital, foreign: Row
) -> None:
    with pytest.raises(Conflict, match="not in the same hospital"):
        associate(engine, ADA, hospital.monitor["handle"], foreign["patient_key"], at(0))
    span = wear(engine, hospital)
    with pytest.raises(Conflict, match="not in the same hospital"):
        correct_association(engine, ADA, span["id"], patient_key=foreign["patient_key"])
    with pytest.raises(NotFound):
        correct_association(engine, ADA, span["id"], patient_key="nobody")
    assert list_associations(engine, reach=ALL, handle=hospital.monitor["handle"]) == [span | {"is_clear": False}]


def test_an_end_is_set_once_and_corrected_after_that(engine: Engine, hospital: SmallHospital) -> None:
    ended = end_association(engine, later(60), wear(engine, hospital)["id"], at(5))
    with pytest.raises(Conflict, match="has an end already"):
        end_association(engine, later(61), ended["id"], at(6))
    corrected, _ = correct_association(engine, later(62), ended["id"], end_us=at(6))
    assert corrected["end_us"] == at(6)
    with pytest.raises(Conflict, match="was corrected before"):
        correct_association(engine, later(63), ended["id"], end_us=at(7))


@pytest.mark.parametrize("what", [{}, {"withdraw": True, "start_us": 1}])
def test_a_correction_says_what_was_so_or_that_nothing_was(
    engine: Engine, hospital: SmallHospital, what: dict[str, Any]
) -> None:
    span = wear(engine, hospital)
    with pytest.raises(InvalidInput):
        correct_association(engine, ADA, span["id"], **what)


def test_each_belief_stays_readable_as_of_its_time(engine: Engine, hospital: SmallHospital, other: Row) -> None:
    span = wear(engine, hospital)
    corrected, _ = correct_association(engine, later(60, "li", "wrong wristband"), span["id"], patient_key=other["patient_key"])
    correct_association(engine, later(120), corrected["id"], withdraw=True)
    handle = hospital.monitor["handle"]
    believed = [
        [row["patient_key"] for row in list_associations(engine, reach=ALL, handle=handle, known_at_us=NOW_US + s * 1_000_000)]
        for s in (-1, 0, 59, 60, 119, 120)
    ]
    first, second = [hospital.patient["patient_key"]], [other["patient_key"]]
    assert believed == [[], first, first, second, second, []]
    assert (corrected["who"], corrected["reason"]) == ("li", "wrong wristband")
    assert told(engine, DeviceAssociated)[-1].spans == []


@pytest.mark.clause("8.1")
def test_a_correction_names_alarms_and_exports_of_the_device_and_of_both_patients(
    engine: Engine, hospital: SmallHospital, other: Row
) -> None:
    handle, own, others = hospital.monitor["handle"], hospital.patient["handle"], other["handle"]
    span = wear(engine, hospital, 10, 20)
    for alarm_id, of, onset, end in (
        ("device", handle, 12, 13), ("score", own, 15, None), ("before", handle, 5, 9), ("goes-on", handle, 5, 11),
        ("after", handle, 25, 26), ("pump", hospital.pump["handle"], 12, 13), ("score-of-other", others, 19, 40),
    ):  # fmt: skip
        raise_alarm(engine, alarm_id, of, onset, end)
    made = {
        name: record_export(engine, ADA, lake_version=3, handles=of, from_us=start, until_us=end, query={})
        for name, of, start, end in (
            ("of it", [handle], at(0), at(11)), ("of all", None, None, None), ("of the score", [own, 99], at(19), None),
            ("before", [handle], at(0), at(10)), ("after", [handle], at(22), None), ("of the pump", [3], at(0), None),
        )
    }  # fmt: skip
    _, touched = correct_association(engine, later(1), span["id"], patient_key=other["patient_key"], end_us=at(22))
    assert touched.alarm_ids == ["goes-on", "device", "score", "score-of-other"]
    assert touched.export_ids == [made[name] for name in ("of it", "of all", "of the score")]
    assert (touched.handle, touched.from_us, touched.until_us) == (handle, at(10), at(22))
    assert touched.patient_keys == sorted([hospital.patient["patient_key"], other["patient_key"]])


def test_of_a_span_that_is_open_everything_since_is_touched(engine: Engine, hospital: SmallHospital) -> None:
    span = wear(engine, hospital, 10)
    raise_alarm(engine, "late", hospital.monitor["handle"], 9_000)
    _, touched = correct_association(engine, later(1), span["id"], start_us=at(12))
    assert (touched.from_us, touched.until_us, touched.alarm_ids) == (at(10), None, ["late"])


def test_the_frame_for_joins_has_what_is_believed_now(engine: Engine, hospital: SmallHospital, foreign: Row) -> None:
    assert as_frame(engine).is_empty()
    corrected, _ = correct_association(engine, later(1), wear(engine, hospital)["id"], end_us=at(5))
    infusion, _ = devices.register_device(engine, ADA, "sz.h002", NewDevice("pump-1", "infusion-pump"))
    associate(engine, ADA, infusion["handle"], foreign["patient_key"], at(1))
    mine, its = hospital.monitor["handle"], infusion["handle"]
    expected = pl.DataFrame(
        {
            "handle": [mine, its], "patient_key": [corrected["patient_key"], foreign["patient_key"]],
            "start_us": [at(0), at(1)], "end_us": [at(5), None],
        },
        schema=FRAME,
    )  # fmt: skip
    assert as_frame(engine).equals(expected)
    assert as_frame(engine, hospital_ids=["sz.h002"]).equals(expected[1:])
    assert as_frame(engine, handles=[mine]).equals(expected[:1])
    assert as_frame(engine, hospital_ids=["sz.h002"], handles=[mine]).is_empty()


# --- stays ---


def test_a_discharge_cuts_what_goes_on_and_withdraws_what_was_to_come(engine: Engine, hospital: SmallHospital) -> None:
    key, handle = hospital.patient["patient_key"], hospital.monitor["handle"]
    wear(engine, hospital, 0, 5)
    wear(engine, hospital, 6, 90)
    wear(engine, hospital, 95)
    associate(engine, ADA, hospital.pump["handle"], key, at(60))  # to begin at the very discharge
    left = patients.discharge_patient(engine, later(3_600), key, at(60), version=1)
    assert (left["discharged_us"], left["bed_id"]) == (at(60), None)
    spans = [(row["start_us"], row["end_us"]) for row in list_associations(engine, reach=ALL, patient_key=key)]
    assert spans == [(at(0), at(5)), (at(6), at(60))]
    last = {message.handle: message for message in told(engine, DeviceAssociated)}
    assert [len(last[of].spans) for of in (handle, hospital.pump["handle"])] == [2, 0]
    with pytest.raises(Conflict, match="was discharged at"):
        associate(engine, later(3_700), handle, key, at(70))
    associate(engine, later(3_700), handle, key, at(5), at(6))  # what was forgotten may be added afterwards


def test_nobody_leaves_before_coming(engine: Engine, hospital: SmallHospital) -> None:
    with pytest.raises(InvalidInput, match="not before the admission"):
        patients.discharge_patient(engine, ADA, hospital.patient["patient_key"], at(-1), version=1)


def test_who_comes_back_has_the_same_key_and_handle_and_the_facts_of_today(engine: Engine, hospital: SmallHospital) -> None:
    key = hospital.patient["patient_key"]
    with pytest.raises(Conflict, match="is admitted to hospital"):
        patients.admit_patient(engine, ADA, HOSPITAL, NewPatient("MRN-1"))
    patients.discharge_patient(engine, later(60), key, at(1), version=1)
    again = patients.admit_patient(engine, later(120), HOSPITAL, NewPatient("MRN-1", "王小明", age_years=68.0, ward_id="icu"))
    assert (again["patient_key"], again["handle"], again["version"]) == (key, hospital.patient["handle"], 3)
    assert (again["age_years"], again["admitted_us"], again["discharged_us"]) == (68.0, at(2), None)
    message = told(engine, PatientAdmitted)[-1]
    assert (message.patient_key, message.admitted_us, message.discharged_us) == (key, at(2), None)
    (logged,) = list_writes(engine, limit=1).rows
    assert logged["detail"] == {"last_admitted_us": NOW_US, "last_discharged_us": at(1)}
    wear(engine, hospital, 3)


@pytest.mark.parametrize(
    "facts",
    [{"age_years": -1}, {"age_years": 131}, {"spo2_scale": 3}, {"name": " "}, {"name": "n" * 201}, {"sex": "s" * 17}],
)
def test_impossible_facts_are_refused_and_no_name_is_quoted(
    engine: Engine, hospital: SmallHospital, facts: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInput) as caught:
        patients.update_patient(engine, ADA, hospital.patient["patient_key"], facts, version=1)
    assert "nnn" not in str(caught.value)
    with pytest.raises(InvalidInput):
        patients.admit_patient(engine, ADA, HOSPITAL, NewPatient("MRN-9", **facts))


def test_the_write_log_holds_no_name_age_or_sex(engine: Engine, hospital: SmallHospital) -> None:
    facts = {"name": "李四", "age_years": 44.0, "sex": "female", "bed_id": "icu-09"}
    patients.update_patient(engine, ADA, hospital.patient["patient_key"], facts, version=1)
    (logged,) = list_writes(engine, limit=1).rows
    assert logged["detail"] == {"bed_id": "icu-09", "fields": ["age_years", "bed_id", "name", "sex"]}
    everything = str(list_writes(engine, limit=100).rows)
    assert "李四" not in everything
    assert "王小明" not in everything
