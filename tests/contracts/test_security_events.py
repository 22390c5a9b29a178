"""Security events on both databases: kept once, found by what is asked for, within reach, and not for ever."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from domain.erasures import Held
from domain.messages import SecurityKind, SecurityNotice
from domain.permissions import Level, Reach
from domain.principals import Place
from runtime.sql import holds
from runtime.sql.alarm_projection import position_of
from runtime.sql.devices import NewDevice, register_device
from runtime.sql.engine import writing
from runtime.sql.security_events import POSITION, EventFilter, forget_events, keep_notices, list_events, note_event
from tests.sql_fixtures import ADA, ALL, HOSPITAL, NOW_US, add_hospital, later

ANY = EventFilter()


def notice(number: int, handle: int = 1, kind: SecurityKind = SecurityKind.REPLAY, hospital: str = HOSPITAL) -> SecurityNotice:
    return SecurityNotice(hospital, handle, kind, NOW_US + number, "mqtt", f"number {number}", "10.0.0.7", number)


def monitor_of(engine: Engine, hospital: str) -> int:
    add_hospital(engine, hospital)
    return int(register_device(engine, ADA, hospital, NewDevice("mon-7", "monitor"))[0]["handle"])


def found(engine: Engine, wanted: EventFilter = ANY, reach: Reach = ALL, limit: int = 10) -> list[int]:
    return [row["count"] for row in list_events(engine, wanted, reach=reach, limit=limit).rows]


def test_a_notice_that_comes_twice_is_kept_once_and_the_stream_is_gone_on_behind_it(engine: Engine) -> None:
    assert keep_notices(engine, [(7, notice(1)), (9, notice(2))], 12) == 2
    assert keep_notices(engine, [(9, notice(2)), (14, notice(3))], 14) == 1
    assert (found(engine), position_of(engine, POSITION)) == ([3, 2, 1], 14)


def test_what_the_platform_noticed_itself_stands_beside_it(engine: Engine) -> None:
    keep_notices(engine, [(7, notice(1))], 7)
    with writing(engine) as connection:
        note_event(connection, notice(2))
        note_event(connection, notice(3))
    assert found(engine) == [3, 2, 1]


@pytest.mark.clause("5.4a", "9.4")
def test_events_are_found_by_hospital_device_kind_and_time_page_by_page(engine: Engine) -> None:
    handle, other = monitor_of(engine, HOSPITAL), monitor_of(engine, "sz.h002")
    notices = [
        notice(1, handle), notice(2, handle, SecurityKind.SPOOFING), notice(3, other, hospital="sz.h002"), notice(4, 4_000),
    ]  # fmt: skip
    keep_notices(engine, list(enumerate(notices, start=1)), 9)
    first = list_events(engine, ANY, reach=ALL, limit=3)
    assert [row["count"] for row in first.rows] == [4, 3, 2]
    assert [row["count"] for row in list_events(engine, ANY, reach=ALL, limit=3, after=first.after).rows] == [1]
    assert found(engine, EventFilter(hospital_id="sz.h002")) == [3]
    assert found(engine, EventFilter(kind="spoofing")) == [2]
    assert found(engine, EventFilter(device=(HOSPITAL, "mon-7"))) == [2, 1]
    assert found(engine, EventFilter(from_us=NOW_US + 2, until_us=NOW_US + 4)) == [3, 2]


@pytest.mark.clause("9.3c")
def test_only_events_of_ones_own_place_are_seen(engine: Engine) -> None:
    handle = monitor_of(engine, HOSPITAL)
    keep_notices(engine, [(1, notice(1, handle)), (2, notice(2, 4_000, hospital="sz.h002"))], 2)
    assert found(engine, reach=Reach({Place("sz", hospital_id=HOSPITAL): Level.SHARED}, {})) == [1]
    assert found(engine, reach=Reach({Place("sz", hospital_id=HOSPITAL, ward_id="none"): Level.STRICT}, {})) == []


def test_old_ones_go_and_the_oldest_where_there_are_too_many(engine: Engine) -> None:
    keep_notices(engine, [(number, notice(number)) for number in range(1, 8)], 7)
    add_hospital(engine, HOSPITAL)
    hold = holds.add_hold(engine, later(0), Held.HOSPITAL, HOSPITAL, None)
    assert forget_events(engine, NOW_US + 3, 0, 3) == 0
    holds.lift_hold(engine, later(0), hold["id"])
    assert forget_events(engine, NOW_US + 3, 0, 10) == 2
    assert forget_events(engine, NOW_US, NOW_US, 3) == 2
    assert found(engine) == [7, 6, 5]


@pytest.mark.clause("9.3h")
def test_a_flood_from_a_held_hospital_costs_nobody_elses_events(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    add_hospital(engine, HOSPITAL)
    holds.add_hold(engine, later(0), Held.HOSPITAL, HOSPITAL, None)
    others = [(number, notice(number, hospital="sz.h002")) for number in range(1, 5)]
    keep_notices(engine, [*others, *((number, notice(number)) for number in range(5, 9))], 8)
    assert forget_events(engine, NOW_US, NOW_US, 4) == 0
    assert caplog.messages == []
    assert forget_events(engine, NOW_US, NOW_US, 3) == 1
    assert found(engine) == [8, 7, 6, 5, 4, 3, 2]
    assert caplog.messages == ["4 security events stay for legal holds, more than the 3 of all others"]
