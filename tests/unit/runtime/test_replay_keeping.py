"""What is known of senders' numbers outlives restarts and kill -9: by a file, and by the stream for what came since."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from domain import subjects
from domain.errors import Unavailable
from domain.frames import encode_frame
from runtime import replay_keeping
from runtime.bus import StreamState
from runtime.follower import StreamMessage
from runtime.intake import StreamIntake
from runtime.intake_lanes import IntakeCounters, IntakeLimits
from runtime.replay_gate import ReplayGate
from runtime.replay_keeping import catch_up, known_now, load, read_on, save
from runtime.replays import Replays
from tests.doors import GATEWAY, MONITOR, DictIdentities, MemoryBus, clock
from tests.numbering import NEW, NOW_US, REPLAYED, Door, S, Timeless, message, on_again
from tests.waiting import until


class KeptStream:
    """A stream of the frames that a door stored."""

    def __init__(self, door: Door, first: int = 1) -> None:
        self._frames = [encode_frame(one, source=1, sequence=1, arrival_us=at_us) for one, at_us in door.stream]
        self._first = first
        self.may_read: asyncio.Semaphore | None = None  # so many
        self.fails: dict[int, int] = defaultdict(int)  # by sequence: how often
        self.away: dict[int, int] = defaultdict(int)  # the same, because the bus is not there

    async def stream_state(self, stream: str) -> StreamState:
        return StreamState(self._first, len(self._frames), len(self._frames), 0)

    async def get_message(self, stream: str, sequence: int) -> StreamMessage | None:
        if self.may_read is not None:
            await self.may_read.acquire()
        if self.fails[sequence]:
            self.fails[sequence] -= 1
            raise RuntimeError("a defect")
        if self.away[sequence]:
            self.away[sequence] -= 1
            raise Unavailable("nobody answers")
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


async def test_a_stream_that_is_away_is_said_once_and_so_is_that_it_is_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(replay_keeping, "_AGAIN_S", 0.0)
    caplog.set_level("INFO")
    door, replays = Door(), Replays(0.0)
    door.count(1, 300)
    stream = KeptStream(door)
    stream.away |= {70: 5, 200: 3}
    await read_on(replays, stream, range(1, 301), gate_of(replays))
    assert replays.position == 300
    said = [record.message for record in caplog.records if record.name == "runtime.replay_keeping"]
    assert said == [
        "senders' numbers behind 64 wait: the stream is away: nobody answers",
        "the stream is back: senders' numbers are read on from 65",
        "senders' numbers behind 192 wait: the stream is away: nobody answers",
        "the stream is back: senders' numbers are read on from 193",
    ]


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


def test_a_file_of_before_jumps_were_known_is_read(tmp_path: Path) -> None:
    door, file = on_again(), tmp_path / "numbers.npz"
    known = known_now(door.replays)
    del known["jumped_from"]
    save(file, known)
    again = Timeless(load(file, 0.0))
    assert again.replays.before[7] == again.replays.jumped_from[7] == 3_000
    assert again.say(11, 211) == NEW
