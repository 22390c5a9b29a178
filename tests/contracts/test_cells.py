"""What holds for a cell whatever the stream: any cut says the same, a restored one goes on, twice told is once told."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.shard import ShardCell
from domain.messages import Control, DeviceEvent, LimitsPreset, MaintenanceSet
from domain.metrics import metric_of
from domain.quality import Mode, Validity, pack
from domain.readings import ReadingBatch
from tests.cell_streams import (
    HOSPITAL,
    Frame,
    Message,
    S,
    Tick,
    Told,
    admitted,
    assert_same_heard,
    assert_same_tables,
    associated,
    at,
    play,
    recut,
    registered,
)

DEVICES = {11: "monitor@1", 12: "monitor@1", 13: "ventilator@1", 14: "fridge@1", 15: "gateway@1"}
METRICS = ("heart_rate", "resp_rate", "spo2", "body_temp", "nibp_sys", "abp_sys", "vent_rate", "fio2", "fridge_temp", "acvpu")
QUALITIES = (
    *[pack()] * 12, pack(Validity.QUESTIONABLE), pack(Validity.NOT_AVAILABLE), pack(Validity.CALIBRATING), pack(mode=Mode.TEST),
)  # fmt: skip
# values that cross limits often, by metric
VALUES = {
    "heart_rate": (30, 45, 80, 81, 118, 121, 145), "resp_rate": (7, 9, 16, 25, 31), "spo2": (84, 88, 89, 91, 97),
    "body_temp": (34.9, 36.1, 37, 38.4, 39.5), "nibp_sys": (70, 85, 120, 170, 221), "abp_sys": (70, 89, 91, 120, 205),
    "vent_rate": (12, 22), "fio2": (21, 40), "fridge_temp": (1, 4, 9), "acvpu": (0, 1),
}  # fmt: skip


def a_stream(seed: int, frames: int = 12, rows: int = 24) -> list[Message]:
    """A small ward with everything that can go wrong: late, doubled, conflicting, skewed, unusable, moved patients."""
    rng = np.random.default_rng(seed)
    now = 0.0
    messages: list[Message] = [
        Told(registered(DEVICES), at(0)), Told(admitted(21), at(0)), Told(admitted(22, 10, spo2_scale=2), at(0)),
        Told(admitted(23, 40), at(0)), Told(associated(11, (21, -100, 15), (23, 18, None)), at(0)),
        Told(associated(12, (22, -100, None)), at(0)), Told(associated(13, (21, -100, None)), at(0)),
    ]  # fmt: skip
    for number in range(frames):
        batch = _some_readings(rng, now, rows)
        messages.append(Frame(batch, at(now) + np.sort(rng.integers(0, 2 * S, rows))))
        if rng.random() < 0.3:  # a retransmission of some of it
            again = batch.take(np.flatnonzero(rng.random(rows) < 0.5))
            messages.append(Frame(again, np.full(len(again), at(now + 3))))
        now += float(rng.choice([0.5, 1, 4, 20]))
        if rng.random() < 0.7:
            messages.append(Tick(at(now + 2)))
        if number == frames // 2:
            messages += [Told(message, at(now)) for message in _some_controls(now)]
    return [*messages, Tick(at(now + 3)), Tick(at(now + 7)), Tick(at(now + 90))]


def _some_readings(rng: np.random.Generator, now: float, rows: int) -> ReadingBatch:
    metrics = rng.choice(len(METRICS), rows)
    devices = [_device_of(METRICS[metric], rng) for metric in metrics]
    offsets = rng.choice([0.0, 0.0, 1.0, 2.0, 2.5, -70.0, 20.0], rows)  # some at one time, some late, some ahead
    sequences = rng.integers(0, 200, rows)  # 0: none; repeated ones are other readings of a restarted source
    values = [float(rng.choice(VALUES[METRICS[metric]])) for metric in metrics]
    quality = rng.choice(np.array(QUALITIES, dtype=np.uint16), rows)
    missing = (quality & 0xF) == Validity.NOT_AVAILABLE
    return ReadingBatch.of(
        handle=devices, metric=[metric_of(METRICS[metric]).id for metric in metrics],
        instance=rng.choice([0, 0, 0, 1, 9], rows), time_us=[at(now + offset) for offset in offsets],
        value=np.where(missing, np.nan, values), quality=quality, source=15, sequence=sequences,
    )  # fmt: skip


def _device_of(metric: str, rng: np.random.Generator) -> int:
    by_metric = {"fridge_temp": (14,), "vent_rate": (13,), "fio2": (13,), "acvpu": (21, 22, 23)}
    return int(rng.choice(by_metric.get(metric, (11, 11, 12, 99))))  # 99 is a stranger


def _some_controls(now: float) -> list[Control]:
    return [
        LimitsPreset(HOSPITAL, 21, "heart_rate", (None, 60, 100, None)),
        MaintenanceSet(HOSPITAL, at(now), at(now + 5), handle=12),
        associated(12, (22, -100, now), (23, now, None)),
        DeviceEvent(HOSPITAL, 15, "offline", at(now)),
        DeviceEvent(HOSPITAL, 12, "lead_off", at(now - 3)),
        DeviceEvent(HOSPITAL, 13, "apnoea", at(now)),
        DeviceEvent(HOSPITAL, 13, "apnoea_end", at(now + 1)),
        admitted(22, 10, spo2_scale=2, discharged_us=at(now)),
    ]


@pytest.mark.clause("6.3f")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 1), cuts=st.lists(st.integers(1, 400), max_size=40))
def test_any_cut_of_a_stream_says_the_same_and_leaves_the_same_state(seed: int, cuts: list[int]) -> None:
    stream = a_stream(seed)
    whole, cut = ShardCell(0), ShardCell(0)
    assert_same_heard(play(whole, recut(stream, [])), play(cut, recut(stream, cuts)))
    assert_same_tables(whole.snapshot(), cut.snapshot())


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 1))
def test_one_reading_at_a_time_says_the_same(seed: int) -> None:
    stream = a_stream(seed, frames=8)
    whole, single = ShardCell(0), ShardCell(0)
    assert_same_heard(play(whole, recut(stream, [])), play(single, recut(stream, range(1000))))
    assert_same_tables(whole.snapshot(), single.snapshot())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 1), stop=st.integers(0, 40))
def test_a_restored_cell_goes_on_as_one_that_never_stopped(seed: int, stop: int) -> None:
    stream = a_stream(seed)
    whole, first, second = ShardCell(0), ShardCell(0), ShardCell(0)
    heard = play(first, stream[:stop])
    second.restore(first.snapshot())
    play(first, stream[stop:])  # a snapshot is a copy: what the first goes on to do is not seen by the second
    rest = play(second, stream[stop:])
    never_stopped = play(whole, stream)
    assert [*heard.alarms, *rest.alarms] == never_stopped.alarms
    assert heard.duplicates + rest.duplicates == never_stopped.duplicates
    assert_same_tables(second.snapshot(), whole.snapshot())


def test_the_stream_of_these_tests_says_much() -> None:
    heard = [play(ShardCell(0), a_stream(seed)) for seed in range(12)]
    rules = {event.rule for one in heard for event in one.alarms}
    assert {"limit.very-high", "limit.low", "change.rate", "news2.single-three", "technical.signal-lost"} <= rules
    assert {"device.lead-off", "device.apnoea"} <= rules
    assert sum(one.duplicates for one in heard) > 0
    assert {reason for one in heard for _, reason, _ in one.rejected} == {"unknown-device", "unknown-metric"}
    assert any(event.subject.patient_ambiguous for one in heard for event in one.alarms)


def test_a_control_message_told_twice_is_told_once() -> None:
    stream = [message for message in a_stream(7) if isinstance(message, Told)]
    once, twice = ShardCell(0), ShardCell(0)
    play(once, stream)
    play(twice, [message for message in stream for _ in range(2)])
    assert_same_tables(once.snapshot(), twice.snapshot())


def test_an_alarm_is_told_under_ids_that_a_replay_repeats() -> None:
    first, second = (play(ShardCell(0), a_stream(3)) for _ in range(2))
    assert first.alarms
    assert [event.event_id for event in first.alarms] == [event.event_id for event in second.alarms]
    assert all(event.event_us <= event.arrival_us for event in first.alarms)
    assert min(event.arrival_us for event in first.alarms) >= at(0)
