"""What each person asked for of records of level 4 and above, counted from the access log: numbers, and no patient.

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
from domain.instants import US_PER_S, from_us
from domain.labels import LABELS
from domain.log_entries import read_entry
from domain.permissions import Action, Level, View
from domain.principals import Kind
from domain.risks import Accesses
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
    """`reached_us`: when the oldest event was that was counted, if there were too many; None: all were."""

    accesses: dict[str, Accesses]
    reached_us: int | None


def count_accesses(folder: Path, since_us: int, local: Callable[[datetime], datetime]) -> Counted:
    """By the name of each user, since then; at most the newest MOST_EVENTS events. `local`: a time where they work.

    Raises Unavailable, IntegrityViolation.
    """
    counting: defaultdict[str, _Counting] = defaultdict(_Counting)
    before: int | None = None
    reached_us: int | None = None  # when events were too many
    for _ in range(MOST_EVENTS // _AT_ONCE):
        events = find_events(folder, Wanted(), before=before, limit=_AT_ONCE)  # by their order: a time would be sorted for
        for event in events:
            one = None if event.event is None else asked(event.event)
            if one is not None and one.at_us >= since_us and _counts(one):
                _add(counting[one.who], one, local)
        if len(events) < _AT_ONCE or read_entry(events[-1].entry).at_us < since_us - _LATE_US:
            break
        before = events[-1].at
    else:
        reached_us = read_entry(events[-1].entry).at_us
    return Counted({who: _settled(counted) for who, counted in counting.items()}, reached_us)


def _counts(one: Asked) -> bool:
    kind = _KINDS.get(one.action.partition(".")[0])
    return one.kind == Kind.USER and kind is not None and LABELS[kind] >= Level.IDENTIFYING and one.action in set(Action)


def _add(counted: _Counting, one: Asked, local: Callable[[datetime], datetime]) -> None:
    counts = counted.counts
    if one.outcome != Outcome.SUCCESS:
        counts.refused += one.outcome == Outcome.REFUSED
        return
    counts.asked += 1
    counts.at_night += local(from_us(one.at_us)).hour in _NIGHT_H
    counted.wards |= one.wards
    counted.patients.add(one.patients)
    if one.view == View.CLEAR:
        counted.by_name.add(one.patients)


def _settled(counted: _Counting) -> Accesses:
    counts = counted.counts
    counts.wards, counts.patients, counts.by_name = len(counted.wards), len(counted.patients), len(counted.by_name)
    return counts
