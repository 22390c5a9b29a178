"""The Intake when there is no room before the hosts: who waits, who goes first, who is told what."""

from __future__ import annotations

import asyncio
import weakref

import numpy as np
import pytest

from domain.errors import Unavailable
from domain.readings import ReadingBatch
from domain.thing_models import Lane
from runtime.intake import StreamIntake
from runtime.intake_lanes import IntakeLimits
from tests.doors import CUFF, GATEWAY, MONITOR, NOW_US, SENSOR, DictIdentities, MemoryBus, clock
from tests.waiting import until


def rows(count=1, handle=7):
    return ReadingBatch.of(handle=handle, metric=1, time_us=NOW_US + np.arange(count), value=72.0)


@pytest.fixture
def bus():
    return MemoryBus()


class Room:
    """An admission that the test opens and closes, lane by lane."""

    def __init__(self):
        self.lanes = set(Lane)
        self.on_progress = lambda: None
        self.ahead = 0

    def has_room(self, lane, shard):
        return lane in self.lanes

    def taken(self, shard, readings):
        self.ahead += readings

    def stored(self, shard, sequence, readings):
        self.ahead -= readings

    failed = taken

    def open(self, *lanes):
        self.lanes = set(lanes)
        self.on_progress()


@pytest.mark.clause("7.3")
async def test_priority_is_taken_while_bulk_waits_for_hosts_and_bulk_when_they_have_room(bus):
    room = Room()
    intake = StreamIntake(bus, DictIdentities(), clock(), source=9, admission=room)
    room.open(Lane.DIRECT, Lane.PRIORITY)
    bulk = [asyncio.ensure_future(intake.submit(SENSOR, rows(n, handle=900))) for n in (1, 2)]
    gateways = asyncio.ensure_future(intake.submit(GATEWAY, rows(3, handle=[901, 902, 903])))
    vital = await intake.submit(MONITOR, rows(4))
    mixed = await intake.submit(GATEWAY, rows(2, handle=[901, 7]))
    assert (vital.readings, mixed.readings) == (4, 2)
    assert (intake.allowance(SENSOR), intake.allowance(GATEWAY)) == (1, 1)
    assert intake.allowance(MONITOR) > 1000
    assert intake.counters.waiting_readings == 6
    room.open(*Lane)
    assert [r.readings for r in await asyncio.gather(*bulk, gateways)] == [1, 2, 3]
    assert bus.readings().handle.tolist() == [7] * 4 + [901, 7] + [900] * 3 + [901, 902, 903]
    assert (intake.counters.waiting_readings, room.ahead) == (0, 0)
    assert intake.allowance(SENSOR) > 1000


@pytest.mark.clause("7.3")
async def test_what_a_monitor_says_itself_does_not_wait_with_what_gateways_say_of_hundreds(bus):
    room = Room()
    limits = IntakeLimits(max_pending_readings=100)
    intake = StreamIntake(bus, DictIdentities(), clock(), source=9, limits=limits, admission=room)
    room.open(Lane.DIRECT)
    gateways = [asyncio.ensure_future(intake.submit(GATEWAY, rows(40))) for _ in range(2)]
    await until(lambda: intake.counters.waiting_readings == 80)
    assert (intake.allowance(GATEWAY), intake.allowance(SENSOR)) == (0, 0)
    assert intake.allowance(MONITOR) > 1000
    assert (await intake.submit(MONITOR, rows(4))).readings == 4
    with pytest.raises(Unavailable, match="readings wait"):
        await intake.submit(GATEWAY, rows(1))
    room.open(*Lane)
    assert [r.readings for r in await asyncio.gather(*gateways)] == [40, 40]


async def test_much_that_is_let_in_at_once_leaves_in_groups_and_what_comes_meanwhile_is_not_behind_it(bus):
    intake = StreamIntake(bus, DictIdentities(), clock(), source=9)
    bus.hold()
    gateways = [asyncio.ensure_future(intake.submit(GATEWAY, rows(90_000))) for _ in range(5)]
    await until(lambda: bus.tries >= 2 and intake._lanes._commits[Lane.PRIORITY].is_due)
    on_their_way = bus.tries
    assert on_their_way < len(gateways)
    vital = asyncio.ensure_future(intake.submit(MONITOR, rows(1)))
    await until(lambda: bus.tries == on_their_way + 1)
    bus.release()
    await asyncio.gather(vital, *gateways)
    assert sorted(frame.header.rows for frame in bus.frames()[: on_their_way + 1]) == [1] + [90_000] * on_their_way
    assert len(bus.frames()) == 6


async def test_who_comes_after_one_that_waits_waits_behind_it_and_is_told_after_a_while(bus):
    room = Room()
    limits = IntakeLimits(ack_timeout_s=0.2, max_pending_readings=10)
    intake = StreamIntake(bus, DictIdentities(), clock(), source=9, limits=limits, admission=room)
    room.open()
    waiting = [asyncio.ensure_future(intake.submit(MONITOR, rows(n))) for n in (6, 4)]
    await asyncio.sleep(0)
    assert intake.allowance(CUFF) == 0
    with pytest.raises(Unavailable, match="10 readings wait"):
        await intake.submit(MONITOR, rows(1))
    room.open(*Lane)
    assert [r.readings for r in await asyncio.gather(*waiting)] == [6, 4]
    room.open()
    with pytest.raises(Unavailable):
        await intake.submit(MONITOR, rows(2))
    room.open(*Lane)
    assert (await intake.submit(MONITOR, rows(3))).readings == 3
    assert intake.counters.waiting_readings == 0


async def test_who_waits_for_a_host_is_let_in_when_that_host_is_not_heard_of_any_more(bus):
    room = Room()
    intake = StreamIntake(bus, DictIdentities(), clock(), source=9, admission=room)
    room.open()
    answer = asyncio.ensure_future(intake.submit(MONITOR, rows(2)))
    await asyncio.sleep(0)
    room.lanes = set(Lane)  # and nobody says so
    async with asyncio.timeout(5):
        assert (await answer).readings == 2


async def test_an_intake_that_closes_stores_what_waits_for_hosts(bus):
    room = Room()
    intake = StreamIntake(bus, DictIdentities(), clock(), source=9, admission=room)
    room.open()
    answers = [asyncio.ensure_future(intake.submit(who, rows(2, handle=who.handle))) for who in (SENSOR, MONITOR)]
    await asyncio.sleep(0)
    await intake.close()
    assert [r.readings for r in await asyncio.gather(*answers)] == [2, 2]
    assert bus.readings().handle.tolist() == [7, 7, 900, 900]


async def test_a_keyed_request_is_told_to_come_again_while_others_wait(bus):
    room = Room()
    intake = StreamIntake(bus, DictIdentities(), clock(), source=9, admission=room)
    room.open()
    answer = asyncio.ensure_future(intake.submit(MONITOR, rows(2)))
    await asyncio.sleep(0)
    claim = await intake.claim(MONITOR, rows(), "k", b"body")
    with pytest.raises(Unavailable, match="same key"):
        await intake.submit_once(MONITOR, rows(), claim)
    room.open(*Lane)
    await answer
    assert (await intake.submit_once(MONITOR, rows(), claim)).readings == 1


async def test_what_waits_for_room_is_not_stored_when_its_sender_is_gone(bus):
    room = Room()
    intake = StreamIntake(bus, DictIdentities(), clock(), source=9, admission=room)
    room.open()
    answers = [intake.submit(who, rows(n, handle=who.handle)) for n, who in ((1, MONITOR), (2, MONITOR), (3, CUFF))]
    gone = intake.submit(GATEWAY, rows(4))
    await asyncio.sleep(0)
    for answer in (answers[0], gone):
        answer.cancel()
    room.open(*Lane)
    assert [receipt.readings for receipt in await asyncio.gather(*answers[1:])] == [2, 3]
    assert len(bus.readings()) == 5
    assert intake.counters.waiting_readings == 0


async def test_what_was_let_in_is_not_kept_in_memory_until_it_would_have_been_given_up(bus):
    room = Room()
    intake = StreamIntake(bus, DictIdentities(), clock(), source=9, admission=room)
    room.open()
    readings = rows(2)
    kept = weakref.ref(readings.value)
    answer = intake.submit(MONITOR, readings)
    del readings
    await asyncio.sleep(0)
    room.open(*Lane)
    await answer
    await until(lambda: kept() is None)
