"""Which readings are kept apart from live streams: what isolated devices, and isolated gateways, say. Clauses 8.4d, 9.4.

Live readings are shown before a host has seen them, and hosts refuse these: so they are left out here by the same orders.
Who is isolated now is left out whole, also of what came before the order and is asked for again; of an isolation that is
over, what came while it lasted stays out for as long as the stream has it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from domain.messages import DeviceIsolated
from domain.readings import ReadingBatch
from runtime.sql.isolations import Isolated

_ALWAYS_US: Final = -(2**62)
_FOR_EVER_US: Final = 2**62


class Apart:
    """See module. It learns of orders from the database when a client comes, and from the stream from then on."""

    def __init__(self) -> None:
        self._orders: dict[int, tuple[int, int, int]] = {}  # by the isolation's number: handle, from and until
        self._handles: NDArray[np.uint32] = np.empty(0, dtype=np.uint32)
        self._spans: NDArray[np.int64] = np.empty((0, 2), dtype=np.int64)

    def learn(self, orders: Iterable[Isolated]) -> None:
        """Know these orders as they stand in the database."""
        for one in orders:
            if one.released_us is None:
                self._orders.setdefault(one.number, (one.handle, _ALWAYS_US, _FOR_EVER_US))  # it may be known to be over
            else:
                self._orders[one.number] = (one.handle, one.isolated_us, one.released_us)
        self._settle()

    def heed(self, message: DeviceIsolated, stored_us: int) -> None:
        """Know an order, or its end, that the stream has of `stored_us`. Heard again, nothing changes."""
        known = self._orders.get(message.number)
        if message.is_over:
            if known is None or known[2] == _FOR_EVER_US:
                self._orders[message.number] = (message.handle, message.since_us, stored_us)
        elif known is None:
            self._orders[message.number] = (message.handle, _ALWAYS_US, _FOR_EVER_US)
        self._settle()

    def without(self, readings: ReadingBatch, arrival_us: int) -> ReadingBatch:
        """Those that may be shown of readings that came at `arrival_us`."""
        if not len(self._handles):
            return readings
        apart = self._handles[(self._spans[:, 0] <= arrival_us) & (arrival_us < self._spans[:, 1])]
        if not len(apart):
            return readings
        is_apart = np.isin(readings.handle, apart) | np.isin(readings.source, apart)
        return readings.take(np.flatnonzero(~is_apart)) if is_apart.any() else readings

    def _settle(self) -> None:
        orders = list(self._orders.values())
        self._handles = np.array([handle for handle, _, _ in orders], dtype=np.uint32)
        self._spans = np.array([span for _, *span in orders], dtype=np.int64).reshape(-1, 2)
