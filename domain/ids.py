"""Ids: short, printable, hierarchical. `sz` is a region, `sz.h012` a hospital, `device:sz.h012/mon-7` an actor.

They travel in NATS subjects and MQTT client ids, so they hold no space, wildcard, slash or patient data.
A device's `handle` is the region-wide uint32 that frames and the lake carry instead of its id.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from domain.errors import InvalidInput

_TOKEN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")
_HOSPITAL = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}\.[a-z0-9][a-z0-9_-]{0,31}\Z")

NO_HANDLE = 0  # handles start at 1; 0 means "none" wherever a uint32 column needs a blank


class ActorKind(StrEnum):
    DEVICE = "device"
    PATIENT = "patient"
    BED = "bed"
    HOSPITAL = "hospital"


def parse_token(text: str, what: str) -> str:
    """Return `text` when it is a legal local id (letters, digits, `_`, `-`; at most 64), else raise InvalidInput."""
    if not _TOKEN.match(text):
        raise InvalidInput(f"{what} {text!r} is not an id: expected 1 to 64 letters, digits, '_' or '-'")
    return text


def parse_hospital_id(text: str) -> str:
    """Return `text` when it reads `<region>.<hospital>` in lower case, else raise InvalidInput."""
    if not _HOSPITAL.match(text):
        raise InvalidInput(f"hospital id {text!r} is not of the form 'sz.h012' (region, dot, hospital, lower case)")
    return text


@dataclass(frozen=True, slots=True)
class Address:
    """Where an actor can be told or asked something, wherever it runs."""

    kind: ActorKind
    hospital_id: str
    local_id: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `device:sz.h012/mon-7`; raises InvalidInput naming the part that is wrong."""
        kind, colon, rest = text.partition(":")
        hospital, slash, local = rest.partition("/")
        if not colon or not slash or kind not in set(ActorKind):
            raise InvalidInput(f"address {text!r} is not of the form 'device:sz.h012/mon-7'")
        return cls(ActorKind(kind), parse_hospital_id(hospital), parse_token(local, f"{kind} id"))

    def __str__(self) -> str:
        return f"{self.kind}:{self.hospital_id}/{self.local_id}"
