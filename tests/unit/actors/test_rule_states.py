"""What limit rules remember: as a dict of channels would, whatever comes and goes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from actors.kinds import RULES
from actors.rule_states import RuleStates
from domain.instants import NEVER_US

ALL = np.arange(40)
# channel -> onset of its first rule; 0: nothing is pending any more
CHANGES = st.lists(st.dictionaries(st.integers(0, 39), st.integers(0, 5), max_size=12), max_size=12)


def put(states: RuleStates, onsets: dict[int, int]) -> None:
    channels = np.array(sorted(onsets), dtype=np.int32)
    onset_us = np.full((len(channels), RULES), NEVER_US)
    onset_us[:, 0] = [onsets[channel] or NEVER_US for channel in channels.tolist()]
    is_raised = onset_us > 2
    states.put(channels, onset_us, is_raised, is_raised & (onset_us > 3), is_raised & (onset_us > 4))


@given(CHANGES)
def test_it_is_a_dict_of_channels(changes: list[dict[int, int]]) -> None:
    states, known = RuleStates(), dict[int, int]()
    for onsets in changes:
        put(states, onsets)
        known = {channel: onset for channel, onset in (known | onsets).items() if onset}
        assert (states.rows_by_channel(int(ALL.max()) + 1)[ALL] >= 0).tolist() == [channel in known for channel in ALL]
        assert states.of("onset_us", ALL)[:, 0].tolist() == [known.get(channel, NEVER_US) for channel in ALL]
        assert states.of("is_ambiguous", ALL)[:, 0].tolist() == [known.get(channel, 0) > 3 for channel in ALL]
        assert states.of("is_unpaged", ALL)[:, 0].tolist() == [known.get(channel, 0) > 4 for channel in ALL]
        assert states.raised().tolist() == sorted(channel for channel, onset in known.items() if onset > 2)


@given(CHANGES)
def test_a_snapshot_does_not_tell_in_what_order_channels_came(changes: list[dict[int, int]]) -> None:
    states, whole = RuleStates(), RuleStates()
    known: dict[int, int] = {}
    for onsets in changes:
        put(states, onsets)
        known |= onsets
    put(whole, known)
    assert states.snapshot()["rule_states"].equals(whole.snapshot()["rule_states"])
    restored = RuleStates()
    restored.restore(states.snapshot())
    put(restored, {3: 4})
    put(states, {3: 4})
    assert restored.snapshot()["rule_states"].equals(states.snapshot()["rule_states"])


def test_rows_of_channels_that_calmed_down_are_used_again() -> None:
    states = RuleStates()
    for channel in range(1_000):
        put(states, {channel: 1})
        put(states, {channel: 0})
    assert len(states.snapshot()["rule_states"]) == 0
    assert len(states._table) == 1
