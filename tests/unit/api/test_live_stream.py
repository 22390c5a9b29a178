"""The HTTP side of a live stream: what is sent, and when it ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from api.live import stream
from api.live.stream import EventStream
from api.live.subscription import Subscription
from api.telemetry import Telemetry


class Feed:
    """Remembers who left."""

    def __init__(self) -> None:
        self.left: list[Subscription] = []

    async def leave(self, client: Subscription) -> None:
        self.left.append(client)


class Connection:
    """A client that reads until it `stalls`."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.stalls = False

    async def receive(self) -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    async def send(self, message: dict[str, Any]) -> None:
        if self.stalls:
            await asyncio.Event().wait()
        self.got.append(message.get("body", b""))


def client() -> Subscription:
    return Subscription(None, lambda _: None, lambda: b"")


async def test_what_is_put_is_sent_and_the_end_too() -> None:
    feed, subscription, connection = Feed(), client(), Connection()
    subscription.put(b"one")
    subscription.close()
    response = EventStream(feed, subscription, "alarms", Telemetry())  # type: ignore[arg-type]
    await asyncio.wait_for(response({}, connection.receive, connection.send), 10)  # type: ignore[arg-type]
    assert connection.got == [b"", b"one", b""]
    assert feed.left == [subscription]


@pytest.mark.parametrize("stalls", [True, False])
async def test_a_client_that_takes_no_byte_is_let_go_and_one_that_is_only_calm_is_not(
    monkeypatch: pytest.MonkeyPatch, *, stalls: bool
) -> None:
    looks = asyncio.Queue[int]()
    look = stream._Sends._look

    def watched(sends: stream._Sends, begun: int) -> None:
        looks.put_nowait(begun)
        look(sends, begun)

    monkeypatch.setattr(stream, "_STALLED_S", 0.01)
    monkeypatch.setattr(stream._Sends, "_look", watched)
    feed, subscription, connection = Feed(), client(), Connection()
    response = EventStream(feed, subscription, "alarms", Telemetry())  # type: ignore[arg-type]
    serving = asyncio.create_task(response({}, connection.receive, connection.send))  # type: ignore[arg-type]
    subscription.put(b"one")
    async with asyncio.timeout(10):
        while len(connection.got) < 2:  # noqa: ASYNC110 (what the client got is looked at, as a client would)
            await asyncio.sleep(0)
        connection.stalls = stalls
        subscription.put(b"two")
        if stalls:
            await serving
            assert feed.left == [subscription]
            return
        for _ in range(3):
            await looks.get()
        assert not serving.done()
        assert connection.got[-1] == b"two"
    subscription.close()
    await asyncio.wait_for(serving, 10)
