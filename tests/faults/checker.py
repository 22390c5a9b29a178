"""The history checker: what was sent and acknowledged, against what the lake holds, REST answers and alarms tell.

Pure: two values in, one verdict out. Every invariant has a broken variant of the platform, or a history, under which it
goes red (`test_checker.py`, `test_broken_variants.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import polars as pl

from domain.alarms import AlarmEvent, Phase
from scenarios.ledger import Keys, Ledger, close, keys_of
from tests.faults.history import CONTENT, KEY, READINGS, Crossing, History

_EXAMPLES: Final = 5
_LEDGER: Final = {"lost": "LOST", "doubled": "DOUBLED", "unexpected": "NEVER_SENT"}


class Invariant(StrEnum):
    """What has to hold; the text says what does not when it is broken."""

    LOST = "acknowledged, and neither stored nor among the rejects"
    DOUBLED = "stored more than once"
    NEVER_SENT = "stored, and never sent"
    CHANGED = "stored with another device, metric, time or value than was sent"
    UNANSWERED = "stored, and not answered by REST"
    ANSWERED_WRONG = "answered by REST more than once, with other content, or without being stored"
    CONTRADICTED = "one alarm notification told twice with different content"
    UNTOLD = "a limit was crossed and held, and no live alarm told of it in time"
    UNSHOWN = "an alarm was told and the alarm desk does not know it"


@dataclass(frozen=True, slots=True)
class Told:
    """One notification in the alarm stream. `told_us`: when the stream had it."""

    event: AlarmEvent
    told_us: int


@dataclass(frozen=True, slots=True)
class Observed:
    """What the platform answers for once a run is over. `stored` and `answered` have the columns of `READINGS`."""

    stored: pl.DataFrame
    answered: pl.DataFrame
    rejected: Keys
    told: list[Told] = field(default_factory=list)
    shown_alarms: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Violation:
    """How often an invariant does not hold, with the first few examples."""

    invariant: Invariant
    count: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.invariant.name} {self.count} ({self.invariant}): {', '.join(self.examples)}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`violations` is empty when all invariants hold."""

    ledger: Ledger
    violations: tuple[Violation, ...]

    @property
    def holds(self) -> bool:
        return not self.violations

    def count(self, invariant: Invariant) -> int:
        return sum(violation.count for violation in self.violations if violation.invariant is invariant)


def check(history: History, observed: Observed, *, tell_by_us: int) -> Verdict:
    """Compare. `tell_by_us`: when the deadline for alarms ran out (recovery plus what is allowed after it)."""
    sent = history.frame()
    acknowledged = sent.filter(pl.col("acknowledged_us").is_not_null())
    base = history.base
    ledger = close(_keys(sent, base), _keys(acknowledged, base), _keys(observed.stored, base), observed.rejected)
    violations = [
        *_of_ledger(ledger),
        *_of_content(sent, observed.stored),
        *_of_answers(observed),
        *_of_alarms(history.crossings, observed, tell_by_us),
    ]
    return Verdict(ledger, tuple(violations))


def _keys(rows: pl.DataFrame, base: int) -> Keys:
    return keys_of(rows["source"].to_numpy(), rows["sequence"].to_numpy() - base)


def _of_ledger(ledger: Ledger) -> list[Violation]:
    return [
        Violation(Invariant[invariant], count, tuple(map(str, ledger.examples.get(name, []))))
        for name, invariant in _LEDGER.items()
        if (count := getattr(ledger, name))
    ]


def _of_content(sent: pl.DataFrame, stored: pl.DataFrame) -> list[Violation]:
    known = stored.join(sent.select(KEY), on=KEY, how="semi")
    return _violation(Invariant.CHANGED, known.join(sent, on=[*KEY, *CONTENT], how="anti"))


def _of_answers(observed: Observed) -> list[Violation]:
    stored, answered = observed.stored.unique(), observed.answered
    wrong = [answered.join(stored, on=list(READINGS), how="anti"), answered.filter(answered.is_duplicated()).unique()]
    missing = stored.join(answered, on=list(READINGS), how="anti")
    return [*_violation(Invariant.ANSWERED_WRONG, pl.concat(wrong)), *_violation(Invariant.UNANSWERED, missing)]


def _violation(invariant: Invariant, rows: pl.DataFrame) -> list[Violation]:
    if rows.is_empty():
        return []
    return [Violation(invariant, len(rows), tuple(str(row) for row in rows.sort(KEY).head(_EXAMPLES).iter_rows()))]


def _of_alarms(crossings: list[Crossing], observed: Observed, tell_by_us: int) -> list[Violation]:
    first: dict[str, AlarmEvent] = {}
    for told in observed.told:
        first.setdefault(told.event.event_id, told.event)
    contradicted = sorted({t.event.event_id for t in observed.told if t.event != first[t.event.event_id]})
    untold = [str(crossing) for crossing in crossings if not is_told(crossing, observed.told, tell_by_us)]
    unshown = sorted({event.alarm_id for event in first.values()} - observed.shown_alarms)
    found = ((Invariant.CONTRADICTED, contradicted), (Invariant.UNTOLD, untold), (Invariant.UNSHOWN, unshown))
    return [Violation(invariant, len(ids), tuple(ids[:_EXAMPLES])) for invariant, ids in found if ids]


def is_told(crossing: Crossing, told: list[Told], tell_by_us: int) -> bool:
    """Whether a live alarm told of a crossing in time: at its start, or that it goes on where its start came too late."""
    return any(
        t.event.live
        and t.event.phase in (Phase.START, Phase.CONTINUE)
        and (t.event.subject.handle, t.event.rule) == (crossing.handle, crossing.rule)
        and t.event.onset_us >= crossing.from_us
        and t.told_us <= tell_by_us
        for t in told
    )
