"""What is made of a host's silence, with a host that is a plain object."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from cluster import host_silence
from cluster.host_handle import WatchedHost
from cluster.host_silence import HostSilence
from domain.messages import HostHeartbeat, ShardHeld
from runtime.process_look import ProcessLook
from tests.waiting import until

TIMEOUT_S = 0.05
IDLE = ProcessLook(is_stopped=False, pending=frozenset(), wanted_s={1: 0.0})
STOPPED = ProcessLook(is_stopped=True, pending=frozenset(), wanted_s={1: 0.0})


def beat(applied: int = 1, *, full_since_us: int = 0) -> HostHeartbeat:
    return HostHeartbeat("host-1", 1, 0, 0, [ShardHeld(0, 1, applied, 0, 0, 0, 1, 1)], full_since_us)


@dataclass
class Host:
    """`pulses`: what it answers, the last one again and again; without any it does not answer."""

    name: str = "host-1"
    pid: int = 1
    pulses: list[HostHeartbeat] = field(default_factory=list)
    looks: list[ProcessLook | None] = field(default_factory=lambda: [IDLE])
    alive: bool = True

    async def pulse(self) -> HostHeartbeat:
        if not self.pulses:
            await asyncio.Event().wait()
        return self.pulses.pop(0) if len(self.pulses) > 1 else self.pulses[0]

    def look(self) -> ProcessLook | None:
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def is_alive(self) -> bool:
        return self.alive


@dataclass
class OneBus:
    answers: bool = True
    asked: int = 0

    async def is_answering(self, _within_s: float) -> bool:
        self.asked += 1
        return self.answers


class Watch:
    """One silent host and what its silence is taken for, look by look."""

    def __init__(self, host: Host, bus: OneBus | None = None) -> None:
        now_s = asyncio.get_running_loop().time()
        self.began_s = now_s
        self.host = WatchedHost(host, now_s, asyncio.create_task(asyncio.Event().wait()), heartbeat=beat())  # type: ignore[arg-type]
        self.bus = bus or OneBus()
        self.silence = HostSilence(self.bus, TIMEOUT_S)  # type: ignore[arg-type]
        self.why = ""
        self.looks = 0

    def look(self) -> str:
        self.looks += self.host.inquiry is not None and self.host.inquiry.done()
        self.why = self.why or self.silence.why_lost(self.host)
        return self.why

    async def lost(self) -> str:
        await until(self.look)
        return self.why

    async def waits(self, looks: int = 5) -> None:
        """It is looked into so often, and not lost."""
        await until(lambda: self.look() or self.looks >= looks)
        assert self.why == ""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"_PULSE_S": 0.01, "_CUT_S": 0.1}.items():
        monkeypatch.setattr(host_silence, name, seconds)


@dataclass
class Wanting(Host):
    """One that does not answer: a thread of it is pending, or has wanted a share of the processor at all times."""

    pending: frozenset[int] = frozenset()
    share: float = 0.0

    def look(self) -> ProcessLook | None:
        return ProcessLook(False, self.pending, {1: self.share * asyncio.get_running_loop().time()})


async def test_one_that_is_heard_is_not_asked() -> None:
    watch = Watch(Host(alive=True))
    watch.host.seen_s += 3600
    assert watch.look() == ""
    assert watch.host.inquiry is None


async def test_one_whose_process_has_ended_is_lost_at_once() -> None:
    assert Watch(Host(alive=False)).look() == "its process has ended"
    watch = Watch(Host())
    watch.host.watch.cancel()
    await until(watch.host.watch.done)
    assert watch.look() == "its process has ended"


async def test_one_that_is_stopped_is_lost_without_being_asked() -> None:
    assert "stopped" in await Watch(Host(pulses=[beat(9)], looks=[STOPPED])).lost()


async def test_one_that_answers_and_goes_on_is_kept_by_its_answers() -> None:
    watch = Watch(Host(pulses=[beat(number) for number in range(2, 500)]))
    await until(lambda: watch.look() or watch.host.heartbeat.shards[0].applied >= 5)
    assert watch.why == ""
    assert watch.bus.asked == 0


async def test_one_that_stands_still_for_want_of_room_in_the_lake_is_kept() -> None:
    await Watch(Host(pulses=[beat(full_since_us=1)])).waits()


async def test_while_the_bus_is_away_nobody_is_lost_and_then_there_is_time_to_reconnect() -> None:
    bus = OneBus(answers=False)
    watch = Watch(Host(pulses=[beat()]), bus)
    await watch.waits(20)
    bus.answers = True
    await watch.waits(watch.looks + 2)
    assert watch.host.cut_since_s is not None
    watch.host.hear(beat(2), watch.host.seen_s)
    assert watch.host.cut_since_s is None


async def test_one_that_is_cut_from_a_bus_that_answers_is_lost_after_a_while() -> None:
    watch = Watch(Host(pulses=[beat()]))
    assert "cut" in await watch.lost()
    assert asyncio.get_running_loop().time() - watch.began_s >= TIMEOUT_S + 0.1


async def test_one_that_hangs_is_lost() -> None:
    assert "hangs" in await Watch(Host()).lost()


@pytest.mark.parametrize("host", [Wanting(share=0.9), Wanting(pending=frozenset([1]))], ids=["works", "waits for the machine"])
async def test_one_that_wants_the_machine_is_waited_for_but_not_for_ever(host: Host) -> None:
    watch = Watch(host)
    assert "though it wants the processor" in await watch.lost()
    assert asyncio.get_running_loop().time() - watch.began_s >= 6 * TIMEOUT_S


async def test_one_that_ends_while_it_is_asked_is_lost() -> None:
    assert "ended" in await Watch(Host(looks=[IDLE, None])).lost()


async def test_what_was_found_of_a_silence_that_is_over_says_nothing_of_the_next() -> None:
    host = Host(looks=[STOPPED])
    watch = Watch(host)
    watch.host.seen_s -= 1
    assert watch.look() == ""
    assert watch.host.inquiry is not None
    assert "stopped" in await watch.host.inquiry
    watch.host.hear(beat(2), asyncio.get_running_loop().time())
    assert watch.look() == ""
    host.looks, host.pulses = [IDLE], [beat(3), beat(4), beat(5)]
    await until(lambda: watch.look() or watch.host.heartbeat.shards[0].applied >= 4)
    assert watch.why == ""


async def test_one_whose_loop_is_stuck_is_lost_though_its_heart_beats() -> None:
    watch = Watch(Host())
    watch.host.seen_s += 3600
    held = [ShardHeld(0, 1, 1, 0, 5, 0, 1, 1)]
    watch.host.heartbeat = HostHeartbeat("host-1", 1, 100_000_000, 1, held)
    assert "loop" in watch.look()
