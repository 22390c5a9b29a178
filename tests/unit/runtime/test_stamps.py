"""Batch stamps: found while they are kept, and then no more."""

from __future__ import annotations

import pytest

from domain.traces import FrameStamp
from runtime.stamps import FrameStamps, TurnStamp, TurnStamps

pytestmark = pytest.mark.clause("9.2a")


def test_a_frame_is_found_by_its_sequence_until_others_took_its_place() -> None:
    stamps = FrameStamps(kept=3)
    assert stamps.find(1) is None
    for sequence in (1, 2, 3):
        stamps.note(sequence, 10 * sequence, 10 * sequence + 4, 5, 2)
    assert stamps.find(1) == FrameStamp(10, 14, 5, 2)
    stamps.note(4, 40, 44, 5, 2)
    assert (stamps.find(1), stamps.find(4)) == (None, FrameStamp(40, 44, 5, 2))


def test_a_turn_is_found_by_any_message_it_took_and_a_replay_is_the_newer_one() -> None:
    stamps = TurnStamps(kept=4)
    stamps.note(3, 10, 20, 1_000, 1_500, 70)
    stamps.note(4, 10, 20, 1_001, 1_501, 80)
    assert [stamps.find(3, sequence) for sequence in (10, 11, 20, 21)] == [None, *[TurnStamp(1_000, 1_500, 70)] * 2, None]
    stamps.note(3, 5, 30, 9_000, 9_500, 90)
    assert stamps.find(3, 15) == TurnStamp(9_000, 9_500, 90)
    for _ in range(4):
        stamps.note(5, 0, 1, 0, 0, 0)
    assert stamps.find(3, 15) is None


def test_no_turn_that_took_nothing_is_found() -> None:
    stamps = TurnStamps()
    stamps.note(3, 10, 10, 1_000, 1_500, 0)
    assert stamps.find(3, 10) is None
    assert stamps.find(0, 0) is None
