"""Lost signals: not in use, stale by modality, invalid, one alarm a device that rises, outages as one, patients unseen."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from domain.alarms import AlarmEvent, AlertType, Phase, Priority
from domain.messages import DeviceEvent, MaintenanceSet
from domain.thing_catalogue import THING_MODELS
from tests.cell_streams import HOSPITAL, TEST_MODE, UNUSABLE, Desk, admitted, associated, at, readings, registered

NAN = float("nan")
SIGNAL_LOST, OUTAGE, UNMONITORED = "technical.signal-lost", "technical.mass-outage", "technical.patient-not-monitored"


def a_desk(models: dict[int, str] | None = None) -> Desk:
    desk = Desk()
    desk.tell(registered(models or {1: "monitor@1"}))
    desk.tick(0)
    return desk


def phases(events: Iterable[AlarmEvent], rule: str = SIGNAL_LOST) -> list[tuple[Phase, Priority]]:
    return [(event.phase, event.priority) for event in events if event.rule == rule]


@pytest.mark.clause("6.2c")
def test_a_device_that_never_delivered_is_not_in_use_and_never_alarms() -> None:
    desk = a_desk()
    assert desk.tick_through(0, 400, every_s=4) == []


@pytest.mark.clause("6.2c")
def test_a_stale_continuous_channel_raises_one_alarm_that_rises_with_time_and_ends_when_it_is_back() -> None:
    desk = a_desk()
    desk.read(readings(1, "heart_rate", [0], [70]))
    events = desk.tick_through(0, 330)
    assert phases(events) == [
        (Phase.START, Priority.LOW), (Phase.ESCALATE, Priority.MEDIUM), (Phase.ESCALATE, Priority.HIGH),
    ]  # fmt: skip
    onset_us = at(16)  # silent for more than 15 s
    assert [event.event_us - onset_us for event in events] == [3_000_000, 60_000_000, 300_000_000]
    assert {event.alert_type for event in events} == {AlertType.TECHNICAL}
    assert "heart_rate" in events[0].text
    assert [(known.metric, known.note, known.used) for known in events[0].inputs] == [("heart_rate", "stale", False)]
    desk.read(readings(1, "heart_rate", [330], [70]))
    assert phases(desk.tick(331).alarms) == [(Phase.END, Priority.HIGH)]


def test_a_cuff_may_be_silent_for_its_own_long_period() -> None:
    desk = a_desk()
    desk.read(readings(1, "nibp_sys", [0], [120]))
    assert desk.tick_through(0, 2_250, every_s=5) == []
    assert phases(desk.tick_through(2_250, 2_260)) == [(Phase.START, Priority.LOW)]


def test_an_on_event_channel_is_never_stale() -> None:
    desk = a_desk({1: "fridge@1"})
    desk.read(readings(1, "door_open", [0], [0]))
    assert desk.tick_through(0, 3_000, every_s=5) == []


def test_a_device_that_is_no_life_sign_rises_to_medium_at_most() -> None:
    desk = a_desk({1: "fridge@1"})
    desk.read(readings(1, "active_power", [0], [100]))
    assert phases(desk.tick_through(0, 600, every_s=4)) == [(Phase.START, Priority.LOW), (Phase.ESCALATE, Priority.MEDIUM)]


def test_a_channel_that_turns_invalid_is_lost_and_one_that_always_was_is_not_in_use() -> None:
    desk = a_desk()
    desk.read(readings(1, "heart_rate", [0], [70]))
    desk.read(readings(1, "abp_sys", [0], [NAN], quality=UNUSABLE))
    for second in range(1, 6):
        desk.read(readings(1, "heart_rate", [second], [NAN], quality=UNUSABLE))
        desk.tick(second)
    (event,) = desk.heard.alarms
    assert event.phase is Phase.START
    assert [(known.metric, known.note) for known in event.inputs] == [("heart_rate", "invalid")]


def test_a_channel_used_with_test_data_alone_is_not_in_use() -> None:
    desk = a_desk()
    desk.read(readings(1, "heart_rate", [0], [70], quality=TEST_MODE))
    assert desk.tick_through(0, 60) == []


def test_a_fault_shorter_than_the_settle_time_is_not_told() -> None:
    desk = a_desk()
    desk.read(readings(1, "heart_rate", [0], [70]))
    desk.read(readings(1, "heart_rate", [1], [NAN], quality=UNUSABLE))
    desk.tick_through(1, 3)
    desk.read(readings(1, "heart_rate", [3.5], [70]))
    assert desk.tick_through(3, 10) == []


def test_a_further_lost_channel_restates_the_alarm_under_the_same_id() -> None:
    desk = a_desk()
    desk.read(readings(1, "heart_rate", [0], [70]))
    desk.read(readings(1, "body_temp", [0], [37]))  # stale after three minutes
    events = desk.tick_through(0, 190)
    update = events[-1]
    assert (update.phase, update.priority) == (Phase.UPDATE, Priority.MEDIUM)
    assert {known.metric for known in update.inputs} == {"heart_rate", "body_temp"}
    assert {event.alarm_id for event in events} == {events[0].alarm_id}


def test_under_maintenance_silence_is_expected() -> None:
    desk = a_desk()
    desk.read(readings(1, "heart_rate", [0], [70]))
    desk.tick_through(0, 20)
    desk.tell(MaintenanceSet(HOSPITAL, at(25), at(100), handle=1), at_s=25)
    events = desk.tick_through(20, 100)
    assert phases(events) == [(Phase.END, Priority.LOW)]
    assert "maintenance" in events[0].text


def test_a_goodbye_is_silence_at_once_and_so_is_that_of_the_gateway_that_sends_for_it() -> None:
    desk = a_desk({1: "monitor@1", 2: "monitor@1", 9: "gateway@1"})
    desk.read(readings(1, "heart_rate", [0], [70]))
    desk.read(readings(2, "heart_rate", [0], [70], source=9))
    desk.tell(DeviceEvent(HOSPITAL, 1, "offline", at(1)), DeviceEvent(HOSPITAL, 9, "offline", at(1)), at_s=1)
    assert {event.subject.device_id for event in desk.tick_through(1, 5)} == {"dev-1", "dev-2"}
    desk.tell(DeviceEvent(HOSPITAL, 9, "online", at(6)), at_s=6)
    assert [(event.phase, event.subject.device_id) for event in desk.tick(7).alarms] == [(Phase.END, "dev-2")]


def test_where_the_stream_itself_stood_still_silence_counts_from_when_it_went_on() -> None:
    desk = a_desk()
    desk.read(readings(1, "heart_rate", [0], [70]))
    desk.tick(600)  # the platform was down: nothing could arrive
    assert desk.tick_through(600, 612) == []
    assert phases(desk.tick_through(612, 620)) == [(Phase.START, Priority.LOW)]


def test_after_a_standstill_the_first_device_that_is_back_does_not_make_the_others_silent() -> None:
    desk = a_hospital(10)
    desk.read(readings(1, "heart_rate", [600], [70]))  # comes before the first tick
    assert desk.tick_through(600, 612) == []


def a_hospital(devices: int) -> Desk:
    desk = a_desk(dict.fromkeys(range(1, devices + 1), "monitor@1"))
    desk.read(readings(range(1, devices + 1), "heart_rate", [0], [70]))
    return desk


@pytest.mark.clause("9.2c")
def test_a_mass_outage_is_one_alarm_of_the_hospital_with_its_members() -> None:
    desk = a_hospital(10)
    events = desk.tick_through(0, 60)
    assert [(event.rule, event.phase, event.priority) for event in events] == [(OUTAGE, Phase.START, Priority.HIGH)]
    assert events[0].members == tuple(f"dev-{handle}" for handle in range(1, 11))
    assert events[0].subject.device_id is None


def test_an_outage_ends_when_four_fifths_are_back_and_the_rest_is_told_singly() -> None:
    desk = a_hospital(10)
    desk.tick_through(0, 60)
    for second in range(61, 66):
        desk.read(readings(range(1, 9), "heart_rate", [second], [70]))
        desk.tick(second)
    events = desk.heard.alarms[1:]
    assert [(event.rule, event.phase) for event in events] == [
        (OUTAGE, Phase.END), (SIGNAL_LOST, Phase.START), (SIGNAL_LOST, Phase.START),
    ]  # fmt: skip
    assert {event.subject.device_id for event in events[1:]} == {"dev-9", "dev-10"}


def test_few_silent_devices_of_many_are_told_singly() -> None:
    desk = a_hospital(30)
    for second in range(1, 40):
        desk.read(readings(range(6, 31), "heart_rate", [second], [70]))
        desk.tick(second)
    assert [(event.rule, event.subject.device_id) for event in desk.heard.alarms] == [
        (SIGNAL_LOST, f"dev-{handle}") for handle in range(1, 6)
    ]  # fmt: skip


def test_the_channels_of_every_thing_model_fit_the_fingerprint_of_a_notice() -> None:
    assert max(sum(channel.instances for channel in model.channels) for model in THING_MODELS) <= 64


@pytest.mark.clause("6.3f")
def test_a_patient_whose_vital_channels_are_all_lost_is_not_monitored() -> None:
    desk = a_desk({1: "monitor@1", 2: "wearable@1"})
    desk.tell(admitted(100), associated(1, (100, -100, None)), associated(2, (100, -100, None)))
    desk.read(readings(1, "heart_rate", [0], [70]))
    desk.read(readings(2, "spo2", [0], [97]))  # stale after three minutes: until then somebody watches
    assert phases(desk.tick_through(0, 180), UNMONITORED) == []
    events = desk.tick_through(180, 190)
    assert phases(events, UNMONITORED) == [(Phase.START, Priority.HIGH)]
    (start,) = (event for event in events if event.rule == UNMONITORED)
    assert (start.subject.patient_key, start.subject.handle) == ("p100", 100)
    desk.read(readings(2, "spo2", [191], [97]))
    assert phases(desk.tick(192).alarms, UNMONITORED) == [(Phase.END, Priority.HIGH)]


def test_a_patient_whose_device_was_taken_off_is_not_alarmed_about() -> None:
    desk = a_desk()
    desk.tell(admitted(100), associated(1, (100, -100, None)))
    desk.read(readings(1, "heart_rate", [0], [70]))
    desk.tell(associated(1, (100, -100, 5)), at_s=5)
    assert phases(desk.tick_through(5, 60), UNMONITORED) == []


@pytest.mark.parametrize(("model", "metric"), [("monitor@1", "heart_rate"), ("infusion-pump@1", "infusion_rate")])
@pytest.mark.parametrize("says", [True, False])
def test_a_device_that_came_off_its_patient_waits_for_the_next_and_its_signals_are_nobodys(model, metric, says) -> None:
    desk = a_desk({1: model})
    desk.tell(admitted(100), admitted(101), associated(1, (100, -100, None)))
    desk.read(readings(1, metric, [0], [70]))
    desk.tell(associated(1, (100, -100, 5)), at_s=5)
    if says:
        desk.read(readings(1, metric, [6], [NAN], quality=UNUSABLE))
    assert desk.tick_through(6, 400) == []
    desk.tell(associated(1, (100, -100, 5), (101, 401, None)), at_s=401)
    assert phases(desk.tick_through(401, 420)) == [(Phase.START, Priority.LOW)], "whose it is now is not measured"


def test_a_lost_signal_is_over_when_the_device_comes_off_its_patient() -> None:
    desk = a_desk()
    desk.tell(admitted(100), associated(1, (100, -100, None)))
    desk.read(readings(1, "heart_rate", [0], [70]))
    assert phases(desk.tick_through(0, 30)) == [(Phase.START, Priority.LOW)]
    desk.tell(associated(1, (100, -100, 30)), at_s=30)
    (over,) = (event for event in desk.tick_through(30, 60) if event.rule == SIGNAL_LOST)
    assert (over.phase, "on no patient any more" in over.text) == (Phase.END, True)


def test_in_an_outage_the_hospitals_alarm_speaks_for_its_patients() -> None:
    desk = a_hospital(10)
    desk.tell(admitted(100), associated(1, (100, -100, None)))
    assert {event.rule for event in desk.tick_through(0, 60)} == {OUTAGE}


def test_monitors_with_cuffs_that_fall_silent_together_are_one_outage() -> None:
    """A cuff may be silent for half an hour; the device that stopped is silent all the same."""
    desk = a_hospital(10)
    for handle in range(1, 11):
        desk.read(readings(handle, "nibp_sys", [0], [120]))
    events = desk.tick_through(0, 60)
    assert phases(events, OUTAGE) == [(Phase.START, Priority.HIGH)]
    assert phases(events) == []
