"""What a message is traced by, and what doors remember of messages they took. No value of a reading, no name of a person.

A message has three names: its receipt, `<shard>-<sequence>`; one of its readings, `at-<handle>-<time_us>-<arrival_us>`, which
every reading that is shown leads to (arrival in stream time, as the lake has it); and `reject-<sequence>` where it was refused.
Clause 9.2a.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import msgspec

from domain.errors import InvalidInput

_RECEIPT: Final = re.compile(r"([0-9]{1,4})-([0-9]{1,18})")
_ARRIVAL: Final = re.compile(r"at-([0-9]{1,10})-([0-9]{1,18})-([0-9]{1,18})")
_REJECT: Final = re.compile(r"reject-([0-9]{1,18})")
EXPECTED: Final = "a receipt (3-4711), the `trace` of a reading that is shown (at-7-…-…) or of a reject (reject-12)"


@dataclass(frozen=True, slots=True)
class OfReceipt:
    """A message by its place in the stream of readings."""

    shard: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.shard}-{self.sequence}"


@dataclass(frozen=True, slots=True)
class OfArrival:
    """The message that brought what a device measured then, at that arrival: all that the lake knows of its way."""

    handle: int
    time_us: int
    arrival_us: int

    def __str__(self) -> str:
        return f"at-{self.handle}-{self.time_us}-{self.arrival_us}"


@dataclass(frozen=True, slots=True)
class OfReject:
    """A message that a door or a host refused."""

    sequence: int

    def __str__(self) -> str:
        return f"reject-{self.sequence}"


TraceKey = OfReceipt | OfArrival | OfReject


def parse_key(text: str) -> TraceKey:
    """Raises InvalidInput for a text that names no message."""
    for pattern, kind in ((_RECEIPT, OfReceipt), (_ARRIVAL, OfArrival), (_REJECT, OfReject)):
        if (found := pattern.fullmatch(text)) is not None:
            return kind(*map(int, found.groups()))
    raise InvalidInput(f"{text[:60]!r} names no message: expected {EXPECTED}")


class DoorQuestion(msgspec.Struct, frozen=True):
    """Ask the doors what they remember of one message: its place in the stream, when it was taken, whose it may be."""

    sequence: int
    arrival_us: int
    senders: list[int]


class FrameStamp(msgspec.Struct, frozen=True):
    """One message of the stream as the Intake made it: taken, and acknowledged to its senders."""

    arrival_us: int
    acknowledged_us: int
    readings: int
    submissions: int


class RequestStamp(msgspec.Struct, frozen=True):
    """One HTTP request that was stored; `sequence` is its place in the stream."""

    sequence: int
    sender: int
    request_id: str
    path: str
    size_bytes: int
    received_us: int
    answered_us: int
    peer: str | None = None


class ConnectionStamp(msgspec.Struct, frozen=True):
    """One connection of a sender; `until_us` None while it lasts."""

    sender: int
    connection_id: str
    protocol: str
    peer: str | None
    since_us: int
    until_us: int | None = None


class DoorAnswer(msgspec.Struct, frozen=True):
    """What the doors remember: since their own start, and of the newest messages and connections only."""

    frame: FrameStamp | None = None
    requests: list[RequestStamp] = []
    connections: list[ConnectionStamp] = []
