"""What a streaming detector finds unusual: a derived reading of the patient, and an advisory alarm. Clause 9.2d.

Watches the continuous channels of life signs and life support, fed as limits are (in order, usable, real). A score above
the threshold is stored as `anomaly_score` of the patient (source: the scorer's id, which stands for model@version; raw
value: the reading that was scored) and raises one low advisory alarm a channel, which ends when a score falls to half
the threshold. The detector learns from every such reading, so its scores follow the stream's order alone.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.alarm_writing import Alarm, about_device, channel_scope, known
from actors.roster import Roster
from actors.turn import Notices, Turn
from analytics.scorers import scorer_id
from domain.alarms import AlarmEvent, AlertType, Phase, Priority
from domain.compiled import Bools, Floats, Int32s, Int64s, OutInt8s, OutInt64s, compiled
from domain.instants import NEVER_US
from domain.metrics import BY_ID, metric_of
from domain.ports import Scorer
from domain.quality import Origin, pack
from domain.readings import ReadingBatch

ANOMALY_ID: Final = metric_of("anomaly_score").id
THRESHOLD: Final = 8.0  # deviations: far beyond what winsorised spread calls usual
_OVER_SHARE: Final = 0.5
_STARTS, _ENDS = 1, 2


class Anomalies:
    """Hosts one scorer over the channels of a shard; keeps onsets in the channel column `anomaly_onset_us`."""

    def __init__(self, roster: Roster, scorer: Scorer, threshold: float = THRESHOLD) -> None:
        self._roster = roster
        self._scorer = scorer
        self._threshold = threshold

    def step(self, turn: Turn, notices: Notices) -> None:
        """Score a turn's readings."""
        at = np.flatnonzero(turn.feeds & self._roster.channels["is_scored"][turn.channel])
        if len(at):
            scores = self._scorer.score(turn.channel[at].astype(np.intp), turn.readings.value[at])
            self._derive(turn, at, scores, notices)
            self._tell(turn, at, scores, notices)

    def _derive(self, turn: Turn, at: NDArray[np.intp], scores: NDArray[np.float64], notices: Notices) -> None:
        found = (scores > self._threshold) & (turn.patient[at] >= 0)
        if found.any():
            rows = at[found]
            batch = ReadingBatch.of(
                handle=self._roster.patients["handle"][turn.patient[rows]], metric=ANOMALY_ID, time_us=turn.time_us[rows],
                value=scores[found], quality=pack(origin=Origin.DERIVED), source=scorer_id(self._scorer),
                raw_value=turn.readings.value[rows],
            )  # fmt: skip
            notices.derived.append((turn.row[rows], batch))

    def _tell(self, turn: Turn, at: NDArray[np.intp], scores: NDArray[np.float64], notices: Notices) -> None:
        quiet = self._roster.in_maintenance(turn.device[at], turn.clock_us[at])
        phases, onset_us = np.zeros(len(at), dtype=np.int8), np.empty(len(at), dtype=np.int64)
        _follow(
            turn.channel[at], turn.time_us[at], scores, quiet, self._threshold, _OVER_SHARE * self._threshold, NEVER_US,
            self._roster.channels["anomaly_onset_us"], phases, onset_us,
        )  # fmt: skip
        for number in np.flatnonzero(phases).tolist():
            phase = Phase.START if phases[number] == _STARTS else Phase.END
            event = self._notice(turn, int(at[number]), float(scores[number]), phase, int(onset_us[number]))
            notices.alarms.append((int(turn.row[at[number]]), event))

    def _notice(self, turn: Turn, at: int, score: float, phase: Phase, onset_us: int) -> AlarmEvent:
        roster, channel = self._roster, int(turn.channel[at])
        metric = BY_ID[int(roster.channels["metric"][channel])]
        value, time_us, arrival_us = float(turn.readings.value[at]), int(turn.time_us[at]), int(turn.arrival_us[at])
        taken = known(metric.code, value, time_us, int(turn.clock_us[at]), int(turn.readings.quality[at]))
        model = f"{self._scorer.name}@{self._scorer.version}"
        unusual = "unusual" if phase is Phase.START else "no longer unusual"
        subject = about_device(roster, int(turn.device[at]), int(turn.patient[at]), channel)
        rule, version = f"anomaly.{self._scorer.name}", self._scorer.version
        return Alarm(channel_scope(roster, channel), rule, version, AlertType.ADVISORY, subject, onset_us).notice(
            phase, Priority.LOW,
            f"{metric.name_en} {value:g} {metric.unit} is {unusual} for this channel: score {score:.1f} by {model}",
            event_us=time_us, arrival_us=arrival_us, live=bool(turn.is_live(at)), value=score, limit=self._threshold,
            unit="{score}", inputs=(taken,),
        )  # fmt: skip

    def snapshot(self) -> dict[str, pa.Table]:
        return {"scorer": pa.table(self._scorer.state())}

    def restore(self, tables: dict[str, pa.Table]) -> None:
        if "scorer" in tables:
            self._scorer.load_state({name: tables["scorer"][name].to_numpy() for name in tables["scorer"].column_names})


@compiled
def _follow(
    channel: Int32s, time_us: Int64s, scores: Floats, quiet: Bools, threshold: float, over: float, never_us: int,
    raised_us: OutInt64s, phases: OutInt8s, onset_us: OutInt64s,
) -> None:  # fmt: skip
    for i in range(len(channel)):
        row = channel[i]
        if raised_us[row] == never_us:
            if scores[i] > threshold and not quiet[i]:
                phases[i], raised_us[row], onset_us[i] = _STARTS, time_us[i], time_us[i]
        elif quiet[i] or scores[i] <= over:
            phases[i], onset_us[i], raised_us[row] = _ENDS, raised_us[row], never_us
