"""What a door counts: plain running totals that a metrics page may read at any time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class DoorCounters:
    """Totals since the door opened; `connections` is a gauge (always 0 for HTTP)."""

    connections: int = 0
    connections_accepted: int = 0
    connections_refused: Counter[str] = field(default_factory=Counter)  # by why
    connections_ended: Counter[str] = field(default_factory=Counter)  # by why
    messages: int = 0
    readings: int = 0
    bytes_received: int = 0
    rejects: Counter[str] = field(default_factory=Counter)  # by reason
    unavailable: int = 0  # messages not stored, their senders told so
    held: int = 0  # senders that sent more than they may, and had to wait: once for each time with no pause
