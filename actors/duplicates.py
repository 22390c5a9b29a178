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
from domain.readings import NO_SEQUENCE, ReadingBatch

GENERATION_ROWS: Final = 1 << 17
_FIRST_SLOTS: Final = 1 << 10
_EMPTY: Final = np.uint64(0)
# odd, so that no bit of a part is lost; one for each part of an identity, then those that mix the sum
_OF_PARTS: Final = tuple(
    np.uint64(m) for m in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F, 0xE7037ED1A0B428DB)
)
_MIX: Final = np.uint64(0xBF58476D1CE4E5B9)
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
        if self._is_all_new(rows, batch.sequence):
            self._take_new(identities, rows, batch.sequence)
            return np.zeros(len(batch), dtype=np.bool_), np.zeros(len(batch), dtype=np.bool_)
        doubles, doubtful = np.zeros(len(batch), dtype=np.bool_), np.zeros(len(batch), dtype=np.bool_)
        start = 0
        while start < len(batch):
            is_new = self._is_new_sequence(rows[start:], batch.sequence[start:])
            stop = start + self._take(identities[start:], is_new, doubles[start:])
            doubtful[start:stop] = self._is_below_floor(rows[start:stop], batch.sequence[start:stop])
            if self._young.size >= self._generation_rows:
                self._turn()
            start = stop
        return doubles, doubtful & ~doubles

    def _is_all_new(self, rows: NDArray[np.int32], sequence: NDArray[np.uint64]) -> bool:
        """Whether each source's sequences begin beyond all that it ever sent, and rise from there on: the usual stream."""
        if not len(rows) or not self._is_new_sequence(rows, sequence).all():
            return False
        same = rows[1:] == rows[:-1]
        if not (sequence[1:] > sequence[:-1])[same].all():
            return False
        first = np.flatnonzero(np.concatenate([[True], ~same]))  # runs of one source
        last = np.append(first[1:], len(rows)) - 1
        order = np.argsort(rows[first], kind="stable")
        again = rows[first[order][1:]] == rows[first[order][:-1]]
        return bool((sequence[first[order][1:]] > sequence[last[order][:-1]])[again].all())

    def _take_new(self, identities: NDArray[np.uint64], rows: NDArray[np.int32], sequence: NDArray[np.uint64]) -> None:
        start = 0
        while start < len(rows):
            part = slice(start, start + self._generation_rows - self._young.size)
            self._young.lay_aside(identities[part])
            self._roster.devices["highest_sequence"][rows[part]] = sequence[part]  # they rise: the last write is the highest
            if self._young.size >= self._generation_rows:
                self._turn()
            start = part.stop

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
    channel = batch.handle.astype(np.uint64) << np.uint64(32)
    channel |= batch.metric.astype(np.uint64) << np.uint64(16)
    channel |= batch.instance.astype(np.uint64) << np.uint64(8)
    channel |= (batch.quality & _LOW_BYTE).astype(np.uint64)
    value = batch.value + 0.0  # one zero …
    value[np.isnan(value)] = np.nan  # … and one NaN
    identity = channel * _OF_PARTS[0]
    others = (batch.source.astype(np.uint64), batch.sequence, batch.time_us.view(np.uint64), value.view(np.uint64))
    for part, factor in zip(others, _OF_PARTS[1:], strict=True):
        identity += part * factor
    identity ^= identity >> np.uint64(31)
    identity *= _MIX
    identity ^= identity >> np.uint64(29)
    identity[identity == _EMPTY] = np.uint64(1)
    return identity
