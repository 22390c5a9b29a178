"""What a run's senders did: every reading with its value, when it left, when it was acknowledged, how often it was sent.

A reading is known by (source, sequence), as in `scenarios.ledger`; sequences of a run begin at a base of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import polars as pl

from domain.readings import ReadingBatch

KEY: Final = ("source", "sequence")
CONTENT: Final = ("handle", "metric", "time_us", "value")
READINGS: Final = pl.Schema(
    {"source": pl.UInt32, "sequence": pl.UInt64, "handle": pl.UInt32, "metric": pl.UInt16, "time_us": pl.Int64,
     "value": pl.Float64}
)  # fmt: skip
SENT: Final = pl.Schema({**READINGS, "sent_us": pl.Int64, "acknowledged_us": pl.Int64, "attempts": pl.UInt16})


@dataclass(frozen=True, slots=True)
class Crossing:
    """A limit that a device crossed, and beyond which it stayed until the run ended: an alarm has to tell of it."""

    handle: int
    metric: str
    rule: str
    from_us: int


@dataclass(slots=True)
class _Message:
    readings: ReadingBatch
    sent_us: int
    acknowledged_us: int | None = None
    attempts: int = 1


@dataclass(slots=True)
class History:
    """Entered while a run lasts. `until`: where the sequences of a later run begin, once there is one.
    `reconnects`: connections that senders lost and made again.
    """

    base: int
    until: int = 2**63 - 1
    crossings: list[Crossing] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    reconnects: int = 0
    _messages: list[_Message] = field(default_factory=list)

    def sent(self, readings: ReadingBatch, at_us: int) -> int:
        """Enter a message as it leaves; returns its number."""
        self._messages.append(_Message(readings, at_us))
        return len(self._messages) - 1

    def sent_again(self, number: int) -> None:
        self._messages[number].attempts += 1

    def acknowledged(self, number: int, at_us: int) -> None:
        """The first acknowledgement counts."""
        message = self._messages[number]
        message.acknowledged_us = message.acknowledged_us or at_us

    @property
    def waiting(self) -> int:
        """Messages that were never acknowledged."""
        return sum(message.acknowledged_us is None for message in self._messages)

    def frame(self) -> pl.DataFrame:
        """One row a reading, columns of `SENT`. From any thread, while more is sent."""
        messages = list(self._messages)
        if not messages:
            return SENT.to_frame()
        together = ReadingBatch.concat(message.readings for message in messages)
        rows = [len(message.readings) for message in messages]
        columns = {name: getattr(together, name) for name in READINGS}
        for name in ("sent_us", "acknowledged_us", "attempts"):
            values = [getattr(message, name) or 0 for message in messages]
            columns[name] = np.repeat(np.array(values, dtype=np.int64), rows)
        frame = pl.DataFrame(columns).cast(dict(SENT))
        acknowledged = pl.col("acknowledged_us")
        return frame.with_columns(pl.when(acknowledged > 0).then(acknowledged).alias("acknowledged_us"))
