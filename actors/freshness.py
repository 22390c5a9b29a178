"""What each device delivered: when last, through whom, and how many readings in each full minute of stream time."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from actors.columns import Table
from domain.compiled import Int32s, Int64s, OutBools, OutInt64s, OutUInt32s, UInt32s, compiled

_MINUTE_US: Final = 60_000_000
MINUTE_US: Final = _MINUTE_US


def note(
    devices: Table, device: NDArray[np.int32], source: NDArray[np.uint32], time_us: NDArray[np.int64],
    stream_us: NDArray[np.int64],
) -> None:  # fmt: skip
    """Note of each reading, in stream order, when its device sent it (`time_us`), through whom, and when it arrived."""
    _note(
        device, source, time_us, stream_us, devices["last_arrival_us"], devices["last_source"], devices["is_offline"],
        devices["last_time_us"], devices["minute"], devices["received_minute"], devices["received_minute_before"],
    )  # fmt: skip


def received_per_minute(devices: Table, rows: NDArray[np.intp], now_us: int) -> NDArray[np.int64]:
    """What arrived in the last full minute before `now_us`."""
    minute, last = devices["minute"][rows], now_us // MINUTE_US - 1
    received: NDArray[np.int64] = np.select(
        [minute == last, minute == last + 1], [devices["received_minute"][rows], devices["received_minute_before"][rows]], 0
    )
    return received


@compiled
def _note(
    device: Int32s, source: UInt32s, time_us: Int64s, stream_us: Int64s, last_arrival_us: OutInt64s, last_source: OutUInt32s,
    is_offline: OutBools, last_time_us: OutInt64s, minute: OutInt64s, received: OutInt64s, received_before: OutInt64s,
) -> None:  # fmt: skip
    for i in range(len(device)):
        row = device[i]
        last_arrival_us[row], last_source[row], is_offline[row] = stream_us[i], source[i], False
        last_time_us[row] = max(last_time_us[row], time_us[i])
        now = stream_us[i] // _MINUTE_US
        if minute[row] != now:
            received_before[row] = received[row] if minute[row] == now - 1 else 0
            minute[row], received[row] = now, 0
        received[row] += 1
