"""Alarms that devices say themselves: once while they last, ended by the counter-event, quiet in maintenance and tests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.shard import ShardCell
from domain.alarms import AlarmEvent, AlertType, Phase, Priority
from domain.errors import RejectedInput
from domain.messages import DeviceEvent, MaintenanceSet
from domain.quality import Mode
from tests.cell_streams import HOSPITAL, Desk, admitted, assert_same_tables, associated, at, readings, registered

OFF, ON = "lead_off", "lead_on"


def a_desk(models: dict[int, str] | None = None) -> Desk:
    desk = Desk()
    desk.tell(registered(models or {1: "monitor@1"}))
    desk.tick(0)
    return desk


def say(desk: Desk, event: str, at_s: float, *, arrives_s: float | None = None, **more: object) -> list[AlarmEvent]:
    """The device 1 says an event, which arrives when it happens unless said otherwise."""
    said = DeviceEvent(HOSPITAL, 1, event, at(at_s), **more)  # type: ignore[arg-type]
    return desk.tell(said, at_s=at_s if arrives_s is None else arrives_s).alarms


def shown(events: list[AlarmEvent]) -> list[tuple[str, Phase, int]]:
    return [(event.rule, event.phase, event.event_us) for event in events]


@pytest.mark.clause("6.2c")
def test_a_condition_is_one_alarm_from_when_the_device_says_it_until_it_says_that_it_is_over() -> None:
    desk = a_desk()
    desk.tell(admitted(100), associated(1, (100, -10, None)))
    (start,) = say(desk, OFF, 5)
    assert (start.rule, start.phase, start.priority, start.alert_type) == (
        "device.lead-off", Phase.START, Priority.MEDIUM, AlertType.TECHNICAL,
    )  # fmt: skip
    assert (start.text, start.subject.device_id, start.subject.patient_key) == ("Device dev-1: lead off", "dev-1", "p100")
    assert (start.onset_us, start.live, start.latching) == (at(5), True, False)
    assert say(desk, OFF, 6) == []
    (end,) = say(desk, ON, 9)
    assert (end.alarm_id, end.phase, end.event_us, end.text) == (
        start.alarm_id,
        Phase.END,
        at(9),
        "Device dev-1: lead off is over",
    )
    assert say(desk, OFF, 20)[0].alarm_id != start.alarm_id


def test_a_happening_is_an_alarm_that_stays_until_somebody_answers() -> None:
    desk = a_desk({1: "wearable@1"})
    start, end = say(desk, "fall", 5)
    assert (start.phase, end.phase, start.alarm_id) == (Phase.START, Phase.END, end.alarm_id)
    assert (start.priority, start.latching, start.alert_type) == (Priority.HIGH, True, AlertType.ADVISORY)
    assert say(desk, "fall", 5, arrives_s=8) == []  # sent again
    assert len(say(desk, "fall", 9)) == 2


def test_two_conditions_of_one_device_are_two_alarms() -> None:
    desk = a_desk()
    (first,), (second,) = say(desk, OFF, 1), say(desk, "battery_low", 2)
    assert first.alarm_id != second.alarm_id
    assert shown(say(desk, "battery_ok", 3)) == [("device.battery-low", Phase.END, at(3))]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_end_of_a_condition_counts_in_whichever_order_the_two_arrive(order: tuple[int, int]) -> None:
    desk, events = a_desk(), [(OFF, 5), (ON, 7)]
    for number in order:
        say(desk, *events[number], arrives_s=10)
    assert [event.phase for event in desk.heard.alarms] == ([Phase.START, Phase.END] if order == (0, 1) else [])
    assert say(desk, OFF, 6, arrives_s=11) == []


def test_the_end_of_an_earlier_one_ends_no_later_one() -> None:
    desk = a_desk()
    say(desk, OFF, 5)
    assert say(desk, ON, 4, arrives_s=6) == []
    assert shown(say(desk, ON, 8)) == [("device.lead-off", Phase.END, at(8))]


def test_what_comes_late_is_told_with_its_age_and_pages_nobody() -> None:
    desk = a_desk()
    (start,) = say(desk, OFF, 5, arrives_s=200)
    (end,) = say(desk, ON, 8, arrives_s=201)
    assert [(event.live, event.event_us, event.arrival_us) for event in (start, end)] == [
        (False, at(5), at(200)), (False, at(8), at(201)),
    ]  # fmt: skip


def test_what_was_told_late_and_still_lasts_pages_once_the_device_measures_in_time() -> None:
    desk = a_desk()
    (start,) = say(desk, OFF, 5, arrives_s=200)
    assert not start.live
    desk.read(readings(1, "heart_rate", [100], [72]), arrival_s=201)  # of the backlog too
    assert desk.tick(202).alarms == []
    desk.read(readings(1, "heart_rate", [203], [72]), arrival_s=203)
    (still,) = desk.tick(204).alarms
    assert (still.alarm_id, still.phase, still.live, still.onset_us) == (start.alarm_id, Phase.CONTINUE, True, at(5))
    assert desk.tick(205).alarms == []
    (end,) = say(desk, ON, 206)
    assert (end.alarm_id, end.phase, end.live) == (start.alarm_id, Phase.END, True)


def test_what_was_told_late_and_is_over_pages_nobody() -> None:
    desk = a_desk()
    say(desk, OFF, 5, arrives_s=200)
    say(desk, ON, 8, arrives_s=200)
    desk.read(readings(1, "heart_rate", [203], [72]), arrival_s=203)
    assert desk.tick(204).alarms == []
    assert not any(event.live for event in desk.heard.alarms)


def test_a_clock_that_runs_ahead_is_taken_at_its_arrival() -> None:
    desk = a_desk()
    (start,) = say(desk, OFF, 500, arrives_s=5)
    assert (start.onset_us, start.event_us) == (at(5), at(5))


@pytest.mark.parametrize("mode", [Mode.TEST, Mode.DEMO])
def test_events_of_test_and_demo_data_raise_and_end_nothing(mode: Mode) -> None:
    desk = a_desk()
    assert say(desk, OFF, 1, mode=mode) == []
    (start,) = say(desk, OFF, 2)
    assert say(desk, ON, 3, mode=mode) == []
    assert say(desk, ON, 4)[0].alarm_id == start.alarm_id


@pytest.mark.clause("9.2c")
def test_maintenance_ends_what_was_raised_and_what_outlasts_it_is_raised_anew() -> None:
    desk = a_desk()
    (start,) = say(desk, OFF, 1)
    (end,) = desk.tell(MaintenanceSet(HOSPITAL, at(5), at(10), handle=1), at_s=5).alarms
    assert (end.alarm_id, end.phase, end.text) == (start.alarm_id, Phase.END, "Device dev-1: lead off (under maintenance)")
    assert desk.tick_through(5, 9) == []
    (again,) = desk.tick(10).alarms
    assert (again.phase, again.onset_us, again.alarm_id != start.alarm_id) == (Phase.START, at(10), True)
    assert desk.tick_through(10, 20) == []


@pytest.mark.clause("9.2c")
def test_under_maintenance_nothing_is_raised_and_what_is_over_by_then_never_is() -> None:
    desk = a_desk()
    desk.tell(MaintenanceSet(HOSPITAL, at(0), at(10), handle=1), at_s=0)
    assert say(desk, OFF, 2) == say(desk, ON, 3) == []
    assert desk.tick_through(3, 20) == []


def test_a_happening_under_maintenance_is_not_told() -> None:
    desk = a_desk({1: "wearable@1"})
    desk.tell(MaintenanceSet(HOSPITAL, at(0), at(10), ward_id="icu"), at_s=0)
    assert say(desk, "fall", 2) == []
    assert desk.tick_through(2, 20) == []


@pytest.mark.parametrize(("handle", "event", "reason"), [(1, "tea_time", "unknown-event"), (2, OFF, "unknown-device")])
def test_what_no_device_here_says_is_refused_and_changes_nothing(handle: int, event: str, reason: str) -> None:
    desk = a_desk()
    before = desk.cell.snapshot()
    with pytest.raises(RejectedInput) as refused:
        desk.tell(DeviceEvent(HOSPITAL, handle, event, at(0)), at_s=0)
    assert refused.value.reason == reason
    assert_same_tables(desk.cell.snapshot(), before)


def test_goodbyes_are_events_of_every_device_and_no_alarms() -> None:
    desk = a_desk({1: "bp-cuff@1"})
    assert [say(desk, event, 1) for event in ("online", "disconnected", "offline")] == [[], [], []]


STEPS = st.lists(st.tuples(st.sampled_from([OFF, ON, "alarm", "alarm_end", "maintain"]), st.integers(-30, 5)), max_size=14)


@given(steps=STEPS, stop=st.integers(0, 14))
def test_a_restored_cell_says_what_one_that_never_stopped_says(steps: list[tuple[str, int]], stop: int) -> None:
    whole, first = a_desk(), a_desk()
    second = Desk(ShardCell(0))
    for number, (event, shift_s) in enumerate(steps):
        if number == stop:
            second.cell.restore(first.cell.snapshot())
        for desk in (whole, first if number < stop else second):
            if event == "maintain":
                desk.tell(MaintenanceSet(HOSPITAL, at(number), at(number + 3), handle=1), at_s=number)
            else:
                say(desk, event, number + shift_s, arrives_s=number)
            desk.tick(number + 0.5)
    assert [*first.heard.alarms, *second.heard.alarms] == whole.heard.alarms
    assert len({event.event_id for event in whole.heard.alarms}) == len(whole.heard.alarms)


@given(steps=STEPS)
def test_no_two_alarms_of_one_condition_are_on_at_once(steps: list[tuple[str, int]]) -> None:
    desk, on = a_desk(), set[str]()
    for number, (event, shift_s) in enumerate(steps):
        if event != "maintain":
            say(desk, event, number + shift_s, arrives_s=number)
    for alarm in desk.heard.alarms:
        if alarm.phase is Phase.START:
            assert alarm.rule not in on
            on.add(alarm.rule)
        else:
            on.remove(alarm.rule)
        assert alarm.onset_us <= alarm.event_us <= alarm.arrival_us
