"""What a host counts about itself, for Prometheus and for the report's service-time histograms.

Batch sizes are binned by powers of two and service times by powers of two of microseconds: the twin is calibrated
from these bins.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from actors.shard_runner import TurnResult

_SIZE_BINS: Final = 20  # up to 2^19 readings a turn
_TIME_BINS: Final = 26  # up to 2^25 us = 33 s


class HostMetrics:
    """Counters since the host started. Written by its loop only; read from anywhere."""

    def __init__(self) -> None:
        self.turns = 0
        self.readings = 0
        self.duplicates = 0
        self.alarms = 0
        self.refusals = 0
        self.commits = 0
        self.committed_rows = 0
        self.service_us_by_size = np.zeros((_SIZE_BINS, _TIME_BINS), dtype=np.int64)
        self.applied_delay_us = np.zeros(_TIME_BINS, dtype=np.int64)
        self.commit_us = np.zeros(_TIME_BINS, dtype=np.int64)

    def turn(self, result: TurnResult, started_us: int, ended_us: int, high_water_us: int) -> None:
        """Count one turn: `high_water_us` is the arrival time of the newest reading it applied."""
        self.turns += 1
        self.readings += result.readings
        self.duplicates += result.duplicates
        self.alarms += len(result.alarms)
        self.refusals += len(result.refusals)
        if result.readings:
            size_bin = _bin(result.readings, _SIZE_BINS)
            self.service_us_by_size[size_bin, _bin(ended_us - started_us, _TIME_BINS)] += 1
            self.applied_delay_us[_bin(ended_us - high_water_us, _TIME_BINS)] += result.readings

    def commit(self, rows: int, took_us: int) -> None:
        """Count one commit to the lake."""
        self.commits += 1
        self.committed_rows += rows
        self.commit_us[_bin(took_us, _TIME_BINS)] += 1

    def report(self) -> dict[str, Any]:
        """All counters; bins are counts for (2^k-1, 2^k] of readings or microseconds, k from 0."""
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(self).items()}


def _bin(value: int, bins: int) -> int:
    return min(max(int(value) - 1, 0).bit_length(), bins - 1)
