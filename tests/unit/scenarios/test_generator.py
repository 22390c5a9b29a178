"""The generator is open loop: a door that answers late, or never, does not slow the schedule, and cannot hide."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import numpy as np
import pytest

from domain.errors import Unavailable
from domain.frames import decode_frame
from domain.readings import ReadingBatch
from scenarios import connections
from scenarios.books import ClosedBooks
from scenarios.connections import Sender
from scenarios.generator import Generator
from scenarios.generator_orders import Order
from scenarios.measures import Latency
from scenarios.model import Fault, GeneratorLimits
from scenarios.schedule import Schedule, prepare, readings_as_json
from sim.emission import Emission
from tests.waiting import until

SOURCE = 9


def emission(number, due_s, rows=3, **options):
    first = number * rows + 1
    readings = ReadingBatch.of(
        handle=40, metric=np.arange(1, rows + 1), time_us=1_000 + number, value=0.5, source=SOURCE,
        sequence=np.arange(first, first + rows),
    )  # fmt: skip
    return Emission(due_s, 0, readings, **options)


class FakeSources:
    """Ten messages, 20 ms apart, from one gateway."""

    def __init__(self, faults=()):
        self.senders = [Sender("token", SOURCE, "sz.h001")]
        self._faults = list(faults)

    def messages(self, start_us, _duration_s):
        for number in range(10):
            yield prepare(emission(number, 0.02 * number), 0, as_json=False, base=start_us)

    def connection_faults(self):
        return [(fault, ["sz.h001"]) for fault in self._faults]

    def truth(self):
        return [("deteriorated", 1.0, "sz.h001/p1", "sepsis")]


class FakeDoor:
    """Stands in for `DeviceClient`. `answer` decides what becomes of each frame."""

    answer = staticmethod(lambda _number, future: future.set_result(None))
    made: ClassVar[list[FakeDoor]] = []

    def __init__(self, *_, **__):
        self.frames, self.calls, self.is_connected, self.reconnects = [], [], False, 0
        self.futures = []
        FakeDoor.made.append(self)

    async def connect(self):
        self.calls.append("connect")
        self.is_connected = True

    async def disconnect(self):
        self.calls.append("disconnect")
        self.is_connected = False

    async def close(self):
        for future in self.futures:
            if not future.done():
                future.set_exception(Unavailable("closed"))

    def start_frame(self, frame):
        future = asyncio.get_running_loop().create_future()
        self.frames.append(frame)
        self.futures.append(future)
        self.answer(len(self.frames), future)
        return future


@pytest.fixture
def door(monkeypatch):
    FakeDoor.made = []
    monkeypatch.setattr(connections, "DeviceClient", FakeDoor)
    return FakeDoor


async def run(tmp_path, monkeypatch, answer, sources=None):
    monkeypatch.setattr(FakeDoor, "answer", staticmethod(answer))
    order = Order("host", 1, [], 0.05, None, GeneratorLimits(), str(tmp_path / "books.arrow"))
    generator = Generator(order, sources or FakeSources(), lambda: 5_000_000)
    await generator.connect()
    await generator.run(5_000_000, lambda _: None)
    done = generator.done()
    durable = Latency("durable")
    durable.merge(done.durable)
    return done, durable, ClosedBooks.load(tmp_path / "books.arrow")


async def test_everything_is_sent_once_booked_and_acknowledged(door, tmp_path, monkeypatch):
    done, durable, books = await run(tmp_path, monkeypatch, lambda _, future: future.set_result(None))
    frames = [decode_frame(frame).readings for frame in door.made[0].frames]
    assert [int(sequence) for frame in frames for sequence in frame.sequence] == list(range(5_000_001, 5_000_031))
    assert len(books.sent) == len(books.acknowledged) == 30
    assert books.base == 5_000_000
    assert (durable.count, durable.warmup_count) == (7, 3), "the first 50 ms are warm-up"
    assert done.truth == [("deteriorated", 1.0, "sz.h001/p1", "sepsis")]


async def test_a_door_that_stalls_does_not_hold_up_the_schedule_and_the_stall_is_seen_by_all(door, tmp_path, monkeypatch):
    held = []

    def answer(number, future):
        held.append(future)
        if number == 10:
            for waiting in held:
                waiting.set_result(None)

    done, durable, _ = await run(tmp_path, monkeypatch, answer)
    assert len(door.made[0].frames) == 10, "the tenth was sent although nothing had been answered"
    assert durable.percentile_ms(99) >= 115, "the first measured one waited until the last was sent, 120 ms after it was due"
    spread_ms = durable.max_ms - durable.percentile_ms(1)
    assert spread_ms == pytest.approx(120, abs=20), "each counts from its own due time"
    assert sum(done.rates["sent"].values()) == 30


async def test_what_is_never_acknowledged_is_not_booked_as_kept(door, tmp_path, monkeypatch):
    def answer(number, future):
        if number == 4:
            future.set_exception(Unavailable("no"))
        else:
            future.set_result(None)

    _, durable, books = await run(tmp_path, monkeypatch, answer)
    assert durable.errors == 1
    assert (len(books.sent), len(books.acknowledged)) == (30, 27)


async def test_a_power_failure_drops_the_connections_and_all_come_back(door, tmp_path, monkeypatch):
    fault = Fault("power-failure", at_s=0.02, for_s=0.06)
    await run(tmp_path, monkeypatch, lambda _, future: future.set_result(None), FakeSources([fault]))
    assert door.made[0].calls == ["connect", "disconnect", "connect"]


async def test_a_broken_source_ends_the_run_with_its_error(door, tmp_path, monkeypatch):
    sources = FakeSources()
    monkeypatch.setattr(sources, "messages", lambda *_: (_ for _ in ()).throw(ValueError("no world")))
    with pytest.raises(ValueError, match="no world"):
        await run(tmp_path, monkeypatch, lambda _, future: future.set_result(None), sources)


async def test_messages_are_prepared_only_a_little_ahead():
    made = []

    def messages():
        for number in range(100):
            made.append(number)
            yield prepare(emission(number, float(number)), 0, as_json=False)

    schedule = Schedule(messages, lambda: 0.0)
    schedule.start()
    await until(lambda: len(made) >= 7)
    assert [message.due_s for message in schedule.due_within(1.0, 3.0, 2)] == [1.0, 2.0]
    assert schedule.take().due_s == 0.0
    schedule.stop()
    assert len(made) == 7, "five seconds ahead, and one in hand"


def test_an_emission_without_readings_is_no_message():
    assert prepare(Emission(0.0, 0, ReadingBatch.empty()), 0, as_json=False) is None


def test_readings_for_a_device_that_speaks_json():
    readings = ReadingBatch.of(
        handle=40, metric=[1, 2], time_us=1_700_000_000_123_456, value=[72.5, 0.0], sequence=[5, 6], quality=[0, 0b10_0010]
    )
    first, second = readings_as_json(readings)
    assert first == {"metric": "heart_rate", "value": 72.5, "time": "2023-11-14T22:13:20.123456Z", "instance": 0, "seq": 5}
    assert (second["validity"], second["mode"]) == ("calibrating", "demo")
