"""How many readings each device delivered in each full minute of stream time, against what its thing model promises."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from actors.columns import Table

MINUTE_US: Final = 60_000_000


def count(devices: Table, device: NDArray[np.int32], arrival_us: NDArray[np.int64]) -> None:
    """Count arrivals, which never go back in time; usually all of one or two minutes."""
    minutes = arrival_us // MINUTE_US
    for minute in np.unique(minutes).tolist():
        counts = np.bincount(device[minutes == minute], minlength=len(devices))
        rows = np.flatnonzero(counts)
        turned = devices["minute"][rows] != minute
        is_next = devices["minute"][rows] == minute - 1
        running = devices["received_minute"][rows]
        devices["received_minute_before"][rows] = np.where(
            turned, np.where(is_next, running, 0), devices["received_minute_before"][rows]
        )
        devices["received_minute"][rows] = np.where(turned, 0, running) + counts[rows]
        devices["minute"][rows] = minute


def received_per_minute(devices: Table, rows: NDArray[np.intp], now_us: int) -> NDArray[np.int64]:
    """What arrived in the last full minute before `now_us`."""
    minute, last = devices["minute"][rows], now_us // MINUTE_US - 1
    received: NDArray[np.int64] = np.select(
        [minute == last, minute == last + 1], [devices["received_minute"][rows], devices["received_minute_before"][rows]], 0
    )
    return received
