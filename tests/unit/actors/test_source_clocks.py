"""How far a sender's clock is off: ahead, behind, jitter, backlogs, steps, mixed devices; and whose a reading was then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.shard import ShardCell
from actors.source_clocks import TOLERANCE_US
from domain.alarms import Phase, Priority
from domain.ids import Address
from domain.messages import FreshnessQuery, MaintenanceSet
from domain.quality import Mark, has_mark
from domain.readings import ReadingBatch
from tests.cell_streams import (
    ENTERED,
    HOSPITAL,
    Desk,
    Frame,
    S,
    admitted,
    assert_same_tables,
    associated,
    at,
    readings,
    registered,
)

MONITOR, OTHER, GATEWAY = 1, 2, 9
FIRST = 60 - at(0) // S % 60  # seconds after T0 at which a minute begins


def a_desk() -> Desk:
    desk = Desk()
    desk.tell(registered({MONITOR: "monitor@1", OTHER: "monitor@1", GATEWAY: "gateway@1"}), admitted(100), admitted(101))
    return desk


def minute_of(
    desk: Desk, minute: int, delays_s: Sequence[float], *, device: int = MONITOR, source: int = GATEWAY, quality: int = 0
) -> None:
    """One reading every few seconds of that minute: arrival less event time is as given."""
    for number, delay_s in enumerate(delays_s):
        arrival_s = FIRST + 60 * minute + 60 * number / len(delays_s)
        sent = readings(device, "heart_rate", [arrival_s - delay_s], [80], source=source, quality=quality)
        desk.read(sent, arrival_s)


def clock_of(desk: Desk, source: int = GATEWAY) -> tuple[float, float]:
    """(offset, uncertainty) in force for a source, in seconds."""
    row = desk.cell._roster.devices.view(desk.cell._roster.device_row(source))
    return row.clock_offset_us / S, row.clock_uncertainty_us / S


def applied(desk: Desk) -> tuple[float, float]:
    """What the last reading was corrected by, and the uncertainty, in seconds."""
    clock = desk.heard.stored_clock[-1]
    return float(clock.offset_us[-1]) / S, float(clock.uncertainty_us[-1]) / S


def test_a_right_clock_is_left_alone_whatever_the_jitter() -> None:
    desk = a_desk()
    for minute in range(5):
        minute_of(desk, minute, [0.05, 0.9, 1.6, 0.2])
        assert applied(desk) == (0, 0)
    minute_of(desk, 5, [0.1, 9, 25, 0.3])  # a network that is slow at times
    minute_of(desk, 6, [0.1])
    assert clock_of(desk) == (0, 0)


@pytest.mark.parametrize("off_s", [-120, -7200, 90, 28_800])
def test_a_clock_that_was_always_off_is_corrected_once_several_minutes_agree(off_s: float) -> None:
    desk = a_desk()
    for minute in range(3):
        minute_of(desk, minute, [off_s + delay for delay in (0.4, 0.1, 1.2)])
    minute_of(desk, 3, [off_s + 0.3])
    assert clock_of(desk) == (off_s + 0.1, TOLERANCE_US / S)
    assert applied(desk) == (off_s + 0.1, TOLERANCE_US / S)
    assert has_mark(desk.heard.stored[-1].quality, Mark.CLOCK_SKEWED).all()


def test_what_is_ahead_of_its_arrival_is_taken_to_have_just_happened_at_once() -> None:
    desk = a_desk()
    minute_of(desk, 0, [-120])
    assert applied(desk) == (-120, TOLERANCE_US / S)
    assert desk.heard.stored[-1].time_us.tolist() == [at(FIRST + 120)]  # stored as sent


def test_until_a_clock_that_seems_behind_is_known_the_uncertainty_reaches_to_both_explanations() -> None:
    desk = a_desk()
    minute_of(desk, 0, [90.1])
    assert applied(desk) == (0, 0)
    for minute in (1, 2):
        minute_of(desk, minute, [90.3])
        assert applied(desk) == (0, pytest.approx(92.1, abs=0.3))


def test_a_backlog_that_shrinks_is_no_clock() -> None:
    desk = a_desk()
    minute_of(desk, 0, [0.2, 0.3])
    minute_of(desk, 12, [600, 520, 430, 350])  # after a cut of the line
    minute_of(desk, 13, [280, 200, 130, 60])
    assert applied(desk) == (0, 0)
    minute_of(desk, 14, [20, 0.2])
    minute_of(desk, 15, [0.2])
    assert clock_of(desk) == (0, 0)


def test_a_steady_backlog_after_a_cut_cannot_be_told_from_a_clock_and_makes_the_patient_uncertain() -> None:
    desk = a_desk()
    minute_of(desk, 0, [0.2, 0.3])
    for minute in range(4, 12):  # three minutes were lost, and the gateway never catches up
        minute_of(desk, minute, [180.2, 180.4])
    assert applied(desk) == (0, pytest.approx(182.2))
    minute_of(desk, 12, [180.3, 100, 0.2])
    minute_of(desk, 13, [0.2])
    assert clock_of(desk) == (0, 0)


def test_a_doubt_outlasts_a_minute_that_tells_nothing() -> None:
    desk = a_desk()
    minute_of(desk, 0, [0.2, 0.3])
    for minute in range(4, 8):
        minute_of(desk, minute, [180.2, 180.4])
    minute_of(desk, 8, [180.2, 186])
    minute_of(desk, 9, [180.2])
    assert applied(desk) == (0, pytest.approx(182.2))


def test_a_backlog_that_was_taken_for_a_clock_is_doubted_reading_by_reading_when_it_shrinks() -> None:
    desk = a_desk()
    for minute in range(4):  # from the first on: nothing could tell
        minute_of(desk, minute, [60.1, 60.3])
    minute_of(desk, 4, [60.2, 30])
    assert applied(desk) == (30, 32)  # taken between what it says and its arrival
    minute_of(desk, 5, [12, 0.2])
    minute_of(desk, 6, [0.2, 0.1])
    minute_of(desk, 7, [0.2])
    assert clock_of(desk) == (0, 0)


def test_a_delay_that_creeps_up_is_never_taken_for_a_clock() -> None:
    desk = a_desk()
    for minute in range(120):
        minute_of(desk, minute, [0.2 + minute, 0.7 + minute])
    offset_s, uncertainty_s = clock_of(desk)
    assert offset_s == 0
    assert uncertainty_s > 100


def test_a_clock_that_falls_back_further_than_any_backlog_could_is_corrected() -> None:
    desk = a_desk()
    minute_of(desk, 0, [0.2, 0.3])
    for minute in range(1, 5):  # it began again in 1970, or an hour ago
        minute_of(desk, minute, [3600.2, 3600.4])
    assert clock_of(desk) == (3600.2, TOLERANCE_US / S)


def test_a_clock_that_is_set_right_is_doubted_at_once_and_right_after_that_minute() -> None:
    desk = a_desk()
    for minute in range(4):
        minute_of(desk, minute, [-119.9, -119.5])
    minute_of(desk, 4, [-119.9, 0.2])
    assert applied(desk) == (pytest.approx(-119.9), pytest.approx(121.9))  # set right, or two minutes late?
    minute_of(desk, 5, [0.2, 0.1])
    minute_of(desk, 6, [0.2])
    assert clock_of(desk) == (0, 0)
    assert applied(desk) == (0, 0)


def test_a_clock_that_steps_ahead_is_corrected() -> None:
    desk = a_desk()
    minute_of(desk, 0, [0.2, 0.1])
    for minute in range(1, 5):
        minute_of(desk, minute, [-59.8, -59.6])
    assert clock_of(desk) == (-59.8, TOLERANCE_US / S)


def test_one_device_with_a_clock_of_its_own_corrects_no_other_of_its_gateway() -> None:
    desk = a_desk()
    for minute in range(6):
        minute_of(desk, minute, [0.2, 0.4])
        minute_of(desk, minute, [-300], device=OTHER)
        minute_of(desk, minute, [0.3])
        assert applied(desk) == (0, 0)
    minute_of(desk, 7, [-300], device=OTHER)
    assert applied(desk) == (-300, TOLERANCE_US / S)


def test_one_device_with_a_right_clock_changes_nothing_for_the_slow_rest_of_its_gateway() -> None:
    desk = a_desk()
    for minute in range(4):
        minute_of(desk, minute, [120.2, 120.4])
    for minute in range(4, 8):
        minute_of(desk, minute, [0.3], device=OTHER)
        assert applied(desk) == (pytest.approx(0.3), pytest.approx(2.3))
        minute_of(desk, minute, [120.3])
        assert applied(desk) == (pytest.approx(120.2), 2)


def test_a_single_absurd_time_moves_no_clock() -> None:
    desk = a_desk()
    minute_of(desk, 0, [0.2])
    minute_of(desk, 1, [-75 * 31_557_600])
    minute_of(desk, 2, [0.2])
    assert applied(desk) == (0, 0)


@pytest.mark.parametrize("quality", [int(Mark.BACKFILL), ENTERED])
def test_catching_up_and_what_people_enter_measures_no_clock(quality: int) -> None:
    desk = a_desk()
    for minute in range(5):
        minute_of(desk, minute, [86_400.2], quality=quality)
    assert clock_of(desk) == (0, 0)


def test_what_is_sent_later_is_corrected_by_the_senders_clock_but_not_what_people_entered() -> None:
    desk = a_desk()
    for minute in range(4):
        minute_of(desk, minute, [-120, -119.5])
    minute_of(desk, 4, [900], quality=int(Mark.BACKFILL))
    assert applied(desk) == (-120, 122)
    minute_of(desk, 4, [900], quality=ENTERED)
    assert applied(desk) == (0, 0)


def test_a_live_reading_of_a_slow_clock_is_not_late_and_pages() -> None:
    desk = a_desk()
    desk.tell(associated(MONITOR, (100, -1e6, None)))
    for minute in range(4):
        minute_of(desk, minute, [300.2, 300.1])
    assert has_mark(desk.heard.stored[0].quality, Mark.LATE).all()
    assert not has_mark(desk.heard.stored[-1].quality, Mark.LATE).any()
    arrival_s = FIRST + 60 * 4
    desk.read(readings(MONITOR, "nibp_dia", [arrival_s - 300], [45], source=GATEWAY), arrival_s)
    (event,) = [event for event in desk.heard.alarms if event.phase is Phase.START]
    assert event.live
    assert event.event_us == pytest.approx(at(arrival_s), abs=S)


@pytest.mark.parametrize("off_s", [-120, 120])
def test_when_a_clock_is_set_right_rules_go_on_seeing_its_readings(off_s: float) -> None:
    desk = a_desk()
    for minute in range(4):
        minute_of(desk, minute, [off_s + 0.2, off_s + 0.1])
    seen = len(desk.heard.stored)
    minute_of(desk, 4, [off_s + 0.2, 0.2, 0.3, 0.2])
    minute_of(desk, 5, [0.3, 0.2])
    marks = np.concatenate([batch.quality for batch in desk.heard.stored[seen:]])
    assert not has_mark(marks, Mark.OUT_OF_ORDER | Mark.LATE).any()


# -- what operators see -----------------------------------------------------------------------------------------------


@pytest.mark.clause("6.2c")
def test_a_clock_that_is_off_is_one_low_alarm_until_it_is_set_right() -> None:
    desk = a_desk()
    for minute in range(4):
        minute_of(desk, minute, [-120, -119.5])
        desk.tick(FIRST + 60 * minute + 59)
    for minute in range(4, 7):
        minute_of(desk, minute, [0.2, 0.1])
        desk.tick(FIRST + 60 * minute + 59)
    start, end = desk.heard.of_rule("technical.clock-off")
    assert (start.phase, start.priority, start.subject.device_id) == (Phase.START, Priority.LOW, "dev-9")
    assert start.text == "The clock of dev-9 is 120 s ahead; its readings are corrected"
    assert (end.phase, end.alarm_id) == (Phase.END, start.alarm_id)


def test_a_clock_that_is_off_alarms_nobody_under_maintenance() -> None:
    desk = a_desk()
    desk.tell(MaintenanceSet(HOSPITAL, at(0), at(FIRST + 9999), handle=GATEWAY))
    for minute in range(5):
        minute_of(desk, minute, [-120, -119.5])
        desk.tick(FIRST + 60 * minute + 59)
    assert desk.heard.of_rule("technical.clock-off") == []


def test_a_senders_clock_is_told_in_its_state_and_its_freshness() -> None:
    desk = a_desk()
    for minute in range(4):
        minute_of(desk, minute, [-120, -119.5])
    state = desk.cell.describe(Address.parse(f"device:{HOSPITAL}/dev-9"))
    assert (state["clock_offset_s"], state["clock_uncertainty_s"]) == (-120, 2)
    assert desk.cell.describe(Address.parse(f"device:{HOSPITAL}/dev-1"))["clock_offset_s"] is None  # sends nothing itself
    offsets = desk.cell.answer(FreshnessQuery(handles=[MONITOR, GATEWAY])).to_pylist()
    assert {row["handle"]: row["clock_offset_us"] for row in offsets} == {MONITOR: 0, GATEWAY: -120_000_000}


# -- whose it was -----------------------------------------------------------------------------------------------------


def patients_of(desk: Desk, times_s: Sequence[float], skew_s: float) -> list[str | None]:
    """Whom an alarm names, for one low pressure at each true time, sent by a clock that is off."""
    named = []
    for time_s in times_s:
        low = readings(MONITOR, "nibp_dia", [time_s + skew_s], [45], source=GATEWAY)
        started = [e for e in desk.read(low, time_s + 0.3).alarms if e.phase is Phase.START]
        named += [event.subject.patient_key for event in started]
        desk.read(readings(MONITOR, "nibp_dia", [time_s + 1 + skew_s], [80], source=GATEWAY), time_s + 1.3)
    return named


@pytest.mark.clause("6.1d")
@pytest.mark.parametrize("skew_s", [120, -120])
def test_across_a_move_the_right_patient_is_found_though_the_gateways_clock_is_off(skew_s: float) -> None:
    moved_s = FIRST + 300
    asked = [moved_s - 40, moved_s + 40]
    desk = a_desk()
    desk.tell(associated(MONITOR, (100, -1e6, moved_s), (101, moved_s, None)))
    for minute in range(4):
        minute_of(desk, minute, [0.2 - skew_s, 0.4 - skew_s])
    assert patients_of(desk, asked, skew_s) == ["p100", "p101"]


@pytest.mark.clause("6.1d")
def test_without_the_correction_the_patient_would_be_the_wrong_one(monkeypatch: pytest.MonkeyPatch) -> None:
    moved_s = FIRST + 300
    desk = a_desk()
    desk.tell(associated(MONITOR, (100, -1e6, moved_s), (101, moved_s, None)))
    monkeypatch.setattr("actors.source_clocks._judged_singly", lambda known, _: type(known).none(len(known.offset_us)))
    assert patients_of(desk, [moved_s + 40], -120) == ["p100"]


def test_where_clock_and_backlog_cannot_be_told_apart_nobody_is_named_near_the_move() -> None:
    desk, moved_s = a_desk(), FIRST + 60 * 8
    desk.tell(associated(MONITOR, (100, -1e6, moved_s), (101, moved_s, None)))
    minute_of(desk, 0, [0.2, 0.3])
    for minute in range(4, 9):
        minute_of(desk, minute, [180.2, 180.4])
    assert patients_of(desk, [moved_s + 60], -180) == [None]
    assert patients_of(desk, [moved_s + 400], -180) == ["p101"]


def test_a_short_stay_of_another_within_the_uncertainty_is_not_overlooked() -> None:
    desk = a_desk()
    desk.tell(associated(MONITOR, (100, 0, 100), (101, 100, 102), (100, 102, None)))
    desk.read(readings(MONITOR, "nibp_dia", [101], [45]))
    assert desk.heard.alarms[0].subject.patient_ambiguous


# -- replays ----------------------------------------------------------------------------------------------------------

DELAYS = st.sampled_from([0.2, 0.4, 1.5, -120.0, -119.5, 90.0, 90.5, 600.0, 30.0])


def a_stream(draw: Callable[[], float], rows: int, step_s: float) -> Frame:
    arrivals = np.array([FIRST + number * step_s for number in range(rows)])
    events = arrivals - np.array([draw() for _ in range(rows)])
    sent = ReadingBatch.of(
        handle=np.arange(rows) % 2 + 1, metric=readings(1, "heart_rate", [0], [1]).metric[0],
        time_us=[at(event) for event in events], value=80, source=np.where(np.arange(rows) % 5, GATEWAY, OTHER),
    )  # fmt: skip
    return Frame(sent, np.array([at(arrival) for arrival in arrivals]))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), cuts=st.lists(st.integers(1, 59), unique=True, max_size=12).map(sorted))
def test_any_cut_measures_and_corrects_alike(data: st.DataObject, cuts: list[int]) -> None:
    frame = a_stream(lambda: data.draw(DELAYS), 60, data.draw(st.sampled_from([2.0, 11.0, 45.0])))
    whole, cut, single = a_desk(), a_desk(), a_desk()
    pieces = {id(whole): [0, 60], id(cut): [0, *cuts, 60], id(single): list(range(61))}
    for desk in (whole, cut, single):
        edges = pieces[id(desk)]
        for start, stop in pairwise(edges):
            desk.heard.add(desk.cell.step(frame.batch.take(slice(start, stop)), frame.arrival_us[start:stop]))
    for desk in (cut, single):
        assert_same_tables(whole.cell.snapshot(), desk.cell.snapshot())
        for mine, other in zip(whole.heard.clocks(), desk.heard.clocks(), strict=True):
            np.testing.assert_array_equal(mine, other)


def test_a_restored_cell_knows_the_clocks() -> None:
    first = a_desk()
    for minute in range(3):
        minute_of(first, minute, [-120, -119.5])
    second = Desk(ShardCell(0))
    second.cell.restore(first.cell.snapshot())
    for desk in (first, second):
        minute_of(desk, 3, [-119.7])
        assert clock_of(desk) == (-120, TOLERANCE_US / S)
    assert_same_tables(first.cell.snapshot(), second.cell.snapshot())
