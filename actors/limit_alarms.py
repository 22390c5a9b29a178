"""Limit alarms and rate of change. The rule is the contract of `domain.limits`; `limit_scan` follows it. Clause 6.3f.

Fed by readings that may alarm (usable, real), in order, of metrics that have limits. VERY_LOW and LOW (or the high pair)
are alarms of their own: reaching the critical step leaves the warning raised. A channel whose readings become unusable
keeps its alarms; the technical alarm says that nothing more is known. When the patient changes all that the channel had
raised ends at the boundary, and the next patient starts afresh. Near a boundary readings are judged by the adult range
and what they raise names no patient. Under maintenance nothing is raised and what was raised ends.

Rate of change (advisory, low): |difference| of successive readings at most 5 minutes apart, against the metric's largest
believable change; a gap of less than a minute counts as a minute, since one step of a whole-number display is no trend.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.alarm_writing import Alarm, about_device, channel_scope, known
from actors.associations import Associations
from actors.columns import group_ends, group_starts
from actors.kinds import AMBIGUOUS, IS_PATIENT_BOUND, NOBODY, RULES
from actors.limit_scan import Life, Watch, live
from actors.presets import Presets
from actors.roster import Roster
from actors.rule_states import RuleStates
from actors.turn import Notices, Turn
from domain.alarms import AlarmEvent, AlertType, Phase, Priority
from domain.instants import NEVER_US
from domain.limits import DELAY_US, HYSTERESIS, LIMITS, MAX_CHANGE_PER_MIN, RULE_VERSION, LimitRule
from domain.metrics import BY_ID, Metric

CHANGE_RULE: Final = "change.rate"
CHANGE: Final = len(LimitRule)  # its column, after the four limits
CHANGE_WITHIN_US: Final = 300_000_000
_MINUTE_US: Final = 60_000_000
_SIDE: Final = np.array([-1.0 if rule.is_low else 1.0 for rule in LimitRule])
_WATCHED: Final = np.isfinite(LIMITS).any(axis=(1, 2)) | np.isfinite(MAX_CHANGE_PER_MIN)
_QUIET_US: Final = 60_000_000  # a device that has been silent so long will not say itself that its patient left


class _Ruled:
    """Readings that feed the rules, sorted by channel: who, when, what, and what came just before in the channel."""

    def __init__(self, roster: Roster, turn: Turn) -> None:
        readings = turn.readings
        self.at = turn.fed(_WATCHED[readings.metric])  # into the turn
        self.channel = turn.channel[self.at]
        self.time_us = turn.time_us[self.at]
        self.value = readings.value[self.at]
        self.metric = readings.metric[self.at]
        self.first = group_starts(self.channel)
        self.told_patient = turn.patient[self.at]
        table = roster.channels
        self.patient = self._who(table["ruled_patient"][self.channel])
        self.time_before_us = np.where(self.first, table["ruled_time_us"][self.channel], _previous(self.time_us))
        self.value_before = np.where(self.first, table["ruled_value"][self.channel], _previous(self.value))
        was = np.where(self.first, table["ruled_patient"][self.channel], _previous(self.patient))
        self.is_new_patient = (self.time_before_us != NEVER_US) & (was != self.patient)
        self.patient_before = was

    def __len__(self) -> int:
        return len(self.at)

    def _who(self, carried: NDArray[Any]) -> NDArray[np.int64]:
        """The patient of each row; a row too near a boundary to tell goes on with whoever was there before it."""
        told = self.told_patient != AMBIGUOUS
        last = np.maximum.accumulate(np.where(told | self.first, np.arange(len(self)), 0)) if len(self) else np.empty(0, int)
        return np.where(told[last], self.told_patient[last], carried)

    def remember(self, roster: Roster) -> None:
        """The last row of each channel is what the next batch continues from."""
        table, ends = roster.channels, group_ends(self.first)
        table["ruled_time_us"][self.channel[ends]] = self.time_us[ends]
        table["ruled_value"][self.channel[ends]] = self.value[ends]
        table["ruled_patient"][self.channel[ends]] = self.patient[ends]


@dataclass(frozen=True, slots=True)
class _Judged:
    """Of some ruled readings: limits [n, 4], whether the device is under maintenance, and [n, rules] whether it is strictly
    beyond, and back inside by the hysteresis. Under maintenance nothing is beyond and all is back.
    """

    limits: NDArray[np.float64]
    quiet: NDArray[np.bool_]
    beyond: NDArray[np.bool_]
    back: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Hit:
    """One thing to say of a ruled reading and a rule; `phase` None: what was raised ends because the patient changed."""

    row: int
    rule: int
    phase: Phase | None
    onset_us: int
    patient: int
    limit: float | None
    is_quiet: bool


class LimitAlarms:
    """Keeps its state in `RuleStates` and in the roster's channel columns `ruled_*`."""

    def __init__(self, roster: Roster, associations: Associations, presets: Presets) -> None:
        self._roster = roster
        self._associations = associations
        self._presets = presets
        self._states = RuleStates()

    def snapshot(self) -> dict[str, pa.Table]:
        return self._states.snapshot()

    def restore(self, tables: dict[str, pa.Table]) -> None:
        self._states.restore(tables)

    def set_back(self, latest_us: int) -> None:
        """Nothing that is pending can have begun after this."""
        self._states.set_back(latest_us)

    def step(self, turn: Turn, notices: Notices) -> None:
        """Take a turn's readings through the rules."""
        ruled = _Ruled(self._roster, turn)
        if not len(ruled):
            return
        whose = np.where(ruled.told_patient == AMBIGUOUS, NOBODY, ruled.patient)
        quiet = self._roster.in_maintenance(turn.device[ruled.at], turn.clock_us[ruled.at])
        low, high = self._presets.bounds_of(ruled.metric, whose)
        is_fast = _changes_fast(ruled)
        stirred = self._stirred(ruled, (is_fast | (ruled.value < low) | (ruled.value > high)) & ~quiet)
        if len(stirred):
            limits = self._presets.limits_of(ruled.metric[stirred], whose[stirred])
            judged = _judge(ruled.value[stirred], ruled.metric[stirred], limits, is_fast[stirred], quiet[stirred])
            life = self._live(ruled, stirred, judged)
            for hit in self._tell(ruled, stirred, judged, life):
                notices.alarms.append((int(turn.row[ruled.at[hit.row]]), self._event(turn, ruled, hit)))
            self._write(ruled, stirred, life)
        ruled.remember(self._roster)

    def settle(self, now_us: int, device: int | None = None) -> list[AlarmEvent]:
        """End what no reading will end: alarms of patients who left, and of devices under maintenance; of one or of all."""
        table, channels = self._roster.channels, self._states.raised()
        if device is not None:
            channels = channels[table["device"][channels] == device]
        if not len(channels):
            return []
        devices, patients = table["device"][channels], table["ruled_patient"][channels]
        quiet = self._roster.in_maintenance(devices, now_us)
        here = self._associations.patients_at(devices, np.full(len(channels), now_us, dtype=np.int64))
        events = []
        for number in np.flatnonzero(quiet | ((patients >= 0) & (here != patients) & (here != AMBIGUOUS))).tolist():
            channel = int(channels[number])
            ended_us = now_us if quiet[number] else self._left_us(int(devices[number]), int(patients[number]), channel, now_us)
            if ended_us is not None:
                why = "the device is under maintenance" if quiet[number] else "the device no longer belongs to this patient"
                events += self._end_channel(channel, ended_us, now_us, why)
        return events

    def _left_us(self, device: int, patient: int, channel: int, now_us: int) -> int | None:
        """When the patient left the device, once the device's readings have come that far or it has fallen silent."""
        onsets = self._states.of("onset_us", np.array([channel]))
        left_us = self._associations.end_of(device, patient, int(onsets[onsets != NEVER_US].min()))
        if left_us is None or left_us > now_us:
            return None
        table = self._roster.devices
        came_so_far = table["last_time_us"][device] >= left_us - _QUIET_US
        return left_us if came_so_far or table["last_arrival_us"][device] <= now_us - _QUIET_US else None

    def _end_channel(self, channel: int, event_us: int, now_us: int, why: str) -> list[AlarmEvent]:
        one = np.array([channel])
        raised, onsets, ambiguous = (self._states.of(name, one)[0] for name in ("is_raised", "onset_us", "is_ambiguous"))
        events = []
        for rule in np.flatnonzero(raised).tolist():
            onset_us = int(onsets[rule])
            patient = AMBIGUOUS if ambiguous[rule] else int(self._roster.channels["ruled_patient"][channel])
            text = f"{self._title(channel, rule)} ended: {why}"
            events.append(
                self._alarm(channel, rule, onset_us, patient).notice(
                    Phase.END, _priority(rule), text, event_us=max(event_us, onset_us), arrival_us=now_us
                )
            )
        self._states.clear(one)
        return events

    def _stirred(self, ruled: _Ruled, is_beyond: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Rows of channels where something is beyond a limit, pending or raised: the few that need following."""
        group = np.cumsum(ruled.first) - 1
        stirs = self._states.is_stirred(ruled.channel[ruled.first])
        stirs[group[is_beyond]] = True
        return np.flatnonzero(stirs[group]) if stirs.any() else np.empty(0, np.intp)

    def _live(self, ruled: _Ruled, rows: NDArray[np.intp], judged: _Judged) -> Life:
        channel = ruled.channel[rows]
        delay_us = np.zeros((len(rows), RULES), dtype=np.int64)
        delay_us[:, :CHANGE] = DELAY_US[ruled.metric[rows]][:, None]
        return live(Watch(
            ruled.first[rows], ruled.is_new_patient[rows], ruled.time_us[rows], judged.beyond, judged.back,
            delay_us, self._states.of("onset_us", channel), self._states.of("is_raised", channel),
        ))  # fmt: skip

    def _write(self, ruled: _Ruled, rows: NDArray[np.intp], life: Life) -> None:
        ends = group_ends(ruled.first[rows])
        channel, raised, start = ruled.channel[rows[ends]], life.raised[ends], life.start_row[ends]
        is_ambiguous = ruled.told_patient[rows] == AMBIGUOUS
        was_ambiguous = self._states.of("is_ambiguous", channel)
        onset_us = np.where(raised, life.onset_us[ends], life.pending_us[ends])
        self._states.put(channel, onset_us, raised, raised & np.where(start >= 0, is_ambiguous[start], was_ambiguous))

    def _tell(self, ruled: _Ruled, rows: NDArray[np.intp], judged: _Judged, life: Life) -> list[_Hit]:
        """What is to be said: first of patients who left, then what ended, then what started."""
        was_ambiguous = self._ambiguity(ruled, rows, life)
        hits = []
        for flags, phase, onset_us in (
            (life.left, None, life.left_onset_us),
            (life.ended, Phase.END, life.onset_us),
            (life.started, Phase.START, life.onset_us),
        ):
            for number, rule in zip(*(axis.tolist() for axis in np.nonzero(flags)), strict=True):
                row = int(rows[number])
                is_ambiguous = ruled.told_patient[row] == AMBIGUOUS if phase is Phase.START else was_ambiguous[number, rule]
                patient = int(ruled.patient_before[row] if phase is None else ruled.patient[row])
                limit = float(judged.limits[number, rule]) if rule < CHANGE else np.inf
                hits.append(_Hit(
                    row, rule, phase, int(onset_us[number, rule]), AMBIGUOUS if is_ambiguous else patient,
                    limit if np.isfinite(limit) else None,
                    bool(judged.quiet[number]),
                ))  # fmt: skip
        return hits

    def _ambiguity(self, ruled: _Ruled, rows: NDArray[np.intp], life: Life) -> NDArray[np.bool_]:
        """[n, rules] whether what was raised before each row had been raised when the patient could not be told."""
        told, first = ruled.told_patient[rows] == AMBIGUOUS, ruled.first[rows]
        start = np.concatenate([life.start_row[:1], life.start_row[:-1]])
        start[first] = -1
        before: NDArray[np.bool_] = np.where(start >= 0, told[start], self._states.of("is_ambiguous", ruled.channel[rows]))
        return before

    def _left(self, turn: Turn, ruled: _Ruled, hit: _Hit) -> AlarmEvent:
        """The patient changed between this reading and the one before: what was raised ends at the boundary."""
        at, channel = int(ruled.at[hit.row]), int(ruled.channel[hit.row])
        time_us, was = int(ruled.time_us[hit.row]), int(ruled.patient_before[hit.row])
        left_us = self._associations.end_of(int(turn.device[at]), was, hit.onset_us) if was >= 0 else None
        event_us = time_us if left_us is None else min(max(left_us, hit.onset_us), time_us)
        return self._alarm(channel, hit.rule, hit.onset_us, hit.patient).notice(
            Phase.END, _priority(hit.rule), f"{self._title(channel, hit.rule)} ended: the device changed patients",
            event_us=event_us, arrival_us=int(turn.arrival_us[at]), live=bool(turn.is_live(at)),
        )  # fmt: skip

    def _event(self, turn: Turn, ruled: _Ruled, hit: _Hit) -> AlarmEvent:
        if hit.phase is None:
            return self._left(turn, ruled, hit)
        at, channel = int(ruled.at[hit.row]), int(ruled.channel[hit.row])
        metric, value = BY_ID[int(ruled.metric[hit.row])], float(ruled.value[hit.row])
        time_us, arrival_us, clock_us = int(ruled.time_us[hit.row]), int(turn.arrival_us[at]), int(turn.clock_us[at])
        inputs = [known(metric.code, value, time_us, clock_us, int(turn.readings.quality[at]))]
        text = self._limit_text(hit, metric, value)
        if hit.rule == CHANGE:
            before, before_us = float(ruled.value_before[hit.row]), int(ruled.time_before_us[hit.row])
            inputs.append(known(metric.code, before, before_us, clock_us, 0, note="the reading before"))
            text = _change_text(hit, metric, value, before)
        return self._alarm(channel, hit.rule, hit.onset_us, hit.patient).notice(
            hit.phase, _priority(hit.rule), f"{text}; the device is under maintenance" if hit.is_quiet else text,
            event_us=time_us, arrival_us=arrival_us, latching=_priority(hit.rule) is Priority.HIGH,
            live=bool(turn.is_live(at)), value=value, limit=hit.limit, unit=metric.unit, inputs=tuple(inputs),
        )  # fmt: skip

    def _limit_text(self, hit: _Hit, metric: Metric, value: float) -> str:
        if hit.rule == CHANGE:
            return ""
        limit = LimitRule(hit.rule)
        if hit.limit is None:
            return f"{metric.name_en} {value:g} {metric.unit}, no {limit.name.lower().replace('_', ' ')} limit is set any more"
        own = "preset " if self._presets.is_preset(metric.id, hit.patient) else ""
        where = f"the {own}{limit.name.lower().replace('_', ' ')} limit of {hit.limit:g} {metric.unit}"
        side = "back inside" if hit.phase is Phase.END else "below" if limit.is_low else "above"
        return f"{metric.name_en} {value:g} {metric.unit}, {side} {where}"

    def _alarm(self, channel: int, rule: int, onset_us: int, patient: int) -> Alarm:
        roster, device = self._roster, int(self._roster.channels["device"][channel])
        is_patients = bool(IS_PATIENT_BOUND[roster.devices["model"][device]])
        kind = AlertType.ADVISORY if rule == CHANGE else AlertType.PHYSIOLOGICAL if is_patients else AlertType.TECHNICAL
        name = CHANGE_RULE if rule == CHANGE else LimitRule(rule).rule_name
        subject = about_device(roster, device, patient, channel)
        return Alarm(channel_scope(roster, channel), name, RULE_VERSION, kind, subject, onset_us)

    def _title(self, channel: int, rule: int) -> str:
        name = BY_ID[int(self._roster.channels["metric"][channel])].name_en
        return f"{name}: {'change' if rule == CHANGE else LimitRule(rule).name.lower().replace('_', ' ')} alarm"


def _judge(
    value: NDArray[np.float64], metric: NDArray[np.uint16], limits: NDArray[np.float64], is_fast: NDArray[np.bool_],
    quiet: NDArray[np.bool_],
) -> _Judged:  # fmt: skip
    beyond, back = (np.empty((len(value), RULES), dtype=np.bool_) for _ in range(2))
    excess = (value[:, None] - limits) * _SIDE
    beyond[:, :CHANGE] = excess > 0
    back[:, :CHANGE] = excess <= -HYSTERESIS[metric][:, None]
    beyond[:, CHANGE], back[:, CHANGE] = is_fast, ~is_fast
    beyond[quiet], back[quiet] = False, True
    return _Judged(limits, quiet, beyond, back)


def _changes_fast(ruled: _Ruled) -> NDArray[np.bool_]:
    fast = np.abs(ruled.value - ruled.value_before) > MAX_CHANGE_PER_MIN[ruled.metric]  # the least that is ever too much
    rows = np.flatnonzero(fast)
    known_before = (ruled.time_before_us[rows] != NEVER_US) & ~ruled.is_new_patient[rows]
    gap_us = np.where(known_before, ruled.time_us[rows] - np.where(known_before, ruled.time_before_us[rows], 0), 0)
    allowed = MAX_CHANGE_PER_MIN[ruled.metric[rows]] * np.maximum(gap_us / _MINUTE_US, 1.0)
    change = np.abs(ruled.value[rows] - ruled.value_before[rows])
    fast[rows] = (gap_us > 0) & (gap_us <= CHANGE_WITHIN_US) & (change > allowed)
    return fast


def _change_text(hit: _Hit, metric: Metric, value: float, before: float) -> str:
    if hit.phase is Phase.END:
        return f"{metric.name_en} {value:g} {metric.unit}, no longer changing fast"
    return f"{metric.name_en} went from {before:g} to {value:g} {metric.unit}, faster than is believable"


def _previous(values: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([values[:1], values[:-1]])


def _priority(rule: int) -> Priority:
    return Priority.LOW if rule == CHANGE else LimitRule(rule).priority
