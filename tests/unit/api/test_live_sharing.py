"""What many clients of a live stream share: one rendering of what they want alike, one heartbeat, a look-up by subject."""

from __future__ import annotations

import itertools

import numpy as np

from api.live.feed import _BEAT_SLICES, _Clients
from api.live.readings import PreparedFrame, Wanted, WantedPool
from api.live.subscription import Subscription, sse
from domain.readings import ReadingBatch

NOW_US = 1_795_420_800_000_000


def client(*subjects: str) -> Subscription:
    return Subscription(frozenset(subjects) or None, lambda prepared: sse("x", prepared), lambda: b"")


def frame(*handles: int) -> PreparedFrame:
    batch = ReadingBatch.of(handle=list(handles), metric=np.arange(len(handles)) % 2 + 1, time_us=NOW_US, value=72.0)
    return PreparedFrame(0, 1, NOW_US, batch)


def test_clients_are_found_by_the_subjects_they_want() -> None:
    clients = _Clients()
    one, both, every, nothing = client("a"), client("a", "b"), client(), Subscription(frozenset(), lambda _: None, lambda: b"")
    for each in (one, both, every, nothing):
        clients.add(each)
    assert clients.wanting("a") == [one, both, every]
    assert clients.wanting("b") == [both, every]
    assert clients.wanting("c") == [every]
    clients.discard(both)
    clients.discard(both)
    assert (clients.wanting("b"), len(clients)) == ([every], 3)


def test_every_client_is_in_one_slice_of_heartbeats() -> None:
    clients = _Clients()
    all_of_them = [client("a") for _ in range(25)]
    for each in all_of_them:
        clients.add(each)
    slices = [clients.slice(number) for number in range(_BEAT_SLICES)]
    assert sorted(map(id, itertools.chain(*slices))) == sorted(map(id, all_of_them))
    assert max(map(len, slices)) == 3


def test_clients_that_ask_for_the_same_get_the_same_bytes() -> None:
    pool = WantedPool()
    first, second = pool.get({7: "mon-7"}, frozenset({1})), pool.get({7: "mon-7"}, frozenset({1}))
    other = pool.get({7: "mon-7"}, frozenset())
    assert first is second
    assert other is not first
    prepared = frame(7, 7, 8)
    event = prepared.event_for(first)
    assert event is prepared.event_for(second)
    assert event is not None
    assert event.count(b"mon-7") == 1
    assert (prepared.event_for(other) or b"").count(b"mon-7") == 2


def test_only_wanted_handles_are_found_wherever_others_lie() -> None:
    wanted = Wanted({1000: "a", 1002: "b", 5000: "c"}, frozenset())
    readings = frame(0, 999, 1000, 1001, 1002, 1003, 4999, 5000, 5001, 2**32 - 1).readings
    assert readings.handle[wanted.rows(readings)].tolist() == [1000, 1002, 5000]
    assert Wanted({}, frozenset()).rows(readings).tolist() == []
