"""How much a sender may send: a clock that the test moves, real measures, a real watch over a bus in memory."""

from __future__ import annotations

import pytest

from domain.errors import TooManyReadings
from domain.messages import SecurityKind
from gateways import paces
from gateways.counters import DoorCounters
from gateways.paces import NO_LIMIT, Pace, PaceLimits
from gateways.watch import Watch
from runtime.intake import StreamIntake
from tests.doors import CUFF, GATEWAY, MONITOR, DictIdentities, MemoryBus, clock
from tests.waiting import until

LIMITS = PaceLimits(device_readings_a_s=100.0, gateway_readings_a_s=1000.0, burst_s=10.0)
DAY_S = 86_400


class Stage:
    """A watch with a clock of its own; `hold` looks twice a second whether the monitor, which has nothing left, is held."""

    def __init__(self, limits: PaceLimits = LIMITS) -> None:
        self.now_s, self.bus, self.counters = 1000.0, MemoryBus(), DoorCounters()
        intake = StreamIntake(self.bus, DictIdentities(), clock(), source=1)
        self.watch = Watch(intake, clock(), limits=limits, now_s=lambda: self.now_s)
        self.paces = self.watch.paces

    def look(self) -> bool:
        pace = self.paces.of(MONITOR)
        return pace.left < 0 and self.paces.holds(pace, MONITOR, "mqtt", "10.0.0.7", self.counters)

    def send(self, readings: int, message: int, for_s: float) -> int:
        """Send what it has, `message` readings each, as a connection is read: until it is held, and on at each look."""
        until_s = self.now_s + for_s
        while readings > 0 and self.now_s < until_s:
            while readings > 0 and not self.look():
                self.paces.of(MONITOR).left -= message
                readings -= message
            self.now_s += 0.5
        return readings

    def notices(self) -> list:
        return [notice for notice in self.bus.notices() if notice.kind is SecurityKind.FLOODS]


@pytest.fixture
async def stage():
    stage = Stage()
    stage.watch.start()
    yield stage
    await stage.watch.close()


def test_a_burst_comes_at_once_and_then_so_many_a_second() -> None:
    pace = Pace(100.0, burst_s=10.0, now_s=0.0)
    pace.left -= 1001
    assert pace.wait_s(0.0) == pytest.approx(0.01)
    assert pace.wait_s(0.02) == 0.0
    pace.left -= 250
    assert pace.wait_s(0.02) == pytest.approx(2.49)
    assert pace.wait_s(1.02) == pytest.approx(1.49)
    assert pace.wait_s(2.52) == 0.0


def test_what_comes_back_is_no_more_than_a_burst() -> None:
    pace = Pace(100.0, burst_s=10.0, now_s=0.0)
    pace.left -= 1001
    assert pace.wait_s(1e6) == 0.0
    assert pace.left == 1000.0


def test_a_gateway_may_send_more_than_a_device_and_each_has_its_own_measure() -> None:
    stage = Stage()
    assert stage.paces.of(MONITOR) is stage.paces.of(MONITOR)
    assert stage.paces.of(MONITOR) is not stage.paces.of(CUFF)
    assert (stage.paces.of(MONITOR).left, stage.paces.of(GATEWAY).left) == (1000.0, 10_000.0)


def test_without_a_limit_nobody_waits() -> None:
    stage = Stage(PaceLimits())
    for sender in (MONITOR, GATEWAY):
        assert stage.paces.of(sender) is NO_LIMIT
        stage.paces.take(sender, 10**12, "http", "", stage.counters)
        stage.paces.take(sender, 1, "http", "", stage.counters)
    assert stage.counters.held == 0


def test_a_request_of_who_has_nothing_left_is_refused_and_not_counted() -> None:
    stage = Stage()
    stage.paces.take(MONITOR, 1200, "http", "", stage.counters)
    for _ in range(50):
        with pytest.raises(TooManyReadings) as refused:
            stage.paces.take(MONITOR, 1200, "http", "", stage.counters)
        assert refused.value.wait_s == pytest.approx(2.0)
    stage.now_s += 2.001
    stage.paces.take(MONITOR, 1, "http", "", stage.counters)
    assert stage.counters.held == 1


async def test_who_is_held_for_seconds_is_told_once_a_minute_and_an_alarm_from_the_fifth_on(stage: Stage) -> None:
    began_s = stage.now_s
    stage.send(10**9, 10, for_s=15.0)  # the burst is gone at once
    await until(stage.notices)
    assert stage.counters.held == 1
    assert (stage.notices()[0].handle, stage.notices()[0].address, stage.notices()[0].is_alarm) == (7, "10.0.0.7", False)
    stage.send(10**9, 10, for_s=290.0)
    await until(lambda: len(stage.notices()) >= 5)
    assert [notice.is_alarm for notice in stage.notices()] == [False] * 4 + [True]
    assert stage.counters.held == 1
    assert stage.now_s - began_s < 310.0


async def test_who_is_held_for_a_moment_is_not_told(stage: Stage) -> None:
    for _ in range(20):
        assert stage.send(1300, 10, for_s=10.0) == 0  # three seconds too much
        stage.now_s += 20.0
    await stage.watch.close()
    assert stage.counters.held > 10
    assert stage.notices() == []


async def test_a_pause_ends_it_and_what_comes_later_is_new(stage: Stage) -> None:
    stage.send(10**9, 10, for_s=20.0)
    assert stage.paces.of(MONITOR).over_since_s is not None
    stage.now_s += 90.0
    assert not stage.look()
    assert stage.send(10**9, 10, for_s=2.0) > 0
    await stage.watch.close()
    assert len(stage.notices()) == 1
    assert stage.counters.held == 2


async def test_a_monitor_that_brings_a_day_is_done_before_it_is_an_alarm() -> None:
    """With the limits that users have."""
    stage = Stage(PaceLimits(3000.0, 200_000.0, 120.0))
    stage.watch.start()
    assert stage.send(12 * DAY_S, 12, for_s=240.0) == 0
    await stage.watch.close()
    assert stage.notices()
    assert not any(notice.is_alarm for notice in stage.notices())


def test_what_is_remembered_is_bounded_and_who_waits_is_remembered_before_who_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paces, "_MOST", 2)
    stage = Stage()
    stage.paces.of(CUFF)
    held = stage.paces.of(MONITOR)
    held.left = -10_000.0
    stage.paces.of(GATEWAY)
    assert stage.paces.of(MONITOR) is held
    assert len(stage.paces._by_handle) <= 2
