"""A recording made of the stream: who sent what, hospital by hospital, playable again, without names."""

from __future__ import annotations

import msgspec
import polars as pl
import pytest

from domain.errors import NotFound
from domain.fleet_manifest import FleetRegistered, HospitalRegistered
from domain.frames import encode_frame
from domain.messages import AssociationSpan, DeviceAssociated, DevicesRegistered, PatientAdmitted, encode
from domain.metrics import metric_of
from domain.readings import ReadingBatch
from runtime.follower import StreamMessage
from scenarios.record import Recorder
from sim.recordings import read_recording

GATEWAY, MONITOR, CUFF, PATIENT, OTHER_PATIENT, OTHER = 1, 2, 3, 9, 10, 20
HEART, SYSTOLIC = metric_of("heart_rate").id, metric_of("nibp_sys").id


def told(message):
    return StreamMessage("control.0", 1, encode(message), 0)


def heard(handle, metric, second, source=GATEWAY):
    readings = ReadingBatch.of(handle=handle, metric=metric, time_us=second * 1_000_000, value=70.0 + second, source=source)
    return StreamMessage("reading.0", 2, encode_frame(readings, source=source, sequence=1, arrival_us=0), 0)


@pytest.fixture
def recorder():
    made = Recorder()
    ids, models = ["gw-1", "mon-1", "cuff-1"], ["gateway@1", "monitor@1", "bp-cuff@1"]
    beds = [None, "bed-1", None]
    made.take(told(DevicesRegistered("sz.h001", [GATEWAY, MONITOR, CUFF], ids, models, [None, "icu", None], beds)))
    made.take(told(DevicesRegistered("sz.h002", [OTHER], ["mon-9"], ["monitor@1"], ["icu"], ["bed-9"])))
    made.take(told(PatientAdmitted("sz.h001", "pk-1", PATIENT, age_years=61.0, ward_id="icu", bed_id="bed-1")))
    made.take(told(DeviceAssociated("sz.h001", MONITOR, [AssociationSpan(PATIENT, 0)])))
    made.recording = True
    for message in (heard(MONITOR, HEART, 5), heard(MONITOR, HEART, 6), heard(CUFF, SYSTOLIC, 7, source=CUFF)):
        made.take(message)
    return made


def test_a_hospital_is_written_with_its_senders_and_patients(recorder, tmp_path):
    (written,) = recorder.save(tmp_path)
    assert (written.hospital_id, written.devices, written.patients, written.readings) == ("sz.h001", 2, 1, 3)
    assert written.left_out == 0
    recording = read_recording(tmp_path)
    hospital = recording.manifest.hospitals[0]
    assert hospital.hospital_id == "sz.h001-rec"
    assert hospital.devices.device_ids == ["gw-1", "mon-1", "cuff-1"]
    assert hospital.devices.gateway_ids == [None, "gw-1", None]
    assert hospital.devices.with_token == [True, False, True]
    assert hospital.patients.ages_years == [61.0]
    assert hospital.patients.device_ids == [["mon-1"]]
    assert b"pk-1" not in msgspec.json.encode(recording.manifest), "even the opaque key stays behind"


def test_a_recording_plays_again_with_the_same_values_and_spacing(recorder, tmp_path):
    recorder.save(tmp_path)
    registered = FleetRegistered([HospitalRegistered("sz.h001-rec", 0, [101, 102, 103], {}, ["k"], [104])])
    played = list(read_recording(tmp_path).emissions(10**12, registered, speed=1.0))
    readings = ReadingBatch.concat(emission.readings for emission in played)
    assert readings.value.tolist() == [75.0, 76.0, 77.0]
    assert readings.handle.tolist() == [102, 102, 103]
    assert readings.source.tolist() == [101, 101, 103]
    assert (readings.time_us - readings.time_us[0]).tolist() == [0, 1_000_000, 2_000_000]


def test_several_hospitals_get_a_folder_each_unless_one_is_chosen(recorder, tmp_path):
    recorder.take(heard(OTHER, HEART, 8, source=OTHER))
    assert [one.folder.rpartition("/")[2] for one in recorder.save(tmp_path / "all")] == ["sz.h001", "sz.h002"]
    recorder.hospital_id = "sz.h002"
    assert [one.hospital_id for one in recorder.save(tmp_path / "one")] == ["sz.h002"]
    assert (tmp_path / "one" / "manifest.json").exists()


def test_readings_of_unknown_devices_are_left_out_and_counted(recorder, tmp_path):
    recorder.take(heard(77, HEART, 8))
    assert recorder.save(tmp_path)[0].readings == 3
    assert recorder.unknown == 1


@pytest.mark.clause("9.3c")
def test_who_is_left_out_is_in_it_with_no_reading_and_no_fact(recorder, tmp_path):
    recorder.leave_out([MONITOR, PATIENT])  # what was heard before, too
    recorder.take(heard(MONITOR, HEART, 8))
    recorder.take(heard(OTHER, HEART, 9, source=OTHER))
    first, second = recorder.save(tmp_path)
    assert (first.devices, first.patients, first.readings, first.left_out) == (1, 0, 1, 3)
    assert (second.readings, second.left_out) == (1, 0)
    recording = read_recording(tmp_path / "sz.h001")
    assert recording.manifest.hospitals[0].devices.device_ids == ["cuff-1"]
    assert recording.manifest.hospitals[0].patients.ages_years == []
    assert set(pl.read_parquet(tmp_path / "sz.h001" / "readings.parquet")["value"]) == {77.0}


@pytest.mark.clause("9.3c")
def test_of_one_frame_the_rest_is_kept(recorder, tmp_path):
    recorder.leave_out([MONITOR])
    both = ReadingBatch.of(
        handle=[MONITOR, CUFF, MONITOR], metric=HEART, time_us=[8_000_000, 9_000_000, 9_000_000], value=[1.0, 2.0, 3.0]
    )
    recorder.take(StreamMessage("reading.0", 3, encode_frame(both, source=GATEWAY, sequence=2, arrival_us=0), 0))
    (written,) = recorder.save(tmp_path)
    assert (written.readings, written.left_out) == (2, 4)


@pytest.mark.clause("9.3c")
def test_from_when_a_device_is_on_somebody_who_is_left_out_its_readings_are_too(recorder, tmp_path):
    recorder.leave_out([OTHER_PATIENT])
    recorder.take(told(DeviceAssociated("sz.h001", CUFF, [AssociationSpan(OTHER_PATIENT, 7_500_000)])))
    recorder.take(heard(CUFF, SYSTOLIC, 8, source=CUFF))
    recorder.take(told(DeviceAssociated("sz.h001", MONITOR, [AssociationSpan(PATIENT, 0)])))
    recorder.take(heard(MONITOR, HEART, 8))
    (written,) = recorder.save(tmp_path)
    assert (written.readings, written.left_out) == (4, 1)


@pytest.mark.clause("9.3c")
def test_nor_is_a_fact_of_theirs_known_by_a_gateway_that_they_wear(recorder, tmp_path):
    recorder.leave_out([OTHER_PATIENT])
    recorder.take(told(PatientAdmitted("sz.h001", "pk-2", OTHER_PATIENT, age_years=34.0)))
    recorder.take(told(DeviceAssociated("sz.h001", GATEWAY, [AssociationSpan(OTHER_PATIENT, 0)])))
    recorder.save(tmp_path)
    assert read_recording(tmp_path).manifest.hospitals[0].patients.ages_years == [61.0]


@pytest.mark.clause("9.3c")
def test_where_all_is_left_out_nothing_is_written(recorder, tmp_path):
    recorder.leave_out([MONITOR, CUFF])
    with pytest.raises(NotFound, match=r"nothing was recorded.*; 3 readings were left out"):
        recorder.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_heard_is_no_recording(tmp_path):
    with pytest.raises(NotFound, match="nothing was recorded"):
        Recorder().save(tmp_path)
