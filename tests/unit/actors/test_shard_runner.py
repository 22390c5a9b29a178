"""The runner: stream messages become turns of the cell, in order, once, and one bad message stops nothing."""

from __future__ import annotations

import numpy as np
import pytest

from actors.shard import ShardCell
from actors.shard_runner import ShardRunner, TurnResult
from domain import subjects
from domain.frames import decode_frame, encode_frame
from domain.messages import DeviceEvent, DevicesRegistered, encode
from domain.metrics import metric_of
from domain.readings import ReadingBatch
from runtime.follower import StreamMessage

SHARD = 3
T0_US = 1_700_000_000_000_000
HEART_RATE = metric_of("heart_rate").id


def registered(sequence: int = 1) -> StreamMessage:
    control = DevicesRegistered("sz.h001", [7], ["mon-7"], ["monitor@1"], ["w1"], ["b1"])
    return StreamMessage(subjects.control(SHARD), sequence, encode(control), T0_US)


def frame(sequence: int, *values: float, handle: int = 7) -> StreamMessage:
    at_us = T0_US + sequence * 1_000_000
    batch = ReadingBatch.of(
        handle=[handle] * len(values), metric=HEART_RATE, time_us=at_us + np.arange(len(values)), value=values
    )
    payload = encode_frame(batch, source=1, sequence=sequence, arrival_us=at_us)
    return StreamMessage(subjects.reading(SHARD), sequence, payload, at_us)


def tick(sequence: int) -> StreamMessage:
    at_us = T0_US + sequence * 1_000_000
    payload = encode_frame(ReadingBatch.empty(), source=0, sequence=0, arrival_us=at_us)
    return StreamMessage(subjects.reading(SHARD), sequence, payload, at_us)


def runner(committed: int = 0, suspects: dict[int, int] | None = None) -> ShardRunner:
    return ShardRunner(SHARD, 1, ShardCell(SHARD), applied=0, committed=committed, suspects=suspects)


def take(held: ShardRunner, *messages: StreamMessage, most_readings: int = 1_000) -> TurnResult:
    for message in messages:
        held.receive(message)
    return held.turn(most_readings)


def stored(result: TurnResult) -> list[tuple[int, list[float]]]:
    return [(sequence, table.column("value").to_pylist()) for sequence, table in result.rows]


def test_a_run_of_frames_is_one_step_kept_under_its_last_sequence() -> None:
    held = runner()
    result = take(held, registered(), frame(2, 70), frame(3, 71, 72))
    assert stored(result) == [(3, [70.0, 71.0, 72.0])]
    assert (held.applied, result.readings, held.segment_rows) == (3, 3, 3)


def test_a_tick_between_frames_is_seen_at_its_place() -> None:
    held = runner()
    result = take(held, registered(), frame(2, 70), tick(3), frame(4, 71))
    assert [sequence for sequence, _ in stored(result)] == [2, 4]
    assert held.high_water_us == T0_US + 4_000_000


def test_a_shard_that_was_restored_has_come_as_far_as_its_state() -> None:
    before = runner()
    take(before, registered(), frame(2, 70))
    cell = ShardCell(SHARD)
    cell.restore(before.cell.snapshot())
    assert ShardRunner(SHARD, 2, cell, applied=2, committed=2).held().high_water_us == T0_US + 2_000_000


def test_a_turn_is_bounded_and_the_rest_waits() -> None:
    held = runner()
    take(held, registered(), *(frame(n, 70) for n in range(2, 10)), most_readings=3)
    assert held.applied < 9
    while held.inbox:
        held.turn(3)
    assert (held.applied, held.segment_rows, held.inbox_bytes) == (9, 8, 0)


@pytest.mark.clause("5.4c")
def test_a_turn_is_bounded_in_messages_that_are_taken_one_by_one() -> None:
    """A host that is told of thousands of patients at once still answers questions and is seen alive between turns."""
    many = runner()
    for sequence in range(1, 1_001):
        many.receive(registered(sequence))
    turns = 0
    while many.inbox:
        assert many.turn(most_readings=10).alone <= 300
        turns += 1
    assert (turns, many.applied) == (4, 1_000)


def test_a_replay_rebuilds_state_and_keeps_only_what_the_lake_lacks() -> None:
    held = runner(committed=3)
    result = take(held, registered(), frame(2, 70), frame(3, 71), frame(4, 72), frame(5, 73))
    assert stored(result) == [(5, [72.0, 73.0])]
    assert held.cell.device_count == 1


def test_a_damaged_frame_is_refused_with_its_place_and_the_next_is_taken() -> None:
    held = runner()
    whole = frame(2, 70)
    flipped = bytearray(whole.payload)
    flipped[100] ^= 1
    torn = StreamMessage(whole.subject, 2, bytes(flipped), whole.stored_us)
    result = take(held, registered(), torn, frame(3, 71))
    assert [(refusal.sequence, refusal.reason) for refusal in result.refusals] == [(2, "damaged-frame")]
    assert stored(result) == [(3, [71.0])]


@pytest.mark.clause("8.1")
def test_readings_of_a_stranger_are_refused_as_a_frame_that_can_be_sent_again() -> None:
    result = take(runner(), registered(), frame(2, 70, handle=99))
    assert [refusal.reason for refusal in result.refusals] == ["unknown-device"]
    assert decode_frame(result.refusals[0].payload).readings.value.tolist() == [70.0]


def test_a_control_message_that_cannot_be_read_is_refused() -> None:
    bad = StreamMessage(subjects.control(SHARD), 2, b"{}", T0_US)
    result = take(runner(), registered(), bad, frame(3, 70))
    assert [refusal.reason for refusal in result.refusals] == ["malformed-control"]
    assert stored(result) == [(3, [70.0])]


@pytest.mark.clause("8.1")
def test_an_event_that_its_device_does_not_say_is_refused_as_it_came() -> None:
    event = encode(DeviceEvent("sz.h001", 7, "tea_time", T0_US))
    result = take(runner(), registered(), StreamMessage(subjects.control(SHARD), 2, event, T0_US), frame(3, 70))
    (refusal,) = result.refusals
    assert (refusal.sequence, refusal.subject, refusal.reason) == (2, subjects.control(SHARD), "unknown-event")
    assert refusal.payload == event
    assert stored(result) == [(3, [70.0])]


def test_a_message_that_breaks_its_turn_twice_is_set_aside_and_all_others_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sound_step = ShardCell.step

    def step(self: ShardCell, readings: ReadingBatch, arrival_us: np.ndarray):
        if (readings.value == 66.6).any():
            raise ZeroDivisionError("a defect of ours")
        return sound_step(self, readings, arrival_us)

    monkeypatch.setattr(ShardCell, "step", step)
    messages = [registered(), frame(2, 70), frame(3, 66.6), frame(4, 71)]
    suspects: dict[int, int] = {}
    for _ in range(5):  # as the host does: blame, restore, replay
        held = runner(suspects=suspects)
        try:
            result = take(held, *messages)
            break
        except ZeroDivisionError:
            held.blame()
            suspects = held.suspects
    assert [(refusal.sequence, refusal.reason) for refusal in result.refusals] == [(3, "poison-message")]
    assert [values for _, values in stored(result)] == [[70.0], [71.0]]
    assert held.applied == 4
