"""The Intake over a real, fsyncing stream: across a kill -9 of the server nothing acknowledged is lost or doubled."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from domain import subjects
from domain.frames import decode_frame
from domain.messages import DeviceEvent, decode_control
from domain.readings import ReadingBatch
from runtime.bus import Bus
from runtime.clock import SystemClock
from runtime.intake import StreamIntake
from runtime.nats_server import NatsServer
from tests.doors import GATEWAY, MONITOR, NOW_US, DictIdentities, MemoryBus
from tests.waiting import until

pytestmark = pytest.mark.integration


def rows(first, count=1, handle=7):
    sequence = np.arange(first, first + count)
    return ReadingBatch.of(handle=handle, metric=1, time_us=NOW_US + sequence, value=72.0, source=handle, sequence=sequence)


async def stored(bus, subject, count):
    """The first `count` messages of a subject."""
    seen = []
    follower = await bus.follow(subjects.READINGS_STREAM, [subject], 1, seen.append)
    await until(lambda: len(seen) >= count, 20)
    await follower.stop()
    return seen


@pytest.fixture(params=["memory", "nats"])
async def either_bus(request, nats_url):
    if request.param == "memory":
        yield MemoryBus()
        return
    bus = await Bus.connect(*nats_url, "intake")
    yield bus
    await bus.close()


async def test_the_bus_in_memory_keeps_what_the_real_one_keeps(either_bus):
    """What the Intake needs of a bus, asked of the double and of the real one."""
    assert await either_bus.last_sequence(subjects.READINGS_STREAM, "once.a") == 0
    assert await either_bus.get_message(subjects.READINGS_STREAM, 1) is None
    first = await either_bus.publish("once.a", b"one", "id-1")
    assert await either_bus.publish("once.a", b"two", "id-1") == first
    second = await either_bus.publish("once.a", b"three", "id-2")
    await either_bus.publish("once.b", b"", "id-3")
    assert await either_bus.last_sequence(subjects.READINGS_STREAM, "once.a") == second
    assert (await either_bus.get_message(subjects.READINGS_STREAM, first)).payload == b"one"


async def test_claims_and_receipts_on_either_bus(either_bus):
    for _ in range(2):
        intake = StreamIntake(either_bus, DictIdentities(), SystemClock(), source=1)
        claim = await intake.claim(MONITOR, rows(1), "key", b"body")
        receipt = await intake.submit_once(MONITOR, rows(1), claim)
        assert (receipt.shard, receipt.stream_sequence, receipt.readings) == (3, 2, 1)


async def test_a_senders_messages_stay_in_order_while_the_devices_of_the_first_are_looked_up(bus: Bus):
    found = asyncio.Event()

    class Slow(DictIdentities):
        """Must look for the handles of the first question; all later ones are known."""

        asked = 0

        async def shards_of(self, sender, handles):
            self.asked += 1
            if self.asked == 1:
                await found.wait()
            return await super().shards_of(sender, handles)

    intake = StreamIntake(bus, Slow(), SystemClock(), source=1)
    answers = [asyncio.ensure_future(intake.submit(GATEWAY, rows(n))) for n in range(1, 6)]
    for _ in range(20):
        await asyncio.sleep(0)
    found.set()
    await asyncio.gather(*answers)
    count = (await bus.stream_state(subjects.READINGS_STREAM)).messages
    frames = [decode_frame(message.payload) for message in await stored(bus, subjects.reading(3), count)]
    assert np.concatenate([frame.readings.sequence for frame in frames]).tolist() == [1, 2, 3, 4, 5]
    await intake.close()


@pytest.mark.clause("5.4c")
async def test_nothing_acknowledged_is_lost_or_doubled_across_a_kill_of_the_server(bus: Bus, nats_server: NatsServer):
    intake = StreamIntake(bus, DictIdentities(), SystemClock(), source=1)
    answers = [asyncio.ensure_future(intake.submit(MONITOR, rows(n))) for n in range(1, 101)]
    await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
    answers += [asyncio.ensure_future(intake.submit(MONITOR, rows(n))) for n in range(101, 201)]
    await asyncio.sleep(0)
    nats_server.kill()
    answers += [asyncio.ensure_future(intake.submit(MONITOR, rows(n))) for n in range(201, 301)]
    await nats_server.start()
    receipts = await asyncio.gather(*answers)
    await intake.close()
    last = max(receipt.stream_sequence for receipt in receipts)
    frames = [decode_frame(message.payload) for message in await stored(bus, subjects.reading(3), last)]
    assert sorted(np.concatenate([frame.readings.sequence for frame in frames]).tolist()) == list(range(1, 301))
    assert sorted(frame.header.sequence for frame in frames) == list(range(1, len(frames) + 1))


async def test_a_group_is_one_message_a_shard(bus: Bus):
    intake = StreamIntake(bus, DictIdentities(), SystemClock(), source=1)
    many = [rows(n, 10, handle=7 if n % 2 else 1001) for n in range(1, 401)]
    first = await intake.submit(GATEWAY, ReadingBatch.concat(many[:2]))
    receipts = await asyncio.gather(*(intake.submit(GATEWAY, batch) for batch in many[2:]))
    assert first.readings == 20
    assert {receipt.shard for receipt in receipts} == {3, 5}
    assert (await bus.stream_state(subjects.READINGS_STREAM)).messages <= 8
    assert intake.counters.readings == 4000


async def test_events_and_readings_share_the_shards_order(bus: Bus):
    intake = StreamIntake(bus, DictIdentities(), SystemClock(), source=1)
    await intake.tell_event(DeviceEvent("sz.h001", 7, "online", NOW_US), 3)
    await intake.submit(MONITOR, rows(1))
    await intake.tell_event(DeviceEvent("sz.h001", 7, "offline", NOW_US), 3)
    kept = [await bus.get_message(subjects.READINGS_STREAM, n) for n in (1, 2, 3)]
    assert [message.subject for message in kept] == ["control.3", "reading.3", "control.3"]
    assert decode_control(kept[2].payload).event == "offline"
