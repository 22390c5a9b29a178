"""The lake and the snapshots in memory, with the semantics of `runtime.lake` and `runtime.snapshots`.

A commit is compare-and-set on positions and epochs, all or nothing. A disk may fail a commit before it is written or
after; the caller cannot tell which.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

import pyarrow as pa

from domain.errors import IntegrityViolation
from runtime.lake_schema import ROWS, Advance, Fenced, LakeView, PositionMoved
from runtime.snapshots import KEEP, Snapshot


class MemoryLake:
    """As `runtime.lake.Lake`: `claim`, `positions`, `commit`."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._commits: list[pa.Table] = []
        self._positions: dict[int, int] = {}
        self._epochs: dict[int, int] = {}
        self.failing = 0.0  # the chance that a commit ends in an error

    def positions(self) -> LakeView:
        return LakeView(len(self._commits), dict(self._positions), dict(self._epochs))

    def claim(self, shard: int, epoch: int) -> int:
        held = self._epochs.get(shard, 0)
        if held > epoch:
            raise Fenced(shard, epoch, held)
        self._epochs[shard] = epoch
        return self._positions.get(shard, 0)

    def commit(self, rows: pa.Table, advances: Mapping[int, Advance]) -> int:
        for shard, advance in advances.items():
            self.check(shard, advance)
        fails = self._chance.random() < self.failing
        if fails and self._chance.random() < 0.5:
            raise OSError("the disk is full, and nothing was written")
        self._commits.append(rows)
        for shard, advance in advances.items():
            self.advance(shard, advance)
        if fails:
            raise OSError("the disk says that it failed, but it has written everything")
        return len(self._commits)

    def check(self, shard: int, advance: Advance) -> None:
        held, position = self._epochs.get(shard, 0), self._positions.get(shard, 0)
        if held > advance.epoch:
            raise Fenced(shard, advance.epoch, held)
        if position != advance.from_sequence:
            raise PositionMoved(shard, advance.from_sequence, position)

    def advance(self, shard: int, advance: Advance) -> None:
        self._positions[shard] = advance.to_sequence
        self._epochs[shard] = advance.epoch

    def rows(self) -> pa.Table:
        """All readings, in order of their commits."""
        return pa.concat_tables([ROWS.empty_table(), *self._commits])


class MemorySnapshots:
    """As `runtime.snapshots.SnapshotStore`: the newest few of each shard, of which a disk may damage some."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._kept: dict[int, list[Snapshot]] = {}  # the newest first, by epoch, then sequence
        self._given: dict[int, dict[str, pa.Table]] = {}
        self.damaging = 0.0  # the chance that a snapshot cannot be read

    def save(self, shard: int, epoch: int, sequence: int, tables: Mapping[str, pa.Table]) -> None:
        kept = self._kept.setdefault(shard, [])
        if kept and kept[0].epoch > epoch:
            raise IntegrityViolation(f"shard {shard} has a snapshot of epoch {kept[0].epoch}; one of {epoch} is refused")
        fresh = Snapshot(shard, epoch, sequence, dict(tables))
        rest = [one for one in kept if (one.epoch, one.sequence) != (epoch, sequence)]
        self._kept[shard] = sorted([fresh, *rest], key=lambda one: (one.epoch, one.sequence), reverse=True)[:KEEP]

    def give(self, number: int, _shard: int, _sequence: int, tables: Mapping[str, pa.Table]) -> None:
        self._given[number] = dict(tables)

    def given(self, number: int) -> dict[str, pa.Table] | None:
        return self._given.get(number)

    def load(self, shard: int) -> Snapshot | None:
        intact = (one for one in self._kept.get(shard, []) if self._chance.random() >= self.damaging)
        return next(intact, None)
