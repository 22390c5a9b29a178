"""NEWS2 of every patient in a shard, fused from all their devices and what people entered. Clauses 6.3f, 6.1d.

A score belongs to an event time: all inputs of a patient at that time are taken together. It closes when an input of a
later time arrives, or at a tick one second of stream time after its first input arrived; so results do not depend on how
the stream is cut. An older input changes no closed score; it still counts from the next one on, if it is the newest of
its kind. Only usable, real readings of metrics in `news2.INPUT_SOURCES` are inputs, and only where the patient is certain.

One alarm a patient, whose notices carry the band's own rule: `news2.single-three`, `news2.urgent` (5 or 6),
`news2.emergency` (7 and more). A missing input gives no total: a single 3 still alarms, and what is missing is named.
It is no proof of recovery either: an urgent or emergency alarm stays until there is a total again, and a single 3 until
its parameter is seen with fewer points. What late inputs raised pages nobody: it is told once more, as continuing, by the
first score in time that still alarms.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.alarm_writing import Alarm, about_patient, known, patient_scope
from actors.columns import group_ends, group_starts
from actors.ordering import by_channel, newest_before
from actors.roster import Roster
from actors.turn import Notices, Turn
from analytics import news2
from analytics.news2 import SOURCE_METRICS, SOURCES, WINDOWS_US, Parameter
from domain.alarms import AlarmEvent, AlertType, KnownInput, Phase, Priority
from domain.compiled import Bools, Floats, Int64s, UInt16s, compiled
from domain.instants import NEVER_US
from domain.metrics import MAX_ID, metric_of
from domain.quality import MAY_ALARM, Mark, Origin, pack
from domain.readings import ReadingBatch

NEWS2_ID: Final = metric_of("news2").id
RULE_VERSION: Final = 1
SETTLE_US: Final = 1_000_000
_NO_SCORER: Final = 0  # source of a reading that the platform itself derives
_AT_TICK: Final = np.intp(-1)

NONE, SINGLE_THREE, URGENT, EMERGENCY = range(4)
# rule, priority and what chart 2 of the source asks for, by band
_BANDS: Final = (
    ("news2", Priority.INFORMATION, "below every threshold"),
    ("news2.single-three", Priority.MEDIUM, "one parameter scores 3: urgent ward review"),
    ("news2.urgent", Priority.MEDIUM, "total of 5 or 6: urgent response"),
    ("news2.emergency", Priority.HIGH, "total of 7 or more: emergency response"),
)
_SLOT: Final = np.full(MAX_ID + 1, -1, dtype=np.int64)
_SLOT[[metric_of(metric).id for metric in SOURCE_METRICS]] = np.arange(len(SOURCE_METRICS))
_BITS: Final = 1 << np.arange(len(Parameter))


@dataclass(slots=True)
class ScoreCounts:
    """Instants evaluated: with all inputs, with some, and of patients NEWS2 is not for (under 16, or pregnant)."""

    complete: int = 0
    partial: int = 0
    not_computable: int = 0


@dataclass(frozen=True, slots=True)
class _Instants:
    """Scores to take now. `row` orders the notices; `arrival_us` is when the instant closed, `clock_us` what the platform's
    clock said then.
    """

    patient: NDArray[np.int64]
    row: NDArray[np.intp]
    arrival_us: NDArray[np.int64]
    clock_us: NDArray[np.int64]


class EarlyWarning:
    """Keeps its state in the roster's patient columns."""

    def __init__(self, roster: Roster, live_horizon_us: int) -> None:
        self._roster = roster
        self._live_horizon_us = live_horizon_us
        self.counts = ScoreCounts()

    def step(self, turn: Turn, notices: Notices) -> None:
        """Take a turn's inputs; closes and scores the instants that a later input ends."""
        readings = turn.readings
        at = _inputs(turn.patient, readings.metric, readings.quality, readings.value, _SLOT, MAY_ALARM)
        if not len(at):
            return
        at = at[by_channel(turn.patient[at])]
        slots = _SLOT[readings.metric[at]]
        patient, time_us = turn.patient[at], turn.time_us[at]
        first = group_starts(patient)
        opens = time_us > newest_before(time_us, first, self._roster.patients["instant_us"][patient])
        opened = np.cumsum(opens)
        starts = np.flatnonzero(first)
        group: NDArray[np.int64] = opened - np.repeat(opened[starts] - opens[starts], np.diff(np.append(starts, len(at))))
        newest = _newest_of_each(np.cumsum(first | opens) * len(SOURCES) + slots, time_us)
        for number in range(int(group.max(initial=0)) + 1):
            opening = np.flatnonzero(opens & (group == number))
            self._open(turn, at[opening], notices)
            taken = newest[group[newest] == number]
            self._take(turn, at[taken], slots[taken])

    def tick(self, now_us: int, clock_us: int, notices: Notices) -> None:
        """Close instants that have waited long enough, and end the alarms of patients who were discharged."""
        table = self._roster.patients
        due = table["instant_is_open"] & (now_us - np.maximum(table["instant_arrival_us"], 0) >= SETTLE_US)
        patients = np.flatnonzero(due)
        if len(patients):
            table["instant_is_open"][patients] = False
            now, clock = (np.full(len(patients), time_us, dtype=np.int64) for time_us in (now_us, clock_us))
            self._score(_Instants(patients, np.full(len(patients), _AT_TICK), now, clock), notices)
        for patient in np.flatnonzero((table["alarm_band"] > NONE) & (table["discharged_us"] <= clock_us)).tolist():
            notices.alarms.append((int(_AT_TICK), self._discharged(patient, now_us)))

    def _open(self, turn: Turn, at: NDArray[np.intp], notices: Notices) -> None:
        """Open the instants of these inputs, at most one a patient, and close those that were open before."""
        table, patient = self._roster.patients, turn.patient[at]
        was_open = table["instant_is_open"][patient]
        closing = at[was_open]
        self._score(_Instants(patient[was_open], turn.row[closing], turn.arrival_us[closing], turn.clock_us[closing]), notices)
        table["instant_us"][patient], table["instant_arrival_us"][patient] = turn.time_us[at], turn.arrival_us[at]
        table["instant_is_late"][patient] = turn.clock_us[at] - turn.time_us[at] > self._live_horizon_us
        table["instant_is_open"][patient] = True

    def _take(self, turn: Turn, at: NDArray[np.intp], slots: NDArray[np.int64]) -> None:
        table, patient = self._roster.patients, turn.patient[at]
        newer = turn.time_us[at] >= table["input_time_us"][patient, slots]
        at, patient, slots = at[newer], patient[newer], slots[newer]
        table["input_time_us"][patient, slots] = turn.time_us[at]
        table["input_value"][patient, slots] = turn.readings.value[at]
        table["input_quality"][patient, slots] = turn.readings.quality[at]

    def _score(self, instants: _Instants, notices: Notices) -> None:
        table, patient = self._roster.patients, instants.patient
        if not len(patient):
            return
        at_us = table["instant_us"][patient]
        inputs, taken = self._inputs(patient, at_us)
        result = news2.score(inputs, table["is_scale_2"][patient])
        fits = ~(table["age_years"][patient] < news2.MIN_AGE_YEARS) & ~table["is_pregnant"][patient]
        complete = fits & ~np.isnan(result.total)
        self.counts.complete += int(complete.sum())
        self.counts.partial += int((fits & ~complete).sum())
        self.counts.not_computable += int((~fits).sum())
        table["total"][patient] = np.where(complete, result.total, np.nan)
        table["scored_us"][patient] = at_us
        notices.derived.append(
            (instants.row[complete], self._derived(patient[complete], at_us[complete], result.total[complete]))
        )
        bands, threes = self._bands(patient, result, fits)
        is_news = bands != table["alarm_band"][patient]
        pages_now = (bands > NONE) & table["alarm_is_unpaged"][patient] & ~table["instant_is_late"][patient]
        for number in np.flatnonzero(is_news | pages_now).tolist():
            event = self._change(instants, number, int(bands[number]), result.points[number], taken[number])
            notices.alarms.append((int(instants.row[number]), event))
        table["alarm_band"][patient], table["threes"][patient] = bands, np.where(bands > NONE, threes, 0)

    def _inputs(self, patient: NDArray[np.int64], at_us: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
        times = self._roster.patients["input_time_us"][patient]
        age_us = np.where(times == NEVER_US, -1, at_us[:, None] - np.maximum(times, 0))
        return news2.inputs_at(self._roster.patients["input_value"][patient], age_us)

    def _derived(self, patient: NDArray[np.int64], at_us: NDArray[np.int64], total: NDArray[np.float64]) -> ReadingBatch:
        table = self._roster.patients
        late = table["instant_is_late"][patient]
        return ReadingBatch.of(
            handle=table["handle"][patient], metric=NEWS2_ID, time_us=at_us, value=total, source=_NO_SCORER,
            quality=pack(origin=Origin.DERIVED) | np.where(late, int(Mark.LATE), 0),
        ) if len(patient) else ReadingBatch.empty()  # fmt: skip

    def _bands(
        self, patient: NDArray[np.int64], result: news2.News2, fits: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The alarm band of each score, and the parameters that hold a single 3 as far as is known."""
        table = self._roster.patients
        before, missing = table["alarm_band"][patient].astype(np.int64), np.isnan(result.points) @ _BITS
        threes = (result.points == 3) @ _BITS | table["threes"][patient] & missing
        of_total = np.select(
            [result.total >= news2.EMERGENCY, result.total >= news2.URGENT, threes > 0], [EMERGENCY, URGENT, SINGLE_THREE]
        )
        partial = np.where(before >= URGENT, before, np.where(threes > 0, SINGLE_THREE, NONE))
        return np.where(fits, np.where(missing == 0, of_total, partial), NONE), threes

    def _change(
        self, instants: _Instants, number: int, band: int, points: NDArray[np.float64], taken: NDArray[np.int8]
    ) -> AlarmEvent:
        table, patient = self._roster.patients, int(instants.patient[number])
        before, at_us = int(table["alarm_band"][patient]), int(table["instant_us"][patient])
        if before == NONE:
            table["alarm_onset_us"][patient] = at_us
        was_paged = before != NONE and not table["alarm_is_unpaged"][patient]
        table["alarm_is_unpaged"][patient] = not (was_paged or self._is_live(patient))
        arrival_us = int(instants.arrival_us[number])
        total = float(points.sum())
        rule, priority, _ = _BANDS[band or before]
        return self._alarm(patient).notice(
            _phase(before, band), priority, _text(band, points), event_us=at_us, arrival_us=arrival_us, rule=rule,
            latching=priority is Priority.HIGH, live=self._is_live(patient), value=None if np.isnan(total) else total,
            unit="{score}", inputs=self._known(patient, at_us, int(instants.clock_us[number]), taken),
        )  # fmt: skip

    def _discharged(self, patient: int, now_us: int) -> AlarmEvent:
        table = self._roster.patients
        rule, priority, _ = _BANDS[int(table["alarm_band"][patient])]
        event_us = max(int(table["discharged_us"][patient]), int(table["alarm_onset_us"][patient]))
        table["alarm_band"][patient], table["threes"][patient] = NONE, 0
        return self._alarm(patient).notice(
            Phase.END,
            priority,
            "NEWS2 alarm ended: the patient was discharged",
            event_us=event_us,
            arrival_us=now_us,
            rule=rule,
        )

    def _alarm(self, patient: int) -> Alarm:
        onset_us = int(self._roster.patients["alarm_onset_us"][patient])
        subject = about_patient(self._roster, patient, "news2")
        scope = patient_scope(self._roster, patient)
        return Alarm(scope, _BANDS[NONE][0], RULE_VERSION, AlertType.PHYSIOLOGICAL, subject, onset_us)

    def _is_live(self, patient: int) -> bool:
        return not self._roster.patients["instant_is_late"][patient]

    def _known(self, patient: int, at_us: int, now_us: int, taken: NDArray[np.int8]) -> tuple[KnownInput, ...]:
        """Each source that ever delivered, used or why not; then each input that is missing."""
        row = self._roster.patients.view(patient)
        inputs = []
        for column, (parameter, source) in enumerate(SOURCES):
            time_us = row.input_time_us[column]
            if time_us == NEVER_US:
                continue
            used = bool(taken[parameter] == column)
            note = f"proxy for {parameter.words}" if used and source.is_proxy else None
            if not used:
                note = "stale" if at_us - time_us > WINDOWS_US[column] else "not needed"
            value, quality = row.input_value[column], row.input_quality[column]
            inputs.append(known(source.metric, value, time_us, now_us, quality, used=used, note=note))
        missing = [parameter.words for parameter in Parameter if taken[parameter] < 0]
        return (*inputs, *(KnownInput(words, None, None, None, 0, used=False, note="missing") for words in missing))

    def describe(self, patient: int, now_us: int) -> dict[str, Any]:
        """The last score, what each input of it was, and why there is none."""
        row = self._roster.patients.view(patient)
        if row.scored_us == NEVER_US:
            return {"total": None, "at_us": None, "reason": "no input has come yet", "inputs": []}
        _, taken = self._inputs(np.array([patient]), np.array([row.scored_us]))
        reasons = {
            "NEWS2 is not for patients under 16": row.age_years < news2.MIN_AGE_YEARS,
            "NEWS2 is not for pregnant patients": row.is_pregnant,
            "inputs are missing": bool((taken < 0).any()),
        }
        return {
            "total": None if np.isnan(row.total) else row.total,
            "at_us": row.scored_us,
            "band": _BANDS[row.alarm_band][0],
            "reason": next((reason for reason, holds in reasons.items() if holds), None),
            "inputs": list(self._known(patient, row.scored_us, now_us, taken[0])),
        }

    def snapshot(self) -> dict[str, pa.Table]:
        return {"score_counts": pa.table({"count": list(astuple(self.counts))})}

    def restore(self, tables: dict[str, pa.Table]) -> None:
        self.counts = ScoreCounts(*tables["score_counts"]["count"].to_pylist())


@compiled
def _inputs(
    patient: Int64s, metric: UInt16s, quality: UInt16s, value: Floats, slot: Int64s, may_alarm: Bools
) -> NDArray[np.intp]:
    """Usable, real readings of patients that a score can take."""
    found = np.empty(len(patient), dtype=np.intp)
    count = 0
    for i in range(len(patient)):
        if patient[i] >= 0 and slot[metric[i]] >= 0 and may_alarm[quality[i] & len(may_alarm) - 1] and not np.isnan(value[i]):
            found[count] = i
            count += 1
    return found[:count]


def _newest_of_each(keys: NDArray[np.int64], time_us: NDArray[np.int64]) -> NDArray[np.intp]:
    """Of the rows of each key the newest; of two at one time the later in order. Ascending."""
    order = np.lexsort((time_us, keys))
    return np.sort(order[group_ends(group_starts(keys[order]))])


def _phase(before: int, band: int) -> Phase:
    if before == NONE:
        return Phase.START
    if band == NONE:
        return Phase.END
    if band == before:
        return Phase.CONTINUE
    return Phase.ESCALATE if band > before else Phase.DEESCALATE


def _text(band: int, points: NDArray[np.float64]) -> str:
    missing = [parameter.words for parameter in Parameter if np.isnan(points[parameter])]
    threes = [parameter.words for parameter in Parameter if points[parameter] == 3]
    score = f"NEWS2 without a total (missing: {', '.join(missing)})" if missing else f"NEWS2 {points.sum():g}"
    named = f" ({', '.join(threes)})" if threes else ""
    return f"{score}, {_BANDS[band][2]}{named}"
