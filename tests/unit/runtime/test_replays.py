"""Which messages are new, which came before, and which no honest sender would send again; over restarts too."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain import subjects
from domain.frames import encode_frame
from domain.ports import Receipt
from domain.readings import ReadingBatch
from runtime import replay_keeping
from runtime.bus import StreamState
from runtime.follower import StreamMessage
from runtime.intake import StreamIntake
from runtime.intake_lanes import IntakeCounters, IntakeLimits
from runtime.replay_gate import ReplayGate
from runtime.replay_keeping import catch_up, known_now, load, read_on, save
from runtime.replays import DOUBT_S, MOST_GAPS, MOST_TIMES, RECENT, Columns, Replays
from tests.doors import GATEWAY, MONITOR, DictIdentities, MemoryBus, clock
from tests.waiting import until

LONG = DOUBT_S + 1.0
NOW_US = 10**12
NEW, REPEATED, REPLAYED = "new", "repeated", "replayed"


def message(numbers: list[int], at_us: int | list[int], *, source: int = 7, value: float = 1.0) -> ReadingBatch:
    return ReadingBatch.of(handle=source, metric=1, time_us=at_us, value=value, source=source, sequence=numbers)


class Door:
    """Judges, and stores what is new at once."""

    def __init__(self, replays: Replays | None = None) -> None:
        self.replays = replays or Replays(0.0)
        self.stream: list[tuple[ReadingBatch, int]] = []

    def send(self, numbers: list[int], at_us: int | list[int], *, arrives_us: int = NOW_US, now_s: float = LONG, **more) -> str:
        readings = message(numbers, at_us, **more)
        columns = Columns.of(readings)
        judged = self.replays.judge(columns, [0], [arrives_us], now_s)
        if judged.replayed:
            return REPLAYED
        if judged.repeated:
            assert judged.repeated[0].readings == len(numbers)
            return REPEATED
        self.stream.append((readings, arrives_us))
        self.replays.stored(columns, arrives_us)
        at = Receipt(3, len(self.stream), len(numbers))
        self.replays.remember(judged.lines.tolist(), judged.digests.tolist(), at, [len(numbers)])
        return NEW

    def count(self, first: int, last: int, **more) -> None:
        assert {self.send([number], 1_000 + number, **more) for number in range(first, last + 1)} == {NEW}


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


S = 1_000_000


class Timeless(Door):
    """A sender that knows neither time nor `boot`: readings have the time at which they come."""

    def say(self, number: int, at_s: float, *, value: float = 1.0) -> str:
        at_us = int(at_s * S)
        return self.send([number], at_us, arrives_us=at_us, value=value)


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


class KeptStream:
    """A stream of the frames that a door stored."""

    def __init__(self, door: Door, first: int = 1) -> None:
        self._frames = [encode_frame(one, source=1, sequence=1, arrival_us=at_us) for one, at_us in door.stream]
        self._first = first
        self.may_read: asyncio.Semaphore | None = None  # so many
        self.fails: dict[int, int] = defaultdict(int)  # by sequence: how often

    async def stream_state(self, stream: str) -> StreamState:
        return StreamState(self._first, len(self._frames), len(self._frames), 0)

    async def get_message(self, stream: str, sequence: int) -> StreamMessage | None:
        if self.may_read is not None:
            await self.may_read.acquire()
        if self.fails[sequence]:
            self.fails[sequence] -= 1
            raise RuntimeError("a defect")
        return StreamMessage(subjects.reading(3), sequence, self._frames[sequence - 1], NOW_US)


@pytest.mark.clause("5.4a")
async def test_after_a_kill_all_that_was_stored_is_known_again(tmp_path: Path) -> None:
    """The file is older than what the stream has."""
    door, file = Door(), tmp_path / "numbers.npz"
    door.count(1, 100)
    door.replays.position = 90  # something was on its way
    save(file, known_now(door.replays))
    door.count(200, 400)
    assert door.send([150], 1_150) == NEW
    anew = load(file, 0.0)
    assert await catch_up(anew, KeptStream(door)) == (212, range(303, 303))
    for name in ("highest", "newest_us", "epoch_us"):
        np.testing.assert_array_equal(getattr(anew, name), getattr(door.replays, name))
    again = Door(anew)
    assert [again.send([n], 1_000 + n) for n in (50, 150, 250, 399)] == [REPLAYED] * 4
    assert [again.send([n], 1_000 + n) for n in (151, 401)] == [NEW] * 2


@pytest.mark.clause("5.4a")
async def test_doors_that_are_killed_soon_after_their_first_start_forget_nothing(tmp_path: Path) -> None:
    door, file = Door(), tmp_path / "numbers.npz"
    first = load(file, 0.0)
    assert (await catch_up(first, KeptStream(door)))[0] == 0  # nothing was ever said
    save(file, known_now(first))
    door.count(1, 300)
    again = load(file, 0.0)
    assert (await catch_up(again, KeptStream(door)))[0] == 300
    assert Door(again).send([5], 1_005) == REPLAYED


@pytest.mark.clause("5.4a", "9.4")
async def test_what_a_start_has_no_time_for_is_read_beside_open_doors_and_by_a_later_start(tmp_path: Path) -> None:
    door, file = Door(), tmp_path / "numbers.npz"
    save(file, known_now(door.replays))
    door.count(1, 300)
    replays, slow = load(file, 0.0), KeptStream(door)
    assert await catch_up(replays, slow, within_s=-1.0) == (64, range(65, 301))
    slow.may_read = asyncio.Semaphore(64)
    bus = MemoryBus([StreamMessage("", number, b"", NOW_US) for number in range(1, 301)])
    intake = StreamIntake(bus, DictIdentities(), clock(), source=1, replays=replays)
    assert intake.gate is not None
    reading = asyncio.create_task(read_on(replays, slow, range(65, 301), intake.gate))
    await intake.submit(GATEWAY, message([1], 1_000, source=9))
    await until(lambda: replays.position == 128)  # and not 301, which was acknowledged
    assert replays.highest[[7, 9]].tolist() == [128, 1]
    save(file, known_now(replays))  # and killed
    again = load(file, 0.0)
    assert await catch_up(again, KeptStream(door)) == (172, range(301, 301))
    assert Door(again).send([250], 1_250) == REPLAYED
    for _ in range(172):
        slow.may_read.release()
    await reading
    assert (replays.position, replays.highest[7]) == (301, 300)
    await intake.close()


async def opened_before_a_restart_was_read(file: Path) -> tuple[Timeless, KeptStream, range]:
    """Doors that know of a monitor's first 3,000 messages. Then it said ten more, and was switched off and on."""
    door = Timeless()
    door.send(list(range(1, 3_001)), 100 * S, arrives_us=100 * S)
    door.replays.position = 1
    save(file, known_now(door.replays))
    assert {door.say(number, number - 2_900) for number in range(3_001, 3_011)} == {NEW}
    assert {door.say(number, 200 + number) for number in range(1, 21)} == {NEW}
    return Timeless(load(file, 0.0)), KeptStream(door), range(2, 32)


def gate_of(replays: Replays) -> ReplayGate:
    return ReplayGate(replays, IntakeCounters())


@pytest.mark.clause("5.4a")
async def test_who_began_again_in_what_is_read_beside_open_doors_is_heard_throughout(tmp_path: Path) -> None:
    door, stream, left = await opened_before_a_restart_was_read(tmp_path / "numbers.npz")
    assert {door.say(number, 300 + number) for number in (21, 22)} == {NEW}
    await read_on(door.replays, stream, left, gate_of(door.replays))
    assert {door.say(number, 300 + number) for number in range(23, 1_200)} == {NEW}
    assert [door.say(number, 1_500) for number in (15, 3_005, 3_010)] == [REPLAYED] * 3


@pytest.mark.clause("5.4a", "9.4")
@pytest.mark.parametrize("is_read_first", [True, False])
async def test_a_captured_number_that_was_not_read_yet_silences_the_device_for_seconds_only(
    tmp_path: Path, is_read_first: bool
) -> None:
    door, stream, left = await opened_before_a_restart_was_read(tmp_path / "numbers.npz")
    assert [door.say(21, 321), door.say(3_005, 321.5)] == [NEW] * 2
    if is_read_first:
        await read_on(door.replays, stream, left, gate_of(door.replays))
    assert [door.say(number, 300 + number) for number in range(22, 32)] == [REPLAYED] * 5 + [NEW] * 5
    await read_on(door.replays, stream, left, gate_of(door.replays))
    assert {door.say(number, 300 + number) for number in range(32, 1_500)} == {NEW}
    assert [door.say(number, 1_799.5) for number in (25, 1_300, 3_007, 3_010)] == [REPLAYED] * 4
    assert door.say(3_011, 1_799.5) == NEW  # any number that was never used may be stated, and so the device is silenced
    assert [door.say(number, 300 + number) for number in range(1_500, 1_508)] == [REPLAYED] * 5 + [NEW] * 3


@pytest.mark.clause("5.4a")
async def test_what_of_the_rest_cannot_be_read_is_tried_again_then_passed_over_and_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(replay_keeping, "_AGAIN_S", 0.0)
    door, replays = Door(), Replays(0.0)
    door.count(1, 300)
    stream = KeptStream(door)
    stream.fails |= {70: 2, 140: 1_000}
    await read_on(replays, stream, range(1, 301), gate_of(replays))
    assert replays.position == 300  # all that comes is kept from here on
    assert [replays._lie_in_gaps(np.array([7], np.uint32), np.array([n])) for n in (70, 140, 200)] == [False, True, False]
    assert "64 messages are passed over" in caplog.text


class HeldBus(MemoryBus):
    """The stream has what is published at once; each is acknowledged when its turn is said."""

    def __init__(self) -> None:
        super().__init__()
        self.may_answer: dict[int, asyncio.Event] = defaultdict(asyncio.Event)

    async def publish(self, subject: str, payload: bytes, message_id: str) -> int:
        sequence = await super().publish(subject, payload, message_id)
        await self.may_answer[sequence].wait()
        return sequence


@pytest.mark.clause("5.4a", "9.4")
async def test_while_a_group_is_on_its_way_a_kill_forgets_nothing_of_it(tmp_path: Path) -> None:
    """The second of two groups is acknowledged first: all up to there is not known yet."""
    replays, file, bus = Replays(0.0), tmp_path / "numbers.npz", HeldBus()
    intake = StreamIntake(bus, DictIdentities(), clock(), source=1, limits=IntakeLimits(gather_ms=1), replays=replays)
    bus.may_answer[1].set()
    await intake.submit(MONITOR, message([1], NOW_US))
    first = asyncio.ensure_future(intake.submit(MONITOR, message([2], NOW_US + 1)))
    await until(lambda: len(bus.messages) == 2)
    second = asyncio.ensure_future(intake.submit(MONITOR, message([3], NOW_US + 2)))
    await until(lambda: len(bus.messages) == 3)
    bus.may_answer[3].set()
    await second
    bus.may_answer[4].set()
    await intake.submit(MONITOR, message([4], NOW_US + 3))  # so the second one's group is over
    assert replays.position == 1
    save(file, known_now(replays))  # and killed
    again = load(file, 0.0)
    assert again.highest[7] == 4
    assert (await catch_up(again, bus))[0] == 3
    assert not again._lie_in_gaps(np.array([7], np.uint32), np.array([2]))
    bus.may_answer[2].set()
    await first
    await until(lambda: replays.position == 4)
    await intake.close()


@pytest.mark.clause("5.4a", "9.4")
async def test_while_a_keyed_request_is_on_its_way_all_up_to_what_came_later_is_not_known_yet() -> None:
    replays, bus = Replays(0.0), HeldBus()
    intake = StreamIntake(bus, DictIdentities(), clock(), source=1, limits=IntakeLimits(gather_ms=1), replays=replays)
    bus.may_answer[1].set()
    claim = await intake.claim(MONITOR, message([1], NOW_US), "a key", b"its body")
    keyed = asyncio.ensure_future(intake.submit_once(MONITOR, message([1], NOW_US), claim))
    await until(lambda: len(bus.messages) == 2)
    for number in (2, 3):
        bus.may_answer[number + 1].set()
        await intake.submit(MONITOR, message([number], NOW_US + number))  # with the next one the group before is over
    assert (replays.highest[7], replays.position) == (3, 0)
    bus.may_answer[2].set()
    bus.may_answer[5].set()  # the record of its receipt
    await keyed
    await until(lambda: replays.position == 4)
    await intake.close()


async def test_after_a_start_who_repeats_is_answered_even_if_it_is_not_known_for_sure(tmp_path: Path) -> None:
    door = Door()
    door.count(1, 100)
    again = Door(Replays(0.0))
    again.replays.position = 1
    await catch_up(again.replays, KeptStream(door))
    assert again.send([90], 1_090, now_s=5.0) == NEW  # the cell knows it
    again.count(101, 600)
    assert again.send([91], 1_091, now_s=5.0) == REPLAYED  # by its number it is none of the last, in doubt or not


def test_a_damaged_file_is_put_aside(tmp_path: Path) -> None:
    door, file = Door(), tmp_path / "numbers.npz"
    door.count(1, 100)
    save(file, known_now(door.replays))
    file.write_bytes(file.read_bytes()[:-40])
    assert load(file, 0.0).highest.max() == 0
    assert file.with_suffix(".damaged").exists()
