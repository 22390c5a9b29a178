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
from actors.columns import occurrence
from actors.roster import Roster
from actors.turn import Notices, Turn
from analytics.scorers import scorer_id
from domain.alarms import AlarmEvent, AlertType, Phase, Priority
from domain.instants import NEVER_US
from domain.metrics import BY_ID, metric_of
from domain.ports import Scorer
from domain.quality import Origin, pack
from domain.readings import ReadingBatch

ANOMALY_ID: Final = metric_of("anomaly_score").id
THRESHOLD: Final = 8.0  # deviations: far beyond what winsorised spread calls usual
_OVER_SHARE: Final = 0.5


class Anomalies:
    """Hosts one scorer over the channels of a shard; keeps onsets in the channel column `anomaly_onset_us`."""

    def __init__(self, roster: Roster, scorer: Scorer, threshold: float = THRESHOLD) -> None:
        self._roster = roster
        self._scorer = scorer
        self._threshold = threshold

    def step(self, turn: Turn, notices: Notices) -> None:
        """Score a turn's readings, the k-th of each channel in round k."""
        readings = turn.readings
        at = turn.fed(self._roster.channels["is_scored"][turn.channel])
        rounds = occurrence(turn.channel[at])
        for number in range(int(rounds.max(initial=-1)) + 1):
            chosen = at[rounds == number]
            scores = self._scorer.score(turn.channel[chosen].astype(np.intp), readings.value[chosen])
            self._derive(turn, chosen, scores, notices)
            self._tell(turn, chosen, scores, notices)

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
        onset = self._roster.channels["anomaly_onset_us"]
        channel = turn.channel[at]
        is_raised = onset[channel] != NEVER_US
        quiet = self._roster.in_maintenance(turn.device[at], turn.clock_us[at])
        starts = (scores > self._threshold) & ~is_raised & ~quiet
        ends = is_raised & ((scores <= _OVER_SHARE * self._threshold) | quiet)
        onset[channel[starts]] = turn.time_us[at[starts]]
        for hits, phase in ((starts, Phase.START), (ends, Phase.END)):
            for number in np.flatnonzero(hits).tolist():
                event = self._notice(turn, int(at[number]), float(scores[number]), phase)
                notices.alarms.append((int(turn.row[at[number]]), event))
        onset[channel[ends]] = NEVER_US

    def _notice(self, turn: Turn, at: int, score: float, phase: Phase) -> AlarmEvent:
        roster, channel = self._roster, int(turn.channel[at])
        metric = BY_ID[int(roster.channels["metric"][channel])]
        value, time_us, arrival_us = float(turn.readings.value[at]), int(turn.time_us[at]), int(turn.arrival_us[at])
        taken = known(metric.code, value, time_us, int(turn.clock_us[at]), int(turn.readings.quality[at]))
        model = f"{self._scorer.name}@{self._scorer.version}"
        unusual = "unusual" if phase is Phase.START else "no longer unusual"
        subject = about_device(roster, int(turn.device[at]), int(turn.patient[at]), channel)
        rule, onset_us = f"anomaly.{self._scorer.name}", int(roster.channels["anomaly_onset_us"][channel])
        return Alarm(
            channel_scope(roster, channel), rule, self._scorer.version, AlertType.ADVISORY, subject, onset_us
        ).notice(
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
