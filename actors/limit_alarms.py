"""Limit alarms and rate of change. The rule is the contract of `domain.limits`; `limit_scan` follows it. Clause 6.3f.

Fed by readings that may alarm (usable, real), in order, of metrics that have limits. VERY_LOW and LOW (or the high pair)
are alarms of their own: reaching the critical step leaves the warning raised. A channel whose readings become unusable
keeps its alarms; the technical alarm says that nothing more is known. What late readings raised pages nobody: the first
reading in time that is still beyond tells it once more, as continuing. When the patient changes all that the channel had
raised ends at the boundary, and the next patient starts afresh. Near a boundary readings are judged by the adult range
and what they raise names no patient. Under maintenance nothing is raised and what was raised ends.

Rate of change (advisory, low): |difference| of successive readings at most 5 minutes apart, against the metric's largest
believable change; a gap of less than a minute counts as a minute, since one step of a whole-number display is no trend.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.alarm_writing import Alarm, about_device, channel_scope, known
from actors.associations import Associations
from actors.columns import group_ends
from actors.kinds import AMBIGUOUS, IS_PATIENT_BOUND, RULES
from actors.limit_scan import Life, Paging, Watch, live, paging
from actors.limit_watch import Followed, LimitWatch
from actors.presets import Presets
from actors.roster import Roster
from actors.rule_states import RuleStates
from actors.turn import Notices, Turn
from domain.alarms import AlarmEvent, AlertType, Phase, Priority
from domain.instants import NEVER_US
from domain.limits import DELAY_US, HYSTERESIS, RULE_VERSION, LimitRule
from domain.metrics import BY_ID, Metric

CHANGE_RULE: Final = "change.rate"
CHANGE: Final = len(LimitRule)  # its column, after the four limits
_SIDE: Final = np.array([-1.0 if rule.is_low else 1.0 for rule in LimitRule])
_QUIET_US: Final = 60_000_000  # a device that has been silent so long will not say itself that its patient left


@dataclass(frozen=True, slots=True)
class _Judged:
    """Of readings followed: limits [n, 4], and [n, rules] whether it is strictly beyond, and back inside by the hysteresis.
    Under maintenance nothing is beyond and all is back.
    """

    limits: NDArray[np.float64]
    beyond: NDArray[np.bool_]
    back: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Hit:
    """One thing to say of a reading followed and a rule; `phase` None: what was raised ends because the patient changed."""

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
        self._watch = LimitWatch(roster, presets, self._states)

    def snapshot(self) -> dict[str, pa.Table]:
        return self._states.snapshot()

    def restore(self, tables: dict[str, pa.Table]) -> None:
        self._states.restore(tables)

    def set_back(self, latest_us: int) -> None:
        """Nothing that is pending can have begun after this."""
        self._states.set_back(latest_us)

    def step(self, turn: Turn, notices: Notices) -> None:
        """Take a turn's readings through the rules."""
        followed = self._watch.follow(turn)
        if followed is None:
            return
        judged = _judge(followed, self._presets.limits_of(followed.metric, followed.whose))
        watch = self._watch_of(followed, judged)
        life = live(watch)
        pages = paging(watch, life, turn.is_live(followed.at), self._states.of("is_unpaged", followed.channel))
        for hit in self._tell(followed, judged, life, pages):
            notices.alarms.append((int(turn.row[followed.at[hit.row]]), self._event(turn, followed, hit)))
        self._write(followed, life, pages)

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

    def _watch_of(self, followed: Followed, judged: _Judged) -> Watch:
        delay_us = np.zeros((len(followed), RULES), dtype=np.int64)
        delay_us[:, :CHANGE] = DELAY_US[followed.metric][:, None]
        return Watch(
            followed.first, followed.is_new_patient, followed.time_us, judged.beyond, judged.back, delay_us,
            self._states.of("onset_us", followed.channel), self._states.of("is_raised", followed.channel),
        )  # fmt: skip

    def _write(self, followed: Followed, life: Life, pages: Paging) -> None:
        ends = group_ends(followed.first)
        channel, raised, start = followed.channel[ends], life.raised[ends], life.start_row[ends]
        was_ambiguous = self._states.of("is_ambiguous", channel)
        onset_us = np.where(raised, life.onset_us[ends], life.pending_us[ends])
        is_ambiguous = np.where(start >= 0, followed.is_ambiguous[start], was_ambiguous)
        self._states.put(channel, onset_us, raised, raised & is_ambiguous, pages.is_unpaged[ends])

    def _tell(self, followed: Followed, judged: _Judged, life: Life, pages: Paging) -> list[_Hit]:
        """What is to be said: first of patients who left, then what ended, then what started, then what goes on."""
        was_ambiguous = self._ambiguity(followed, life)
        hits = []
        for flags, phase, onset_us in (
            (life.left, None, life.left_onset_us),
            (life.ended, Phase.END, life.onset_us),
            (life.started, Phase.START, life.onset_us),
            (pages.due, Phase.CONTINUE, life.onset_us),
        ):
            for row, rule in zip(*(axis.tolist() for axis in np.nonzero(flags)), strict=True):
                is_ambiguous = followed.is_ambiguous[row] if phase is Phase.START else was_ambiguous[row, rule]
                patient = int(followed.patient_before[row] if phase is None else followed.patient[row])
                limit = float(judged.limits[row, rule]) if rule < CHANGE else np.inf
                hits.append(_Hit(
                    row, rule, phase, int(onset_us[row, rule]), AMBIGUOUS if is_ambiguous else patient,
                    limit if np.isfinite(limit) else None, bool(followed.quiet[row]),
                ))  # fmt: skip
        return hits

    def _ambiguity(self, followed: Followed, life: Life) -> NDArray[np.bool_]:
        """[n, rules] whether what was raised before each row had been raised when the patient could not be told."""
        start = np.concatenate([life.start_row[:1], life.start_row[:-1]])
        start[followed.first] = -1
        was_ambiguous = self._states.of("is_ambiguous", followed.channel)
        before: NDArray[np.bool_] = np.where(start >= 0, followed.is_ambiguous[start], was_ambiguous)
        return before

    def _left(self, turn: Turn, followed: Followed, hit: _Hit) -> AlarmEvent:
        """The patient changed between this reading and the one before: what was raised ends at the boundary."""
        at, channel = int(followed.at[hit.row]), int(followed.channel[hit.row])
        time_us, was = int(followed.time_us[hit.row]), int(followed.patient_before[hit.row])
        left_us = self._associations.end_of(int(turn.device[at]), was, hit.onset_us) if was >= 0 else None
        event_us = time_us if left_us is None else min(max(left_us, hit.onset_us), time_us)
        return self._alarm(channel, hit.rule, hit.onset_us, hit.patient).notice(
            Phase.END, _priority(hit.rule), f"{self._title(channel, hit.rule)} ended: the device changed patients",
            event_us=event_us, arrival_us=int(turn.arrival_us[at]), live=bool(turn.is_live(at)),
        )  # fmt: skip

    def _event(self, turn: Turn, followed: Followed, hit: _Hit) -> AlarmEvent:
        if hit.phase is None:
            return self._left(turn, followed, hit)
        at, channel = int(followed.at[hit.row]), int(followed.channel[hit.row])
        metric, value = BY_ID[int(followed.metric[hit.row])], float(followed.value[hit.row])
        time_us, arrival_us, clock_us = int(followed.time_us[hit.row]), int(turn.arrival_us[at]), int(turn.clock_us[at])
        inputs = [known(metric.code, value, time_us, clock_us, int(turn.readings.quality[at]))]
        text = self._limit_text(hit, metric, value)
        if hit.rule == CHANGE:
            before, before_us = float(followed.value_before[hit.row]), int(followed.time_before_us[hit.row])
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
        still = "still " if hit.phase is Phase.CONTINUE else ""
        return f"{metric.name_en} {value:g} {metric.unit}, {still}{side} {where}"

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


def _judge(followed: Followed, limits: NDArray[np.float64]) -> _Judged:
    beyond, back = (np.empty((len(followed), RULES), dtype=np.bool_) for _ in range(2))
    excess = (followed.value[:, None] - limits) * _SIDE
    beyond[:, :CHANGE] = excess > 0
    back[:, :CHANGE] = excess <= -HYSTERESIS[followed.metric][:, None]
    beyond[:, CHANGE], back[:, CHANGE] = followed.is_fast, ~followed.is_fast
    beyond[followed.quiet], back[followed.quiet] = False, True
    return _Judged(limits, beyond, back)


def _change_text(hit: _Hit, metric: Metric, value: float, before: float) -> str:
    if hit.phase is Phase.END:
        return f"{metric.name_en} {value:g} {metric.unit}, no longer changing fast"
    return f"{metric.name_en} went from {before:g} to {value:g} {metric.unit}, faster than is believable"


def _priority(rule: int) -> Priority:
    return Priority.LOW if rule == CHANGE else LimitRule(rule).priority
