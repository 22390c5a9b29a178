"""What one follower gives does not keep everything else of the process waiting."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from nats.aio.msg import Msg

from runtime.follower import Follower, StreamMessage


async def test_others_have_their_turn_while_a_full_queue_is_read() -> None:
    nobody: Any = None
    got: list[StreamMessage] = []
    follower = Follower(nobody, nobody, "ALARMS", ["alarm.>"], 1, got.append)
    rounds: list[int] = []

    async def others() -> None:
        while len(got) < 1_000:
            rounds.append(len(got))
            await asyncio.sleep(0)

    async def queue() -> None:
        """As nats-py reads it: while there is something it waits for nothing."""
        for number in range(1, 1_001):
            await follower._receive(Msg(nobody, "alarm.h1", f"$JS.ACK.ALARMS.c.1.{number}.{number}.0.{1_000 - number}", b"{}"))

    async with asyncio.timeout(10):
        await asyncio.gather(others(), queue())
    assert [message.sequence for message in got] == list(range(1, 1_001))
    assert max(later - earlier for earlier, later in zip(rounds, [*rounds[1:], 1_000], strict=True)) <= 100


async def test_of_messages_that_are_much_work_few_are_read_in_a_turn() -> None:
    nobody: Any = None
    got: list[int] = []

    def work(message: StreamMessage) -> None:
        until_s = time.perf_counter() + 0.002
        while time.perf_counter() < until_s:
            pass
        got.append(message.sequence)

    follower = Follower(nobody, nobody, "READINGS", ["reading.>"], 1, work)
    rounds: list[int] = []

    async def others() -> None:
        while len(got) < 40:
            rounds.append(len(got))
            await asyncio.sleep(0)

    async def queue() -> None:
        for number in range(1, 41):
            await follower._receive(Msg(nobody, "reading.1", f"$JS.ACK.READINGS.c.1.{number}.{number}.0.{40 - number}", b"{}"))

    async with asyncio.timeout(10):
        await asyncio.gather(others(), queue())
    assert len(set(rounds)) >= 39  # each by itself
