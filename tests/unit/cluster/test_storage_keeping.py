"""Which stream is stuck: somebody waits for it, and it has not moved for too long."""

from __future__ import annotations

from pathlib import Path

from cluster.storage_keeping import StreamComplaints, places_of
from domain import subjects
from runtime.settings import Settings


class Time:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def heard(time: Time, subject: str = "reading.3") -> StreamComplaints:
    complaints = StreamComplaints(time)
    complaints.hear(subject.encode(), subjects.STREAM_SILENT)
    return complaints


def test_a_complaint_names_the_stream_of_its_subject_and_is_forgotten_unless_it_is_repeated():
    time = Time()
    complaints = heard(time, "alarm.sz.h001")
    complaints.hear(b"nonsense", subjects.STREAM_SILENT)
    assert complaints.open() == [subjects.ALARMS_STREAM]
    time.now_s += 9
    assert complaints.open() == []


def test_a_stream_that_moves_is_not_stuck_whatever_is_said_of_it():
    time = Time()
    complaints = heard(time)
    for sequence in range(10):
        assert not complaints.stands(subjects.READINGS_STREAM, sequence)
        time.now_s += 5


def test_a_stream_that_stands_still_or_does_not_answer_for_long_is_stuck():
    for sequence in (7, None):
        time = Time()
        complaints = heard(time)
        assert not complaints.stands(subjects.READINGS_STREAM, sequence)
        time.now_s += 9
        assert complaints.stands(subjects.READINGS_STREAM, sequence)


def test_the_places_are_those_that_the_settings_name(tmp_path: Path):
    own = {place.name: place.path for place in places_of(Settings(data_dir=tmp_path))}
    assert own["stream"] == tmp_path / "nats"
    assert own["database"] == tmp_path
    elsewhere = Settings(data_dir=tmp_path, database_url=f"sqlite:///{tmp_path}/db/v.db")
    assert {p.name: p.path for p in places_of(elsewhere)}["database"] == tmp_path / "db"
    server = Settings(data_dir=tmp_path, database_url="postgresql://u@db/v?sslmode=verify-full")
    assert "database" not in {place.name for place in places_of(server)}
