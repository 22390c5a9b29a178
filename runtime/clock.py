"""The clock. The only place that asks the machine for the time of day."""

from __future__ import annotations

import time


class SystemClock:
    """UTC microseconds from the operating system."""

    def now_us(self) -> int:
        return time.time_ns() // 1000


class ManualClock:
    """A clock that stands still until it is told to move. For tests and virtual time."""

    def __init__(self, now_us: int = 1_700_000_000_000_000) -> None:
        self._now_us = now_us

    def now_us(self) -> int:
        return self._now_us

    def advance(self, seconds: float) -> int:
        """Move on by `seconds` and return the new now."""
        self._now_us += round(seconds * 1_000_000)
        return self._now_us
