"""One client's queue: order kept, nothing thinned, a slow client told and closed."""

from __future__ import annotations

import asyncio

from api.live.subscription import Subscription, sse


def subscription(**limits: int) -> Subscription:
    return Subscription(None, lambda prepared: sse("x", prepared), lambda: sse("heartbeat", b"{}"), **limits)


async def test_events_come_in_order_as_one_chunk() -> None:
    client = subscription()
    for n in (1, 2, 3):
        client.offer(n, b"%d" % n)
    assert await client.take() == b"event: x\ndata: 1\n\nevent: x\ndata: 2\n\nevent: x\ndata: 3\n\n"


async def test_what_was_had_already_is_not_offered_again() -> None:
    client = subscription()
    client.after = 5
    for n in (4, 5, 6):
        client.offer(n, b"%d" % n)
    assert await client.take() == b"event: x\ndata: 6\n\n"


async def test_a_slow_client_gets_what_was_queued_then_overflow_then_the_end() -> None:
    client = subscription(max_events=3)
    for n in range(1, 8):
        client.offer(n, b"%d" % n)
    chunk = await client.take()
    assert chunk is not None
    events = chunk.decode().split("\n\n")
    assert [event.splitlines()[1] for event in events[:3]] == ["data: 1", "data: 2", "data: 3"]
    assert events[3].startswith("event: overflow")
    assert '"last_sequence":3' in events[3]
    assert client.has_overflowed
    assert await client.take() is None


async def test_bytes_are_bounded_too_but_one_big_event_passes() -> None:
    client = subscription(max_bytes=100)
    client.offer(1, b"a" * 500)
    assert not client.has_overflowed
    client.offer(2, b"b")
    assert client.has_overflowed


async def test_take_waits_for_an_event() -> None:
    client = subscription()
    taking = asyncio.create_task(client.take())
    await asyncio.sleep(0)
    assert not taking.done()
    client.offer(1, b"now")
    assert await taking == b"event: x\ndata: now\n\n"


async def test_a_closed_client_still_gets_what_was_queued() -> None:
    client = subscription()
    client.offer(1, b"last")
    client.close()
    assert await client.take() == b"event: x\ndata: last\n\n"
    assert await client.take() is None
