"""Alarms as a person at a screen gets them: read from the live stream, stamped on receipt, matched afterwards.

An alarm's latency runs from the moment the reading that caused it was due at its gateway to its receipt here. Only
live physiological alarms that begin or escalate count, and only those whose reading this run sent: a technical alarm
(silence) has no causing reading. Limit alarms and score alarms are told apart, because a score waits for its inputs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from domain.alarms import AlarmEvent, AlertType, Phase
from domain.errors import Unavailable
from scenarios.books import ClosedBooks
from scenarios.measures import Latency, Rates
from scenarios.rest import Rest

LIVE_HORIZON_S: Final = 60.0
_SCORES: Final = ("news2",)
_NEW: Final = (Phase.START, Phase.ESCALATE)


class SeenAlarm(msgspec.Struct, frozen=True):
    event: AlarmEvent
    seen_us: int

    @property
    def is_score(self) -> bool:
        return self.event.rule.startswith(_SCORES)


class AlarmWatch:
    """Listens from `run` on. Counts at once; latencies come when the books are closed."""

    def __init__(self, now_us: Callable[[], int]) -> None:
        self._now_us = now_us
        self.seen: list[SeenAlarm] = []
        self._ids: set[str] = set()
        self.doubled = 0
        self.disconnections = 0
        self.heartbeats = 0
        self.is_connected = False

    async def run(self, rest: Rest, hospitals: Sequence[str]) -> None:
        """Follow the live stream of these hospitals until cancelled."""
        try:
            async for name, data in rest.live_alarms(hospitals):
                self._take(name, data)
        except Unavailable:
            self.is_connected = False

    def _take(self, name: str, data: dict[str, Any]) -> None:
        if name == "disconnected":
            self.disconnections += self.is_connected
            self.is_connected = False
            return
        self.is_connected = True
        self.heartbeats += name == "heartbeat"
        if name == "alarm":
            self.take(msgspec.convert(data["event"], AlarmEvent), self._now_us())

    def take(self, event: AlarmEvent, seen_us: int) -> None:
        """Enter one event; one seen before under the same id is counted as doubled and not entered again."""
        if event.event_id in self._ids:
            self.doubled += 1
            return
        self._ids.add(event.event_id)
        self.seen.append(SeenAlarm(event, seen_us))

    def raised(self) -> list[SeenAlarm]:
        """Live alarms that began."""
        return [alarm for alarm in self.seen if alarm.event.live and alarm.event.phase is Phase.START]

    def figures(self) -> dict[str, float | None]:
        raised = self.raised()
        kinds = Counter(alarm.event.alert_type for alarm in raised)
        return {
            "alarms_live": len(raised),
            "alarms_clinical": kinds[AlertType.PHYSIOLOGICAL],
            "alarms_technical": kinds[AlertType.TECHNICAL],
            "alarms_score": sum(alarm.is_score for alarm in raised),
            "alarms_doubled": self.doubled,
            "late_pages": sum(_is_late(alarm.event) for alarm in self.seen if alarm.event.phase in _NEW),
        }

    def by_rule(self) -> list[dict[str, Any]]:
        """Counts by rule, priority and whether live, the most frequent first."""
        counts = Counter(
            (a.event.rule, a.event.priority.name.lower(), a.event.live) for a in self.seen if a.event.phase is Phase.START
        )
        return [
            {"rule": rule, "priority": priority, "live": live, "count": count}
            for (rule, priority, live), count in counts.most_common()
        ]

    def rates(self, start_us: int) -> Rates:
        """Live alarms raised, second by second of the run."""
        rates = Rates()
        for alarm in self.raised():
            rates.add("alarms", (alarm.seen_us - start_us) / 1e6)
        return rates


def _is_late(event: AlarmEvent) -> bool:
    return (
        event.live and event.alert_type is AlertType.PHYSIOLOGICAL and event.arrival_us - event.event_us > LIVE_HORIZON_S * 1e6
    )


def alarm_latencies(
    watch: AlarmWatch, books: ClosedBooks, sender_of: Mapping[int, int], *, start_us: int, warmup_s: float
) -> list[Latency]:
    """Latency of limit alarms and of score alarms, from when the causing reading was due. `sender_of`: handle -> source."""
    limits, scores = Latency("alarm_visible", "alarms"), Latency("score_alarm_visible", "alarms")
    for alarm in watch.seen:
        event = alarm.event
        if not event.live or event.alert_type is not AlertType.PHYSIOLOGICAL or event.phase not in _NEW:
            continue
        source = sender_of.get(event.subject.handle)
        due_us = books.due_of(source, event.event_us) if source is not None else None
        if due_us is None:
            continue
        at_s = (due_us - start_us) / 1e6
        (scores if alarm.is_score else limits).record(alarm.seen_us - due_us, at_s=at_s, warmup=at_s < warmup_s)
    return [limits, scores]


def noticed_share(
    watch: AlarmWatch, deteriorated: Mapping[str, float], patient_keys: Mapping[str, str], start_us: int
) -> float | None:
    """Of the patients who deteriorated (reference -> second of the run), those with a clinical alarm afterwards.

    `patient_keys`: reference -> opaque key. None when nobody deteriorated.
    """
    if not deteriorated:
        return None
    last_seen: dict[str, int] = {}
    for alarm in watch.seen:
        if alarm.event.alert_type is AlertType.PHYSIOLOGICAL and alarm.event.subject.patient_key:
            key = alarm.event.subject.patient_key
            last_seen[key] = max(last_seen.get(key, 0), alarm.seen_us)
    noticed = sum(
        last_seen.get(patient_keys.get(reference, ""), 0) >= start_us + at_s * 1e6 for reference, at_s in deteriorated.items()
    )
    return noticed / len(deteriorated)
