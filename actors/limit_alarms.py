"""Limit alarms and rate of change, for all channels of a batch at once.

A sequential rule over a batch is run in rounds: the k-th reading of every channel in round k. Within a round each
channel appears once, so a round is plain array arithmetic, and the result is the same however the stream is cut.
The rule itself is the contract of `domain.limits`. Clause 6.3f.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from actors.columns import occurrence
from actors.roster import AMBIGUOUS, Roster
from domain.alarms import (
    AlarmEvent,
    AlarmSubject,
    AlertType,
    KnownInput,
    Phase,
    Priority,
    alarm_id_of,
    event_id_of,
)  # fmt: skip
from domain.instants import NEVER_US
from domain.limits import DELAY_US, HYSTERESIS, MAX_CHANGE_PER_MIN, RULE_VERSION, LimitRule
from domain.metrics import BY_ID
from domain.quality import may_alarm
from domain.readings import ReadingBatch

_LOW_SIDE: Final = np.array([rule.is_low for rule in LimitRule])
_CHANGE_RULE: Final = "rate-of-change"
_CHANGE_WITHIN_US: Final = 300_000_000  # two readings further apart say nothing about a rate
_WATCHED: Final = np.isfinite(MAX_CHANGE_PER_MIN)


class LimitAlarms:
    """Evaluates limits over the roster's channels; keeps its state in their columns."""

    def __init__(self, roster: Roster, live_horizon_us: int) -> None:
        self._roster = roster
        self._live_horizon_us = live_horizon_us

    def step(
        self, batch: ReadingBatch, channels: NDArray[np.int64], patients: NDArray[np.int64], arrival_us: NDArray[np.int64]
    ) -> list[AlarmEvent]:
        """Events of in-order readings of known channels, in stream order.

        `channels`, `patients`, `arrival_us` are aligned with `batch`. Readings that may not alarm (unusable, test, demo)
        and devices under maintenance are passed over and leave the state as it is.
        """
        devices = self._roster.channels["device"][channels]
        counts = may_alarm(batch.quality) & ~self._roster.in_maintenance(devices, arrival_us)
        if not counts.any():
            return []
        chosen = np.flatnonzero(counts)
        limits = self._roster.limits_of(batch.metric[chosen], patients[chosen])
        is_limited = np.isfinite(limits).any(axis=1) | _WATCHED[batch.metric[chosen]]
        chosen, limits = chosen[is_limited], limits[is_limited]
        rounds = occurrence(channels[chosen])
        events: list[tuple[int, AlarmEvent]] = []
        for number in range(int(rounds.max(initial=-1)) + 1):
            of_round = np.flatnonzero(rounds == number)
            rows = chosen[of_round]
            part = _Round(batch, rows, channels[rows], patients[rows], arrival_us[rows], limits[of_round])
            events += self._round(part)
        events.sort(key=lambda pair: pair[0])
        return [event for _, event in events]

    def end_all(self, channels: NDArray[Any], at_us: int, arrival_us: int, why: str) -> list[AlarmEvent]:
        """End every raised limit alarm of `channels` at an instant that is not a reading's (a patient left, maintenance)."""
        table = self._roster.channels
        events = []
        for channel, rule in zip(*np.nonzero(table["is_raised"][channels]), strict=True):
            row = int(channels[channel])
            onset = int(table["onset_us"][row, rule])
            events.append(self._event(row, LimitRule(int(rule)), Phase.END, onset, max(at_us, onset), arrival_us, -1, why))
        table["is_raised"][channels] = False
        table["onset_us"][channels] = NEVER_US
        return events

    def _round(self, part: _Round) -> list[tuple[int, AlarmEvent]]:
        table = self._roster.channels
        channels, value = part.channels, part.batch.value[part.rows]
        time_us, metric = part.batch.time_us[part.rows], part.batch.metric[part.rows]
        margin = np.where(_LOW_SIDE, 1.0, -1.0) * HYSTERESIS[metric][:, None]
        side = np.where(_LOW_SIDE, -1.0, 1.0)
        beyond = (value[:, None] - part.limits) * side > 0
        back = (value[:, None] - (part.limits + margin)) * side <= 0
        onset, raised = table["onset_us"][channels], table["is_raised"][channels]
        ended = raised & back
        onset_of_ended = np.where(ended, onset, NEVER_US)
        pending_over = ~raised & ~beyond
        onset = np.where(ended | pending_over, NEVER_US, onset)
        onset = np.where(beyond & (onset == NEVER_US), time_us[:, None], onset)
        due = time_us[:, None] - onset >= DELAY_US[metric][:, None]
        started = beyond & ~(raised & ~ended) & due
        table["onset_us"][channels] = onset
        table["is_raised"][channels] = (raised & ~ended) | started
        events = self._changes(part, value, time_us, metric)
        for hits, phase, onsets in ((ended, Phase.END, onset_of_ended), (started, Phase.START, onset)):
            for row, rule in zip(*np.nonzero(hits), strict=True):
                at = int(part.rows[row])
                event = self._event(
                    int(channels[row]), LimitRule(int(rule)), phase, int(onsets[row, rule]), int(time_us[row]),
                    int(part.arrival_us[row]), int(part.patients[row]), "", float(value[row]),
                    float(part.limits[row, rule]), int(part.batch.quality[at]),
                )  # fmt: skip
                events.append((at, event))
        return events

    def _changes(
        self, part: _Round, value: NDArray[np.float64], time_us: NDArray[np.int64], metric: NDArray[np.uint16]
    ) -> list[tuple[int, AlarmEvent]]:
        """Changes faster than a body or a building allows: advisory, low priority, each an event of its own."""
        table = self._roster.channels
        watched = _WATCHED[metric]
        if not watched.any():
            return []
        channels = part.channels[watched]
        before_us, before = table["change_from_us"][channels], table["change_value"][channels]
        elapsed_us = time_us[watched] - before_us
        table["change_from_us"][channels], table["change_value"][channels] = time_us[watched], value[watched]
        comparable = (before_us != NEVER_US) & (elapsed_us > 0) & (elapsed_us <= _CHANGE_WITHIN_US)
        change = np.abs(value[watched] - before)
        allowed = MAX_CHANGE_PER_MIN[metric[watched]] * np.maximum(elapsed_us / 60e6, 1.0)
        events = []
        for hit in np.flatnonzero(comparable & (change > allowed)):
            row = int(np.flatnonzero(watched)[hit])
            at = int(part.rows[row])
            events.append((at, self._change_event(part, row, float(before[hit]), float(value[row]), int(time_us[row]))))
        return events

    def _change_event(self, part: _Round, row: int, before: float, value: float, time_us: int) -> AlarmEvent:
        channel, arrival_us = int(part.channels[row]), int(part.arrival_us[row])
        metric = BY_ID[int(self._roster.channels["metric"][channel])]
        alarm_id = alarm_id_of(self._scope(channel), _CHANGE_RULE, RULE_VERSION, time_us)
        return AlarmEvent(
            event_id=event_id_of(alarm_id, Phase.START, time_us), alarm_id=alarm_id, phase=Phase.START,
            alert_type=AlertType.ADVISORY, priority=Priority.LOW, rule=_CHANGE_RULE, rule_version=RULE_VERSION,
            subject=self.subject_of(channel, int(part.patients[row])), onset_us=time_us, event_us=time_us,
            arrival_us=arrival_us, live=self._is_live(time_us, arrival_us), value=value, unit=metric.unit,
            text=f"{metric.name_en} went from {before:g} to {value:g} {metric.unit} faster than is believable",
            inputs=(self._input(metric.code, value, time_us, arrival_us, int(part.batch.quality[part.rows[row]])),),
        )  # fmt: skip

    def _event(  # noqa: PLR0913, PLR0917 (one field of the record each)
        self, channel: int, rule: LimitRule, phase: Phase, onset_us: int, event_us: int, arrival_us: int, patient: int,
        why: str, value: float | None = None, limit: float | None = None, quality: int = 0,
    ) -> AlarmEvent:  # fmt: skip
        metric = BY_ID[int(self._roster.channels["metric"][channel])]
        alarm_id = alarm_id_of(self._scope(channel), rule.rule_name, RULE_VERSION, onset_us)
        word = "below" if rule.is_low else "above"
        text = f"{metric.name_en} {word} limit" if phase is Phase.START else f"{metric.name_en} no longer {word} limit"
        if value is not None and limit is not None:
            text += f": {value:g} {metric.unit}, limit {limit:g}"
        known = () if value is None else (self._input(metric.code, value, event_us, arrival_us, quality),)
        return AlarmEvent(
            event_id=event_id_of(alarm_id, phase, event_us), alarm_id=alarm_id, phase=phase,
            alert_type=AlertType.PHYSIOLOGICAL if self._is_patients(channel) else AlertType.TECHNICAL,
            priority=rule.priority, rule=rule.rule_name, rule_version=RULE_VERSION,
            subject=self.subject_of(channel, patient), onset_us=onset_us, event_us=event_us, arrival_us=arrival_us,
            text=f"{text} ({why})" if why else text, latching=rule.priority is Priority.HIGH,
            live=self._is_live(event_us, arrival_us), value=value, limit=limit, unit=metric.unit, inputs=known,
        )  # fmt: skip

    def _is_live(self, event_us: int, arrival_us: int) -> bool:
        return arrival_us - event_us <= self._live_horizon_us

    @staticmethod
    def _input(metric: str, value: float, time_us: int, arrival_us: int, quality: int) -> KnownInput:
        return KnownInput(metric, value, time_us, (arrival_us - time_us) / 1e6, quality)

    def _is_patients(self, channel: int) -> bool:
        return self._roster.model_of(int(self._roster.channels["device"][channel])).patient_bound

    def _scope(self, channel: int) -> str:
        roster = self._roster
        device = int(roster.channels["device"][channel])
        metric = BY_ID[int(roster.channels["metric"][channel])].code
        instance = int(roster.channels["instance"][channel])
        return f"device:{roster.hospital_of_device[device]}/{roster.device_ids[device]}#{metric}.{instance}"

    def subject_of(self, channel: int, patient: int) -> AlarmSubject:
        """Whom an alarm of `channel` is about; `patient` is a row, or NOBODY or AMBIGUOUS."""
        roster = self._roster
        device = int(roster.channels["device"][channel])
        return AlarmSubject(
            hospital_id=roster.hospital_of_device[device], ward_id=roster.ward_of_device[device],
            bed_id=roster.bed_of_device[device], device_id=roster.device_ids[device],
            handle=int(roster.devices["handle"][device]),
            patient_key=roster.patient_keys[patient] if patient >= 0 else None,
            patient_ambiguous=patient == AMBIGUOUS, metric=BY_ID[int(roster.channels["metric"][channel])].code,
            instance=int(roster.channels["instance"][channel]),
        )  # fmt: skip


class _Round:
    """The readings of one round, each of another channel. `rows` index into `batch`; the rest is aligned with `rows`."""

    __slots__ = ("arrival_us", "batch", "channels", "limits", "patients", "rows")

    def __init__(
        self, batch: ReadingBatch, rows: NDArray[np.intp], channels: NDArray[np.int64], patients: NDArray[np.int64],
        arrival_us: NDArray[np.int64], limits: NDArray[np.float64],
    ) -> None:  # fmt: skip
        self.batch, self.rows, self.channels = batch, rows, channels
        self.patients, self.arrival_us, self.limits = patients, arrival_us, limits
