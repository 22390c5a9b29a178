"""Which of a turn's readings the limit rules have to follow: mostly none.

Every reading that feeds a rule is looked at once, in stream order: whose it was, what came before it in its channel, and
whether it is beyond a limit or changed too fast. Only channels where something is beyond, pending or raised are followed
further (`limit_scan`), with all their readings of the turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from actors.columns import group_starts
from actors.kinds import AMBIGUOUS, NOBODY
from actors.ordering import by_channel
from actors.presets import Presets
from actors.roster import Roster
from actors.rule_states import RuleStates
from actors.turn import Turn
from domain.ages import AgeBand
from domain.compiled import (
    Bools,
    Floats,
    Floats2D,
    Int32s,
    Int64s,
    OutBools,
    OutFloats,
    OutInt32s,
    OutInt64s,
    UInt8s,
    UInt16s,
    compiled,
)
from domain.instants import NEVER_US
from domain.limits import LIMITS, MAX_CHANGE_PER_MIN

CHANGE_WITHIN_US: Final = 300_000_000
_MINUTE_US: Final = 60_000_000
_WATCHED: Final = np.isfinite(LIMITS).any(axis=(1, 2)) | np.isfinite(MAX_CHANGE_PER_MIN)


@dataclass(frozen=True, slots=True)
class Followed:
    """Readings that the rules follow, by channel and in stream order within; all of one length.

    at: into the turn; first: the first of its channel; time_before_us, value_before, patient_before: of the reading that
    fed the rules just before in the channel (NEVER_US where there was none); patient: a reading too near a boundary to
    tell (is_ambiguous) goes on with whoever was there before it; quiet: the device is under maintenance.
    """

    at: NDArray[np.intp]
    channel: NDArray[np.int32]
    metric: NDArray[np.uint16]
    time_us: NDArray[np.int64]
    value: NDArray[np.float64]
    first: NDArray[np.bool_]
    patient: NDArray[np.int32]
    patient_before: NDArray[np.int32]
    time_before_us: NDArray[np.int64]
    value_before: NDArray[np.float64]
    is_ambiguous: NDArray[np.bool_]
    is_fast: NDArray[np.bool_]
    quiet: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.at)

    @property
    def is_new_patient(self) -> NDArray[np.bool_]:
        """The patient differs from the one of the reading before."""
        is_new: NDArray[np.bool_] = (self.time_before_us != NEVER_US) & (self.patient_before != self.patient)
        return is_new

    @property
    def whose(self) -> NDArray[np.int32]:
        """By whose limits each is judged: the adult range's where the patient cannot be told."""
        return np.where(self.is_ambiguous, np.int32(NOBODY), self.patient)


class LimitWatch:
    """See module. What came before in each channel is in the roster's columns `ruled_*`."""

    def __init__(self, roster: Roster, presets: Presets, states: RuleStates) -> None:
        self._roster = roster
        self._presets = presets
        self._states = states
        self._is_hot = np.zeros(0, dtype=np.bool_)  # by channel; all False between turns

    def follow(self, turn: Turn) -> Followed | None:
        """Look at a turn's readings; those to be followed, if any."""
        rows, channels, patients = len(turn), self._roster.channels, self._roster.patients
        if len(self._is_hot) < len(channels):
            self._is_hot = np.zeros(channels.capacity, dtype=np.bool_)
        quiet = self._roster.in_maintenance(turn.device, turn.clock_us)
        is_watched, is_fast = np.empty(rows, np.bool_), np.empty(rows, np.bool_)
        patient, patient_before = np.empty(rows, np.int32), np.empty(rows, np.int32)
        time_before_us, value_before = np.empty(rows, np.int64), np.empty(rows)
        found = _watch(
            turn.feeds, turn.channel, turn.readings.metric, turn.time_us, turn.readings.value, turn.patient, quiet, _WATCHED,
            MAX_CHANGE_PER_MIN, *self._presets.bounds(), patients["band"], patients["preset_slot"],
            self._states.rows_by_channel(len(channels)),
            AMBIGUOUS, int(AgeBand.ADULT), len(AgeBand), NEVER_US, CHANGE_WITHIN_US,
            channels["ruled_time_us"], channels["ruled_value"], channels["ruled_patient"],
            is_watched, is_fast, patient, patient_before, time_before_us, value_before, self._is_hot,
        )  # fmt: skip
        if not found:
            return None
        at = np.flatnonzero(is_watched & self._is_hot[turn.channel])
        at = at[by_channel(turn.channel[at])]
        channel = turn.channel[at]
        self._is_hot[channel] = False
        return Followed(
            at, channel, turn.readings.metric[at], turn.time_us[at], turn.readings.value[at], group_starts(channel),
            patient[at], patient_before[at], time_before_us[at], value_before[at], turn.patient[at] == AMBIGUOUS,
            is_fast[at], quiet[at],
        )  # fmt: skip


@compiled
def _watch(
    feeds: Bools, channel: Int32s, metric: UInt16s, time_us: Int64s, value: Floats, told: Int64s, quiet: Bools, watched: Bools,
    max_change_per_min: Floats, least: Floats, greatest: Floats, own_least: Floats2D, own_greatest: Floats2D,
    band: UInt8s, preset_slot: Int32s, state_row: Int32s, ambiguous: int, adult: int, bands: int, never_us: int,
    change_within_us: int,
    ruled_time_us: OutInt64s, ruled_value: OutFloats, ruled_patient: OutInt32s,
    is_watched: OutBools, is_fast: OutBools, patient: OutInt32s, patient_before: OutInt32s, time_before_us: OutInt64s,
    value_before: OutFloats, is_hot: OutBools,
) -> int:  # fmt: skip
    """How many readings are of channels that something makes hot."""
    found = 0
    for i in range(len(channel)):
        is_watched[i] = feeds[i] and watched[metric[i]]
        if not is_watched[i]:
            continue
        row, of_metric = channel[i], metric[i]
        was, before_us, before = ruled_patient[row], ruled_time_us[row], ruled_value[row]
        who = was if told[i] == ambiguous else told[i]

        is_fast[i] = False
        change = abs(value[i] - before)
        if change > max_change_per_min[of_metric] and before_us != never_us and was == who:
            gap_us = time_us[i] - before_us
            allowed = max_change_per_min[of_metric] * max(gap_us / _MINUTE_US, 1.0)
            is_fast[i] = 0 < gap_us <= change_within_us and change > allowed

        judged = who if told[i] != ambiguous else -1
        normal = of_metric * bands + (band[judged] if judged >= 0 else adult)
        low, high = least[normal], greatest[normal]
        slot = preset_slot[judged] if judged >= 0 else -1
        if slot >= 0 and not np.isnan(own_least[slot, of_metric]):
            low, high = own_least[slot, of_metric], own_greatest[slot, of_metric]

        if state_row[row] >= 0 or (not quiet[i] and (is_fast[i] or value[i] < low or value[i] > high)):
            is_hot[row] = True
            found += 1
        patient[i], patient_before[i], time_before_us[i], value_before[i] = who, was, before_us, before
        ruled_patient[row], ruled_time_us[row], ruled_value[row] = who, time_us[i], value[i]
    return found
