"""What one follower gives does not keep everything else of the process waiting."""

from __future__ import annotations

import asyncio
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
