"""The time of a shard's stream, and what the platform's own clock said beside it.

Stream time is the greatest arrival time seen. It never goes back, because timers, delays and staleness run on it. When the
platform's clock was ahead and is set back, what comes bears earlier times, perhaps for hours. Ticks tell of it: the
shard's host writes one a second, of now, and none waits long. Two in a row that lie behind stream time by more than
TOLERANCE_US, with nothing newer between them, mean that the clock was set back. From then on

- stream time goes on by nine tenths of what the ticks advance, until the clock has caught up: timers run, a little slow;
- what was stated by others (event times, windows of maintenance, ends of stays) is held against `clock_us`, what the
  platform's clock says: a reading that comes at once is live, however far stream time is ahead.

Both are functions of the stream alone, and of no way to cut it: a replay decides alike.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.technical_alarms import BLIND_US

TOLERANCE_US: Final = 10_000_000  # ticks of a host that stood still or was cut off come later than they say
_TICKS: Final = 2
_RATE: Final = (9, 10)


class StreamClock:
    """See module. `now_us`: stream time; `watching_since_us`: when it last went on after a pause."""

    def __init__(self) -> None:
        self.now_us = 0
        self.watching_since_us = 0
        self.ahead_us = 0  # of the platform's clock at the last tick; 0 unless that was set back
        self._ticked_us = 0
        self._behind = 0  # ticks in a row that say so

    @property
    def clock_us(self) -> int:
        """What the platform's clock said when stream time was reached."""
        return self.now_us - self.ahead_us

    def reach(self, arrival_us: NDArray[np.int64]) -> NDArray[np.int64]:
        """Let stream time go on; returns it, never going back. A pause is remembered: nothing could come in it."""
        stream_us: NDArray[np.int64] = np.maximum.accumulate(np.maximum(arrival_us, self.now_us))
        pauses = np.flatnonzero(np.diff(stream_us, prepend=self.now_us) > BLIND_US)
        if len(pauses):
            self.watching_since_us = int(stream_us[pauses[-1]])
        if self._behind and (arrival_us >= stream_us - TOLERANCE_US).any():
            self._behind = 0
        if self.ahead_us:
            self.ahead_us += int(stream_us[-1]) - self.now_us
        self.now_us = int(stream_us[-1])
        return stream_us

    def clock_of(self, arrival_us: NDArray[np.int64], stream_us: NDArray[np.int64]) -> NDArray[np.int64]:
        """What the platform's clock said at each arrival: stream time, but for a clock that was set back."""
        return np.minimum(arrival_us, stream_us) if self.ahead_us else stream_us

    def tick(self, told_us: int) -> bool:
        """Take a tick; whether it is one by which a clock is seen to have been set back, or back further."""
        step_us, self._ticked_us = told_us - self._ticked_us, told_us
        if told_us >= self.now_us - (0 if self.ahead_us else TOLERANCE_US):
            self.ahead_us = 0
            self.reach(np.array([told_us], dtype=np.int64))
            return False
        if self.ahead_us:
            share, whole = _RATE
            self.reach(np.array([self.now_us + max(step_us, 0) * share // whole], dtype=np.int64))
            self.ahead_us = max(self.now_us - told_us, 0)
            return step_us < -TOLERANCE_US
        self._behind += 1
        if self._behind < _TICKS:
            return False
        self._behind, self.ahead_us = 0, self.now_us - told_us
        return True

    def snapshot(self) -> pa.Table:
        return pa.table({
            "now_us": [self.now_us], "watching_since_us": [self.watching_since_us], "ahead_us": [self.ahead_us],
            "ticked_us": [self._ticked_us], "behind": [self._behind],
        })  # fmt: skip

    def restore(self, table: pa.Table) -> None:
        """Take what `snapshot` gave; one of before clocks were watched says nothing of them."""
        row = table.to_pylist()[0]
        self.now_us, self.watching_since_us = row["now_us"], row["watching_since_us"]
        self.ahead_us, self._ticked_us, self._behind = row.get("ahead_us", 0), row.get("ticked_us", 0), row.get("behind", 0)
