"""The supervisor's rounds, with hosts that are plain objects."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

import pytest

from cluster import host_silence
from cluster import supervisor as supervision
from cluster.supervisor import Supervisor
from domain.errors import Conflict, NotFound, Unavailable
from domain.messages import HostHeartbeat, ShardHeld, encode
from runtime.lake_schema import LakeView
from runtime.process_look import ProcessLook
from tests.waiting import until


@dataclass
class FakeHost:
    name: str
    world: World
    pid: int = 1
    alive: bool = True
    shards: dict[int, int] = field(default_factory=dict)
    hangs: bool = False
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    stops: int = 0

    async def acquire(self, shard: int, epoch: int) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.name in self.world.refusing:
            raise OSError("this host cannot restore")
        assert epoch > self.world.epochs.get(shard, 0), "an epoch is granted once"
        self.world.epochs[shard] = epoch
        self.shards[shard] = epoch

    async def release(self, shard: int) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        self.shards.pop(shard)
        self.world.releases += 1

    async def metrics(self):
        return {}

    async def stop(self) -> None:
        self.shards.clear()
        self.stops += 1

    async def ended(self) -> None:
        await self.gone.wait()

    async def pulse(self) -> HostHeartbeat:
        return await asyncio.Future()

    def is_alive(self) -> bool:
        return self.alive

    def look(self) -> ProcessLook | None:
        return ProcessLook(is_stopped=True, pending=frozenset(), wanted_s={}) if self.alive else None

    def kill(self) -> None:
        self.alive = False


class World:
    """Bus, lake and machine in one: what the supervisor touches."""

    def __init__(self) -> None:
        self.hosts: dict[str, FakeHost] = {}
        self.epochs: dict[int, int] = {}
        self.refusing: set[str] = set()
        self.unstartable = 0  # launches that will fail
        self.releases = 0
        self.listener = None

    async def core_subscribe(self, _subject, callback) -> None:
        self.listener = callback

    def positions(self) -> LakeView:
        return LakeView(0, {}, dict(self.epochs))

    async def launch(self, name: str) -> FakeHost:
        if self.unstartable:
            self.unstartable -= 1
            raise OSError("no host can start")
        self.hosts[name] = FakeHost(name, self)
        return self.hosts[name]

    def beat(self, name: str, *, at_us: int = 0, loop_us: int = 0, lag: int = 0) -> None:
        held = [ShardHeld(s, e, 0, 0, lag, 0, 1, 1) for s, e in self.hosts[name].shards.items()]
        self.listener(encode(HostHeartbeat(name, 1, at_us, loop_us, held)), "")


@pytest.fixture
async def world():
    return World()


async def supervise(world: World, *, hosts: int = 2, timeout_s: float = 60.0, dedicated: Collection[int] = ()) -> Supervisor:
    supervisor = Supervisor(
        bus=world, lake=world, shards=16, host_count=hosts, heartbeat_timeout_s=timeout_s, launch=world.launch,
        dedicated=dedicated,
    )  # fmt: skip
    await supervisor.start()
    return supervisor


def holders(world: World) -> Counter[int]:
    return Counter(shard for host in world.hosts.values() if host.alive for shard in host.shards)


async def test_every_shard_is_held_once_after_the_start(world: World) -> None:
    supervisor = await supervise(world)
    assert holders(world) == dict.fromkeys(range(16), 1)
    await supervisor.stop()


async def test_a_dead_host_is_replaced_and_its_shards_are_held_again_under_higher_epochs(world: World) -> None:
    supervisor = await supervise(world)
    lost = set(world.hosts["host-1"].shards)
    world.hosts["host-1"].alive = False
    await supervisor.reconcile()
    await until(lambda: holders(world) == dict.fromkeys(range(16), 1))
    assert {world.epochs[shard] for shard in lost} >= {2}
    assert min(world.epochs[shard] for shard in lost) == 2, "some move a second time when the replacement joins"
    await until(lambda: "host-3" in world.hosts)
    await until(lambda: len(world.hosts["host-3"].shards) >= 4)
    await until(lambda: holders(world) == dict.fromkeys(range(16), 1))
    assert supervisor.restarts == 1
    await supervisor.stop()


async def test_a_silent_host_is_ended_though_its_process_lives(world: World) -> None:
    supervisor = await supervise(world, timeout_s=0.05)
    await until(lambda: (world.beat("host-2") if "host-2" in world.hosts else None) or not world.hosts["host-1"].alive)
    assert not world.hosts["host-1"].alive
    await supervisor.stop()


async def test_a_host_stuck_in_its_loop_is_ended_although_its_heart_beats(world: World) -> None:
    supervisor = await supervise(world)
    world.beat("host-1", at_us=100_000_000, loop_us=1, lag=5)
    await supervisor.reconcile()
    assert not world.hosts["host-1"].alive
    await supervisor.stop()


async def test_a_shard_that_could_not_be_granted_is_granted_elsewhere_in_time(world: World) -> None:
    world.refusing = {"host-1"}
    supervisor = await supervise(world)
    assert len(holders(world)) == 8
    world.refusing = set()
    await until(lambda: len(holders(world)) == 16)
    await supervisor.stop()


async def test_stop_stops_every_host(world: World) -> None:
    supervisor = await supervise(world)
    await supervisor.stop()
    assert not any(host.alive for host in world.hosts.values())


async def test_a_host_that_cannot_be_started_is_tried_again(world: World, monkeypatch) -> None:
    """Found by killing the raylet: a launch that failed was never tried again, and the last host was the end."""
    monkeypatch.setattr("cluster.supervisor._LAUNCH_AGAIN_S", 0.0)
    supervisor = await supervise(world)
    world.unstartable = 2
    world.hosts["host-1"].alive = False
    await supervisor.reconcile()
    await until(lambda: "host-5" in world.hosts)
    assert world.unstartable == 0
    await supervisor.stop()


async def test_a_death_is_noticed_before_the_next_round(world: World, monkeypatch) -> None:
    monkeypatch.setattr("cluster.supervisor._ROUND_S", 60.0)
    supervisor = await supervise(world)
    world.hosts["host-1"].gone.set()
    await until(lambda: not world.hosts["host-1"].alive and holders(world) == dict.fromkeys(range(16), 1))
    await supervisor.stop()


async def test_a_host_that_joins_takes_as_many_shards_as_make_the_hosts_even(world: World) -> None:
    supervisor = await supervise(world)
    assert await supervisor.add() == "host-3"
    await until(lambda: sorted(len(host.shards) for host in world.hosts.values()) == [5, 5, 6])
    assert world.releases == 5
    assert holders(world) == dict.fromkeys(range(16), 1)
    await supervisor.stop()


async def test_a_drained_host_gives_all_away_in_good_order_and_gets_it_back_when_it_resumes(world: World) -> None:
    supervisor = await supervise(world)
    supervisor.drain("host-1")
    await until(lambda: len(world.hosts["host-2"].shards) == 16)
    assert world.releases == 8
    assert world.hosts["host-1"].alive
    with pytest.raises(Conflict, match="last that works"):
        supervisor.drain("host-2")
    supervisor.resume("host-1")
    await until(lambda: len(world.hosts["host-1"].shards) == 8)
    await supervisor.stop()


async def test_a_host_that_leaves_is_stopped_when_it_holds_nothing_and_not_replaced(world: World) -> None:
    supervisor = await supervise(world, hosts=3)
    supervisor.remove("host-2")
    supervisor.remove("host-2")  # once more changes nothing
    await until(lambda: not world.hosts["host-2"].alive)
    assert world.hosts["host-2"].stops == 1
    assert holders(world) == dict.fromkeys(range(16), 1)
    assert [host.name for host in supervisor.view().hosts] == ["host-1", "host-3"]
    assert supervisor.view().wanted == 2
    assert supervisor.restarts == 0
    with pytest.raises(NotFound):
        supervisor.remove("host-2")
    await supervisor.stop()


async def test_a_host_that_hangs_while_it_gives_a_shard_away_holds_up_nobody(world: World) -> None:
    """Found by reading: a round that waited for a stopped host noticed nothing more, not even that it was stopped."""
    supervisor = await supervise(world)
    world.hosts["host-1"].hangs = True
    supervisor.remove("host-1")
    await until(lambda: supervisor.view().moving)
    world.hosts["host-1"].gone.set()
    await until(lambda: len(world.hosts["host-2"].shards) == 16)
    assert holders(world) == dict.fromkeys(range(16), 1)
    await supervisor.stop()


async def test_a_host_that_does_not_start_is_told_and_not_wanted_any_more(world: World) -> None:
    supervisor = await supervise(world)
    world.unstartable = 1
    with pytest.raises(Unavailable, match="could not be started"):
        await supervisor.add()
    assert supervisor.view().wanted == 2
    await supervisor.stop()


def alone(world: World, shard: int) -> bool:
    return any(set(host.shards) == {shard} for host in world.hosts.values() if host.alive)


async def test_a_shard_that_is_dedicated_gets_a_host_more_with_nothing_else_on_it(world: World) -> None:
    supervisor = await supervise(world)
    supervisor.dedicate({5})
    await until(lambda: alone(world, 5))
    assert (supervisor.view().wanted, supervisor.view().dedicated) == (3, [5])
    assert world.releases == 1, "nothing else moves"
    await until(lambda: holders(world) == dict.fromkeys(range(16), 1))
    supervisor.dedicate({5, 6})
    await until(lambda: alone(world, 6))
    assert alone(world, 5)
    await supervisor.stop()


async def test_at_a_start_dedicated_shards_have_their_hosts(world: World) -> None:
    supervisor = await supervise(world, dedicated={3, 9})
    assert alone(world, 3)
    assert alone(world, 9)
    assert len(world.hosts) == 4
    assert holders(world) == dict.fromkeys(range(16), 1)
    await supervisor.stop()


async def test_a_host_is_let_go_when_its_shard_is_dedicated_no_more(world: World) -> None:
    supervisor = await supervise(world, dedicated={5})
    (owner,) = (name for name, host in world.hosts.items() if set(host.shards) == {5})
    supervisor.dedicate(set())
    await until(lambda: not world.hosts[owner].alive)
    assert world.hosts[owner].stops == 1
    assert world.releases == 1
    assert supervisor.view().wanted == 2
    assert supervisor.restarts == 0
    await until(lambda: holders(world) == dict.fromkeys(range(16), 1))
    await supervisor.stop()


async def test_a_dedicated_host_that_dies_is_replaced_and_the_others_keep_what_they_have(world: World) -> None:
    supervisor = await supervise(world, dedicated={5})
    (owner,) = (name for name, host in world.hosts.items() if set(host.shards) == {5})
    world.hosts[owner].gone.set()
    await until(lambda: "host-4" in world.hosts and set(world.hosts["host-4"].shards) == {5})
    assert holders(world) == dict.fromkeys(range(16), 1)
    assert world.releases <= 1, "of the shard itself, from where it was held meanwhile"
    await supervisor.stop()


async def test_hosts_that_join_beside_dedicated_ones_are_for_the_others(world: World) -> None:
    supervisor = await supervise(world, dedicated={5})
    await supervisor.add()
    await until(lambda: sorted(len(host.shards) for host in world.hosts.values()) == [1, 5, 5, 5])
    assert alone(world, 5)
    for name in ("host-1", "host-2"):
        supervisor.remove(name)
    await until(lambda: sorted(len(host.shards) for host in world.hosts.values() if host.alive) == [1, 15])
    await until(lambda: alone(world, 5))
    with pytest.raises(Conflict, match="wanted beside the dedicated ones"):
        supervisor.remove("host-3" if "host-3" in supervisor.host_pids else "host-4")
    await supervisor.stop()


async def test_hosts_are_not_silent_while_the_supervisor_itself_stands_still(world: World, monkeypatch) -> None:
    """Found in fault runs that stop `vitalgrid up` for some seconds: it buried every host when it went on."""
    loop, ahead_s = asyncio.get_running_loop(), [0.0]
    monkeypatch.setattr(supervision, "_monotonic", lambda: loop.time() + ahead_s[0])
    monkeypatch.setattr(host_silence, "_now_s", lambda: loop.time() + ahead_s[0])
    rounds = 0

    def count_round() -> None:
        nonlocal rounds
        rounds += 1

    supervisor = await supervise(world, timeout_s=5.0)
    monkeypatch.setattr(supervisor, "_let_go", count_round)  # once a round, behind the look at who is lost
    await until(lambda: rounds >= 1)
    ahead_s[0] += 8.0
    await until(lambda: rounds >= 3)
    assert supervisor.restarts == 0
    for name in list(world.hosts):  # and they are given no more than that
        world.beat(name)
    for _ in range(12):
        done = rounds
        ahead_s[0] += 0.8
        world.beat("host-2")
        await until(lambda: rounds > done)  # noqa: B023
    assert (world.hosts["host-1"].alive, world.hosts["host-2"].alive) == (False, True)
    await supervisor.stop()
