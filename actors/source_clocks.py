"""How far each sender's clock is off, measured; and what to add to event times before asking whose a reading was.

A reading cannot arrive before it was taken: arrival less event time is its delay less what its clock runs ahead. So the
least such difference of a minute tells of the clock, and how far it is from the greatest tells whether to trust it.
Whenever a source's minute of stream time is over, that minute decides what is in force from then on:

- Least and greatest agree within the tolerance, and the least is within it of zero: the clock is right.
- They agree, elsewhere, in several minutes running: the clock is off by so much. But a clock that was known, and a delay
  that rose no further than the time in which it rose, may as well be a backlog that no longer shrinks: the clock that
  was known stays in force, and the uncertainty reaches to the other explanation.
- They do not agree: a backlog that shrinks, or devices with clocks of their own. What was in force stays, doubts too.

One reading may know better. What would still be ahead of its arrival is taken to have happened when it arrived, at once;
what is too late for a clock that is off may come from one that was just set right, so its uncertainty reaches to that.

Only finished minutes and the reading itself count, so any cut of the stream says the same. Catching up (BACKFILL) and
what people enter measures no clock. Clause 6.1d; docs/decisions/0010-clocks-are-measured-by-sender.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from actors.freshness import MINUTE_US
from actors.kinds import FOREVER_US
from actors.roster import Roster
from domain.compiled import Bools, Int32s, Int64s, OutInt64s, compiled
from domain.quality import Mark, Origin, has_mark, origin_of
from domain.readings import ReadingBatch

TOLERANCE_US: Final = 2_000_000  # networks and a gateway's gathering stay below it
STEADY_MINUTES: Final = 3  # that agree before a clock counts as off
_UNKNOWN: Final = -1
_OTHERS: Final = -1  # the row of a source whose clock is nothing to us


@dataclass(frozen=True, slots=True)
class ClockCorrection:
    """What to add to each reading's event time, and how far that may be wrong beyond what a device's clock always may."""

    offset_us: NDArray[np.int64]
    uncertainty_us: NDArray[np.int64]

    @classmethod
    def none(cls, rows: int) -> Self:
        return cls(np.zeros(rows, np.int64), np.zeros(rows, np.int64))


class SourceClocks:
    """See module. Keeps its state in the roster's device columns `clock_*`, by source."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster

    def take(
        self, readings: ReadingBatch, stream_us: NDArray[np.int64], clock_us: NDArray[np.int64] | None = None
    ) -> ClockCorrection:
        """Learn from readings in stream order, and correct each by what was known when it came.

        `clock_us`: what the platform's clock said at each, where that is not stream time.
        """
        delay_us = (stream_us if clock_us is None else clock_us) - readings.time_us
        source, correction = self._roster.device_rows(readings.source), ClockCorrection.none(len(readings))
        source[origin_of(readings.quality) != Origin.MEASURED] = _OTHERS  # not stamped by the source's clock
        tells = ~has_mark(readings.quality, Mark.BACKFILL)
        table, is_doubted = self._roster.devices, False
        for minute, rows in _minutes(stream_us):
            turned = _turned(source[rows], minute, table["clock_minute"])
            if len(turned):
                self._turn(np.unique(turned), minute)
            is_doubted |= _measure(
                source[rows], tells[rows], delay_us[rows], TOLERANCE_US,
                table["clock_offset_us"], table["clock_uncertainty_us"], table["clock_least_us"], table["clock_greatest_us"],
                correction.offset_us[rows], correction.uncertainty_us[rows],
            )  # fmt: skip
        return _judged_singly(correction, delay_us) if is_doubted else correction

    def _turn(self, sources: NDArray[np.int32], minute: int) -> None:
        """A new minute begins for these sources; the one that is over is judged, if anything in it told of the clock."""
        table = self._roster.devices
        self._judge(sources[table["clock_greatest_us"][sources] >= table["clock_least_us"][sources]])
        table["clock_minute"][sources] = minute
        table["clock_least_us"][sources], table["clock_greatest_us"][sources] = FOREVER_US, -FOREVER_US

    def _judge(self, sources: NDArray[np.int32]) -> None:
        """What the minute that is over says of each clock; see module."""
        table = self._roster.devices
        minute, known = table["clock_minute"][sources], table["clock_known"][sources]
        least, is_one = self._judge_steadiness(sources)
        offset = table["clock_offset_us"][sources]
        offset = np.where(is_one & (offset > 0) & (least < offset - TOLERANCE_US), 0, offset)  # disproved: a backlog
        fits, is_right = np.abs(least - offset) <= TOLERANCE_US, np.abs(least) <= TOLERANCE_US
        rose_in = np.maximum(table["clock_steady_from"][sources].astype(np.int64) - known, 1) + 1  # minutes, at most
        may_be_backlog = (known != _UNKNOWN) & (least > offset) & (least - offset <= rose_in * MINUTE_US)
        is_proven = (table["clock_steady"][sources] >= STEADY_MINUTES) & ~may_be_backlog
        is_told = is_one & (fits | is_right | is_proven)
        measured = np.where(fits, np.minimum(offset, least), least)  # a delay that creeps up moves no clock
        in_force = np.where(is_told, np.where(is_right, 0, measured), offset)
        reach = np.abs(least - offset) + TOLERANCE_US
        doubted = np.where(is_one, reach, np.minimum(table["clock_uncertainty_us"][sources], reach))
        doubt = np.where(is_told | fits, 0, doubted)  # what was in doubt stays so until a minute fits
        table["clock_offset_us"][sources] = in_force
        table["clock_uncertainty_us"][sources] = np.maximum(doubt, _residual(in_force))
        table["clock_known"][sources] = np.where(is_told | fits, minute, known)

    def _judge_steadiness(self, sources: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Count minutes that agree; returns the least of the minute that is over, and whether it speaks of one clock."""
        table = self._roster.devices
        least, run = table["clock_least_us"][sources], table["clock_steady"][sources]
        is_one = table["clock_greatest_us"][sources] - least <= TOLERANCE_US
        agrees = is_one & (run > 0) & (np.abs(least - table["clock_steady_us"][sources]) <= TOLERANCE_US)
        table["clock_steady"][sources] = np.where(is_one, np.where(agrees, np.minimum(run + 1, STEADY_MINUTES), 1), 0)
        fresh = sources[~agrees]
        table["clock_steady_us"][fresh] = least[~agrees]
        table["clock_steady_from"][fresh] = table["clock_minute"][fresh]
        return least, is_one


def _minutes(stream_us: NDArray[np.int64]) -> Iterator[tuple[int, slice]]:
    """The minutes of stream time, which never goes back, and the rows of each."""
    start = 0
    while start < len(stream_us):
        minute = int(stream_us[start]) // MINUTE_US
        stop = int(np.searchsorted(stream_us, (minute + 1) * MINUTE_US))
        yield minute, slice(start, stop)
        start = stop


@compiled
def _turned(source: Int32s, minute: int, clock_minute: Int32s) -> NDArray[np.int32]:
    """The sources that have not sent in this minute yet, each as often as it has now."""
    found = np.empty(len(source), dtype=np.int32)
    count = 0
    for i in range(len(source)):
        if source[i] >= 0 and clock_minute[source[i]] != minute:
            found[count] = source[i]
            count += 1
    return found[:count]


@compiled
def _measure(
    source: Int32s, tells: Bools, delay_us: Int64s, tolerance_us: int, in_force_us: Int64s,
    in_doubt_us: Int64s, least_us: OutInt64s, greatest_us: OutInt64s, offset_us: OutInt64s, uncertainty_us: OutInt64s,
) -> bool:  # fmt: skip
    """Whether anything came from ahead of its arrival, or is in doubt."""
    is_doubted = False
    for i in range(len(source)):
        row = source[i]
        if row >= 0:
            offset_us[i], uncertainty_us[i] = in_force_us[row], in_doubt_us[row]
            if tells[i]:
                least_us[row] = min(least_us[row], delay_us[i])
                greatest_us[row] = max(greatest_us[row], delay_us[i])
        is_doubted |= delay_us[i] - offset_us[i] < -tolerance_us or uncertainty_us[i] != 0
    return is_doubted


def _residual(offset_us: NDArray[np.int64]) -> NDArray[np.int64]:
    """A clock that is off is known to within the delay that no measurement can tell from it."""
    return np.where(offset_us != 0, TOLERANCE_US, 0)


def _judged_singly(known: ClockCorrection, delay_us: NDArray[np.int64]) -> ClockCorrection:
    """What one reading's own delay says against the clock that is in force."""
    offset, uncertainty = known.offset_us, known.uncertainty_us
    left_us = delay_us - offset
    is_ahead = left_us < -TOLERANCE_US
    is_near = np.abs(left_us) <= TOLERANCE_US
    if_late = np.maximum(uncertainty, np.where(offset != 0, np.abs(offset) + TOLERANCE_US, 0))
    if_ahead = np.maximum(delay_us, 0) + TOLERANCE_US  # a clock behind may have been none: then it was late instead
    uncertainty = np.where(is_near, _residual(offset), np.where(is_ahead, if_ahead, if_late))
    return ClockCorrection(np.where(is_ahead, delay_us, offset), uncertainty)
