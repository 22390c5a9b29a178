"""A platform in one process for tests of the API: a real lake, and one shard cell with its hot tail behind `ask`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from sqlalchemy import Engine

from actors.kinds import AMBIGUOUS
from actors.shard import ShardCell
from domain import subjects
from domain.errors import Unavailable
from domain.ids import ActorKind, Address
from domain.messages import TailQuery, decode_control, decode_query
from domain.readings import ReadingBatch
from runtime.lake import Advance, Lake, lake_rows
from runtime.large_questions import LargeQuestions
from runtime.reading_store import ReadingStore
from runtime.sql.outbox import mark_published, unpublished
from runtime.tail import HotTail
from tests.unit.api.conftest import NoBus


class SmallPlatform(NoBus):
    """Every hospital's shard is held by one cell each; readings go in by `take`, into the lake by `commit`."""

    def __init__(self, directory: Path, engine: Engine, shards: int = 4) -> None:
        self._engine = engine
        self._cells = {shard: ShardCell(shard) for shard in range(shards)}
        self._tail = HotTail()
        self._pending: dict[int, list[pa.Table]] = {shard: [] for shard in self._cells}
        self._sequence = dict.fromkeys(self._cells, 0)
        self._committed = dict.fromkeys(self._cells, 0)
        self._epoch = 1
        self.lake = Lake(directory / "lake")
        for shard in self._cells:
            self.lake.claim(shard, self._epoch)
            self._tail.hold(shard, 0)
        self.store = ReadingStore(self.lake, self, range(shards))
        self.now_us = 0
        self.silent: set[int] = set()

    def learn(self) -> None:
        """Hand the cells what waits in the outbox."""
        rows = unpublished(self._engine, 10_000)
        for row in rows:
            shard = int(row["subject"].rpartition(".")[2])
            self._cells[shard].apply_control(decode_control(row["payload"]), self.now_us)
        mark_published(self._engine, [row["id"] for row in rows], 1)

    def take(self, shard: int, readings: ReadingBatch, arrival_us: int) -> list[Any]:
        """Readings as the stream brings them; returns alarm events."""
        self.learn()
        self.now_us = arrival_us
        self._sequence[shard] += 1
        cell = self._cells[shard]
        effects = cell.step(readings, np.full(len(readings), arrival_us, dtype=np.int64))
        hospital, clock = cell.hospital_of(effects.stored.handle), effects.stored_clock
        table = lake_rows(effects.stored, effects.stored_arrival_us, hospital, clock.offset_us, clock.uncertainty_us)
        self._tail.append(shard, self._sequence[shard], table)
        self._pending[shard].append(table)
        return list(effects.alarms)

    def decisions(self, shard: int) -> list[tuple[str | None, bool]]:
        """A list that grows by (patient key, ambiguous) for each reading the shard's cell takes from now on."""
        associations, roster = self._cells[shard]._associations, self._cells[shard]._roster
        looked_up, told = associations.patients_at, list[tuple[str | None, bool]]()

        def patients_at(*asked: Any) -> Any:
            found = looked_up(*asked)
            if len(asked) == 3:  # readings, not an alarm that looks after its patient
                told.extend((roster.patient_keys[row] if row >= 0 else None, row == AMBIGUOUS) for row in found.tolist())
            return found

        associations.patients_at = patients_at  # type: ignore[method-assign]
        return told

    def commit(self) -> int:
        """Everything so far into the lake."""
        version = 0
        for shard, tables in self._pending.items():
            if tables:
                step = Advance(self._committed[shard], self._sequence[shard], self._epoch)
                version = self.lake.commit(pa.concat_tables(tables), {shard: step})
                self._committed[shard] = self._sequence[shard]
                self._tail.committed(shard, self._sequence[shard], self.now_us)
                tables.clear()
        return version

    async def ask_table(self, subject: str, payload: bytes, timeout_s: float = 5.0) -> pa.Table:
        if subject == subjects.LARGE_QUESTIONS:
            return await LargeQuestions(self.store).answer(payload, subject)
        shard = int(subject.rpartition(".")[2])
        if shard in self.silent:
            raise Unavailable(f"no answer from {subject} within {timeout_s:g} s")
        query = decode_query(payload)
        await asyncio.sleep(0)
        return self._tail.query(shard, query) if isinstance(query, TailQuery) else self._cells[shard].answer(query)

    async def ask(self, subject: str, payload: bytes, timeout_s: float = 2.0) -> bytes:
        _, kind, region, hospital, local_id = subject.split(".", 4)
        address = Address(ActorKind(kind), f"{region}.{hospital}", local_id)
        for cell in self._cells.values():
            if address.hospital_id in cell.hospital_ids():
                return msgspec.json.encode(cell.describe(address))
        raise Unavailable(f"nobody answers at {subject}")
