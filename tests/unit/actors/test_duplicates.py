"""The memory of retransmissions: exact, bounded, honest about what it forgot."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from actors.duplicates import IdentitySet, RecentReadings
from actors.roster import Roster
from domain.readings import ReadingBatch
from tests.cell_streams import readings, registered


@given(st.lists(st.lists(st.integers(1, 40), max_size=30), max_size=8))
def test_a_set_of_identities_is_a_set(parts: list[list[int]]) -> None:
    identities, mine = IdentitySet(), set[int]()
    for part in parts:
        values = np.array(part, dtype=np.uint64) << np.uint64(10)  # all of one home slot at first: collisions
        assert identities.contains(values).tolist() == [value in mine for value in values.tolist()]
        expected = []
        for value in values.tolist():
            expected.append(value not in mine)
            mine.add(value)
        assert identities.add(values).tolist() == expected
        assert identities.size == len(mine)
    assert identities.members().tolist() == sorted(mine)


def test_it_grows_far_beyond_its_first_size() -> None:
    identities = IdentitySet()
    values = np.random.default_rng(1).integers(1, 2**63, 50_000).astype(np.uint64)
    assert identities.add(values).sum() == len(np.unique(values))
    assert identities.contains(values).all()


@given(st.lists(st.tuples(st.booleans(), st.sets(st.integers(1, 40), max_size=20)), max_size=8))
def test_what_was_laid_aside_is_in_the_set(parts: list[tuple[bool, set[int]]]) -> None:
    identities, mine = IdentitySet(), set[int]()
    for aside, part in parts:
        fresh = np.array(sorted(part - mine), dtype=np.uint64)
        mine |= part
        if aside:
            identities.lay_aside(fresh)
        else:
            assert identities.add(fresh).all()
        assert identities.size == len(mine)
    assert identities.contains(np.arange(1, 41, dtype=np.uint64)).tolist() == [value in mine for value in range(1, 41)]
    assert identities.members().tolist() == sorted(mine)


def a_memory(generation_rows: int) -> RecentReadings:
    roster = Roster()
    roster.register(registered({1: "monitor@1", 9: "gateway@1"}), 0)
    return RecentReadings(roster, generation_rows)


def numbered(first: int, last: int) -> ReadingBatch:
    numbers = np.arange(first, last + 1)
    return readings(1, "heart_rate", numbers.tolist(), [70] * len(numbers), source=9, sequence=numbers)


def test_at_least_a_generation_is_remembered_and_the_oldest_is_forgotten_as_a_whole() -> None:
    memory = a_memory(100)
    memory.take(numbered(1, 250))  # generations: 1-100 forgotten, 101-200 old, 201-250 young
    assert memory.take(numbered(101, 250))[0].all()
    doubles, doubtful = memory.take(numbered(1, 40))
    assert not doubles.any()
    assert doubtful.all()


def test_what_may_have_been_forgotten_is_marked_by_its_source_and_never_dropped() -> None:
    memory = a_memory(10)
    memory.take(numbered(1, 30))
    doubles, doubtful = memory.take(numbered(3, 3))
    assert (doubles.tolist(), doubtful.tolist()) == ([False], [True])
    fresh = readings(1, "heart_rate", [500], [70], source=9, sequence=31)
    assert [flags.tolist() for flags in memory.take(fresh)] == [[False], [False]]


@given(st.lists(st.tuples(st.sampled_from([1, 9]), st.integers(1, 12)), max_size=60), st.lists(st.integers(1, 59), max_size=6))
def test_rising_sequences_or_not_only_true_doubles_are_dropped(sent: list[tuple[int, int]], cuts: list[int]) -> None:
    """Sources that interleave, repeat and go back: a plain set of what was sent decides, however the stream is cut."""
    memory, known = a_memory(1000), set[tuple[int, int]]()
    expected = [(pair in known, known.add(pair))[0] for pair in sent]
    edges = [0, *sorted({edge for edge in cuts if edge < len(sent)}), len(sent)]
    found: list[bool] = []
    for start, stop in pairwise(edges):
        part = sent[start:stop]
        batch = readings(1, "heart_rate", [n for _, n in part], [70] * len(part), source=9, sequence=[n for _, n in part])
        found += memory.take(batch.with_columns(source=[source for source, _ in part]))[0].tolist()
    assert found == expected


@given(cuts=st.lists(st.integers(1, 119), max_size=12), repeat=st.integers(1, 60))
def test_any_cut_remembers_the_same(cuts: list[int], repeat: int) -> None:
    stream = ReadingBatch.concat([numbered(1, 60), numbered(repeat, 60), numbered(61, 90)])
    whole, cut = a_memory(25), a_memory(25)
    expected = whole.take(stream)
    edges = [0, *sorted({edge for edge in cuts if edge < len(stream)}), len(stream)]
    parts = [cut.take(stream.take(slice(start, stop))) for start, stop in pairwise(edges)]
    for which in range(2):
        assert np.concatenate([part[which] for part in parts]).tolist() == expected[which].tolist()
    for name, table in whole.snapshot().items():
        assert table.equals(cut.snapshot()[name])


def test_a_memory_that_is_restored_knows_what_it_knew() -> None:
    roster = Roster()
    roster.register(registered({9: "gateway@1"}), 0)
    memory, restored = RecentReadings(roster, 100), RecentReadings(roster, 100)
    memory.take(numbered(1, 150))
    restored.restore(memory.snapshot())
    assert restored.take(numbered(1, 150))[0].all()
