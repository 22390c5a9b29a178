"""One run: a platform, its senders and what befalls them, all from one seed; what became of it is a `History`."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import pyarrow as pa

from actors import restoration, ticker
from runtime.follower import StreamMessage
from tests.simulation.platform import FragileCell, Platform
from tests.simulation.senders import Said, Senders
from tests.simulation.virtual_time import Node, Stuck, run

TICK_S = 2.0  # half as often as in life: ticks are most of a run's work
_SETTLED_S = 30.0  # by then a host that was believed dead knows that it lost its shards
_LONGEST_S = 400.0  # of virtual time: a platform that is not quiet by then never will be


@dataclass(frozen=True)
class History:
    """What was said and acknowledged, and what is in the streams, the lake and the cells when all is quiet."""

    seed: int
    said: Said
    logs: dict[str, list[StreamMessage]]
    told: list[tuple[str, bytes, str]]
    rows: pa.Table
    cells: dict[int, tuple[int, dict[str, pa.Table]]]  # shard -> the last sequence it has seen, its state
    places: list[int]  # the shard of each hospital
    holders: list[tuple[int, str, int]]  # (shard, host, followers) of every host that holds it
    faults: list[str]

    def trace(self) -> str:
        """A digest of everything: two runs of one seed have the same."""
        digest = hashlib.sha256(repr((self.said, self.faults, self.rows.to_pylist())).encode())
        for log in self.logs.values():
            for message in log:
                digest.update(repr(message).encode())
        return digest.hexdigest()


def play(seed: int) -> History:
    """Play the run of `seed`. Raises Stuck when the platform does not come to rest."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # what befalls a run is no news
    try:
        with patch.object(restoration, "ShardCell", FragileCell), patch.object(ticker, "_TICK_S", TICK_S):
            return run(_play(seed))
    finally:
        logging.disable(before)


async def _play(seed: int) -> History:
    loop, chance = asyncio.get_running_loop(), random.Random(f"{seed}")
    platform = Platform(str(seed), chance.choice([1, 1, 2]), chance)
    fate = Fate(platform, random.Random(f"{seed}/fate"))
    senders = Senders(platform, random.Random(f"{seed}/senders"), messages=chance.randint(1, 4))
    for start in (platform.start_door, platform.start_door, platform.start_host, platform.start_host):
        start()
    supervision = asyncio.ensure_future(platform.supervise())
    try:
        async with asyncio.timeout(_LONGEST_S):
            sending = asyncio.gather(*senders.all())
            await fate.strike()
            await sending
            until_s = loop.time() + _SETTLED_S
            while platform.unrest() or (platform.has_two_holders() and loop.time() < until_s):  # noqa: ASYNC110
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise Stuck(f"not at rest after {_LONGEST_S:g} s: {', '.join(platform.unrest()) or 'senders wait'}") from None
    supervision.cancel()
    cells = {shard: (runner.applied, runner.cell.snapshot()) for shard, runner in platform.runners().items()}
    logs = {stream: list(log) for stream, log in platform.server.logs.items()}
    rows, holders = platform.lake.rows(), platform.holders()
    return History(
        seed, senders.said, logs, list(platform.server.told), rows, cells, list(platform.places), holders, fate.struck
    )


class Fate:
    """What befalls a platform, and its end: whatever is broken is made whole, and nothing breaks any more."""

    def __init__(self, platform: Platform, chance: random.Random) -> None:
        self._platform = platform
        self._chance = chance
        self._ends: list[asyncio.Task[None]] = []
        self.struck: list[str] = []

    async def strike(self) -> None:
        platform, chance = self._platform, self._chance
        platform.lake.failing = chance.choice([0, 0, 0.3])
        platform.snapshots.damaging = chance.choice([0, 0, 0.3])
        blows: list[Callable[[], Any]] = [
            self._crash_door, self._crash_host, self._crash_host, self._crash_server, self._cut_off, self._give_up,
            self._move, self._break_turn, self._turn_clock, self._set_clocks,
            *[self._hand_over] * (3 if platform.hands_over else 0),
        ]  # fmt: skip
        for _ in range(chance.randint(0, 6)):
            await asyncio.sleep(chance.uniform(0, 3))
            blow = chance.choice(blows)
            self.struck.append(f"{asyncio.get_running_loop().time():.2f} {blow.__name__.strip('_')}")
            blow()
        while pending := [end for end in self._ends if not end.done()]:  # some bring others
            await asyncio.gather(*pending)
        platform.network.calm()
        platform.lake.failing = platform.snapshots.damaging = 0.0

    def _later(self, most_s: float, then: Callable[[], None]) -> None:
        async def end() -> None:
            await asyncio.sleep(self._chance.uniform(0, most_s))
            then()

        self._ends.append(asyncio.ensure_future(end()))

    def _crash_door(self) -> None:
        if self._platform.doors:
            self._platform.crash_door(self._chance.choice(self._platform.doors))
            self._later(2, self._platform.start_door)

    def _crash_host(self) -> None:
        if self._platform.hosts:
            self._platform.crash_host(self._chance.choice(self._platform.hosts))
            self._later(2, self._platform.start_host)

    def _crash_server(self) -> None:
        if self._platform.server.is_up:
            self._platform.server.crash()
            self._later(3, self._platform.server.start)

    def _cut_off(self) -> None:
        nodes = [door.node for door in self._platform.doors] + [self._platform.node_of(host) for host in self._platform.hosts]
        if nodes:
            node = self._chance.choice(nodes)
            self._platform.network.cut(node)
            self._later(5, lambda: self._platform.network.join(node.name))

    def _give_up(self) -> None:
        """A host is believed dead and is not: for a while two hold its shards."""
        if self._platform.hosts:
            node = self._platform.give_up(self._chance.choice(self._platform.hosts))
            self._later(1, self._platform.start_host)
            self._later(6, node.die)

    def _move(self) -> None:
        self._ends.append(asyncio.ensure_future(self._platform.move(self._chance.choice(self._platform.shards))))

    def _hand_over(self) -> None:
        """A hospital goes to another shard while it sends."""
        hospital, shard = self._chance.choice(self._platform.shards), self._chance.choice(self._platform.shards)
        self._ends.append(asyncio.ensure_future(self._platform.hand_over(hospital, shard)))

    def _break_turn(self) -> None:
        """Once a run: a message that breaks two turns is poison, and rightly set aside."""
        if self._platform.hosts and "break_turn" not in "".join(self.struck[:-1]):
            self._platform.node_of(self._chance.choice(self._platform.hosts)).breaks_next_turn = True

    @property
    def _nodes(self) -> list[Node]:
        return [door.node for door in self._platform.doors] + [self._platform.node_of(host) for host in self._platform.hosts]

    def _set_clocks(self) -> None:
        """The machine's clock is far ahead for a while, then set back; a host may die while stream time catches up."""
        nodes, ahead_us = self._nodes, self._chance.choice([30_000_000, 120_000_000, 3_600_000_000])

        def turn(by_us: int) -> None:
            for node in nodes:
                node.clock_off_us += by_us

        turn(ahead_us)
        self._later(4, lambda: turn(-ahead_us))
        self._later(12, self._crash_host)

    def _turn_clock(self) -> None:
        nodes = self._nodes
        if nodes:
            self._chance.choice(nodes).clock_off_us += self._chance.choice([-2_000_000, 500_000, 4_000_000])
