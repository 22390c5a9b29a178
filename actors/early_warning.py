"""NEWS2 of every patient in a shard, fused from all their devices.

A score belongs to an event time: all readings of a patient at that time are taken together. It is settled when a
later reading of that patient arrives, or at a tick one second after its last reading arrived; so the result does not
depend on how the stream is cut. An older reading that arrives after its time was settled changes nothing that was
shown. Clauses 6.3f, 6.1d.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.columns import Column, Table
from actors.roster import Roster
from analytics import news2
from analytics.news2 import INPUT_SOURCES, VALIDITY_WINDOWS_S, Parameter
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
from domain.metrics import MAX_ID, metric_of
from domain.quality import Mark, Origin, has_mark, may_alarm, pack
from domain.readings import ReadingBatch

NEWS2_ID: Final = metric_of("news2").id
RULE: Final = "news2"
RULE_VERSION: Final = 1
_SETTLE_US: Final = 1_000_000

_SOURCES: Final = [(parameter, source) for parameter, sources in INPUT_SOURCES.items() for source in sources]
_SLOT: Final = np.full(MAX_ID + 1, -1, dtype=np.int8)
_SLOT[[metric_of(source.metric).id for _, source in _SOURCES]] = np.arange(len(_SOURCES))
_WINDOW_US: Final = np.array([VALIDITY_WINDOWS_S[parameter] * 1e6 for parameter, _ in _SOURCES], dtype=np.int64)

# what the level of alarm is called, and how urgent it is (RCP 2017, chart 2)
_LEVELS: Final = (
    (None, Priority.INFORMATION),
    ("a single parameter scores 3: urgent ward review", Priority.MEDIUM),
    ("total 5 or 6: urgent response", Priority.MEDIUM),
    ("total 7 or more: emergency response", Priority.HIGH),
)

COLUMNS: Final = (
    Column("time_us", np.int64, NEVER_US, "us", width=len(_SOURCES)),
    Column("value", np.float64, np.nan, width=len(_SOURCES)),
    Column("quality", np.uint16, width=len(_SOURCES)),
    Column("pending_us", np.int64, NEVER_US, "us"),  # event time that is not settled yet
    Column("pending_arrival_us", np.int64, NEVER_US, "us"),
    Column("settled_us", np.int64, NEVER_US, "us"),
    Column("total", np.float64, np.nan),
    Column("level", np.int8),
    Column("onset_us", np.int64, NEVER_US, "us"),
)


@dataclass(slots=True)
class ScoreCounts:
    """Evaluations since the shard began here: with all inputs, with some, and of patients NEWS2 is not for."""

    complete: int = 0
    partial: int = 0
    not_applicable: int = 0


class EarlyWarning:
    """One row a patient, beside the roster's patient table."""

    def __init__(self, roster: Roster, live_horizon_us: int) -> None:
        self._roster = roster
        self._live_horizon_us = live_horizon_us
        self.state = Table(COLUMNS)
        self.counts = ScoreCounts()

    def step(
        self, batch: ReadingBatch, patients: NDArray[np.int64], arrival_us: NDArray[np.int64]
    ) -> tuple[list[AlarmEvent], ReadingBatch]:
        """Take a batch's readings in; returns alarms and derived NEWS2 readings of the times that were settled by it."""
        self._keep_up()
        usable = (patients >= 0) & (_SLOT[np.minimum(batch.metric, MAX_ID)] >= 0) & (batch.metric <= MAX_ID)
        usable &= may_alarm(batch.quality) & ~has_mark(batch.quality, Mark.IMPLAUSIBLE) & ~np.isnan(batch.value)
        rows = np.flatnonzero(usable)
        rows = rows[np.argsort(patients[rows], kind="stable")]
        events: list[AlarmEvent] = []
        derived: list[ReadingBatch] = []
        for of_round in _rounds(patients[rows], batch.time_us[rows]):
            taken = rows[of_round]
            patient, time_us = patients[taken], batch.time_us[taken]
            pending = self.state["pending_us"]
            later = np.unique(patient[(pending[patient] != NEVER_US) & (time_us > pending[patient])])
            self._settle(later, events, derived)
            self._take(batch, taken, patient, time_us, arrival_us[taken])
        return events, ReadingBatch.concat(derived)

    def tick(self, now_us: int) -> tuple[list[AlarmEvent], ReadingBatch]:
        """Settle what has waited long enough."""
        self._keep_up()
        waiting = self.state["pending_us"] != NEVER_US
        due = np.flatnonzero(waiting & (now_us - self.state["pending_arrival_us"] >= _SETTLE_US))
        events: list[AlarmEvent] = []
        derived: list[ReadingBatch] = []
        self._settle(due, events, derived)
        return events, ReadingBatch.concat(derived)

    def describe(self, patient: int) -> dict[str, Any]:
        """The last score and what each input of it was."""
        self._keep_up()
        at_us = max(int(self.state["settled_us"][patient]), int(self.state["pending_us"][patient]))
        total = float(self.state["total"][patient])
        return {
            "news2": None if np.isnan(total) else total,
            "level": int(self.state["level"][patient]),
            "at_us": None if at_us == NEVER_US else at_us,
            "inputs": self._known(patient, at_us, at_us),
        }

    def snapshot(self) -> pa.Table:
        self._keep_up()
        return self.state.snapshot()

    def restore(self, table: pa.Table) -> None:
        self.state.restore(table)

    def _keep_up(self) -> None:
        missing = len(self._roster.patients) - len(self.state)
        if missing:
            self.state.append(missing)

    def _take(
        self, batch: ReadingBatch, rows: NDArray[np.intp], patient: NDArray[np.int64], time_us: NDArray[np.int64],
        arrival_us: NDArray[np.int64],
    ) -> None:  # fmt: skip
        state = self.state
        slots = _SLOT[batch.metric[rows]]
        newer = (time_us >= state["time_us"][patient, slots]) & (time_us >= state["settled_us"][patient])
        rows, patient, slots = rows[newer], patient[newer], slots[newer]
        time_us, arrival_us = time_us[newer], arrival_us[newer]
        state["time_us"][patient, slots] = time_us  # of several alike in one round the last one stays
        state["value"][patient, slots] = batch.value[rows]
        state["quality"][patient, slots] = batch.quality[rows]
        state["pending_us"][patient] = np.maximum(state["pending_us"][patient], time_us)
        state["pending_arrival_us"][patient] = np.maximum(state["pending_arrival_us"][patient], arrival_us)

    def _settle(self, patients: NDArray[Any], events: list[AlarmEvent], derived: list[ReadingBatch]) -> None:
        if not len(patients):
            return
        state, people = self.state, self._roster.patients
        at_us = state["pending_us"][patients].copy()
        arrival_us = state["pending_arrival_us"][patients].copy()
        state["settled_us"][patients] = at_us
        state["pending_us"][patients] = NEVER_US
        fits = ~(people["age_years"][patients] < news2.MIN_AGE_YEARS) & ~people["is_pregnant"][patients]
        self.counts.not_applicable += int((~fits).sum())
        patients, at_us, arrival_us = patients[fits], at_us[fits], arrival_us[fits]
        if not len(patients):
            return
        inputs = self._inputs(patients, at_us)
        result = news2.score(inputs, people["is_scale_2"][patients])
        complete = ~np.isnan(result.total)
        self.counts.complete += int(complete.sum())
        self.counts.partial += int((~complete).sum())
        state["total"][patients] = result.total
        if complete.any():
            derived.append(
                ReadingBatch.of(
                    handle=people["handle"][patients[complete]], metric=NEWS2_ID, time_us=at_us[complete],
                    value=result.total[complete], quality=pack(origin=Origin.DERIVED),
                )
            )  # fmt: skip
        level = np.select([result.total >= news2.EMERGENCY, result.total >= news2.URGENT, result.has_three], [3, 2, 1], 0)
        events += [
            self._change_level(int(patients[r]), int(level[r]), result, int(r), int(at_us[r]), int(arrival_us[r]))
            for r in np.flatnonzero(level != state["level"][patients])
        ]

    def _inputs(self, patients: NDArray[Any], at_us: NDArray[np.int64]) -> NDArray[np.float64]:
        """[n, 7] inputs of NEWS2 at each patient's instant: the first usable source within its window, else NaN."""
        times, values = self.state["time_us"][patients], self.state["value"][patients]
        age_us = at_us[:, None] - np.maximum(times, 0)
        usable = (times != NEVER_US) & (age_us >= 0) & (age_us <= _WINDOW_US)
        inputs = np.full((len(patients), len(Parameter)), np.nan)
        for number in reversed(range(len(_SOURCES))):  # the preferred source is written last
            parameter, source = _SOURCES[number]
            converted = _as_input(source.metric, values[:, number])
            inputs[:, parameter] = np.where(usable[:, number], converted, inputs[:, parameter])
        return inputs

    def _change_level(self, patient: int, level: int, result: news2.News2, row: int, at_us: int, arrival_us: int) -> AlarmEvent:
        state = self.state
        before = int(state["level"][patient])
        if before == 0:
            state["onset_us"][patient] = at_us
        phase = Phase.START if before == 0 else Phase.END if level == 0 else (
            Phase.ESCALATE if level > before else Phase.DEESCALATE)  # fmt: skip
        state["level"][patient] = level
        onset_us = int(state["onset_us"][patient])
        roster, total = self._roster, float(result.total[row])
        missing = [parameter.name.lower() for parameter in Parameter if np.isnan(result.points[row, parameter])]
        words = _LEVELS[level][0] or "back below every threshold"
        text = f"NEWS2 {total:g}, {words}" if not missing else f"NEWS2 incomplete, {words}; missing: {', '.join(missing)}"
        alarm_id = alarm_id_of(f"patient:{roster.patient_keys[patient]}", RULE, RULE_VERSION, onset_us)
        return AlarmEvent(
            event_id=event_id_of(alarm_id, phase, at_us), alarm_id=alarm_id, phase=phase,
            alert_type=AlertType.PHYSIOLOGICAL, priority=_LEVELS[max(level, before if level == 0 else level)][1],
            rule=RULE, rule_version=RULE_VERSION,
            subject=AlarmSubject(
                hospital_id=roster.hospital_of_patient[patient], ward_id=roster.ward_of_patient[patient],
                bed_id=roster.bed_of_patient[patient], patient_key=roster.patient_keys[patient],
                handle=int(roster.patients["handle"][patient]), metric="news2",
            ),
            onset_us=onset_us, event_us=at_us, arrival_us=arrival_us, text=text,
            live=arrival_us - at_us <= self._live_horizon_us, value=None if np.isnan(total) else total,
            unit="{score}", inputs=tuple(self._known(patient, at_us, arrival_us)),
        )  # fmt: skip

    def _known(self, patient: int, at_us: int, arrival_us: int) -> list[KnownInput]:
        """Every source as it stood: used or why not. A source that never delivered is named only if its input is missing."""
        known = []
        taken: set[Parameter] = set()
        for number, (parameter, source) in enumerate(_SOURCES):
            time_us = int(self.state["time_us"][patient, number])
            if time_us == NEVER_US:
                continue
            in_window = 0 <= at_us - time_us <= _WINDOW_US[number]
            used = in_window and parameter not in taken
            note = f"proxy for {parameter.name.lower()}" if source.is_proxy and used else None if in_window else "stale"
            if used:
                taken.add(parameter)
            known.append(KnownInput(
                source.metric, float(self.state["value"][patient, number]), time_us, (arrival_us - time_us) / 1e6,
                int(self.state["quality"][patient, number]), used, note,
            ))  # fmt: skip
        known += [KnownInput(p.name.lower(), None, None, None, 0, False, "missing") for p in Parameter if p not in taken]
        return known


def _as_input(metric: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    if metric == "fio2":
        return np.where(np.isnan(values), np.nan, values > news2.FIO2_OF_AIR_PCT)
    if metric == "gcs_total":
        return np.where(np.isnan(values), np.nan, values < news2.GCS_ALERT)
    return values


def _rounds(patients: NDArray[np.int64], time_us: NDArray[np.int64]) -> list[NDArray[np.intp]]:
    """Rows (grouped by patient, in stream order within) cut into rounds: one event time of each patient a round."""
    if not len(patients):
        return []
    new_patient = np.r_[True, patients[1:] != patients[:-1]]
    new_time = new_patient | np.r_[True, time_us[1:] != time_us[:-1]]
    group = np.cumsum(new_time)
    first_group = np.repeat(group[new_patient], np.diff(np.r_[np.flatnonzero(new_patient), len(patients)]))
    number = group - first_group
    return [np.flatnonzero(number == n) for n in range(int(number.max()) + 1)]
