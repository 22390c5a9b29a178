"""How a request to erase a person goes, and what may hold it up. Clause 9.3h.

While the law wants a record kept, or a hold stands, erasure is refused and processing is restricted in its place
(Personal Information Protection Law, article 47): the record is kept, and served to nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class State(StrEnum):
    """Of a request."""

    REQUESTED = "requested"  # it may be taken back until it is due; processing is restricted already
    RESTRICTED = "restricted"  # refused for now: a legal duty or a hold stands
    RUNNING = "running"
    ERASED = "erased"
    WITHDRAWN = "withdrawn"  # taken back, or over because the patient came back: what was restricted is not any more


WAITING: Final = (State.REQUESTED, State.RESTRICTED)
OPEN: Final = (*WAITING, State.RUNNING)
AGAIN: Final = "again"  # in the counts of a job of who was erased before, and is there again from an older copy


class Step(StrEnum):
    """Of a job, in order. Each may be done again from its beginning, however often it was ended in the middle."""

    SEVER = "sever"  # nothing in the business database leads from a reading or an alarm to the person any more
    KEY = "key"  # the person's data key is destroyed: names, notes and reasons, in backups too
    LAKE = "lake"  # what was computed of and entered for the person leaves the lake
    LOG = "log"  # events of the access log about the person alone lose their content; commitments stay
    SETTLE = "settle"  # what was overwritten leaves the database's files
    CERTIFY = "certify"


class Held(StrEnum):
    """What a legal hold is on."""

    PATIENT = "patient"
    DEVICE = "device"
    HOSPITAL = "hospital"


@dataclass(frozen=True, slots=True)
class HeldReadings:
    """Readings that no rule deletes: all of these hospitals, and those that bear these numbers."""

    hospitals: frozenset[str] = frozenset()
    handles: frozenset[int] = frozenset()

    @property
    def is_nothing(self) -> bool:
        return not self.hospitals and not self.handles
