"""What doors and their Intake count, as they tell it: running totals since their process started, and gauges of now."""

from __future__ import annotations

import msgspec


class DoorCounts(msgspec.Struct, frozen=True):
    """One door. `connections` is a gauge, always 0 for HTTP; `unavailable`: messages that were not stored, and said so.

    `held`: how often a sender had to wait because it sent more than it may.
    """

    connections: int
    connections_accepted: int
    connections_refused: dict[str, int]  # by why
    connections_ended: dict[str, int]  # by why
    messages: int
    readings: int
    bytes_received: int
    rejects: dict[str, int]  # by reason
    unavailable: int
    held: int = 0


class IntakeCounts(msgspec.Struct, frozen=True):
    """The Intake behind them. `held_readings` (being stored) and `waiting_readings` (for room) are gauges."""

    submissions: int
    readings: int
    frames: int
    retries: int
    unavailable: int
    rejects: int
    held_readings: int
    waiting_readings: int
    waited: int
    repeated: int = 0


class DoorsReport(msgspec.Struct, frozen=True):
    """All of one process, told every two seconds (`subjects.DOORS_COUNTED`). `doors`: by protocol."""

    doors: dict[str, DoorCounts]
    intake: IntakeCounts
