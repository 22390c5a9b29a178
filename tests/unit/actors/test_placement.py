"""Placement of shards on hosts."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from actors.placement import assign_shards

SHARDS = range(16)


def test_shards_are_spread_evenly_over_hosts() -> None:
    placed = assign_shards(SHARDS, ["a", "b"], {})
    assert Counter(placed.values()) == {"a": 8, "b": 8}


def test_shards_of_a_dead_host_go_to_the_others_and_the_rest_stays() -> None:
    before = assign_shards(SHARDS, ["a", "b", "c"], {})
    after = assign_shards(SHARDS, ["a", "b"], before)
    assert all(after[shard] == host for shard, host in before.items() if host != "c")
    assert set(after.values()) == {"a", "b"}


def test_a_host_that_joins_is_given_work() -> None:
    after = assign_shards(SHARDS, ["a", "b"], dict.fromkeys(SHARDS, "a"))
    assert Counter(after.values())["b"] >= 4


def test_load_counts_more_than_the_number_of_shards() -> None:
    placed = assign_shards(SHARDS, ["a", "b"], {}, {0: 100_000.0})
    assert [shard for shard, host in placed.items() if host == placed[0]] == [0]


def test_without_hosts_nothing_is_placed() -> None:
    assert assign_shards(SHARDS, [], {3: "gone"}) == {}


@given(
    hosts=st.lists(st.sampled_from("abcdef"), min_size=1, unique=True),
    current=st.dictionaries(st.integers(0, 15), st.sampled_from("abcdef")),
    load=st.dictionaries(st.integers(0, 15), st.floats(0, 1e6)),
)
def test_every_shard_has_exactly_one_living_host_and_a_second_look_changes_nothing(hosts, current, load) -> None:
    placed = assign_shards(SHARDS, hosts, current, load)
    assert set(placed) == set(SHARDS)
    assert set(placed.values()) <= set(hosts)
    assert assign_shards(SHARDS, hosts, placed, load) == placed


def test_an_idle_host_is_given_work_though_no_other_is_overloaded() -> None:
    before = assign_shards(SHARDS, ["a", "b"], {})
    after = assign_shards(SHARDS, ["a", "b", "c"], before)
    assert sorted(Counter(after.values()).values()) == [5, 5, 6]
    assert sum(after[shard] != before[shard] for shard in SHARDS) == 5, "no shard moves that need not"
