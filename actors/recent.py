"""Which readings were seen lately: proves a retransmission without keeping every sequence number.

A reading's key mixes its source, sequence, channel, event time and value; a table of fixed size remembers the last
key that fell on each slot. Same key, same reading: a proven double. A key that was pushed out is forgotten, and its
double is then kept, never a new reading dropped. A source that restarts its sequence sends other times, so other keys.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from domain.readings import ReadingBatch

_SLOT_BITS: Final = 18
_MULTIPLIERS: Final = tuple(np.uint64(m) for m in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


class RecentReadings:
    """2^18 keys, 2 MB a shard: at 10,000 readings/s in a shard, the last half minute for certain."""

    def __init__(self) -> None:
        self._keys = np.zeros(1 << _SLOT_BITS, dtype=np.uint64)

    def are_doubles(self, batch: ReadingBatch) -> NDArray[np.bool_]:
        """Which readings were seen before, in the batch or earlier; remembers all of them. As if one by one."""
        keys = _keys_of(batch)
        slots = (keys >> np.uint64(64 - _SLOT_BITS)).astype(np.intp)
        order = np.argsort(slots, kind="stable")
        ordered_slots, ordered_keys = slots[order], keys[order]
        first = np.ones(len(keys), dtype=np.bool_)
        first[1:] = ordered_slots[1:] != ordered_slots[:-1]
        before = np.empty_like(ordered_keys)
        before[1:] = ordered_keys[:-1]
        before[first] = self._keys[ordered_slots[first]]
        doubles = np.empty(len(keys), dtype=np.bool_)
        doubles[order] = before == ordered_keys
        last = np.r_[first[1:], True] if len(keys) else first
        self._keys[ordered_slots[last]] = ordered_keys[last]
        return doubles

    def snapshot(self) -> pa.Table:
        used = np.flatnonzero(self._keys)
        return pa.table({"slot": used.astype(np.uint32), "key": self._keys[used]})

    def restore(self, table: pa.Table) -> None:
        self._keys[:] = 0
        self._keys[table.column("slot").to_numpy()] = table.column("key").to_numpy()


def _keys_of(batch: ReadingBatch) -> NDArray[np.uint64]:
    channel = batch.handle.astype(np.uint64) << np.uint64(24) | batch.metric.astype(np.uint64) << np.uint64(8)
    parts: tuple[NDArray[Any], ...] = (
        batch.sequence, batch.source.astype(np.uint64), channel | batch.instance, batch.time_us.view(np.uint64),
        batch.value.view(np.uint64),
    )  # fmt: skip
    key = np.full(len(batch), _MULTIPLIERS[0])
    for part in parts:
        key = (key ^ part) * _MULTIPLIERS[1]
        key ^= key >> np.uint64(29)
        key *= _MULTIPLIERS[2]
        key ^= key >> np.uint64(32)
    return key
