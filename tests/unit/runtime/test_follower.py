"""What one follower gives does not keep everything else of the process waiting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from nats.aio.msg import Msg

from runtime.follower import Follower, StreamMessage


async def turns_of_others(count: int, take: Callable[[StreamMessage], None]) -> list[int]:
    """How many of `count` messages a follower had given whenever others had a turn; all are there, in order."""
    nobody: Any = None
    got: list[int] = []
    turns: list[int] = []

    def on_message(message: StreamMessage) -> None:
        take(message)
        got.append(message.sequence)

    async def others() -> None:
        while len(got) < count:
            turns.append(len(got))
            await asyncio.sleep(0)

    async def queue() -> None:
        """As nats-py reads it: while there is something it waits for nothing."""
        follower = Follower(nobody, nobody, "ALARMS", ["alarm.>"], 1, on_message)
        for number in range(1, count + 1):
            await follower._receive(Msg(nobody, "alarm.h1", f"$JS.ACK.ALARMS.c.1.{number}.{number}.0.{count - number}", b"{}"))

    async with asyncio.timeout(10):
        await asyncio.gather(others(), queue())
    assert got == list(range(1, count + 1))
    return turns


async def test_others_have_their_turn_while_a_full_queue_is_read() -> None:
    turns = await turns_of_others(1_000, lambda message: None)
    assert max(later - earlier for earlier, later in zip(turns, [*turns[1:], 1_000], strict=True)) <= 100


async def test_of_messages_that_are_much_work_few_are_read_in_a_turn() -> None:
    def work(_message: StreamMessage) -> None:
        until_s = time.perf_counter() + 0.002
        while time.perf_counter() < until_s:
            pass

    assert len(set(await turns_of_others(40, work))) >= 39  # each by itself
