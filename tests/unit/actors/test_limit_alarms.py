"""Limits as `domain.limits` promises them: strictly beyond, delay in event time, hysteresis, presets, age, who may alarm."""

from __future__ import annotations

import pytest

from domain.alarms import AlertType, Phase, Priority, alarm_id_of
from domain.limits import RULE_VERSION
from domain.messages import LimitsPreset, MaintenanceSet
from domain.quality import Validity, pack
from tests.cell_streams import HOSPITAL, TEST_MODE, Desk, admitted, associated, at, readings, registered

MONITOR, PATIENT, FRIDGE = 1, 100, 2


@pytest.fixture
def desk() -> Desk:
    desk = Desk()
    desk.tell(
        registered({MONITOR: "monitor@1", FRIDGE: "fridge@1"}), admitted(PATIENT), associated(MONITOR, (PATIENT, -1000, None))
    )
    return desk


@pytest.mark.clause("6.3f")
def test_a_reading_at_the_limit_does_not_alarm_and_one_beyond_does(desk: Desk) -> None:
    desk.read(readings(MONITOR, "body_temp", [0], [38.0]))
    assert desk.heard.alarms == []
    desk.read(readings(MONITOR, "body_temp", [60], [38.1]))
    (event,) = desk.heard.alarms
    assert (event.rule, event.phase, event.priority) == ("limit.high", Phase.START, Priority.MEDIUM)
    assert (event.value, event.limit, event.unit) == (38.1, 38.0, "Cel")
    assert event.text == "Body temperature 38.1 Cel, above the high limit of 38 Cel"
    assert event.alert_type is AlertType.PHYSIOLOGICAL
    assert event.live


@pytest.mark.clause("6.3f")
def test_an_alarm_is_raised_after_the_delay_with_the_onset_of_the_first_reading_beyond(desk: Desk) -> None:
    desk.read(readings(MONITOR, "heart_rate", [0, 1, 2, 3, 4], [70, 125, 126, 127, 128]))
    assert desk.heard.rules() == []
    desk.read(readings(MONITOR, "heart_rate", [5, 6], [129, 130]))
    (event,) = desk.heard.alarms
    assert (event.onset_us, event.event_us, event.value) == (at(1), at(6), 130)
    scope = f"device:{HOSPITAL}/dev-1#heart_rate.0"
    assert event.alarm_id == alarm_id_of(scope, "limit.high", RULE_VERSION, at(1))


def test_one_reading_inside_the_limit_starts_the_delay_anew(desk: Desk) -> None:
    desk.read(readings(MONITOR, "heart_rate", range(10), [125, 125, 125, 125, 119, 125, 125, 125, 125, 125]))
    assert desk.heard.rules() == []
    desk.read(readings(MONITOR, "heart_rate", [10], [125]))
    assert [event.onset_us for event in desk.heard.alarms] == [at(5)]


def test_an_alarm_ends_only_inside_the_limit_by_the_hysteresis(desk: Desk) -> None:
    desk.read(readings(MONITOR, "nibp_dia", [0, 60, 120], [110, 99, 98.5]))
    assert desk.heard.rules(Phase.END) == []
    desk.read(readings(MONITOR, "nibp_dia", [180], [98]))
    end = desk.heard.alarms[-1]
    assert (end.phase, end.event_us, end.onset_us) == (Phase.END, at(180), at(0))
    assert end.alarm_id == desk.heard.alarms[0].alarm_id


def test_the_critical_step_is_an_alarm_of_its_own_beside_the_warning(desk: Desk) -> None:
    desk.read(readings(MONITOR, "nibp_dia", [0, 60], [45, 35]))
    assert [(event.rule, event.priority) for event in desk.heard.alarms] == [
        ("limit.low", Priority.MEDIUM),
        ("limit.very-low", Priority.HIGH),
    ]


@pytest.mark.clause("6.3f")
def test_the_normal_range_is_that_of_the_patients_age() -> None:
    desk = Desk()
    desk.tell(registered({1: "monitor@1", 2: "monitor@1"}), admitted(100, age_years=0.01), admitted(101, age_years=None))
    desk.tell(associated(1, (100, -100, None)), associated(2, (101, -100, None)))
    for device in (1, 2):
        desk.read(readings(device, "heart_rate", range(8), [150] * 8))
    raised = [(event.rule, event.subject.patient_key) for event in desk.heard.alarms if event.rule.startswith("limit")]
    assert raised == [("limit.high", "p101"), ("limit.very-high", "p101")]  # usual in a newborn, alarming in an adult


@pytest.mark.clause("6.3f")
def test_a_preset_stands_in_place_of_the_normal_range_until_it_is_removed(desk: Desk) -> None:
    desk.tell(LimitsPreset(HOSPITAL, PATIENT, "nibp_dia", (None, 70, None, None)))
    desk.read(readings(MONITOR, "nibp_dia", [0, 60], [110, 65]))
    (event,) = desk.heard.alarms
    assert (event.rule, event.limit) == ("limit.low", 70)
    assert "preset low limit" in event.text
    desk.tell(LimitsPreset(HOSPITAL, PATIENT, "nibp_dia", None))
    desk.read(readings(MONITOR, "nibp_dia", [120], [110]))
    assert desk.heard.rules()[1:] == ["limit.low", "limit.high"]  # the preset's alarm ends by the normal range


def test_a_preset_of_one_patient_is_not_anothers() -> None:
    desk = Desk()
    desk.tell(registered({1: "monitor@1", 2: "monitor@1"}), admitted(100), admitted(101))
    desk.tell(associated(1, (100, -100, None)), associated(2, (101, -100, None)))
    desk.tell(LimitsPreset(HOSPITAL, 101, "nibp_dia", (None, None, 70, None)))
    desk.read(readings(1, "nibp_dia", [0], [80]))
    desk.read(readings(2, "nibp_dia", [0], [80]))
    assert [event.subject.patient_key for event in desk.heard.alarms] == ["p101"]


@pytest.mark.parametrize(
    "quality", [TEST_MODE, pack(Validity.NOT_AVAILABLE), pack(Validity.CALIBRATING), pack(Validity.INVALID)]
)
def test_test_data_and_unusable_readings_raise_nothing(desk: Desk, quality: int) -> None:
    desk.read(readings(MONITOR, "nibp_dia", [0, 60], [30, 30], quality=quality))
    assert desk.heard.alarms == []


def test_a_channel_that_turns_unusable_keeps_its_alarm(desk: Desk) -> None:
    desk.read(readings(MONITOR, "nibp_dia", [0], [45]))
    desk.read(readings(MONITOR, "nibp_dia", [60], [float("nan")], quality=pack(Validity.NOT_AVAILABLE)))
    assert desk.heard.rules() == ["limit.low"]


def test_a_questionable_reading_alarms_because_a_dying_patients_values_are_implausible(desk: Desk) -> None:
    desk.read(readings(MONITOR, "nibp_dia", [0], [4], quality=pack(Validity.QUESTIONABLE)))
    assert desk.heard.rules() == ["limit.very-low", "limit.low"]


def test_what_the_platform_knew_is_told_with_its_age_and_quality(desk: Desk) -> None:
    desk.read(readings(MONITOR, "nibp_dia", [0], [45]), arrival_s=3)
    (known,) = desk.heard.alarms[0].inputs
    assert (known.metric, known.value, known.time_us, known.age_s, known.used) == ("nibp_dia", 45, at(0), 3.0, True)


def test_late_data_opens_the_episode_and_never_pages(desk: Desk) -> None:
    desk.read(readings(MONITOR, "nibp_dia", [0], [45]), arrival_s=61)
    (event,) = desk.heard.alarms
    assert not event.live
    assert event.onset_us == at(0)


@pytest.mark.clause("6.3f")
def test_what_late_data_raised_pages_once_when_readings_in_time_are_still_beyond(desk: Desk) -> None:
    desk.read(readings(MONITOR, "nibp_dia", [0], [45]), arrival_s=300)  # a backlog, sent after an outage
    desk.read(readings(MONITOR, "nibp_dia", [301], [50]))  # at the limit: raised still, and not beyond
    desk.read(readings(MONITOR, "nibp_dia", [302, 303], [46, 44]))
    desk.read(readings(MONITOR, "nibp_dia", [304], [44]))
    assert [(event.phase, event.live, event.event_us) for event in desk.heard.of_rule("limit.low")] == [
        (Phase.START, False, at(0)), (Phase.CONTINUE, True, at(302)),
    ]  # fmt: skip
    start, goes_on = desk.heard.of_rule("limit.low")
    assert (goes_on.alarm_id, goes_on.onset_us) == (start.alarm_id, start.onset_us)
    assert "46 mm[Hg], still below the low limit of 50" in goes_on.text


def test_what_was_over_before_readings_came_in_time_again_pages_nobody(desk: Desk) -> None:
    desk.read(readings(MONITOR, "nibp_dia", [0, 60], [45, 80]), arrival_s=300)
    desk.read(readings(MONITOR, "nibp_dia", [301], [80]))
    assert [(event.phase, event.live) for event in desk.heard.of_rule("limit.low")] == [
        (Phase.START, False),
        (Phase.END, False),
    ]


def test_an_older_reading_neither_raises_nor_ends(desk: Desk) -> None:
    desk.read(readings(MONITOR, "nibp_dia", [60], [45]))
    desk.read(readings(MONITOR, "nibp_dia", [30, 50], [80, 30]), arrival_s=61)
    assert desk.heard.rules() == ["limit.low"]


def test_a_device_without_a_patient_alarms_by_the_adult_range_and_names_nobody() -> None:
    desk = Desk()
    desk.tell(registered({1: "monitor@1"}))
    desk.read(readings(1, "nibp_dia", [0], [45]))
    (event,) = desk.heard.alarms
    assert event.subject.patient_key is None
    assert not event.subject.patient_ambiguous
    assert event.subject.device_id == "dev-1"


@pytest.mark.clause("6.2c")
def test_a_fridge_alarms_as_equipment_after_five_minutes_too_warm(desk: Desk) -> None:
    desk.read(readings(FRIDGE, "fridge_temp", [0, 60, 120, 180, 240], [9, 9, 9, 9, 9], instance=1))
    assert desk.heard.rules() == []
    desk.read(readings(FRIDGE, "fridge_temp", [300], [9], instance=1))
    (event,) = desk.heard.alarms
    assert (event.alert_type, event.subject.instance) == (AlertType.TECHNICAL, 1)


def test_a_fast_change_is_advised_at_low_priority_and_ends_when_it_slows(desk: Desk) -> None:
    desk.read(readings(MONITOR, "body_temp", [0, 60, 120, 180], [36.5, 37.8, 37.8, 37.8]))
    start, end = desk.heard.of_rule("change.rate")
    assert (start.priority, start.alert_type, start.event_us) == (Priority.LOW, AlertType.ADVISORY, at(60))
    assert [known.value for known in start.inputs] == [37.8, 36.5]
    assert (end.phase, end.event_us) == (Phase.END, at(120))


def test_one_step_of_a_display_is_no_fast_change_however_short_the_gap(desk: Desk) -> None:
    desk.read(readings(MONITOR, "heart_rate", [0, 0.5, 1.0], [70, 75, 71]))
    assert desk.heard.of_rule("change.rate") == []


def test_readings_more_than_five_minutes_apart_say_nothing_of_a_rate(desk: Desk) -> None:
    desk.read(readings(MONITOR, "body_temp", [0, 301], [30.0, 37.0]))
    assert desk.heard.of_rule("change.rate") == []


@pytest.mark.clause("9.2c")
def test_maintenance_ends_what_was_raised_and_raises_nothing(desk: Desk) -> None:
    desk.read(readings(MONITOR, "nibp_dia", [0], [45]))
    effects = desk.tell(MaintenanceSet(HOSPITAL, at(10), at(100), handle=MONITOR), at_s=10)
    (end,) = effects.alarms
    assert (end.phase, end.rule) == (Phase.END, "limit.low")
    assert "maintenance" in end.text
    assert len(desk.read(readings(MONITOR, "nibp_dia", [20], [45])).stored) == 1
    assert len(desk.heard.alarms) == 2
    desk.read(readings(MONITOR, "nibp_dia", [100], [45]))
    assert desk.heard.rules(Phase.START) == ["limit.low", "limit.low"]


def test_maintenance_of_a_ward_holds_for_its_devices_and_for_one_that_comes_later(desk: Desk) -> None:
    desk.tell(MaintenanceSet(HOSPITAL, at(0), at(100), ward_id="icu"), registered({7: "monitor@1"}))
    desk.tell(registered({8: "monitor@1"}, ward_id="other"))
    for device in (MONITOR, 7, 8):
        desk.read(readings(device, "nibp_dia", [1], [45]))
    assert [event.subject.device_id for event in desk.heard.alarms] == ["dev-8"]


def test_a_maintenance_window_that_begins_later_ends_alarms_at_the_next_tick(desk: Desk) -> None:
    desk.read(readings(MONITOR, "nibp_dia", [0], [45]))
    assert desk.tell(MaintenanceSet(HOSPITAL, at(10), at(100), handle=MONITOR), at_s=5).alarms == []
    (end,) = desk.tick(10).alarms
    assert end.phase is Phase.END
