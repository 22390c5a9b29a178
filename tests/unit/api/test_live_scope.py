"""What of live streams reaches whom, and what ends a stream whose client is to be judged anew."""

from __future__ import annotations

import msgspec
import pytest
from sqlalchemy import Engine

from api.live.alarms import PreparedAlarm, alarm_client, prepare
from api.live.apart import Apart
from api.live.readings import PreparedChange, PreparedFrame, Wanted, Watch, reading_client
from api.live.readings import prepare as prepare_reading
from api.live.scopes import alarm_scope, live_handles
from api.selection import ReadingFilter, select_by
from domain import subjects
from domain.alarms import AlarmEvent, AlarmSubject, AlertType, Phase, Priority
from domain.frames import encode_frame
from domain.labels import WITHHELD
from domain.messages import AssociationSpan, DeviceAssociated, DeviceIsolated, DevicesRegistered, encode
from domain.permissions import Action, Level, Reach
from domain.principals import Place
from domain.readings import ReadingBatch
from runtime.authorisation import CedarAuthoriser
from runtime.clock import ManualClock
from runtime.follower import StreamMessage
from runtime.sql.engine import writing
from runtime.sql.isolations import Isolated
from runtime.sql.tables import patients
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
    for scope in (raised, *(alarm_scope(engine, reach_of(wards, who, Action.ALARM_READ)) for who in ("nurse", "station"))):
        client = alarm_client(None, None, CLOCK, [], Priority.HIGH, scope)  # type: ignore[arg-type]
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
def test_what_is_hidden_is_watched_whoever_asks(wards: Wards, engine: Engine) -> None:
    """Nobody's reach holds a patient who is withheld, and they may come back."""
    wards.raise_level("p1")
    reaches = {"nurse": reach_of(wards, "nurse", Action.READING_READ), "region": Reach({Place("sz"): Level.STRICT}, {})}
    hidden = {}
    for who, reach in reaches.items():
        selection = select_by(engine, ReadingFilter(hospital=["sz.h001"]), reach=reach)
        _, watch = live_handles(engine, selection, reach=reach, now_us=CLOCK.now_us(), known=5)
        hidden[who] = None if watch is None else watch.hidden
    assert hidden == {"nurse": {wards.handles["mon-1"], wards.handles["p1"]}, "region": None}
    with writing(engine) as connection:
        connection.execute(patients.update().where(patients.c.patient_key == wards.keys["p1"]).values(level=WITHHELD))
    selection = select_by(engine, ReadingFilter(hospital=["sz.h001"]), reach=reaches["region"])
    _, watch = live_handles(engine, selection, reach=reaches["region"], now_us=CLOCK.now_us(), known=5)
    assert watch is not None
    assert watch.hidden == {wards.handles["mon-1"], wards.handles["p1"]}


@pytest.mark.clause("7.2b")
def test_a_stream_ends_at_the_very_change_that_has_to_be_judged(wards: Wards) -> None:
    came = DeviceAssociated("sz.h001", 7, [AssociationSpan(9, NOW_US)])
    moved = DevicesRegistered("sz.h001", [7], ["mon-7"], ["monitor@1"], ["w01"], [None])
    changes = [prepare_reading(StreamMessage(subjects.control(1), 11, encode(one), NOW_US), Apart()) for one in (came, moved)]
    assert [change.is_move for change in changes if isinstance(change, PreparedChange)] == [False, True]
    cases = [
        (Watch(5, frozenset(), by_patient=True, by_ward=False), [True, False]),
        (Watch(5, frozenset(), by_patient=False, by_ward=True), [False, True]),
        (Watch(5, frozenset({9}), by_patient=False, by_ward=False), [True, False]),
        (Watch(11, frozenset({9}), by_patient=True, by_ward=True), [False, False]),  # known when the client came
        (Watch(5, frozenset(), by_patient=False, by_ward=False, hidden=frozenset({7})), [True, True]),  # it may be shown now
        (Watch(5, frozenset(), by_patient=True, by_ward=True, hidden=frozenset({8})), [False, False]),
    ]
    for watch, ended in cases:
        found = []
        for change in changes:
            shown = {6: "mon-6"} if watch.hidden else {7: "mon-7"}
            client = reading_client(None, CLOCK, [1], Wanted(shown, frozenset()), watch)  # type: ignore[arg-type]
            assert client.subjects == {subjects.reading(1), subjects.control(1)}
            client.offer(11, change)
            found.append(not client.put(b"x"))
        assert found == ended


HOUR_US = 3_600_000_000
GATEWAY, SPOOFED, OTHER, ALONE = 6, 7, 8, 9


def shown_at(apart: Apart, at_us: int) -> set[int]:
    """Whose readings are left of a frame that came then: two monitors behind a gateway, and one by itself."""
    readings = ReadingBatch.of(
        handle=[SPOOFED, OTHER, ALONE], metric=1, time_us=at_us, value=70.0, source=[GATEWAY, GATEWAY, ALONE]
    )
    frame = encode_frame(readings, source=GATEWAY, sequence=0, arrival_us=at_us)
    prepared = prepare_reading(StreamMessage(subjects.reading(1), 12, frame, at_us), apart)
    assert isinstance(prepared, PreparedFrame)
    return set(prepared.readings.handle.tolist())


def order(apart: Apart, handle: int, at_us: int, number: int = 1, *, is_over: bool = False) -> None:
    message = DeviceIsolated("sz.h001", handle, number, NOW_US, "ada", is_over=is_over)
    prepare_reading(StreamMessage(subjects.control(1), 11, encode(message), at_us), apart)


@pytest.mark.clause("8.4d")
def test_what_an_isolated_device_or_gateway_says_is_on_no_live_stream_from_its_order_to_its_release() -> None:
    for handle, left in ((SPOOFED, {OTHER, ALONE}), (GATEWAY, {ALONE})):
        apart = Apart()
        assert shown_at(apart, NOW_US) == {SPOOFED, OTHER, ALONE}
        order(apart, handle, NOW_US)
        assert shown_at(apart, NOW_US + HOUR_US) == left
        assert shown_at(apart, NOW_US - HOUR_US) == left  # asked for again: what it said before may be as false
        order(apart, handle, NOW_US + 2 * HOUR_US, is_over=True)
        assert shown_at(apart, NOW_US + HOUR_US) == left  # and later, too
        assert shown_at(apart, NOW_US + 3 * HOUR_US) == {SPOOFED, OTHER, ALONE}
        order(apart, handle, NOW_US)  # both are heard again by a client that catches up
        order(apart, handle, NOW_US + 9 * HOUR_US, is_over=True)
        assert shown_at(apart, NOW_US + 3 * HOUR_US) == {SPOOFED, OTHER, ALONE}


@pytest.mark.clause("8.4d")
def test_orders_of_before_a_client_came_are_known_from_the_database() -> None:
    apart = Apart()
    apart.learn([Isolated(1, SPOOFED, NOW_US, None), Isolated(2, OTHER, NOW_US, NOW_US + HOUR_US)])
    assert shown_at(apart, NOW_US) == {ALONE}
    assert shown_at(apart, NOW_US + 2 * HOUR_US) == {OTHER, ALONE}
    order(apart, SPOOFED, NOW_US + 2 * HOUR_US, is_over=True)
    apart.learn([Isolated(1, SPOOFED, NOW_US, None)])  # read before it was over
    assert shown_at(apart, NOW_US + 2 * HOUR_US) == {SPOOFED, OTHER, ALONE}


@pytest.mark.clause("8.4d")
def test_a_client_who_may_see_everybody_is_told_of_orders_too() -> None:
    client = reading_client(None, CLOCK, [1], Wanted({SPOOFED: "mon-7"}, frozenset()))  # type: ignore[arg-type]
    assert client.subjects == {subjects.reading(1), subjects.control(1)}
    assert not client.is_limited
