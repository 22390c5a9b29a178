"""The loops of `runtime.replays`: over the readings of a group commit, each number for itself. Arrays are by source."""

from __future__ import annotations

from typing import Final

import numpy as np

from domain.compiled import (
    Int64s,
    OutInt32s,
    OutInt64s,
    OutInt64s2D,
    OutUInt32s,
    OutUInt64s,
    UInt16s,
    UInt32s,
    compiled,
)

_OF_SOURCE: Final = np.uint64(0xC2B2AE3D27D4EB4F)
_OF_SEQUENCE: Final = np.uint64(0xD6E8FEB86659FD93)
_OF_TIME: Final = np.uint64(0xA0761D6478BD642F)
_OF_VALUE: Final = np.uint64(0xE7037ED1A0B428DB)
_OF_CHANNEL: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX: Final = np.uint64(0xBF58476D1CE4E5B9)


@compiled
def judge(
    source: UInt32s, sequence: Int64s, time_us: Int64s, handle: UInt32s, metric: UInt16s, value: Int64s, bounds: Int64s,
    arrivals_us: Int64s, beginning: int, highest: OutInt64s, epoch_us: OutInt64s, before: OutInt64s, digests: OutUInt64s,
    suspect: OutInt32s,
) -> None:  # fmt: skip
    """Write the digest of each message, and which have no number that is beyond the highest.

    One without a time, far beyond it, that is no higher than the source counted before it began again, may be of then.
    """
    for message in range(len(digests)):
        arrival_us, is_old, digest = arrivals_us[message], True, np.uint64(0)
        for i in range(bounds[message], bounds[message + 1]):
            of, number, at_us = source[i], sequence[i], time_us[i]
            is_beyond = number > highest[of] and (epoch_us[of] == 0 or min(at_us, arrival_us) > epoch_us[of])
            is_of_before = at_us == arrival_us and highest[of] + beginning < number <= before[of]
            if number <= 0 or (is_beyond and not is_of_before):
                is_old = False
            stated = np.uint64(at_us) if at_us != arrival_us else np.uint64(0)
            channel = np.uint64(handle[i]) << np.uint64(32) | np.uint64(metric[i])
            identity = np.uint64(of) * _OF_SOURCE + np.uint64(number) * _OF_SEQUENCE + stated * _OF_TIME
            identity += channel * _OF_CHANNEL + np.uint64(value[i]) * _OF_VALUE
            identity = (identity ^ identity >> np.uint64(31)) * _MIX
            digest += identity ^ identity >> np.uint64(29)
        digests[message], suspect[message] = digest, 1 if is_old else 0


@compiled
def _gap_of(number: int, place: int, low: OutInt64s2D, high: OutInt64s2D, gaps: OutInt32s) -> int:
    """The gap that a number lies in; -1 for none."""
    for gap in range(gaps[place]):
        if low[place, gap] <= number <= high[place, gap]:
            return gap
    return -1


@compiled
def is_silent(of: int, at_us: int, silence_us: int, newest_us: OutInt64s) -> bool:
    """Whether nothing new of a source was stored for so long before this moment."""
    return bool(at_us - newest_us[of] >= silence_us)


@compiled
def resumes(number: int, of: int, highest: OutInt64s, before: OutInt64s, jumped_from: OutInt64s) -> bool:
    """Whether a number goes on behind where its source was when something jumped beyond all that it had counted before.

    It does as long as that count lasts: somebody else may have gone on first, further ahead.
    """
    return bool(jumped_from[of] < number < highest[of] and number <= before[of])


@compiled
def _add_gap(start: int, end: int, place: int, low: OutInt64s2D, high: OutInt64s2D, gaps: OutInt32s) -> int:
    """Behind all others; where there are too many, the oldest goes. Returns how many there are."""
    most = low.shape[1]
    if gaps[place] == most:
        for gap in range(most - 1):
            low[place, gap], high[place, gap] = low[place, gap + 1], high[place, gap + 1]
        gaps[place] -= 1
    low[place, gaps[place]], high[place, gaps[place]] = start, end
    gaps[place] += 1
    return int(gaps[place])


@compiled
def _fill(number: int, gap: int, place: int, low: OutInt64s2D, high: OutInt64s2D, gaps: OutInt32s) -> int:
    """A number of a gap came: it is shorter, gone, or two. Returns how many there are."""
    start, end = low[place, gap], high[place, gap]
    if start == end:
        for other in range(gap, gaps[place] - 1):
            low[place, other], high[place, other] = low[place, other + 1], high[place, other + 1]
        gaps[place] -= 1
    elif number == end:
        high[place, gap] = number - 1
    elif number == start or gaps[place] == low.shape[1]:  # no room for both halves: the newer one stays
        low[place, gap] = number + 1
    else:
        for other in range(gaps[place], gap + 1, -1):
            low[place, other], high[place, other] = low[place, other - 1], high[place, other - 1]
        high[place, gap], low[place, gap + 1], high[place, gap + 1] = number - 1, number + 1, end
        gaps[place] += 1
    return int(gaps[place])


@compiled
def note(
    source: UInt32s, sequence: Int64s, time_us: Int64s, first: int, arrival_us: int, beginning: int, silence_us: int,
    live_us: int, is_past: bool, highest: OutInt64s, newest_us: OutInt64s, epoch_us: OutInt64s, before: OutInt64s,
    jumped_from: OutInt64s, slot: OutInt32s, used: OutInt64s, low: OutInt64s2D, high: OutInt64s2D, gaps: OutInt32s,
) -> int:  # fmt: skip
    """Readings are in the stream. Returns how far it came: to the end, or to where a source needs a place for gaps.

    What has about the time of its arrival may have been given it: its source counts anew only from the beginning on, and
    either after a silence or far behind. Else the second of two that were on their way at once would open what was before.
    Of a source that was never seen and knows no time little below its first number is a gap: what it counted before it came
    here never comes, and when it begins again its numbers would lie in that gap, until they are old behind its end.
    `is_past`: they were in the stream before others that are known already. What of it a source that began again meanwhile
    had counted before is no jump ahead.
    """
    for i in range(first, len(source)):
        number, of = sequence[i], source[i]
        at_us, top, place = min(time_us[i], arrival_us), highest[of], slot[of]
        inside = _gap_of(number, place, low, high, gaps) if place >= 0 and number <= top else -1
        is_live = arrival_us - at_us < live_us
        is_quiet = is_silent(of, at_us, silence_us, newest_us)
        is_first = number <= beginning and (is_quiet or top > 2 * beginning)
        begins = 0 < number < top and inside < 0 and at_us > newest_us[of] and (is_first or not is_live)
        goes_back = is_live and is_quiet and resumes(number, of, highest, before, jumped_from)
        if begins or goes_back:  # it counts anew
            epoch_us[of], before[of] = newest_us[of], max(before[of], top)
            jumped_from[of] = jumped_from[of] if goes_back else before[of]  # then nothing has jumped yet
            top = number - 1 if is_live else 0
            if place >= 0:
                gaps[place] = 0
        if is_past and top < before[of] and number > top and arrival_us < newest_us[of]:
            before[of] = max(before[of], number)
        elif number > top and at_us > epoch_us[of]:
            jumped_from[of] = top if top <= before[of] < number else jumped_from[of]
            if number > top + 1:
                if place < 0 and used[0] >= low.shape[0]:
                    return i
                if place < 0:
                    place = slot[of] = used[0]
                    used[0] += 1
                is_first_ever = top == 0 and time_us[i] == arrival_us
                start = max(1, number - beginning // 2) if is_first_ever else top + 1
                _add_gap(start, number - 1, place, low, high, gaps)
            highest[of] = number
        elif inside >= 0:
            _fill(number, inside, place, low, high, gaps)
        newest_us[of] = max(newest_us[of], at_us if number > 0 else 0)
    return len(source)


@compiled
def remember(
    lines: UInt32s, digests: Int64s, rows: Int64s, shard: int, sequence: int, line: OutInt32s, used: OutInt64s,
    owner: OutUInt32s, following: OutInt32s, known: OutInt64s2D, of_place: OutInt64s2D, of_shard: OutInt64s2D,
    of_rows: OutInt64s2D,
) -> None:  # fmt: skip
    """Messages are in the stream: each takes the place of the oldest that is known of its line."""
    for i in range(len(lines)):
        row = line[lines[i]]
        if row < 0:
            row = used[0] % len(owner)
            if used[0] >= len(owner):  # who was known there is known no more
                line[owner[row]] = -1
                following[row] = 0
                known[row, :] = 0
            used[0] += 1
            line[lines[i]], owner[row] = row, lines[i]
        at = following[row]
        known[row, at], of_shard[row, at], of_place[row, at], of_rows[row, at] = digests[i], shard, sequence, rows[i]
        following[row] = (at + 1) % known.shape[1]
