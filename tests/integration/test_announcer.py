"""The announcer against a real stream: a flood arrives whole and in order, also when the server dies in its middle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from actors.announcer import FULL, Announcer
from domain import subjects
from runtime.bus import Bus
from runtime.nats_server import NatsServer
from runtime.tasks import end
from tests.waiting import until

pytestmark = pytest.mark.integration

SUBJECT = subjects.alarm("sz.h001")


@pytest.fixture
async def announcer(bus: Bus) -> AsyncIterator[Announcer]:
    made = Announcer(bus)
    task = asyncio.create_task(made.run())
    yield made
    await end(task)


async def stored(bus: Bus) -> list[bytes]:
    """All of the alarm stream."""
    last = (await bus.stream_state(subjects.ALARMS_STREAM)).last_sequence
    seen: list[bytes] = []
    follower = await bus.follow(subjects.ALARMS_STREAM, [SUBJECT], 1, lambda message: seen.append(message.payload))
    await until(lambda: len(seen) >= last)
    await follower.stop()
    return seen


def flood(announcer: Announcer, count: int) -> list[bytes]:
    payloads = [b"%d" % number for number in range(count)]
    for payload in payloads:
        announcer.tell(SUBJECT, payload, f"id-{payload.decode()}")
    return payloads


async def test_a_flood_is_kept_whole_and_in_order(announcer: Announcer, bus: Bus) -> None:
    told = flood(announcer, 3_000)
    async with asyncio.timeout(30):
        await announcer.all_kept(announcer.told)
    assert await stored(bus) == told


async def test_nothing_is_lost_or_doubled_when_the_server_dies_in_the_middle(
    announcer: Announcer, bus: Bus, nats_server: NatsServer
) -> None:
    told = flood(announcer, 3_000)
    await until(lambda: announcer.kept > 0)
    assert announcer.kept < 3_000
    nats_server.kill()
    await nats_server.start()
    async with asyncio.timeout(40):
        await announcer.all_kept(announcer.told)
    kept = await stored(bus)
    assert sorted(kept) == sorted(told)


async def test_who_tells_faster_than_the_stream_keeps_is_made_to_wait(bus: Bus) -> None:
    announcer = Announcer(bus)
    flood(announcer, FULL)
    waiting = asyncio.create_task(announcer.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    task = asyncio.create_task(announcer.run())
    async with asyncio.timeout(10):
        await waiting
    await end(task)
