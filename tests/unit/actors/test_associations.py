"""Whose reading it was: spans valid in time, ambiguity near a boundary, corrections, alarms that end with the stay."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.associations import Associations
from actors.kinds import AMBIGUOUS, NOBODY
from actors.roster import Roster
from domain.alarms import Phase
from domain.messages import AssociationSpan, DeviceAssociated
from tests.cell_streams import HOSPITAL, Desk, admitted, associated, at, readings, registered


def a_desk(*spans: tuple[int, float, float | None]) -> Desk:
    desk = Desk()
    desk.tell(registered({1: "monitor@1"}), admitted(100), admitted(101), associated(1, *spans))
    return desk


@pytest.mark.clause("6.1d")
def test_readings_belong_to_the_patient_of_their_event_time() -> None:
    desk = a_desk((100, 0, 100), (101, 100, None))
    desk.read(readings(1, "nibp_dia", [50, 150], [45, 45]))
    starts = [event for event in desk.heard.alarms if event.phase is Phase.START]
    assert [(event.subject.patient_key, event.event_us) for event in starts] == [("p100", at(50)), ("p101", at(150))]


def test_when_the_patient_changes_what_was_raised_ends_at_the_boundary() -> None:
    desk = a_desk((100, 0, 100), (101, 100, None))
    desk.read(readings(1, "nibp_dia", [50, 150], [45, 80]))
    end = desk.heard.alarms[-1]
    assert (end.phase, end.event_us, end.subject.patient_key) == (Phase.END, at(100), "p100")


def test_within_the_clocks_uncertainty_of_a_boundary_no_patient_is_named() -> None:
    desk = a_desk((100, 0, 100), (101, 100, None))
    desk.read(readings(1, "nibp_dia", [99], [45]))
    (event,) = desk.heard.alarms
    assert event.subject.patient_ambiguous
    assert event.subject.patient_key is None
    desk.read(readings(1, "nibp_dia", [110], [45]))
    end, start = desk.heard.alarms[1:]
    assert (end.phase, end.subject.patient_ambiguous) == (Phase.END, True)
    assert (start.phase, start.subject.patient_key) == (Phase.START, "p101")


def test_readings_near_a_boundary_do_not_end_the_alarm_of_who_was_there_before() -> None:
    desk = a_desk((100, 0, 100), (101, 100, None))
    desk.read(readings(1, "nibp_dia", [50, 99, 101], [45, 45, 45]))
    assert desk.heard.rules() == ["limit.low"]


def test_near_a_boundary_no_score_is_fed() -> None:
    desk = a_desk((100, 0, 100), (101, 100, None))
    desk.read(readings(1, "resp_rate", [99, 101], [30, 30]))
    desk.tick(110)
    assert desk.heard.of_rule("news2.single-three") == []


def test_a_boundary_between_spans_of_one_patient_is_none() -> None:
    desk = a_desk((100, 0, 100), (100, 100, None))
    desk.read(readings(1, "nibp_dia", [100], [45]))
    assert desk.heard.alarms[0].subject.patient_key == "p100"


def test_an_alarm_of_a_patient_who_left_ends_though_no_reading_comes() -> None:
    desk = a_desk((100, 0, None))
    desk.read(readings(1, "nibp_dia", [50], [45]))
    assert desk.tell(associated(1, (100, 0, 60)), at_s=58).alarms == []
    (end,) = desk.tick_through(58, 63)
    assert (end.phase, end.event_us, end.subject.patient_key) == (Phase.END, at(60), "p100")


def test_a_correction_that_takes_the_patient_away_ends_the_alarm_and_deletes_nothing() -> None:
    desk = a_desk((100, 0, None))
    desk.read(readings(1, "nibp_dia", [50], [45]))
    (end,) = desk.tell(associated(1, (101, 0, None)), at_s=55).alarms
    assert (end.phase, end.onset_us, end.subject.patient_key) == (Phase.END, at(50), "p100")
    desk.read(readings(1, "nibp_dia", [60], [45]))
    assert desk.heard.alarms[-1].subject.patient_key == "p101"


def test_a_closed_span_of_the_past_does_not_end_alarms_of_a_replay_that_is_still_coming() -> None:
    desk = a_desk((100, 0, 3600))
    desk.read(readings(1, "nibp_dia", [50], [45]), arrival_s=1_000_000)
    assert desk.tick(1_000_001).alarms == []


def test_a_patient_admitted_after_the_association_is_found() -> None:
    desk = Desk()
    desk.tell(registered({1: "monitor@1"}), associated(1, (100, -100, None)), admitted(100))
    desk.read(readings(1, "nibp_dia", [0], [45]))
    assert desk.heard.alarms[0].subject.patient_key == "p100"


def test_a_device_registered_after_its_association_is_found() -> None:
    desk = Desk()
    desk.tell(admitted(100), associated(1, (100, -100, None)), registered({1: "monitor@1"}))
    desk.read(readings(1, "nibp_dia", [0], [45]))
    assert desk.heard.alarms[0].subject.patient_key == "p100"


SPANS = st.lists(st.integers(0, 60), min_size=2, max_size=14, unique=True).map(sorted)


@given(edges=SPANS, uncertainty=st.integers(0, 3), asked=st.lists(st.integers(-5, 65), min_size=1, max_size=20))
def test_the_lookup_of_many_equals_a_search_for_each(edges: list[int], uncertainty: int, asked: list[int]) -> None:
    spans = [(100 + number % 3, start, end) for number, (start, end) in enumerate(zip(edges[::2], edges[1::2], strict=False))]
    roster = Roster()
    associations = Associations(roster)
    roster.register(registered({1: "monitor@1", 2: "monitor@1"}), 0)
    for patient in (100, 101, 102):
        roster.admit(admitted(patient), 0)
    told = [AssociationSpan(*span) for span in spans]
    associations.associate(DeviceAssociated(HOSPITAL, 2, told, clock_uncertainty_us=uncertainty))

    def patient_at(time_us: int) -> int:
        return next((roster.patient_row(patient) for patient, start, end in spans if start <= time_us < end), NOBODY)

    times = np.array(asked, dtype=np.int64)
    changes = [edge for edge in edges[: 2 * len(spans)] if patient_at(edge) != patient_at(edge - 1)]
    expected = [
        AMBIGUOUS if any(t - uncertainty < change <= t + uncertainty for change in changes) else patient_at(t) for t in asked
    ]
    assert associations.patients_at(np.full(len(times), 1), times).tolist() == expected
    assert associations.patients_at(np.full(len(times), 0), times).tolist() == [NOBODY] * len(times)
