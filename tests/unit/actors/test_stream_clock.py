"""A platform whose clock was ahead and is set back: stream time goes on, and what comes at once is live again."""

from __future__ import annotations

import numpy as np

from actors.shard import ShardCell
from actors.stream_clock import TOLERANCE_US, StreamClock
from domain.alarms import Phase
from domain.quality import Mark, has_mark
from tests.cell_streams import Desk, Frame, S, Tick, Told, at, play, readings, recut, registered

HOUR = 3600
MONITOR = 7


def low(time_s: float, arrival_s: float | None = None) -> Frame:
    """A pressure far too low, stated for `time_s`."""
    return Frame.of(readings(MONITOR, "nibp_sys", [time_s], [60.0]), arrival_s)


def well(time_s: float, arrival_s: float | None = None) -> Frame:
    return Frame.of(readings(MONITOR, "nibp_sys", [time_s], [120.0]), arrival_s)


def ahead_and_back() -> list[object]:
    """Ten seconds with a clock that is right, ten with one that is an hour ahead, then right again."""
    told: list[object] = [Told(registered({MONITOR: "monitor@1"}), at(0))]
    for second in range(1, 11):
        told += [well(second), Tick(at(second))]
    for second in range(11, 21):
        told += [well(second, second + HOUR), Tick(at(second + HOUR))]
    for second in range(21, 31):
        told += [well(second), Tick(at(second))]
    return told


def test_what_comes_at_once_after_the_set_back_is_live_and_not_late() -> None:
    desk = Desk()
    heard = play(desk.cell, [*ahead_and_back(), low(31)])  # type: ignore[list-item]
    (alarm,) = [event for event in heard.alarms if event.phase is Phase.START and event.rule == "limit.very-low"]
    assert (alarm.live, alarm.onset_us) == (True, at(31))
    assert not has_mark(heard.stored[-1].quality, Mark.LATE | Mark.CLOCK_SKEWED | Mark.OUT_OF_ORDER).any()
    assert alarm.inputs[0].age_s == 0.0


def test_arrival_times_never_go_back_and_timers_run_on() -> None:
    cell = ShardCell(0)
    heard = play(cell, ahead_and_back())  # type: ignore[arg-type]
    arrival_us = np.concatenate(heard.stored_arrival_us)
    assert (np.diff(arrival_us) >= 0).all()
    reached_us = cell.now_us
    play(cell, [Tick(at(second)) for second in range(31, 131)])
    assert 85 * S < cell.now_us - reached_us <= 100 * S
    assert cell.clock_us == at(130)


def test_silence_is_noticed_while_the_clock_catches_up() -> None:
    desk = Desk()
    play(desk.cell, [*ahead_and_back(), Frame.of(readings(MONITOR, "heart_rate", [30], [70.0]))])  # type: ignore[list-item]
    lost = desk.tick_through(30, 30 + 60)
    assert "technical.signal-lost" in {event.rule for event in lost}


def test_readings_that_doors_gave_the_wrong_time_do_not_hide_what_comes_after() -> None:
    """They state none, so they have that of the door: an hour ahead."""
    told = [Told(registered({MONITOR: "monitor@1"}), at(0))]
    told += [m for s in range(1, 6) for m in (well(s + HOUR, s + HOUR), Tick(at(s + HOUR)))]  # type: ignore[misc]
    told += [Tick(at(second)) for second in range(6, 10)]  # type: ignore[misc]
    heard = play(ShardCell(0), [*told, low(10)])
    assert [event.live for event in heard.alarms if event.rule == "limit.very-low"] == [True]


def test_a_replay_says_alike_however_the_stream_is_cut_and_from_any_snapshot() -> None:
    told = [*ahead_and_back(), low(31), Tick(at(31)), well(40), Tick(at(40)), low(41), low(42)]
    whole, cell = play(reference := ShardCell(0), told), ShardCell(0)  # type: ignore[arg-type]
    parts = play(cell, recut(told, [3, 17, 44]))  # type: ignore[arg-type]
    assert parts.alarms == whole.alarms
    for stop in range(0, len(told), 7):
        before, after = ShardCell(0), ShardCell(0)
        said = play(before, told[:stop])  # type: ignore[arg-type]
        after.restore(before.snapshot())
        assert said.alarms + play(after, told[stop:]).alarms == whole.alarms  # type: ignore[arg-type]
        assert after.snapshot()["cell"].equals(reference.snapshot()["cell"])


def test_a_late_tick_is_no_set_back_nor_are_several_among_newer_readings() -> None:
    clock = StreamClock()
    clock.tick(at(100))
    assert not clock.tick(at(100) - TOLERANCE_US - 1)
    clock.tick(at(101))
    for second in (50, 51, 52):
        assert not clock.tick(at(second))
        clock.reach(np.array([at(102)]))
    assert (clock.ahead_us, clock.now_us) == (0, at(102))


def test_a_clock_that_catches_up_or_jumps_on_again_is_stream_time_once_more() -> None:
    clock = StreamClock()
    clock.tick(at(1000))
    assert [clock.tick(at(second)) for second in (900, 901)] == [False, True]
    for second in range(902, 902 + 1000):
        clock.tick(at(second))
    assert (clock.ahead_us, clock.now_us) == (0, at(1901))
    assert [clock.tick(at(second)) for second in (1000, 1001)] == [False, True]
    clock.tick(at(5000))
    assert (clock.ahead_us, clock.now_us, clock.clock_us) == (0, at(5000), at(5000))


def test_a_clock_that_is_set_back_further_hides_nothing_either() -> None:
    """Then devices are ahead of it, and are taken to speak of when they are heard."""
    told = [*ahead_and_back()]
    told += [m for s in range(31, 36) for m in (well(s, s - HOUR / 2), Tick(at(s - HOUR / 2)))]
    heard = play(ShardCell(0), [*told, low(36, 36 - HOUR / 2)])  # type: ignore[list-item]
    assert [event.live for event in heard.alarms if event.rule == "limit.very-low"] == [True]


def test_a_snapshot_of_before_clocks_were_watched_is_taken() -> None:
    clock = StreamClock()
    clock.restore(StreamClock().snapshot().select(["now_us", "watching_since_us"]))
    assert clock.ahead_us == 0
