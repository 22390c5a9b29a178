"""Who is let in, and in whose place, when more connect than are attended to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from gateways import listener
from gateways.listener import Guest, Listener, ListenerLimits, bound
from runtime.tasks import end
from tests.waiting import until

pytestmark = pytest.mark.clause("9.1b")


class Door(asyncio.Protocol):
    """Believes whoever says anything."""

    def __init__(self, guest: Guest, stage: Stage) -> None:
        self.guest = guest
        self._stage = stage

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.guest.cut = transport.abort  # type: ignore[attr-defined]
        self._stage.made.append(self.guest.address)

    def data_received(self, data: bytes) -> None:
        self._stage.known.append(self.guest.address)
        self.guest.known()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stage.lost += 1
        self.guest.left()


@dataclass
class Stage:
    made: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    lost: int = 0
    port: int = 0
    listener: Listener | None = None
    peers: list[socket.socket] = field(default_factory=list)

    async def peer(self, address: str) -> socket.socket:
        peer = socket.socket()
        peer.setblocking(False)
        peer.bind((address, 0))
        self.peers.append(peer)
        await asyncio.get_running_loop().sock_connect(peer, ("127.0.0.1", self.port))
        return peer


@asynccontextmanager
async def listening(**limits) -> AsyncIterator[Stage]:
    stage = Stage()
    stage.listener = Listener(lambda guest: Door(guest, stage), ListenerLimits(**limits))
    listening = bound("127.0.0.1", 0)
    stage.port = listening.getsockname()[1]
    stage.listener.start(listening)
    try:
        yield stage
    finally:
        for peer in stage.peers:
            peer.close()
        await until(lambda: stage.lost == len(stage.made))
        stage.listener.close()


@pytest.fixture
def nobody_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """For those who wait, however long a test takes."""
    monkeypatch.setattr(listener, "_GRACE_S", 60.0)


@pytest.mark.usefixtures("nobody_makes_room")
async def test_an_address_that_floods_leaves_room_for_others() -> None:
    async with listening(max_strangers=8, max_strangers_per_address=4) as stage:
        for _ in range(50):
            await stage.peer("127.0.0.2")
        await until(lambda: len(stage.made) == 4)
        honest = await stage.peer("127.0.0.3")
        honest.send(b"hello")
        await until(lambda: stage.known == ["127.0.0.3"])
        assert stage.listener.refused["crowded-out"] == 0


async def test_who_is_known_takes_nobodys_place() -> None:
    async with listening(max_strangers=2, max_strangers_per_address=2) as stage:
        for _ in range(20):
            (await stage.peer("127.0.0.2")).send(b"hello")
        await until(lambda: len(stage.known) == 20)
        assert stage.listener.refused.total() == 0


async def test_who_has_a_network_of_addresses_is_one_address() -> None:
    """An IPv6 host has all 2^64 of its /64. Each connection is still named by the address it came from."""
    async with listening(max_strangers=50, max_strangers_per_address=2, max_per_address=5) as stage:
        for number in range(1, 8):
            ours, theirs = socket.socketpair()
            stage.peers.append(theirs)
            ours.setblocking(False)
            stage.listener._came(ours, f"2001:db8::{number}")
        await until(lambda: len(stage.made) == 2)
        assert (stage.listener._waiting, stage.listener.refused["too-many-of-address"]) == (3, 2)
        assert stage.made == ["2001:db8::1", "2001:db8::2"]


async def test_those_behind_a_trusted_proxy_are_not_counted_as_one() -> None:
    async with listening(max_strangers=50, max_strangers_per_address=2, max_per_address=3, shares="127.0.0.2".__eq__) as stage:
        for _ in range(20):
            await stage.peer("127.0.0.2")
        await until(lambda: len(stage.made) == 20)


async def test_when_all_places_are_taken_the_fullest_address_gives_one_up() -> None:
    async with listening(max_connections=6, max_strangers=2, max_strangers_per_address=1) as stage:
        for _ in range(10):
            await stage.peer("127.0.0.2")
        await until(lambda: stage.listener.refused["too-many-connections"] == 4)
        honest = await stage.peer("127.0.0.3")
        honest.send(b"hello")
        await until(lambda: stage.known == ["127.0.0.3"])


async def ended(peer: socket.socket) -> None:
    with contextlib.suppress(ConnectionError):
        assert await asyncio.get_running_loop().sock_recv(peer, 1) == b""


@pytest.mark.usefixtures("nobody_makes_room")
async def test_what_waits_is_closed_with_the_listener() -> None:
    async with listening(max_strangers=1) as stage:
        peers = [await stage.peer("127.0.0.2") for _ in range(3)]
        await until(lambda: len(stage.made) == 1)
        await until(lambda: stage.listener._waiting == 2)
        stage.listener.close()
        hearing = [asyncio.create_task(ended(peer)) for peer in peers]
        await until(lambda: sum(one.done() for one in hearing) == 2)
        (let_in,) = [one for one in hearing if not one.done()]
        await end(let_in)


async def test_who_is_let_in_while_the_listener_closes_is_not_left_hanging() -> None:
    async with listening() as stage:
        with socket.create_connection(("127.0.0.1", stage.port), timeout=10) as late:  # the loop does not turn meanwhile
            stage.listener._accept()
            stage.listener.close()
            assert late.recv(1) == b""
        assert stage.made == []


async def stranger(stage: Stage) -> Guest:
    """One who came from 127.0.0.2 and has not said who it is."""
    await stage.peer("127.0.0.2")
    await until(lambda: len(stage.made) == 1)
    (guest,) = stage.listener._addresses["127.0.0.2"].strangers
    return guest


async def test_few_refusals_of_an_address_are_held_at_once() -> None:
    """Each holds a place that others of its address wait for."""
    async with listening() as stage:
        guest = await stranger(stage)
        for _ in range(40):
            guest.failed()
        told = [asyncio.create_task(guest.delay()) for _ in range(70)]
        await until(lambda: sum(one.done() for one in told) == 6)
        for one in told:
            one.cancel()
        await asyncio.gather(*told, return_exceptions=True)
        assert stage.listener._addresses["127.0.0.2"].delayed == 0


async def test_what_failed_is_forgiven_in_minutes_however_much_it_was() -> None:
    async with listening() as stage:
        guest = await stranger(stage)
        for _ in range(10_000):
            guest.failed()
        assert stage.listener._addresses["127.0.0.2"].failures <= 80
