"""What is known of hosts at a door, and who has room before them."""

from __future__ import annotations

import pytest

from domain.messages import HostProgress, encode
from domain.thing_models import Lane
from runtime.admission import Admission


class Stand:
    """A door's admission whose time and hosts the test moves."""

    def __init__(self):
        self.now_s = 100.0
        self.admission = Admission(lambda: self.now_s)
        self.sequence = 0

    def send(self, shard, readings):
        self.sequence += 1
        self.admission.taken(shard, readings)
        self.admission.stored(shard, self.sequence, readings)
        return self.sequence

    def tell(self, host="h1", uncommitted_rows=0, **applied):
        shards = {int(name.removeprefix("s")): sequence for name, sequence in applied.items()}
        self.admission.hear(encode(HostProgress(host, shards, uncommitted_rows)), "progress.host.h1")

    def room(self, shard=1):
        return [lane for lane in Lane if self.admission.has_room(lane, shard)]

    def works(self, readings_a_second, shard=1):
        """The host shows for a second how fast it is."""
        for _ in range(10):
            sequence = self.send(shard, readings_a_second // 10)
            self.now_s += 0.1
            self.tell(**{f"s{shard}": sequence})


@pytest.fixture
def stand():
    return Stand()


@pytest.mark.clause("7.3")
def test_a_host_that_was_never_heard_of_holds_nobody_back(stand):
    stand.send(1, 10_000_000)
    assert stand.room() == list(Lane)


@pytest.mark.clause("7.3")
def test_bulk_waits_when_a_quarter_of_a_second_is_ahead_and_a_devices_own_when_a_second_is(stand):
    stand.works(1_000_000)
    stand.send(1, 249_000)
    assert stand.room() == list(Lane)
    stand.send(1, 2_000)
    assert stand.room() == [Lane.DIRECT, Lane.PRIORITY]
    stand.send(1, 150_000)
    assert stand.room() == [Lane.DIRECT]
    stand.send(1, 600_000)
    assert stand.room() == []


def test_there_is_room_again_as_soon_as_the_host_says_how_far_it_has_come(stand):
    stand.works(1_000_000)
    first = stand.send(1, 900_000)
    second = stand.send(1, 200_000)
    assert stand.room() == []
    told = []
    stand.admission.on_progress = lambda: told.append(stand.room())
    stand.now_s += 0.9
    stand.tell(s1=first)
    stand.now_s += 0.2
    stand.tell(s1=second)
    assert told == [list(Lane)] * 2


def test_all_shards_of_a_host_share_its_room_and_those_of_another_do_not(stand):
    stand.tell("h1", s1=0, s2=0)
    stand.tell("h2", s3=0)
    stand.send(1, 100_000)
    assert (stand.room(2), stand.room(3)) == ([], list(Lane))


def test_what_is_ahead_of_a_shard_goes_with_it_to_another_host(stand):
    stand.tell("h1", s1=0, s2=0)
    stand.send(1, 100_000)
    stand.tell("h1", s2=0)
    assert stand.room(2) == list(Lane)
    stand.tell("h2", s1=0, s3=0)
    assert (stand.room(1), stand.room(3)) == ([], [])


def test_a_host_that_falls_silent_holds_nobody_back(stand):
    stand.tell(s1=0)
    stand.send(1, 1_000_000)
    stand.now_s += 2.9
    assert stand.room() == []
    stand.now_s += 0.2
    assert stand.room() == list(Lane)


def test_a_host_with_many_rows_that_the_lake_lacks_is_sent_no_more(stand):
    stand.tell(s1=0, uncommitted_rows=1_500_001)
    assert stand.room() == [Lane.DIRECT, Lane.PRIORITY]
    stand.tell(s1=0, uncommitted_rows=3_000_001)
    assert stand.room() == [Lane.DIRECT]
    stand.tell(s1=0, uncommitted_rows=5_000_001)
    assert stand.room() == []
    stand.tell(s1=0)
    assert stand.room() == list(Lane)


def test_readings_that_were_not_stored_or_are_applied_before_we_know_of_it_are_not_ahead(stand):
    stand.tell(s1=0)
    stand.admission.taken(1, 200_000)
    stand.admission.failed(1, 200_000)
    assert stand.room() == list(Lane)
    stand.admission.taken(1, 200_000)
    stand.tell(s1=7)
    assert stand.room() == []
    stand.admission.stored(1, 7, 200_000)
    assert stand.room() == list(Lane)


def test_a_host_that_has_become_slow_is_soon_measured_anew(stand):
    stand.works(4_000_000)
    stand.now_s += 3.0
    stand.works(400_000)
    stand.send(1, 110_000)
    assert stand.room() == [Lane.DIRECT, Lane.PRIORITY]
