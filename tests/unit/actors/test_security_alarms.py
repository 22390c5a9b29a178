"""Alarms about senders that may be attacked, or attack: one while it goes on, of the true sender, latching."""

from __future__ import annotations

import pytest

from actors.security_alarms import OVER_AFTER_US
from actors.shard import ShardCell
from domain.alarms import AlarmEvent, AlertType, Phase, Priority
from domain.messages import MaintenanceSet, SecurityKind, SecurityNotice
from tests.cell_streams import HOSPITAL, Desk, assert_same_tables, at, registered

OVER_S = OVER_AFTER_US / 1e6


def a_desk() -> Desk:
    desk = Desk()
    desk.tell(registered({1: "monitor@1", 2: "gateway@1"}))
    desk.tick(0)
    return desk


def notice(
    desk: Desk, at_s: float, kind: SecurityKind = SecurityKind.REPLAY, *, handle: int = 2, is_alarm: bool = True
) -> list[AlarmEvent]:
    said = SecurityNotice(HOSPITAL, handle, kind, at(at_s), "mqtt", "10.0.0.7 sent it", "10.0.0.7", is_alarm=is_alarm)
    return desk.tell(said, at_s=at_s).alarms


def of_security(events: list[AlarmEvent]) -> list[AlarmEvent]:
    return [event for event in events if event.rule.startswith("security.")]


@pytest.mark.clause("5.4a", "9.4")
def test_what_goes_on_is_one_alarm_of_its_sender_until_it_was_quiet_for_long() -> None:
    desk = a_desk()
    (start,) = notice(desk, 5)
    assert (start.rule, start.phase, start.priority, start.alert_type) == (
        "security.replay", Phase.START, Priority.MEDIUM, AlertType.TECHNICAL,
    )  # fmt: skip
    assert (start.subject.device_id, start.subject.patient_key, start.latching, start.live) == ("dev-2", None, True, True)
    assert "10.0.0.7 sent it" in start.text
    assert notice(desk, 60) == []
    assert of_security(desk.tick(59 + OVER_S).alarms) == []
    (end,) = of_security(desk.tick(60 + OVER_S).alarms)
    assert (end.alarm_id, end.phase) == (start.alarm_id, Phase.END)
    assert notice(desk, 70 + OVER_S)[0].alarm_id != start.alarm_id


def test_kinds_and_devices_are_alarms_of_their_own_and_what_need_not_be_looked_at_is_none() -> None:
    desk = a_desk()
    assert notice(desk, 1, is_alarm=False) == []
    raised = {notice(desk, 2, kind, handle=handle)[0].alarm_id for kind in SecurityKind for handle in (1, 2)}
    assert len(raised) == 2 * len(SecurityKind)
    assert notice(desk, 3, handle=999) == []  # it is in another shard by now


def test_under_maintenance_nothing_is_raised() -> None:
    desk = a_desk()
    desk.tell(MaintenanceSet(HOSPITAL, at(0), at(100), handle=2))
    assert notice(desk, 5) == []
    assert len(notice(desk, 100)) == 1


def test_what_stands_outlives_a_snapshot() -> None:
    desk = a_desk()
    (start,) = notice(desk, 5)
    other = Desk(ShardCell(0))
    other.cell.restore(desk.cell.snapshot())
    assert_same_tables(other.cell.snapshot(), desk.cell.snapshot())
    assert notice(other, 6) == []
    assert [event.alarm_id for event in of_security(other.tick(7 + OVER_S).alarms)] == [start.alarm_id]
