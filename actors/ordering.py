"""Readings into their channels: what is new, what repeats, what came too late, and which is the newest.

All of a batch at once: readings are sorted by channel, and within a channel each is compared with the newest before it
(a running maximum). The newest by event time is the channel's state; of two at one time the later arrival. Nothing is
dropped but proven doubles; all else is stored and marked:

- LATE: arrived longer after its event time than `live_horizon_us`, a clock behind being corrected; CLOCK_SKEWED: the
  source's clock is off by more than 5 s, either way.
- OUT_OF_ORDER: older than the newest of its channel; it does not overwrite newer state.
- CONFLICT: another value or quality than the newest has at the very same time; both are kept.
- POSSIBLE_DUPLICATE: the same as the newest, by another source or sequence; or its sequence was passed so long ago that
  its double may have been forgotten.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from actors.columns import Table, group_ends, group_starts
from domain.quality import SKEWED_US, Mark, may_alarm
from domain.readings import ReadingBatch

_WHAT: Final = np.uint16(0xFF)  # validity, mode and origin, without marks
_ROW_BITS: Final = np.int64(32)


def timing(
    readings: ReadingBatch, arrival_us: NDArray[np.int64], clock_offset_us: NDArray[np.int64], live_horizon_us: int
) -> tuple[NDArray[np.int64], NDArray[np.uint16]]:
    """Event times that rules go by, and the quality with marks about the clock and lateness.

    That is the time as stated, corrected forward only, and never ahead of the arrival. Taking a clock that is ahead back
    would put readings behind those of the same channel when it is set right, and rules would not see them.
    """
    time_us = np.minimum(readings.time_us + np.maximum(clock_offset_us, 0), arrival_us)
    is_skewed = (readings.time_us > arrival_us + SKEWED_US) | (np.abs(clock_offset_us) > SKEWED_US)
    quality = readings.quality.copy()
    quality[is_skewed] |= np.uint16(Mark.CLOCK_SKEWED)
    quality[arrival_us - time_us > live_horizon_us] |= np.uint16(Mark.LATE)
    return time_us, quality


def place(
    channels: Table, channel: NDArray[np.int32], order: NDArray[np.int64], readings: ReadingBatch,
    time_us: NDArray[np.int64], arrival_us: NDArray[np.int64],
) -> tuple[NDArray[np.bool_], NDArray[np.uint16]]:  # fmt: skip
    """Write readings into the state of their channels; returns which were in order, and the marks they earned.

    `order` is that of `by_channel(channel)`.
    """
    if not len(channel):
        return np.empty(0, np.bool_), np.empty(0, np.uint16)
    rows, at = channel[order], time_us[order]
    first = group_starts(rows)
    before = newest_before(at, first, channels["time_us"][rows])
    is_newest = at >= before
    last_newest = np.maximum.accumulate(np.where(is_newest | first, np.arange(len(rows)), 0))
    marks = np.where(is_newest, 0, int(Mark.OUT_OF_ORDER)) | _repeats(
        channels, readings, order, rows, first, last_newest, is_newest
    )
    ends = group_ends(first)
    newest = last_newest[ends]
    newest = newest[is_newest[newest]]
    _write(channels, rows[newest], order[newest], readings, time_us)
    channels["arrival_us"][rows[ends]] = arrival_us[order[ends]]
    channels["received"][rows[ends]] += np.diff(ends, prepend=-1).astype(np.uint32)
    channels["was_usable"][channel[may_alarm(readings.quality)]] = True
    in_order, marked = np.empty(len(rows), dtype=np.bool_), np.empty(len(rows), dtype=np.uint16)
    in_order[order], marked[order] = is_newest, marks
    return in_order, marked


def by_channel(keys: NDArray[Any]) -> NDArray[np.int64]:
    """The order that groups equal non-negative keys and keeps stream order within a group."""
    tagged = np.sort(keys.astype(np.int64) << _ROW_BITS | np.arange(len(keys)))
    return tagged & ((np.int64(1) << _ROW_BITS) - 1)


def newest_before(at: NDArray[np.int64], first: NDArray[np.bool_], known: NDArray[np.int64]) -> NDArray[np.int64]:
    """The greatest time that stood before each row in its group, the group's `known` time included."""
    before = np.where(first, known, np.concatenate([at[:1], at[:-1]]))
    if not (first | (at >= before)).all() or (at[first] < known[first]).any():
        ranks = np.unique(before, return_inverse=True)
        group = np.cumsum(first) * len(before)
        before = ranks[0][np.maximum.accumulate(group + ranks[1]) - group]
    return before


def _repeats(
    channels: Table, readings: ReadingBatch, order: NDArray[np.int64], rows: NDArray[np.int32], first: NDArray[np.bool_],
    last_newest: NDArray[np.intp], is_newest: NDArray[np.bool_],
) -> NDArray[np.int64]:  # fmt: skip
    """CONFLICT or POSSIBLE_DUPLICATE where a reading states the same time as the newest before it."""
    previous = np.concatenate([last_newest[:1], last_newest[:-1]])
    from_table = first | ~is_newest[previous]  # nothing newer than the table's state came before in this batch
    sent = readings.time_us[order]
    repeats = np.flatnonzero(sent == np.where(from_table, channels["sent_time_us"][rows], sent[previous]))
    marks = np.zeros(len(rows), dtype=np.int64)
    if len(repeats):  # few, mostly none
        channel, own, other, of_table = rows[repeats], order[repeats], order[previous[repeats]], from_table[repeats]
        value = readings.value[own]
        known_value = np.where(of_table, channels["value"][channel], readings.value[other])
        known_quality = np.where(of_table, channels["quality"][channel], readings.quality[other]) & _WHAT
        is_same = (value == known_value) | (np.isnan(value) & np.isnan(known_value))
        is_same &= (readings.quality[own] & _WHAT) == known_quality
        marks[repeats] = np.where(is_same, int(Mark.POSSIBLE_DUPLICATE), int(Mark.CONFLICT))
    return marks


def _write(
    channels: Table, rows: NDArray[np.int32], at: NDArray[np.int64], readings: ReadingBatch, time_us: NDArray[np.int64]
) -> None:
    channels["time_us"][rows] = time_us[at]
    channels["sent_time_us"][rows] = readings.time_us[at]
    channels["value"][rows] = readings.value[at]
    channels["quality"][rows] = readings.quality[at]
