"""Where a reading could have been shown, as far as the access log says: answers after it came, streams that had begun before.

The log notes who was answered what, not every reading in it. So what is found here could have shown the reading: it was of
its patient, its device, or a place where that is. A live stream is noted when it begins, and not when it ends. Clause 9.2a.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlencode, urlsplit

from domain.audit_reading import Answered, answered
from domain.instants import US_PER_S, to_rfc3339
from domain.permissions import Action
from domain.principals import Place
from runtime.log_events import Event, Wanted, find_events

STREAMS_BEGUN_US: Final = 12 * 3_600 * US_PER_S  # before it came: a display that was let in once a shift
ANSWERS_WITHIN_US: Final = 3_600 * US_PER_S
MOST_EVENTS: Final = 2_000  # that are looked at
_SHOWING: Final = frozenset({Action.READING_READ, Action.ALARM_READ})
_LIVE: Final = "/live/"


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose readings: the device by its name, where it stands, and the patients who were on it."""

    device: str
    handle: int
    place: Place
    patients: frozenset[str]


@dataclass(frozen=True, slots=True)
class Viewing:
    """An answer or a stream that could have shown a reading; `index` is the event's in the access log."""

    index: int
    is_stream: bool
    answered: Answered


@dataclass(frozen=True, slots=True)
class Viewings:
    """In the order of time. `is_cut`: of so many events not all were looked at."""

    found: list[Viewing]
    is_cut: bool
    from_us: int
    until_us: int

    @property
    def link(self) -> str:
        """Where whoever may read the access log finds all its events of that time."""
        times = {"from": to_rfc3339(self.from_us), "until": to_rfc3339(self.until_us)}
        return f"/api/v1/audit/events?{urlencode(times)}"


def viewings(folder: Path, subjects: list[Subject], came_us: int) -> Viewings:
    """What could have shown readings of these subjects that came at `came_us`. Reads the log's events; call it in a thread."""
    from_us, until_us = came_us - STREAMS_BEGUN_US, came_us + ANSWERS_WITHIN_US
    events: dict[int, Event] = {}
    is_cut = False
    patients = sorted(frozenset[str]().union(*(subject.patients for subject in subjects)))
    for wanted in (*(Wanted(key, None, from_us, until_us) for key in patients), Wanted(None, None, came_us, until_us),
                   Wanted(None, None, from_us, came_us)):  # fmt: skip
        found = find_events(folder, wanted, before=None, limit=MOST_EVENTS)
        is_cut |= len(found) == MOST_EVENTS
        events |= {event.at: event for event in found}
    shown = [
        Viewing(at, is_stream, told)
        for at, event in sorted(events.items())
        if event.event is not None and (told := answered(event.event)) is not None and told.action in _SHOWING
        if ((is_stream := _LIVE in told.route) or told.at_us >= came_us) and any(_concerns(told, one) for one in subjects)
    ]
    return Viewings(shown, is_cut, from_us, until_us)


def _concerns(told: Answered, subject: Subject) -> bool:
    """Whether what was asked for can have had readings of the subject in it."""
    asked = urlsplit(told.asked)
    named = parse_qs(asked.query)
    if (
        told.patients & subject.patients
        or subject.device in named.get("device", ())
        or str(subject.handle) in named.get("handle", ())
        or asked.path.endswith(f"/devices/{subject.device}/state")
    ):
        return True
    if named.keys() & {"device", "handle", "patient"} or "{" in told.route:
        return False  # of others, by name
    return _holds(told, named, subject.place)


def _holds(told: Answered, named: Mapping[str, list[str]], place: Place) -> bool:
    """Whether the places that were asked for hold this one; of a list without any it is not known which the caller's were."""
    if place.ward_id not in named.get("ward", [place.ward_id]):
        return False
    if "hospital" in named:
        return place.hospital_id in named["hospital"]
    return told.place is None or told.place in map(str, place.chain())
