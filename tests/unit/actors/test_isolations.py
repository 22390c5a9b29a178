"""Devices that are cut off: what they say is refused wherever it comes from, and their ward is told until it is over."""

from __future__ import annotations

import numpy as np
import pytest

from actors.hospital_state import part_of, together
from actors.shard import ShardCell
from actors.shard_runner import ShardRunner
from domain.alarms import AlarmEvent, Phase, Priority
from domain.errors import RejectedInput
from domain.frames import decode_frame, encode_frame
from domain.ids import ActorKind, Address
from domain.messages import DeviceEvent, DeviceIsolated, FreshnessQuery, MaintenanceSet, encode
from domain.ports import Sender
from domain.readings import ReadingBatch
from domain.subjects import control
from domain.subjects import reading as reading_subject
from gateways.events_json import decode_event
from runtime.follower import StreamMessage
from tests.cell_streams import HOSPITAL, Desk, admitted, assert_same_tables, associated, at, readings, registered

MONITOR, PUMP, SENSOR, GATEWAY, PATIENT = 1, 2, 3, 9, 50
ISOLATED, CUT_OFF, LOST, UNSEEN = (
    "technical.device-isolated", "technical.gateway-isolated", "technical.signal-lost", "technical.patient-not-monitored",
)  # fmt: skip
pytestmark = [pytest.mark.clause("8.4d"), pytest.mark.clause("9.4")]


def a_desk() -> Desk:
    """A monitor and a pump on a patient, a sensor on nobody, all behind one gateway."""
    desk = Desk()
    desk.tell(registered({MONITOR: "monitor@1", PUMP: "infusion-pump@1", SENSOR: "room-sensor@1", GATEWAY: "gateway@1"}))
    desk.tell(admitted(PATIENT), associated(MONITOR, (PATIENT, 0, None)), associated(PUMP, (PATIENT, 0, None)), at_s=1)
    desk.read(readings(MONITOR, "heart_rate", [20], [70], source=GATEWAY))
    desk.tick(20)
    return desk


def isolated(handle: int, since_s: float = 30, *, number: int = 1, over: bool = False, carried: tuple[int, ...] = ()):
    return DeviceIsolated(HOSPITAL, handle, number, at(since_s), "bo.li", "li.na", over, list(carried))


def said(events: list[AlarmEvent]) -> list[tuple[str, Phase, Priority]]:
    return [(event.rule, event.phase, event.priority) for event in events]


def test_what_an_isolated_device_says_is_refused_and_what_its_neighbours_say_is_not() -> None:
    desk = a_desk()
    desk.tell(isolated(MONITOR), at_s=30)
    effects = desk.read(readings([MONITOR, PUMP], "heart_rate", [31, 31], [70, 70], source=GATEWAY))
    assert [(reason, rows.handle.tolist()) for rows, reason, _ in effects.rejected] == [
        ("isolated", [MONITOR]), ("unknown-metric", [PUMP]),
    ]  # fmt: skip
    assert len(effects.stored) == 0
    after = desk.read(readings([MONITOR, PUMP], "battery", [32, 32], [90, 90], source=GATEWAY))
    assert after.stored.handle.tolist() == [PUMP]
    with pytest.raises(RejectedInput, match="isolated") as refused:
        desk.tell(DeviceEvent(HOSPITAL, MONITOR, "lead_off", at(33)), at_s=33)
    assert refused.value.reason == "isolated"
    desk.tell(DeviceEvent(HOSPITAL, MONITOR, "offline", at(33)), at_s=33)  # a door says it


def test_what_an_isolated_gateway_brings_is_refused_whosever_it_is() -> None:
    desk = a_desk()
    desk.tell(isolated(GATEWAY), at_s=30)
    effects = desk.read(readings(MONITOR, "heart_rate", [31], [70], source=GATEWAY))
    assert [reason for _, reason, _ in effects.rejected] == ["isolated"]
    assert len(desk.read(readings(MONITOR, "heart_rate", [32], [70], source=MONITOR)).stored) == 1


@pytest.mark.parametrize("event", ["lead_off", "online", "offline"])
@pytest.mark.parametrize("cut_off", [MONITOR, GATEWAY])
def test_an_event_that_an_isolated_gateway_brings_or_that_is_of_an_isolated_device_is_refused(event: str, cut_off: int) -> None:
    desk = a_desk()
    desk.tell(isolated(cut_off), at_s=30)
    with pytest.raises(RejectedInput) as refused:
        desk.tell(DeviceEvent(HOSPITAL, MONITOR, event, at(33), brought_by=GATEWAY), at_s=33)
    assert refused.value.reason == "isolated"
    desk.tell(isolated(cut_off, over=True), at_s=40)
    desk.tell(DeviceEvent(HOSPITAL, MONITOR, event, at(33), brought_by=GATEWAY), at_s=41)


def test_an_event_of_a_device_behind_an_isolated_gateway_is_heard_where_it_speaks_for_itself() -> None:
    desk = a_desk()
    desk.tell(isolated(GATEWAY), at_s=30)
    (alarm,) = desk.tell(DeviceEvent(HOSPITAL, MONITOR, "lead_off", at(33)), at_s=33).alarms
    assert "lead" in alarm.rule


def test_an_event_that_an_isolated_gateway_brought_is_kept_so_that_the_gateway_could_say_it_again() -> None:
    desk = a_desk()
    desk.tell(isolated(GATEWAY), at_s=30)
    runner = ShardRunner(0, 1, desk.cell, applied=0, committed=0)
    said_us, event = at(32), DeviceEvent(HOSPITAL, MONITOR, "lead_off", at(32), brought_by=GATEWAY)
    runner.receive(StreamMessage(control(0), 5, encode(event), said_us))
    (kept,) = runner.turn(1_000).refusals
    assert (kept.reason, kept.principal) == ("isolated", f"{HOSPITAL}/dev-9")
    assert decode_event(kept.payload, Sender("g", GATEWAY, HOSPITAL, 0), at(99)) == event


def test_the_ward_is_told_at_once_by_whom_and_who_knows_and_again_when_it_is_over() -> None:
    desk = a_desk()
    (start,) = desk.tell(isolated(MONITOR), at_s=30).alarms
    assert said([start]) == [(ISOLATED, Phase.START, Priority.HIGH)]
    assert (start.onset_us, start.subject.patient_key, start.subject.ward_id) == (at(30), "p50", "icu")
    assert "by bo.li (known to li.na) since" in start.text
    assert "not watched by it" in start.text
    assert start.live
    assert not start.latching
    (end,) = desk.tell(isolated(MONITOR, over=True), at_s=90).alarms
    assert said([end]) == [(ISOLATED, Phase.END, Priority.HIGH)]
    assert end.alarm_id == start.alarm_id
    assert len(desk.read(readings(MONITOR, "heart_rate", [91], [70])).stored) == 1


def test_an_isolated_monitor_is_never_shown_as_fine_and_its_patient_as_not_monitored() -> None:
    desk = a_desk()
    desk.tell(isolated(MONITOR), at_s=22)
    table = desk.cell.answer(FreshnessQuery(handles=[MONITOR, PUMP]))
    assert table["state"].to_pylist() == ["isolated", "never"]
    shown = desk.cell.describe(Address(ActorKind.DEVICE, HOSPITAL, f"dev-{MONITOR}"))
    assert shown["is_isolated"]
    assert {c["state"] for c in shown["channels"] if c["metric"] == "heart_rate"} == {"stale"}
    events = desk.tick_through(22, 120, every_s=2)
    assert said(events) == [(UNSEEN, Phase.START, Priority.HIGH)]  # and no alarm of a lost signal: one device, one alarm


def test_a_lost_signal_is_an_alarm_no_more_once_its_device_is_isolated() -> None:
    desk = a_desk()
    events = desk.tick_through(20, 45)
    assert (LOST, Phase.START, Priority.LOW) in said(events)
    desk.tell(isolated(MONITOR, 46), at_s=46)
    (end,) = [event for event in desk.tick(46).alarms if event.rule == LOST]
    assert end.phase is Phase.END
    assert "isolated" in end.text


def test_a_device_on_nobody_is_a_low_alarm_and_no_life_sign_is_a_medium_one() -> None:
    desk = a_desk()
    assert said(desk.tell(isolated(SENSOR, number=1), at_s=30).alarms) == [(ISOLATED, Phase.START, Priority.LOW)]
    assert said(desk.tell(isolated(PUMP, number=2), at_s=30).alarms) == [(ISOLATED, Phase.START, Priority.MEDIUM)]


def test_maintenance_does_not_hide_that_a_patient_is_cut_off() -> None:
    desk = a_desk()
    desk.tell(isolated(MONITOR), at_s=30)
    desk.tell(MaintenanceSet(HOSPITAL, at(31), at(500), handle=MONITOR), at_s=31)
    assert [event for event in desk.tick_through(31, 60) if event.rule == ISOLATED] == []


def test_the_alarm_ends_when_the_patient_leaves_and_another_begins_when_one_comes() -> None:
    desk = a_desk()
    (start,) = desk.tell(isolated(MONITOR), at_s=30).alarms
    (end,) = [one for one in desk.tell(associated(MONITOR, (PATIENT, 0, 60)), at_s=60).alarms if one.rule == ISOLATED]
    assert (end.alarm_id, end.phase) == (start.alarm_id, Phase.END)
    assert "no longer on it" in end.text
    assert [event for event in desk.tick_through(60, 70) if event.rule == ISOLATED] == []
    spans = associated(MONITOR, (PATIENT, 0, 60), (PATIENT, 75, None))
    (again,) = [one for one in desk.tell(spans, at_s=75).alarms if one.rule == ISOLATED]
    assert again.phase is Phase.START
    assert again.alarm_id != start.alarm_id


def test_each_patient_behind_an_isolated_gateway_is_told_of() -> None:
    desk = a_desk()
    events = desk.tell(isolated(GATEWAY, carried=(MONITOR, PUMP)), at_s=30).alarms
    assert {event.subject.device_id: said([event])[0] for event in events} == {
        "dev-9": (ISOLATED, Phase.START, Priority.LOW), "dev-1": (CUT_OFF, Phase.START, Priority.HIGH),
        "dev-2": (CUT_OFF, Phase.START, Priority.MEDIUM),
    }  # fmt: skip
    assert all("dev-9 is isolated" in event.text for event in events if event.rule == CUT_OFF)
    over = desk.tell(isolated(GATEWAY, over=True), at_s=60).alarms
    assert {(event.alarm_id, Phase.END) for event in events} == {(event.alarm_id, event.phase) for event in over}


def test_told_twice_it_is_the_same_and_a_restored_cell_goes_on_alike() -> None:
    desk = a_desk()
    message = isolated(MONITOR)
    desk.tell(message, at_s=30)
    assert desk.tell(message, at_s=31).alarms == []
    other = ShardCell(0)
    other.restore(desk.cell.snapshot())
    again = Desk(other)
    assert [reason for _, reason, _ in again.read(readings(MONITOR, "heart_rate", [40], [70])).rejected] == ["isolated"]
    desk.read(readings(MONITOR, "heart_rate", [40], [70]))
    assert again.tell(isolated(MONITOR, over=True), at_s=50).alarms == desk.tell(isolated(MONITOR, over=True), at_s=50).alarms
    assert_same_tables(again.cell.snapshot(), desk.cell.snapshot())


def test_a_hospital_that_goes_to_another_shard_takes_its_isolations_along() -> None:
    desk = a_desk()
    desk.tell(isolated(MONITOR), at_s=30)
    other = Desk()
    other.tell(registered({70: "monitor@1"}, "sz.h002"))
    joined = ShardCell(0)
    joined.restore(together(other.cell.snapshot(), part_of(desk.cell.snapshot(), [HOSPITAL])))
    there = Desk(joined)
    batch = ReadingBatch.concat([readings(MONITOR, "heart_rate", [40], [70]), readings(70, "heart_rate", [40], [70])])
    effects = there.read(batch)
    assert [(reason, rows.handle.tolist()) for rows, reason, _ in effects.rejected] == [("isolated", [MONITOR])]
    assert said(there.tell(isolated(MONITOR, over=True), at_s=60).alarms) == [(ISOLATED, Phase.END, Priority.HIGH)]
    left = ShardCell(0)
    left.restore(part_of(desk.cell.snapshot(), ["sz.h002"]))
    assert left.snapshot()["isolations"].num_rows == 0


def test_a_snapshot_of_before_there_were_isolations_has_none() -> None:
    desk = a_desk()
    tables = desk.cell.snapshot()
    del tables["isolations"]
    tables["devices"] = tables["devices"].drop_columns("is_isolated")
    other = ShardCell(0)
    other.restore(tables)
    assert len(Desk(other).read(readings(MONITOR, "heart_rate", [40], [70])).stored) == 1


def test_what_was_refused_is_kept_so_that_its_sender_could_send_it_again() -> None:
    desk = a_desk()
    desk.tell(isolated(MONITOR), at_s=30)
    runner = ShardRunner(0, 1, desk.cell, applied=0, committed=0)
    batch = readings([MONITOR, MONITOR, PUMP], "battery", [31, 31, 31], [1, 2, 3], source=np.array([9, 1, 9], np.uint32))
    frame = encode_frame(batch, source=1, sequence=1, arrival_us=at(31))
    event = encode(DeviceEvent(HOSPITAL, MONITOR, "lead_off", at(32), "electrode RA"))
    for number, (subject, payload) in enumerate(((reading_subject(0), frame), (control(0), event)), start=5):
        runner.receive(StreamMessage(subject, number, payload, at(32)))
    result = runner.turn(1_000)
    by_monitor, by_gateway, lead_off = sorted(result.refusals, key=lambda one: (one.sequence, one.part))
    assert [(one.reason, one.hospital_id, one.principal, one.part) for one in (by_monitor, by_gateway)] == [
        ("isolated", HOSPITAL, f"{HOSPITAL}/dev-1", "1-1"), ("isolated", HOSPITAL, f"{HOSPITAL}/dev-9", "1-9"),
    ]  # fmt: skip
    assert decode_frame(by_gateway.payload).readings.value.tolist() == [1]
    assert (lead_off.reason, lead_off.subject, lead_off.principal) == ("isolated", "v1/devices/me/events", f"{HOSPITAL}/dev-1")
    sender = Sender("m", MONITOR, HOSPITAL, 0)
    assert decode_event(lead_off.payload, sender, at(99)) == DeviceEvent(HOSPITAL, MONITOR, "lead_off", at(32), "electrode RA")
