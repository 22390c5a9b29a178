"""The platform of a simulation: real doors' Intakes and real hosts on nodes that crash, and who starts them again."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import numpy as np

from actors.host import Host, HostPolicy
from actors.shard import Effects, ShardCell
from actors.shard_runner import ShardRunner
from domain.errors import Unavailable
from domain.messages import Control, HandOver, HandOverStep, encode
from domain.ports import Sender
from domain.readings import ReadingBatch
from domain.thing_models import Lane
from runtime.intake import StreamIntake
from runtime.intake_lanes import IntakeLimits
from tests.simulation.memory_bus import MemoryBus, StreamServer
from tests.simulation.memory_lake import MemoryLake, MemorySnapshots
from tests.simulation.network import Network, Weather
from tests.simulation.virtual_time import NODE, Node

POLICY = HostPolicy(flush_interval_s=1.5, snapshot_interval_s=3.0, progress_interval_s=1.0)
LIMITS = IntakeLimits(ack_timeout_s=4.0, max_pending_readings=60)
SHARD_HANDLES = 100  # handles from 100 on are of hospital 0, from 200 on of hospital 1; each begins in the shard of its number
_PATIENCE_S = 6.0  # after which a sender gives up on a door that does not answer
_ROUND_S = 0.25
_LOOK_UP_S = 1.0
_SETTLE_S = 8.0  # longer than a door may be cut off, and believe what it knew before
T = TypeVar("T")


class FragileCell(ShardCell):
    """A cell whose turn breaks half way when its node says so."""

    def step(self, readings: ReadingBatch, arrival_us: Any) -> Effects:
        effects = super().step(readings, arrival_us)
        node = NODE.get(None)
        if node is not None and getattr(node, "breaks_next_turn", False):
            node.breaks_next_turn = False
            raise RuntimeError("a turn that breaks when everything is half done")
        return effects


class HandleIdentities:
    """Everybody speaks for everybody whose handle is of a hospital. `places`: where each hospital is, as the door knows."""

    def __init__(self, places: list[int]) -> None:
        self.places = list(places)

    def place_of(self, hospital_id: str, _shard: int) -> int:
        return self.places[int(hospital_id[-1])]

    async def identify(self, token: str) -> Sender:
        raise Unavailable("nobody logs in")

    async def shards_of(self, sender: Sender, handles: Any) -> Any:
        await asyncio.sleep(0)
        return np.array(self.places, np.int16)[handles.astype(np.int64) // SHARD_HANDLES - 1]

    def lane_of(self, handles: Any) -> Lane:
        return Lane.BULK if handles[0] % 2 else Lane.PRIORITY


class Door:
    """One start of a door: an Intake of its own."""

    def __init__(self, node: Node, bus: MemoryBus, source: int, places: list[int]) -> None:
        self.node = node
        self.identities = HandleIdentities(places)
        self.intake = StreamIntake(bus, self.identities, node, source=source, limits=LIMITS)
        self.intake._boot = node.name  # else from the operating system, and another one in each run

    async def ask(self, question: Callable[[StreamIntake], Awaitable[T]]) -> T:
        """What the Intake answers. Raises Unavailable too when the door dies or lets one wait too long."""

        async def put() -> T:
            return await question(self.intake)

        answer: asyncio.Task[T] = self.node.run(put())
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())
        gone = asyncio.ensure_future(self.node.died.wait())
        await asyncio.wait({answer, gone}, timeout=_PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if not answer.done() or answer.cancelled():
            raise Unavailable("the door is gone, or does not answer")
        return answer.result()


class Platform:
    """Doors, hosts and their supervisor; `crash_*` and `start_*` by whoever plays fate."""

    def __init__(self, seed: str, shards: int, chance: random.Random) -> None:
        self.seed = seed
        self.chance = chance
        self.shards = range(shards)
        self.hands_over = shards > 1 and chance.random() < 0.7  # then senders speak for their own hospital only, as in life
        self.places = list(self.shards)  # the shard of each hospital, as the business database says
        self.outbox = asyncio.Lock()  # what the database tells leaves in its order
        self.hand_overs = 0
        self.handing = 0  # hand-overs that are not settled
        self.network = Network(Weather.of(chance), random.Random(f"{seed}/network"))
        self.server = StreamServer(random.Random(f"{seed}/server"))
        self.lake = MemoryLake(random.Random(f"{seed}/lake"))
        self.snapshots = MemorySnapshots(random.Random(f"{seed}/snapshots"))
        self.doors: list[Door] = []
        self.hosts: list[Host] = []
        self._node_of: dict[Host, Node] = {}
        self._holder: dict[int, Host] = {}
        self._grants: dict[int, asyncio.Task[Any]] = {}
        self._started = 0
        self._told = 0
        self.turns_break = 0

    # -- life and death

    def bus(self, node: Node) -> MemoryBus:
        return MemoryBus(self.server, self.network, node)

    def start_door(self) -> None:
        node = self._node("door")
        door = Door(node, self.bus(node), self._started, self.places)
        self.doors.append(door)
        node.run(self._look_up(door))

    def start_host(self) -> None:
        node = self._node("host")
        host = node.call(lambda: Host(
            node.name, bus=self.bus(node), lake=self.lake, snapshots=self.snapshots, clock=node, policy=POLICY, pid=1,
        ))  # fmt: skip
        self._node_of[host] = node
        node.run(host.start())
        self.hosts.append(host)

    def crash_door(self, door: Door) -> None:
        self.doors.remove(door)
        self._kill(door.node)

    def give_up(self, host: Host) -> Node:
        """The host counts as lost: its shards go to others, while it may go on for a while."""
        self.hosts.remove(host)
        self._holder = {shard: holder for shard, holder in self._holder.items() if holder is not host}
        return self._node_of[host]

    def crash_host(self, host: Host) -> None:
        self._kill(self.give_up(host))

    def _kill(self, node: Node) -> None:
        node.die()
        self.network.join(node.name)

    def _node(self, kind: str) -> Node:
        self._started += 1
        node = Node(f"{kind}-{self._started}", self.seed)
        node.clock_off_us = self.chance.choice([0, 0, 300_000, -700_000])
        return node

    def node_of(self, host: Host) -> Node:
        return self._node_of[host]

    # -- supervision

    async def supervise(self) -> None:
        """Whatever nobody holds is granted to some host, under the next epoch; moves by hand-over as `move` asks."""
        while True:
            for shard in self.shards:
                grant = self._grants.get(shard)
                if grant is not None and not grant.done():
                    continue
                if shard not in self._holder or shard not in self._holder[shard]._runners:
                    self._holder.pop(shard, None)
                    self._grant(shard)
            await asyncio.sleep(_ROUND_S)

    def _grant(self, shard: int) -> None:
        if self.hosts:
            host = self.chance.choice(self.hosts)
            self._grants[shard] = self._node_of[host].run(self._acquire(host, shard))
            self._grants[shard].add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _acquire(self, host: Host, shard: int) -> None:
        if shard in host._runners:
            await host.release(shard)
        await host.acquire(shard, self.lake.positions().epochs.get(shard, 0) + 1)
        if host in self.hosts:
            self._holder[shard] = host

    async def move(self, shard: int) -> None:
        """Give a shard back in good order; it is granted again in the next round."""
        host = self._holder.get(shard)
        if host is not None and self._grants[shard].done():
            del self._holder[shard]
            self._grants[shard] = self._node_of[host].run(host.release(shard))
            self._grants[shard].add_done_callback(lambda done: done.cancelled() or done.exception())

    # -- hospitals

    async def hand_over(self, hospital: int, to_shard: int) -> None:
        """As `runtime.sql.hand_overs`: tell both shards, then let doors know; settle when every door must have looked."""
        if self.handing or self.places[hospital] == to_shard:
            return
        self.handing += 1
        self.hand_overs += 1
        number, source = self.hand_overs, self.places[hospital]
        async with self.outbox:
            await self.tell(to_shard, hospital, HandOver(f"sz.h00{hospital}", number, HandOverStep.PREPARE, source, to_shard))
            await self.tell(source, hospital, HandOver(f"sz.h00{hospital}", number, HandOverStep.CUT, source, to_shard))
            self.places[hospital] = to_shard
        await asyncio.sleep(_SETTLE_S)
        async with self.outbox:
            await self.tell(source, hospital, HandOver(f"sz.h00{hospital}", number, HandOverStep.SETTLE, source, to_shard))
        self.handing -= 1

    async def tell(self, shard: int, hospital: int, message: Control) -> None:
        """As the outbox relay: until the stream has it."""
        self._told += 1
        node, message_id = Node(f"relay-{hospital}-{self._told}", self.seed), f"outbox-{self._told}"
        while True:
            try:
                await node.run(self.bus(node).publish(f"control.{shard}", encode(message), message_id))
                return
            except Unavailable:
                await asyncio.sleep(0.2)

    async def _look_up(self, door: Door) -> None:
        """A door looks now and then where hospitals are."""
        while True:
            await asyncio.sleep(_LOOK_UP_S)
            if not self.network.is_cut(door.node):
                door.identities.places = list(self.places)

    # -- the end

    def unrest(self) -> list[str]:
        """What keeps each shard from rest: held, all of its stream seen, and all that came of it in lake and alarms."""
        handing = ["a hospital is on its way"] if self.handing else []
        return handing + [f"shard {shard} {why}" for shard in self.shards if (why := self._unrest_of(shard))]

    def _unrest_of(self, shard: int) -> str:
        host = self._holder.get(shard)
        runner = None if host is None else host._runners.get(shard)
        if host is None or runner is None:
            return "is held by nobody"
        epoch, wanted = self.lake.positions().epochs[shard], {f"reading.{shard}", f"control.{shard}"}
        last = max((m.sequence for m in self.server.logs["READINGS"] if m.subject in wanted), default=0)
        if runner.epoch != epoch or runner.followed != [f"reading.{shard}", f"control.{shard}"]:
            return f"is held by {host.name} under epoch {runner.epoch} of {epoch}, and follows {runner.followed}"
        if runner.applied < last:
            return f"is at {runner.applied} of {last}, with {len(runner.inbox)} messages in its inbox"
        if runner.segment or host._committing.locked():
            return f"has {runner.segment_rows} rows that are not committed"
        if host._announcer.kept < host._announcer.told:
            return f"has told {host._announcer.told} alarms and rejects, of which {host._announcer.kept} are kept"
        return ""

    def holders(self) -> list[tuple[int, str, int]]:
        """(shard, host, how many followers it has) of every host that lives and holds the shard."""
        followers = Counter(
            (shard, follower.node.name) for follower in self.server.followers() for shard in self.shards
            if f"reading.{shard}" in follower.wanted and not follower.node.is_dead
        )  # fmt: skip
        held = {(shard, host.name) for host in self.hosts for shard in host._runners}
        return sorted((*of, followers[of]) for of in held | followers.keys())

    def has_two_holders(self) -> bool:
        """Whether some shard is held or followed more than once."""
        return [(shard, followers) for shard, _, followers in self.holders()] != [(shard, 1) for shard in self.shards]

    def runners(self) -> dict[int, ShardRunner]:
        return {shard: self._holder[shard]._runners[shard] for shard in self.shards}
