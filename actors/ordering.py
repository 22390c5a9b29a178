"""Readings into their channels: what is new, what repeats, what came too late, and which is the newest.

One after the other, each is compared with the newest that its channel had before. The newest by event time is the
channel's state; of two at one time the later arrival. Nothing is dropped but proven doubles; all else is stored and marked:

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

from actors.columns import Table
from domain.compiled import (
    Bools,
    Floats,
    Int32s,
    Int64s,
    OutBools,
    OutFloats,
    OutInt64s,
    OutUInt16s,
    OutUInt32s,
    UInt16s,
    compiled,
)
from domain.quality import MAY_ALARM, SKEWED_US, Mark
from domain.readings import ReadingBatch

_WHAT: Final = 0xFF  # validity, mode and origin, without marks
_ROW_BITS: Final = np.int64(32)


def timing(
    readings: ReadingBatch, arrival_us: NDArray[np.int64], clock_offset_us: NDArray[np.int64], live_horizon_us: int
) -> tuple[NDArray[np.int64], NDArray[np.uint16]]:
    """Event times that rules go by, and the quality with marks about the clock and lateness.

    That is the time as stated, corrected forward only, and never ahead of the arrival. Taking a clock that is ahead back
    would put readings behind those of the same channel when it is set right, and rules would not see them.
    """
    time_us, quality = np.empty(len(readings), dtype=np.int64), readings.quality.copy()
    _time(
        readings.time_us, arrival_us, clock_offset_us, live_horizon_us, SKEWED_US, int(Mark.CLOCK_SKEWED), int(Mark.LATE),
        time_us, quality,
    )  # fmt: skip
    return time_us, quality


def place(
    channels: Table, channel: NDArray[np.int32], readings: ReadingBatch, time_us: NDArray[np.int64],
    arrival_us: NDArray[np.int64],
) -> tuple[NDArray[np.bool_], NDArray[np.uint16]]:  # fmt: skip
    """Write readings into the state of their channels; returns which may feed rules, and the marks they earned.

    Those feed rules that are numbers that may alarm and came in order: no newer reading of the channel was there before.
    """
    feeds, marks = np.empty(len(channel), dtype=np.bool_), np.zeros(len(channel), dtype=np.uint16)
    _place(
        channel, time_us, readings.time_us, readings.value, readings.quality, arrival_us, MAY_ALARM,
        int(Mark.OUT_OF_ORDER), int(Mark.POSSIBLE_DUPLICATE), int(Mark.CONFLICT),
        channels["time_us"], channels["sent_time_us"], channels["value"], channels["quality"], channels["arrival_us"],
        channels["received"], channels["was_usable"], feeds, marks,
    )  # fmt: skip
    return feeds, marks


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


@compiled
def _time(
    sent_us: Int64s, arrival_us: Int64s, clock_offset_us: Int64s, live_horizon_us: int, skewed_us: int, skewed: int, late: int,
    time_us: OutInt64s, quality: OutUInt16s,
) -> None:  # fmt: skip
    for i in range(len(sent_us)):
        time_us[i] = min(sent_us[i] + max(clock_offset_us[i], 0), arrival_us[i])
        if sent_us[i] > arrival_us[i] + skewed_us or abs(clock_offset_us[i]) > skewed_us:
            quality[i] |= skewed
        if arrival_us[i] - time_us[i] > live_horizon_us:
            quality[i] |= late


@compiled
def _place(
    channel: Int32s, time_us: Int64s, sent_us: Int64s, value: Floats, quality: UInt16s, arrival_us: Int64s, may_alarm: Bools,
    out_of_order: int, duplicate: int, conflict: int,
    newest_us: OutInt64s, newest_sent_us: OutInt64s, newest_value: OutFloats, newest_quality: OutUInt16s,
    last_arrival_us: OutInt64s, received: OutUInt32s, was_usable: OutBools, feeds: OutBools, marks: OutUInt16s,
) -> None:  # fmt: skip
    for i in range(len(channel)):
        row, known = channel[i], newest_value[channel[i]]
        if sent_us[i] == newest_sent_us[row]:
            is_same = value[i] == known or (np.isnan(value[i]) and np.isnan(known))
            is_same = is_same and quality[i] & _WHAT == newest_quality[row] & _WHAT
            marks[i] = duplicate if is_same else conflict
        is_in_order = time_us[i] >= newest_us[row]
        if is_in_order:
            newest_us[row], newest_sent_us[row] = time_us[i], sent_us[i]
            newest_value[row], newest_quality[row] = value[i], quality[i]
        else:
            marks[i] |= out_of_order
        last_arrival_us[row] = arrival_us[i]
        received[row] += 1
        is_alarming = may_alarm[quality[i] & len(may_alarm) - 1]
        was_usable[row] |= is_alarming
        feeds[i] = is_in_order and is_alarming and not np.isnan(value[i])
