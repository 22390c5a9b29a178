"""Retransmissions: a reading whose source, sequence, channel, event time and value were all seen before is dropped.

The memory is exact, not a guess by sequence alone: a device that restarts its count, or a message whose readings share
one sequence, loses nothing. It holds at least the last GENERATION_ROWS readings and forgets the oldest generation as a
whole. A reading with a sequence that its source had passed before that (and that is not in the memory) may be one that
was forgotten: it is kept and marked, never dropped.

Readings without a sequence are proven doubles by channel, event time and value alone, which the identity holds too.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.roster import Roster
from domain.compiled import Bools, Int32s, OutUInt64s, UInt8s, UInt16s, UInt32s, UInt64s, compiled
from domain.readings import NO_SEQUENCE, ReadingBatch

GENERATION_ROWS: Final = 1 << 17
_FIRST_SLOTS: Final = 1 << 10
_EMPTY: Final = np.uint64(0)
# odd, so that no bit of a part is lost; one for each part of an identity, then those that mix the sum
_OF_CHANNEL: Final = np.uint64(0x9E3779B97F4A7C15)
_OF_SOURCE: Final = np.uint64(0xC2B2AE3D27D4EB4F)
_OF_SEQUENCE: Final = np.uint64(0xD6E8FEB86659FD93)
_OF_TIME: Final = np.uint64(0xA0761D6478BD642F)
_OF_VALUE: Final = np.uint64(0xE7037ED1A0B428DB)
_MIX: Final = np.uint64(0xBF58476D1CE4E5B9)
_ONE_NAN: Final = np.float64(np.nan).view(np.uint64)
_LOW_BYTE: Final = np.uint16(0xFF)


class IdentitySet:
    """A growing set of 64-bit identities: open addressing in one array, all of a batch at once. 0 is no identity.

    What is known to be new is only laid aside, and put into its place when somebody asks: mostly nobody does.
    """

    def __init__(self) -> None:
        self._slots = np.zeros(_FIRST_SLOTS, dtype=np.uint64)
        self._owner = np.empty(_FIRST_SLOTS, dtype=np.int32)
        self._aside: list[NDArray[np.uint64]] = []
        self.size = 0

    def lay_aside(self, identities: NDArray[np.uint64]) -> None:
        """Take identities that are known to differ from each other and from all that are here."""
        self._aside.append(identities)
        self.size += len(identities)

    def contains(self, identities: NDArray[np.uint64]) -> NDArray[np.bool_]:
        self._put_in_place()
        found = np.zeros(len(identities), dtype=np.bool_)
        waiting, slots = np.arange(len(identities)), self._home(identities)
        while len(waiting):
            there = self._slots[slots]
            hit = there == identities[waiting]
            found[waiting[hit]] = True
            goes_on = ~hit & (there != _EMPTY)
            waiting, slots = waiting[goes_on], (slots[goes_on] + 1) & (len(self._slots) - 1)
        return found

    def add(self, identities: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Add all; True where an identity was not here before. Of equal ones in the call the first is the new one."""
        self._put_in_place()
        self._reserve(self.size + len(identities))
        is_new = np.zeros(len(identities), dtype=np.bool_)
        waiting, slots = np.arange(len(identities)), self._home(identities)
        while len(waiting):
            there = self._slots[slots]
            goes_on = there != identities[waiting]
            free = there == _EMPTY
            self._owner[slots[free][::-1]] = waiting[free][::-1]  # the last write stays: the first in order owns the slot
            owns = free & (self._owner[slots] == waiting)
            self._slots[slots[owns]] = identities[waiting[owns]]
            is_new[waiting[owns]] = True
            # who lost a free slot looks at it again: an equal identity may have taken it
            goes_on &= ~owns
            moved = np.where(free, slots, (slots + 1) & (len(self._slots) - 1))
            waiting, slots = waiting[goes_on], moved[goes_on]
        self.size += int(is_new.sum())
        return is_new

    def members(self) -> NDArray[np.uint64]:
        """All identities in ascending order: the same whatever way they came."""
        self._put_in_place()
        return np.sort(self._slots[self._slots != _EMPTY])

    def _put_in_place(self) -> None:
        if self._aside:
            aside, self._aside = np.concatenate(self._aside), []
            self.size -= len(aside)
            self.add(aside)

    def _home(self, identities: NDArray[np.uint64]) -> NDArray[np.int64]:
        return (identities & np.uint64(len(self._slots) - 1)).astype(np.int64)

    def _reserve(self, size: int) -> None:
        if 2 * size <= len(self._slots):
            return
        members = self._slots[self._slots != _EMPTY]
        capacity = 1 << (2 * size).bit_length()
        self._slots, self._owner = np.zeros(capacity, dtype=np.uint64), np.empty(capacity, dtype=np.int32)
        self.size = 0
        self.add(members)


class RecentReadings:
    """See module. What may have been forgotten is known by source, in the roster's device columns."""

    def __init__(self, roster: Roster, generation_rows: int = GENERATION_ROWS) -> None:
        self._roster = roster
        self._generation_rows = generation_rows
        self._young, self._old = IdentitySet(), IdentitySet()

    def take(self, batch: ReadingBatch) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which readings are proven doubles, and which may be doubles of forgotten ones. As if taken one by one."""
        identities, rows = _identities(batch), self._roster.device_rows(batch.source)
        doubles, doubtful = np.zeros(len(batch), dtype=np.bool_), np.zeros(len(batch), dtype=np.bool_)
        start = self._take_new(identities, rows, batch.sequence)
        while start < len(batch):
            is_new = self._is_new_sequence(rows[start:], batch.sequence[start:])
            stop = start + self._take(identities[start:], is_new, doubles[start:])
            doubtful[start:stop] = self._is_below_floor(rows[start:stop], batch.sequence[start:stop])
            if self._young.size >= self._generation_rows:
                self._turn()
            start = stop
        return doubles, doubtful & ~doubles

    def _take_new(self, identities: NDArray[np.uint64], rows: NDArray[np.int32], sequence: NDArray[np.uint64]) -> int:
        """Take readings while each is beyond all that its source ever sent, the usual stream; returns how many that were."""
        start, is_usual = 0, True
        while is_usual and start < len(rows):
            part = slice(start, start + self._generation_rows - self._young.size)
            taken = _take_rising(rows[part], sequence[part], self._roster.devices["highest_sequence"])
            self._young.lay_aside(identities[start : start + taken])
            start += taken
            is_usual = start == part.stop
            if is_usual:
                self._turn()
        return start

    def _is_new_sequence(self, rows: NDArray[np.int32], sequence: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Where a sequence is beyond all that its source ever sent: no need to look for it among the old ones."""
        highest = self._roster.devices["highest_sequence"][rows]
        is_new: NDArray[np.bool_] = (rows >= 0) & (sequence > highest)
        return is_new

    def _take(self, identities: NDArray[np.uint64], is_new: NDArray[np.bool_], doubles: NDArray[np.bool_]) -> int:
        """Take readings until the young generation is full; writes `doubles`, returns how many were taken."""
        doubles[:] = False
        seen = np.flatnonzero(~is_new)
        doubles[seen] = self._old.contains(identities[seen])
        candidates = np.flatnonzero(~doubles)
        room = self._generation_rows - self._young.size
        if len(candidates) >= room:  # the generation may fill up: find where, among what it does not hold yet
            candidates = candidates[~self._young.contains(identities[candidates])][:room]
            stop = int(candidates[-1]) + 1 if len(candidates) == room else len(identities)
            doubles[:stop] = True
        else:
            stop = len(identities)
        doubles[candidates] = ~self._young.add(identities[candidates])
        return stop

    def _is_below_floor(self, rows: NDArray[np.int32], sequence: NDArray[np.uint64]) -> NDArray[np.bool_]:
        counts = (rows >= 0) & (sequence != NO_SEQUENCE)
        table = self._roster.devices
        np.maximum.at(table["highest_sequence"], rows[counts], sequence[counts])
        below: NDArray[np.bool_] = counts & (sequence <= table["forgotten_sequence"][rows])
        return below

    def _turn(self) -> None:
        """The young generation becomes the old one, and the old one is forgotten."""
        self._old, self._young = self._young, IdentitySet()
        table = self._roster.devices
        table["forgotten_sequence"][:] = table["old_sequence"]
        table["old_sequence"][:] = table["highest_sequence"]

    def settle(self) -> None:
        """After the memory of another shard came in: a young generation that is more than full becomes the old one."""
        if self._young.size >= self._generation_rows:
            self._turn()

    def snapshot(self) -> dict[str, pa.Table]:
        return {
            "recent_young": pa.table({"identity": self._young.members()}),
            "recent_old": pa.table({"identity": self._old.members()}),
        }

    def restore(self, tables: dict[str, pa.Table]) -> None:
        self._young, self._old = IdentitySet(), IdentitySet()
        self._young.add(tables["recent_young"]["identity"].to_numpy())
        self._old.add(tables["recent_old"]["identity"].to_numpy())


def _identities(batch: ReadingBatch) -> NDArray[np.uint64]:
    """64 bits of every column that makes a reading the same reading, well mixed; never 0."""
    identities = np.empty(len(batch), dtype=np.uint64)
    value = batch.value + 0.0  # there is one zero, and (below) one NaN
    _identify(
        batch.handle, batch.metric, batch.instance, batch.quality, batch.source, batch.sequence, batch.time_us.view(np.uint64),
        value.view(np.uint64), np.isnan(value), identities,
    )  # fmt: skip
    return identities


@compiled
def _identify(
    handle: UInt32s, metric: UInt16s, instance: UInt8s, quality: UInt16s, source: UInt32s, sequence: UInt64s, time_us: UInt64s,
    value: UInt64s, is_nan: Bools, identities: OutUInt64s,
) -> None:  # fmt: skip
    for i in range(len(handle)):
        channel = np.uint64(handle[i]) << np.uint64(32) | np.uint64(metric[i]) << np.uint64(16)
        channel |= np.uint64(instance[i]) << np.uint64(8) | np.uint64(quality[i] & _LOW_BYTE)
        identity = channel * _OF_CHANNEL + np.uint64(source[i]) * _OF_SOURCE + sequence[i] * _OF_SEQUENCE
        identity += time_us[i] * _OF_TIME + (_ONE_NAN if is_nan[i] else value[i]) * _OF_VALUE
        identity = (identity ^ identity >> np.uint64(31)) * _MIX
        identity ^= identity >> np.uint64(29)
        identities[i] = identity if identity != _EMPTY else np.uint64(1)


@compiled
def _take_rising(rows: Int32s, sequence: UInt64s, highest: OutUInt64s) -> int:
    """How many readings from the first on have sequences beyond all that their sources sent before; they count as sent."""
    for i in range(len(rows)):
        if rows[i] < 0 or sequence[i] <= highest[rows[i]]:
            return i
        highest[rows[i]] = sequence[i]
    return len(rows)
