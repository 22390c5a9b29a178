"""The trail of accesses: none is answered unnoted, none is lost or doubled on its way to the access log."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from domain.errors import AuditUnavailable, StorageFull, Unavailable
from domain.log_entries import read_record
from domain.messages import LogState
from runtime import access_trail
from runtime.access_journal import AccessJournal, NewAccess
from runtime.access_trail import FIRST_WORD_S, AccessTrail
from runtime.clock import ManualClock
from runtime.tasks import end
from tests.waiting import until


class Stream:
    """Takes messages; `is_away` while it does not. As a stream does it keeps each id once."""

    def __init__(self):
        self.taken = {}
        self.is_away = False

    async def publish_all(self, messages):
        for at, (_subject, payload, message_id) in enumerate(messages):
            if self.is_away and at >= len(messages) // 2:
                raise Unavailable("the stream is away")
            self.taken.setdefault(message_id, payload)


class Counting:
    """A journal that counts how often it goes to disk, and can be full."""

    def __init__(self, journal):
        self._journal = journal
        self.adds = 0
        self.is_full = False

    def add(self, accesses):
        self.adds += 1
        if self.is_full:
            raise StorageFull("no room")
        self._journal.add(accesses)

    def __getattr__(self, name):
        return getattr(self._journal, name)


def access(number, at_us=0):
    return NewAccess(f"a-{number}", at_us, b'{"n": %d}' % number)


@pytest.fixture
def patience_with_the_log() -> None:
    """It is waited for, as in a platform."""


@pytest.fixture
def journal(tmp_path):
    opened = AccessJournal.open(tmp_path / "api.db")
    yield Counting(opened)
    opened.close()


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def said():
    return []


@pytest.fixture
def stream():
    return Stream()


@pytest.fixture
def trail(journal, stream, clock, said):
    return AccessTrail(journal, stream, lambda: said[-1] if said else None, lambda: clock.now_us() / 1e6)


@pytest.mark.clause("9.3e")
async def test_an_access_is_on_disk_before_it_is_answered(trail, journal):
    await trail.note(access(1))
    assert [item.id for item in journal.waiting(9)] == ["a-1"]


@pytest.mark.clause("9.3e")
async def test_an_access_is_noted_while_other_work_has_all_threads(trail, journal):
    loop, is_over = asyncio.get_running_loop(), threading.Event()
    loop.set_default_executor(ThreadPoolExecutor(1))
    others = loop.run_in_executor(None, is_over.wait)
    try:
        async with asyncio.timeout(5):
            await trail.note(access(1))
            assert await trail.carry() == 1
    finally:
        is_over.set()
        await others


async def test_accesses_that_come_together_share_the_way_to_disk(trail, journal):
    await asyncio.gather(*(trail.note(access(number)) for number in range(200)))
    assert journal.count() == 200
    assert journal.adds <= 3


@pytest.mark.clause("9.3e")
async def test_each_reaches_the_stream_once_and_in_order_also_when_that_fails_in_the_midst(trail, journal, stream):
    for number in range(10):
        await trail.note(access(number))
    stream.is_away = True
    with pytest.raises(Unavailable):
        await trail.carry()
    assert journal.count() == 10
    stream.is_away = False
    assert await trail.carry() == 10
    assert journal.count() == 0
    records = [read_record(payload, 1, 1) for payload in stream.taken.values()]
    assert [record.id for record in records] == [f"a-{number}" for number in range(10)]
    assert [bytes(record.event) for record in records] == [b'{"n": %d}' % number for number in range(10)]


@pytest.mark.clause("9.3e")
async def test_what_cannot_be_noted_is_not_shown(trail, journal):
    journal.is_full = True
    with pytest.raises(AuditUnavailable, match="no room"):
        await trail.note(access(1))


@pytest.mark.clause("9.3e")
async def test_in_an_emergency_it_waits_in_memory_and_is_noted_when_there_is_room(trail, journal, stream):
    journal.is_full = True
    await trail.note(access(1), is_emergency=True)
    assert trail.held == 1
    assert "in memory" in trail.why_closed()
    journal.is_full = False
    carrying = asyncio.create_task(trail.run())
    try:
        await until(lambda: "a-1" in stream.taken)
    finally:
        await end(carrying)
    assert (trail.held, trail.why_closed()) == (0, None)


@pytest.mark.clause("6.1b", "9.3e")
@pytest.mark.parametrize("bound", ["MOST_HELD", "MOST_HELD_BYTES"])
async def test_what_memory_cannot_hold_either_is_counted_and_the_log_is_told(trail, journal, stream, monkeypatch, bound):
    monkeypatch.setattr(access_trail, bound, 3 if bound == "MOST_HELD" else 3 * len(access(1).event))
    journal.is_full = True
    for number in range(8):
        await trail.note(access(number, at_us=number), is_emergency=True)
    assert trail.held == 3
    with pytest.raises(StorageFull):
        await trail.carry()
    journal.is_full = False
    assert await trail.carry() == 4
    events = [msgspec.json.decode(read_record(payload, 1, 1).event) for payload in stream.taken.values()]
    assert events == [{"n": 0}, {"n": 1}, {"n": 2}, {"kind": "forgotten", "count": 5, "first_us": 3, "last_us": 7}]
    journal.is_full = True
    await trail.note(access(9), is_emergency=True)
    assert trail.held == 1  # there is room again


@pytest.mark.clause("9.3e")
async def test_the_door_closes_while_accesses_do_not_get_through_and_opens_again(trail, stream, clock):
    stream.is_away = True
    await trail.note(access(1))
    with pytest.raises(Unavailable):
        await trail.carry()
    assert trail.why_closed() is None
    clock.advance(11)
    assert "11 s" in trail.why_closed()
    stream.is_away = False
    await trail.carry()
    assert trail.why_closed() is None


async def test_the_door_closes_while_the_log_says_that_it_does_not_grow(trail, said):
    assert trail.why_closed() is None
    said.append(LogState(0, 5, 0, "tile/0/000 is damaged"))
    assert trail.why_closed() == "the access log does not grow: tile/0/000 is damaged"
    said.append(LogState(0, 5, 0))
    assert trail.why_closed() is None


@pytest.mark.clause("9.3e")
async def test_the_door_closes_while_the_log_is_not_heard_of(trail, clock, said):
    assert trail.why_closed() is None  # nobody carries yet: nothing has to be heard
    carrying = asyncio.create_task(trail.run())
    await asyncio.sleep(0)
    clock.advance(seconds=FIRST_WORD_S)
    assert trail.why_closed() is None  # it begins
    clock.advance(seconds=1)
    assert "is not heard of" in trail.why_closed()
    said.append(LogState(0, 3, 0))
    assert trail.why_closed() is None
    said.append(None)
    assert "is not heard of" in trail.why_closed()
    await end(carrying)


async def test_who_gives_up_waiting_holds_nobody_up(trail, journal):
    given_up = asyncio.create_task(trail.note(access(1)))
    await asyncio.sleep(0)
    other = asyncio.create_task(trail.note(access(2)))
    given_up.cancel()
    await other
    assert {item.id for item in journal.waiting(9)} == {"a-1", "a-2"}


@pytest.mark.clause("9.3e")
async def test_an_access_that_the_bus_would_never_take_holds_up_none_and_is_not_forgotten(trail, journal, stream):
    await trail.note(NewAccess("a-large", 1, b'"%s"' % (b"x" * 9 * 2**20)), access(2))
    assert await trail.carry() == 2
    assert journal.count() == 0
    assert max(map(len, stream.taken.values())) < 2**20
    left = msgspec.json.decode(read_record(stream.taken["a-large"], 1, 1).event)
    assert (left["kind"], left["id"], left["bytes"]) == ("oversize", "a-large", 9 * 2**20 + 2)
