"""Which messages are new, which came before, and which no honest sender would send again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.replays import MOST_GAPS, MOST_TIMES, RECENT, Columns, Replays
from tests.numbering import LONG, NEW, NOW_US, REPEATED, REPLAYED, Door, S, Timeless, message, on_again


@pytest.mark.clause("5.4a", "9.4")
def test_an_old_message_is_a_replay_and_one_of_the_last_is_a_retransmission() -> None:
    door = Door()
    door.count(1, RECENT + 20)
    assert [door.send([n], 1_000 + n) for n in (1, 20, 21, RECENT + 20)] == [REPLAYED, REPLAYED, REPEATED, REPEATED]
    assert door.send([5, 6], [1_005, 1_006]) == REPLAYED
    assert door.send([5, RECENT + 21], [1_005, 9_000]) == NEW  # something in it is


@pytest.mark.clause("9.4")
def test_what_comes_again_and_again_is_no_retransmission() -> None:
    door = Door()
    door.count(1, 3)
    assert [door.send([2], 1_002) for _ in range(MOST_TIMES + 2)] == [REPEATED] * MOST_TIMES + [REPLAYED] * 2


@pytest.mark.clause("5.4a")
def test_a_message_whose_readings_were_given_the_time_of_their_arrival_is_known_by_its_number() -> None:
    door = Door()
    for number in range(1, RECENT + 20):
        assert door.send([number], 5_000 + number, arrives_us=5_000 + number) == NEW
    assert door.send([RECENT + 19], 9_000, arrives_us=9_000) == REPEATED
    assert door.send([2], 9_001, arrives_us=9_001) == REPLAYED


def test_what_came_never_before_is_taken_however_late_and_once() -> None:
    door = Door()
    door.count(1, 10)
    door.count(500, 900)  # live again, before what was gathered meanwhile
    assert door.send([300, 301, 302], [1_300, 1_301, 1_302]) == NEW
    assert door.send([499], 1_499) == NEW
    door.count(901, 901 + RECENT)
    assert [door.send([n], 1_000 + n) for n in (301, 499, 303, 11)] == [REPLAYED, REPLAYED, NEW, NEW]


def test_a_sender_that_counts_anew_goes_on_by_its_time_and_what_was_before_stays_old() -> None:
    door = Door()
    door.count(1, 1_000)
    restarted_us = 50_000
    for number in range(1, RECENT + 2):
        assert door.send([number], restarted_us + number) == NEW
    assert door.send([990], 1_990) == REPLAYED  # higher than its numbers are now, and older than its start
    assert door.send([1], restarted_us + 1) == REPLAYED
    assert door.send([1_200], restarted_us + 500) == NEW


def test_a_higher_boot_makes_higher_numbers_so_a_sender_without_a_clock_goes_on() -> None:
    door = Door()
    for boot in (1, 2):
        for number in range(1, 200):
            at_us = 5_000 + number
            assert door.send([boot * 2**32 + number], at_us, arrives_us=at_us) == NEW
    assert door.send([2**32 + 5], 99_000, arrives_us=99_000) == REPLAYED


@pytest.mark.clause("5.4a", "9.4")
@pytest.mark.parametrize("counted", [60, 900, 3_000])
def test_a_monitor_that_was_switched_off_and_on_is_heard_from_its_first_message_on(counted: int) -> None:
    door = Timeless()
    assert {door.say(number, 100 + number) for number in range(1, counted + 1)} == {NEW}
    on_s = 100 + counted + 6
    assert {door.say(number, on_s + number, value=2.0) for number in range(1, counted + 500)} == {NEW}
    assert door.replays.highest[7] == counted + 499
    assert door.say(20, on_s + counted + 500) == REPLAYED


@pytest.mark.clause("5.4a", "9.4")
@pytest.mark.parametrize("first", [2, 400, 50_000])
def test_so_is_one_that_had_counted_for_long_before_it_came_here(first: int) -> None:
    """What it counted elsewhere is no gap in which its new count would lie until that is old behind its end."""
    door = Timeless()
    assert {door.say(number, 100 + number) for number in range(first, first + 3_000)} == {NEW}
    on_s = 100 + first + 3_010
    said = [door.say(number, on_s + number, value=2.0) for number in range(1, first + 500)]
    assert said.count(REPLAYED) <= 5  # until there was a silence
    assert door.replays.highest[7] == first + 499


def test_what_was_overtaken_by_the_first_message_of_a_sender_is_taken() -> None:
    door, stating = Timeless(), Door()
    assert [door.say(5_000, 100), door.say(4_999, 100.1), door.say(4_501, 100.2)] == [NEW] * 3
    assert [stating.send([5_000], 6_000), stating.send([7], 1_007)] == [NEW] * 2  # it says when: however late


@pytest.mark.clause("5.4a", "9.4")
def test_while_a_sender_speaks_nobody_begins_again_in_its_place() -> None:
    door = Timeless()
    assert {door.say(number, 100 + number) for number in range(1, 3_001)} == {NEW}
    assert {door.say(number, 3_100.0 + number / 10) for number in range(1, 41)} == {REPLAYED}
    assert door.say(3_001, 3_105) == NEW
    assert door.say(1_500, 3_200) == REPLAYED  # after a silence too: it is no beginning


@pytest.mark.clause("9.4")
def test_a_false_beginning_opens_nothing_of_what_was_before() -> None:
    """Somebody uses a silence to send what the device said first; then the device itself goes on."""
    door = Timeless()
    assert {door.say(number, 100 + number) for number in range(1, 3_001)} == {NEW}
    assert door.say(1, 3_110) == NEW
    assert door.say(2_500, 3_110.5) == REPLAYED
    assert door.say(3_001, 3_111) == NEW
    assert {door.say(number, 3_112 + number / 1_000) for number in range(2, 2_800, 7)} == {REPLAYED}
    assert door.say(3_005, 3_116) == NEW
    assert door.say(3_003, 3_117) == NEW  # this one never came


@pytest.mark.clause("5.4a", "9.4")
def test_in_a_silence_nobody_goes_on_in_a_gap_that_no_jump_has_made() -> None:
    door = on_again()
    door.send([n for n in range(11, 3_101) if n != 1_500], 211 * S, arrives_us=211 * S)
    assert door.say(1_500, 220) == REPLAYED  # it never came again, and is old all the same
    assert {door.say(number, 220.5 + number / 10_000) for number in range(1_501, 1_600)} == {REPLAYED}
    assert door.say(3_101, 222) == NEW


@pytest.mark.clause("5.4a", "9.4")
def test_a_device_that_was_silenced_for_a_thousand_messages_goes_on_all_the_same() -> None:
    """Who jumped ahead spoke on in its place for half an hour."""
    door = on_again()
    for at_s in range(211, 2_211, 4):
        assert door.say(3_001 + at_s, at_s) == NEW
        assert door.say(at_s - 200, at_s + 0.1) == REPLAYED
    assert {door.say(number, 300 + number) for number in range(2_000, 2_100)} == {NEW}


@pytest.mark.clause("5.4a", "9.4")
def test_a_device_goes_on_where_it_was_though_somebody_went_on_far_ahead_before_it() -> None:
    door = on_again()
    assert [door.say(3_005, 211), door.say(2_900, 217)] == [NEW] * 2
    assert [door.say(number, 200 + number) for number in range(18, 25)] == [REPLAYED] * 4 + [NEW] * 3
    assert {door.say(number, 224.5) for number in (15, 2_500, 3_000)} == {REPLAYED}  # skipped, and still to come
    assert {door.say(number, 200 + number) for number in range(25, 200)} == {NEW}
    assert [door.say(number, 410) for number in (3_000, 20)] == [REPLAYED, NEW]  # in a silence, of this count alone


@pytest.mark.clause("9.4")
def test_a_capture_in_order_in_a_silence_is_taken_whole_and_told_once_unless_it_states_boot() -> None:
    """docs/decisions/0034 says so: nothing tells it from a monitor that was switched off and on. `boot` is the remedy."""
    door, told = Timeless(), []
    door.send(list(range(1, 3_001)), 100 * S, arrives_us=100 * S)
    judge = door.replays.judge
    door.replays.judge = lambda *given: told.append(judged := judge(*given)) or judged  # type: ignore[method-assign]
    assert door.say(1, 104.9) == REPLAYED  # the device spoke a moment ago
    assert {door.say(number, 106 + number / 1_000) for number in range(1, 3_001)} == {NEW}
    assert sum(bool(judged.anew) for judged in told) == 1
    assert door.say(3_001, 110) == NEW  # the device did not notice
    assert door.say(2_000, 110.1) == REPLAYED
    assert {door.say(number, 120 + number / 1_000) for number in range(1, 3_001)} == {NEW}  # another silence, told again
    assert sum(bool(judged.anew) for judged in told) == 2
    states_boot = Timeless()
    numbers = [2**32 + number for number in range(1, 3_001)]
    states_boot.send(numbers, 100 * S, arrives_us=100 * S)
    assert {states_boot.say(number, 106 + number % 2**32 / 1_000) for number in numbers} == {REPLAYED}


@pytest.mark.clause("5.4a", "5.4c")
def test_who_says_the_same_after_it_began_again_is_not_answered_for_ever_with_what_it_said_before() -> None:
    """A pump that was on for a minute: its messages are those of before to the bit, but they come one after another."""
    door = Timeless()
    assert {door.say(number, 100 + number) for number in range(1, 61)} == {NEW}
    assert [door.say(number, 300 + number) for number in range(1, 9)] == [REPEATED] * 5 + [NEW] * 3
    again = Timeless()
    assert {again.say(number, 100 + number) for number in range(1, 61)} == {NEW}
    for away_s in (300, 310, 320):  # who does not see its acknowledgements begins with the same one each time
        assert [again.say(number, away_s + number / 100) for number in (57,)] == [REPEATED]
    assert again.say(61, 330) == NEW


def test_a_beginning_is_told_once_however_much_is_on_its_way() -> None:
    replays = Replays(0.0)
    replays.stored(Columns.of(message(list(range(1, 501)), 100 * S)), 100 * S)
    told = []
    for number in range(1, 5):
        at_us = 200 * S + number
        told.append(bool(replays.judge(Columns.of(message([number], at_us)), [0], [at_us], LONG).anew))
    assert told == [True, False, False, False]


def test_two_of_one_at_once_are_no_beginning() -> None:
    door = Timeless()
    assert {door.say(number, 100 + number) for number in range(1, 101)} == {NEW}
    door.replays.stored(Columns.of(message([99], int(200.1 * S))), int(200.2 * S))
    assert door.replays.highest[7] == 100
    assert door.say(50, 200.3) == REPEATED
    assert door.say(50, 200.3) == REPEATED


def test_two_sources_do_not_know_each_other() -> None:
    door = Door()
    door.count(1, 300, source=7)
    door.count(1, 300, source=100_000)
    assert door.send([1], 1_001, source=100_000) == REPLAYED


@given(st.lists(st.integers(1, 60), min_size=1, max_size=120))
@settings(max_examples=200)
def test_numbers_are_known_exactly_in_any_order(numbers: list[int]) -> None:
    """Against a set, where there are no more gaps than are kept."""
    door, seen = Door(), set()
    for number in numbers:
        door.replays.stored(Columns.of(message([number], 1_000)), NOW_US)
        seen.add(number)
    top = max(seen)
    assert top == door.replays.highest[7]
    unseen = [n for n in range(1, top) if door.replays._lie_in_gaps(np.array([7], np.uint32), np.array([n]))]
    assert unseen == sorted(set(range(1, top)) - seen)


def test_more_gaps_than_are_kept_forget_the_oldest() -> None:
    door = Door()
    for number in range(1, 2 * MOST_GAPS + 20, 2):
        assert door.send([number + 1], 1_000 + number) == NEW
    assert door.send([1], 1_000, value=9.0) == REPLAYED
    assert door.send([2 * MOST_GAPS + 17], 1_000) == NEW
