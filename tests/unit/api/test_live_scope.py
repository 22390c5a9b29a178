"""What of live streams reaches whom, and what ends a stream whose client is to be judged anew."""

from __future__ import annotations

import msgspec
import pytest
from sqlalchemy import Engine

from api.live.alarms import PreparedAlarm, alarm_client, prepare
from api.live.readings import PreparedChange, Wanted, Watch, reading_client
from api.live.readings import prepare as prepare_reading
from api.live.scopes import alarm_scope, live_handles
from api.selection import ReadingFilter, select_by
from domain import subjects
from domain.alarms import AlarmEvent, AlarmSubject, AlertType, Phase, Priority
from domain.messages import AssociationSpan, DeviceAssociated, DevicesRegistered, encode
from domain.permissions import Action, Level, Reach
from domain.principals import Place
from runtime.authorisation import CedarAuthoriser
from runtime.clock import ManualClock
from runtime.follower import StreamMessage
from tests.sql_fixtures import NOW_US
from tests.unit.api.small_platform import SmallPlatform
from tests.unit.api.wards import PLACES, WORN, Wards

CLOCK = ManualClock(NOW_US + 10**7)


@pytest.fixture
def wards(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Wards:
    return Wards(engine, SmallPlatform(tmp_path_factory.mktemp("lake"), engine), CLOCK)


def reach_of(wards: Wards, who: str, action: Action) -> Reach:
    return CedarAuthoriser.of_package(CLOCK).reach(wards.callers[who], action)


def alarm_of(wards: Wards, device: str) -> PreparedAlarm:
    hospital_id, ward_id = PLACES[WORN.get(device, "p1")]
    key = wards.keys[WORN[device]] if device in WORN else None
    event = AlarmEvent(
        "e", "a", Phase.START, AlertType.PHYSIOLOGICAL, Priority.HIGH, "limit.high", 1,
        AlarmSubject(hospital_id, ward_id, device_id=device, patient_key=key), NOW_US, NOW_US, NOW_US, "heart rate high",
    )  # fmt: skip
    return prepare(StreamMessage(subjects.alarm(hospital_id), 7, msgspec.json.encode(event), NOW_US))


@pytest.mark.clause("7.2b")
@pytest.mark.clause("9.3c")
@pytest.mark.parametrize(
    ("who", "seen"),
    [
        ("doctor", {"mon-1", "mon-2", "free-1"}), ("nurse", {"mon-1", "free-1"}), ("station", {"mon-1", "free-1"}),
        ("team", {"mon-2"}), ("patient", {"mon-1"}), ("engineer", {"free-1"}), ("commission", {"free-1"}),
    ],
)  # fmt: skip
def test_live_alarms_are_those_of_the_list(wards: Wards, engine: Engine, who: str, seen: set[str]) -> None:
    scope = alarm_scope(engine, reach_of(wards, who, Action.ALARM_READ))
    client = alarm_client(None, None, CLOCK, [], Priority.INFORMATION, scope)  # type: ignore[arg-type]  # no heartbeat here
    assert client.subjects == {subjects.alarm("sz.h001")}
    assert {name for name in (*WORN, "free-1") if client._select(alarm_of(wards, name)) is not None} == seen


@pytest.mark.clause("9.3c")
def test_a_patient_above_the_reader_is_in_no_live_alarm(wards: Wards, engine: Engine) -> None:
    scope = alarm_scope(engine, Reach({Place("sz"): Level.IDENTIFYING}, {}))
    assert scope.holds(AlarmSubject("sz.h001", "icu", patient_key=wards.keys["p1"]))
    raised = alarm_scope(engine, scope.reach)
    wards.raise_level("p1")
    assert not alarm_scope(engine, scope.reach).holds(AlarmSubject("sz.h001", "icu", patient_key=wards.keys["p1"]))
    client = alarm_client(None, None, CLOCK, [], Priority.HIGH, raised)  # type: ignore[arg-type]
    assert client.is_limited  # so it is ended when a level changes: see Feed.end_limited


@pytest.mark.clause("9.3c")
@pytest.mark.parametrize(
    ("who", "seen"),
    [
        ("doctor", {"mon-1", "mon-2", "free-1"}),
        ("nurse", {"mon-1", "free-1"}),
        ("patient", {"mon-1"}),
        ("engineer", {"free-1"}),
    ],
)
def test_live_readings_are_of_devices_on_whom_one_may_see_now(wards: Wards, engine: Engine, who: str, seen: set[str]) -> None:
    reach = reach_of(wards, who, Action.READING_READ)
    selection = select_by(engine, ReadingFilter(hospital=["sz.h001"]), reach=reach)
    handles, watch = live_handles(engine, selection, reach=reach, now_us=CLOCK.now_us(), known=5)
    assert {name for name, handle in wards.handles.items() if handle in handles and name not in WORN.values()} == seen
    assert watch is not None


@pytest.mark.clause("7.2b")
def test_a_stream_ends_at_the_very_change_that_has_to_be_judged(wards: Wards) -> None:
    came = DeviceAssociated("sz.h001", 7, [AssociationSpan(9, NOW_US)])
    moved = DevicesRegistered("sz.h001", [7], ["mon-7"], ["monitor@1"], ["w01"], [None])
    changes = [prepare_reading(StreamMessage(subjects.control(1), 11, encode(one), NOW_US)) for one in (came, moved)]
    assert [change.is_move for change in changes if isinstance(change, PreparedChange)] == [False, True]
    cases = [
        (Watch(5, frozenset(), by_patient=True, by_ward=False), [True, False]),
        (Watch(5, frozenset(), by_patient=False, by_ward=True), [False, True]),
        (Watch(5, frozenset({9}), by_patient=False, by_ward=False), [True, False]),
        (Watch(11, frozenset({9}), by_patient=True, by_ward=True), [False, False]),  # known when the client came
    ]
    for watch, ended in cases:
        found = []
        for change in changes:
            client = reading_client(None, CLOCK, [1], Wanted({7: "mon-7"}, frozenset()), watch)  # type: ignore[arg-type]
            assert client.subjects == {subjects.reading(1), subjects.control(1)}
            client.offer(11, change)
            found.append(not client.put(b"x"))
        assert found == ended
