"""What people and services' tokens asked for of records of level 4 and above, counted from the access log: numbers, no patient.

Reads events beside the audit process, some at a time; of patients' keys some thousand hashes are compared in memory, and
forgotten. An event names up to 500 patients, so events and patients are counted apart. Clause 6.1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

from domain.accesses import Outcome
from domain.audit_reading import Asked, asked
from domain.distinct import Distinct
from domain.instants import DAY_US, US_PER_S, from_us
from domain.labels import LABELS
from domain.log_entries import read_entry
from domain.permissions import Action, Level, View
from domain.principals import Kind
from domain.risks import Accesses, ByToken
from runtime.log_events import Wanted, find_events

MOST_EVENTS: Final = 200_000
_AT_ONCE: Final = 1_000
_LATE_US: Final = 3600 * US_PER_S  # by which an event may come behind later ones
_NIGHT_H: Final = frozenset({22, 23, 0, 1, 2, 3, 4, 5})
# by the first part of an action what its records are; what is not here is below level 4
_KINDS: Final = {
    "patient": "patients", "association": "associations", "alarm": "alarms", "preset": "limit_presets",
    "observation": "patients", "reading": "READINGS",
}  # fmt: skip


@dataclass(slots=True)
class _Counting:
    counts: Accesses = field(default_factory=Accesses)
    wards: set[str] = field(default_factory=set)
    patients: Distinct = field(default_factory=Distinct)
    by_name: Distinct = field(default_factory=Distinct)


class Counted(NamedTuple):
    """By the names of users and of services' tokens.

    `reached_us`: when the oldest event was that was counted, if there were too many; None: all were.
    """

    accesses: dict[str, Accesses]
    by_tokens: dict[str, ByToken]
    reached_us: int | None


def count_accesses(folder: Path, since_us: int, days: int, local: Callable[[datetime], datetime]) -> Counted:
    """Of `days` days since then; at most the newest MOST_EVENTS events. `local`: a time where people work.

    Raises Unavailable, IntegrityViolation.
    """
    people: defaultdict[str, _Counting] = defaultdict(_Counting)
    tokens: defaultdict[str, list[Distinct]] = defaultdict(lambda: [Distinct() for _ in range(days)])
    before: int | None = None
    reached_us: int | None = None  # when events were too many
    for _ in range(MOST_EVENTS // _AT_ONCE):
        events = find_events(folder, Wanted(), before=before, limit=_AT_ONCE)  # by their order: a time would be sorted for
        for event in events:
            one = None if event.event is None else asked(event.event)
            if one is None or one.at_us < since_us or not _counts(one):
                continue
            if one.kind == Kind.USER:
                _add(people[one.who], one, local)
            elif _shows_names(one):
                tokens[one.who][min((one.at_us - since_us) // DAY_US, days - 1)].add(one.patients)
        if len(events) < _AT_ONCE or read_entry(events[-1].entry).at_us < since_us - _LATE_US:
            break
        before = events[-1].at
    else:
        reached_us = read_entry(events[-1].entry).at_us
    parted = 0 if reached_us is None else max(0, -((since_us - reached_us) // DAY_US))  # days that are not whole
    by_tokens = {who: ByToken(tuple(len(day) for day in daily[parted:])) for who, daily in tokens.items()}
    return Counted({who: _settled(counted) for who, counted in people.items()}, by_tokens, reached_us)


def _counts(one: Asked) -> bool:
    kind = _KINDS.get(one.action.partition(".")[0])
    return one.kind in set(Kind) and kind is not None and LABELS[kind] >= Level.IDENTIFYING and one.action in set(Action)


def _shows_names(one: Asked) -> bool:
    return one.outcome == Outcome.SUCCESS and one.view == View.CLEAR and bool(one.patients)


def _add(counted: _Counting, one: Asked, local: Callable[[datetime], datetime]) -> None:
    counts = counted.counts
    if one.outcome != Outcome.SUCCESS:
        counts.refused += one.outcome == Outcome.REFUSED
        return
    counts.asked += 1
    counts.at_night += local(from_us(one.at_us)).hour in _NIGHT_H
    counted.wards |= one.wards
    counted.patients.add(one.patients)
    if _shows_names(one):
        counted.by_name.add(one.patients)


def _settled(counted: _Counting) -> Accesses:
    counts = counted.counts
    counts.wards, counts.patients, counts.by_name = len(counted.wards), len(counted.patients), len(counted.by_name)
    return counts
