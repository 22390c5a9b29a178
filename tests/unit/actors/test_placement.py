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


def alone(placed: dict[int, str], shard: int) -> bool:
    return Counter(placed.values())[placed[shard]] == 1


def test_a_dedicated_shard_has_a_host_with_nothing_else_on_it() -> None:
    placed = assign_shards(SHARDS, ["a", "b", "c"], {}, dedicated={5})
    assert alone(placed, 5)
    assert sorted(Counter(placed.values()).values()) == [1, 7, 8]


def test_a_host_that_joins_is_given_to_the_shard_that_was_dedicated_and_nothing_else_moves() -> None:
    before = assign_shards(SHARDS, ["a", "b"], {})
    assert assign_shards(SHARDS, ["a", "b"], before, dedicated={5}, shared_hosts=2) == before, "it is waited for"
    after = assign_shards(SHARDS, ["a", "b", "c"], before, dedicated={5}, shared_hosts=2)
    assert {shard: host for shard, host in after.items() if before[shard] != host} == {5: "c"}


def test_a_shard_that_lost_its_own_host_is_held_by_another_until_there_is_a_new_one() -> None:
    before = assign_shards(SHARDS, ["a", "b", "c"], {}, dedicated={5})
    meanwhile = assign_shards(SHARDS, [host for host in "abc" if host != before[5]], before, dedicated={5}, shared_hosts=2)
    assert [shard for shard in SHARDS if meanwhile[shard] != before[shard]] == [5]
    after = assign_shards(SHARDS, [*set(meanwhile.values()), "d"], meanwhile, dedicated={5}, shared_hosts=2)
    assert {shard: host for shard, host in after.items() if meanwhile[shard] != host} == {5: "d"}


def test_when_other_hosts_die_a_dedicated_shard_stays_alone() -> None:
    before = assign_shards(SHARDS, ["a", "b", "c"], {}, dedicated={5})
    survivors = sorted({before[5], next(host for shard, host in before.items() if shard != 5)})
    after = assign_shards(SHARDS, survivors, before, dedicated={5}, shared_hosts=2)
    assert after[5] == before[5]
    assert alone(after, 5)


def test_a_host_is_emptied_for_a_dedicated_shard_when_none_is_to_come() -> None:
    before = assign_shards(SHARDS, ["a", "b"], {})
    after = assign_shards(SHARDS, ["a", "b"], before, dedicated={5}, shared_hosts=1)
    assert alone(after, 5)


def test_a_shard_that_is_dedicated_no_more_is_one_among_others() -> None:
    before = assign_shards(SHARDS, ["a", "b", "c"], {}, dedicated={5})
    after = assign_shards(SHARDS, ["a", "b"], before)
    assert Counter(after.values()) == {"a": 8, "b": 8}


@given(
    hosts=st.lists(st.sampled_from("abcdef"), min_size=1, unique=True),
    current=st.dictionaries(st.integers(0, 15), st.sampled_from("abcdef")),
    load=st.dictionaries(st.integers(0, 15), st.floats(0, 1e6)),
    dedicated=st.sets(st.integers(0, 15), max_size=6),
    shared_hosts=st.integers(1, 4),
)
def test_dedicated_shards_are_alone_as_far_as_there_are_hosts_and_it_comes_to_rest(
    hosts, current, load, dedicated, shared_hosts
) -> None:
    def look(now):
        return assign_shards(SHARDS, hosts, now, load, dedicated=dedicated, shared_hosts=shared_hosts)

    placed = look(current)
    assert set(placed) == set(SHARDS)
    assert set(placed.values()) <= set(hosts)
    served = {shard for shard in dedicated if alone(placed, shard)}
    assert len(served) >= min(len(dedicated), len(hosts) - shared_hosts)
    for _ in dedicated:  # one that the others moved away from keeps that host, so there may be more to even out
        following = look(placed)
        assert {shard for shard in served if not alone(following, shard)} == set()
        placed = following
    assert look(placed) == placed


@given(
    hosts=st.lists(st.sampled_from("abcdef"), min_size=3, unique=True),
    dedicated=st.sets(st.integers(0, 15), max_size=5),
    chance=st.randoms(use_true_random=False),
)
def test_whoever_dies_a_dedicated_shard_whose_host_lives_does_not_move(hosts, dedicated, chance) -> None:
    before = assign_shards(SHARDS, hosts, {}, dedicated=dedicated)
    survivors = chance.sample(hosts, chance.randint(1, len(hosts) - 1))
    after = assign_shards(SHARDS, survivors, before, dedicated=dedicated, shared_hosts=len(hosts))
    for shard in dedicated:
        if alone(before, shard) and before[shard] in survivors:
            assert after[shard] == before[shard]
            assert alone(after, shard) or set(before.values()) & set(survivors) <= {before[s] for s in dedicated}
