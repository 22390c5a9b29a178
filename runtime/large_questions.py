"""Large questions to the readings (searches, aggregates of a region, exports) have a process of their own.

A summary of a region takes every processor for a while. Beside small questions in one process it would make them wait;
in a process of its own it has its share of them and no more. The question goes over the bus and comes back as
one Arrow table, however large.

They are put one after the other. Those that are alike and wait are put once: each of them gets an answer that was begun
after it was asked, as if it were alone. Clause 7.1c.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final

import msgspec
import polars as pl
import pyarrow as pa

from domain import subjects
from domain.errors import InvalidInput, Unavailable
from runtime.lake import ReadingQuery
from runtime.lake_schema import HOUR_US
from runtime.reading_store import AskTable, Readings, ReadingStore

TIMEOUT_S: Final = 60.0
MOST_WAITING: Final = 32  # different ones
_ABOUT: Final = b"vitalgrid.readings"


class Kind(StrEnum):
    RANGE = "range"
    BUCKETS = "buckets"
    FLEET = "fleet"


class _Question(msgspec.Struct, frozen=True):
    kind: Kind
    query: ReadingQuery
    bucket_us: int = HOUR_US
    shards: list[int] | None = None


class _About(msgspec.Struct, frozen=True):
    lake_version: int | None
    incomplete_shards: tuple[int, ...]
    applied: dict[int, int]


class LargeReadings:
    """Puts questions as `ReadingStore` does, with its answers and errors; Unavailable while nobody is there to answer.

    Unavailable too when MOST_WAITING wait already.
    """

    def __init__(self, ask: AskTable, timeout_s: float = TIMEOUT_S) -> None:
        self._ask = ask
        self._timeout_s = timeout_s
        self._turn = asyncio.Lock()
        self._waiting: dict[bytes, asyncio.Task[Readings]] = {}

    async def range(self, query: ReadingQuery, shards: Sequence[int] | None = None) -> Readings:
        """As `ReadingStore.range`."""
        return await self._put(_Question(Kind.RANGE, query, shards=_listed(shards)))

    async def buckets(self, query: ReadingQuery, bucket_us: int, shards: Sequence[int] | None = None) -> Readings:
        """As `ReadingStore.buckets`."""
        return await self._put(_Question(Kind.BUCKETS, query, bucket_us, _listed(shards)))

    async def fleet(self, query: ReadingQuery, bucket_us: int = HOUR_US, shards: Sequence[int] | None = None) -> Readings:
        """As `ReadingStore.fleet`."""
        return await self._put(_Question(Kind.FLEET, query, bucket_us, _listed(shards)))

    async def _put(self, question: _Question) -> Readings:
        payload = msgspec.msgpack.encode(question)
        answer = self._waiting.get(payload)
        if answer is None:
            if len(self._waiting) >= MOST_WAITING:
                raise Unavailable(f"{len(self._waiting)} large queries wait already: try again in a moment")
            answer = self._waiting[payload] = asyncio.create_task(self._answer_in_turn(payload))
            answer.add_done_callback(lambda task: task.cancelled() or task.exception())  # whoever asked may have left
        return await asyncio.shield(answer)

    async def _answer_in_turn(self, payload: bytes) -> Readings:
        async with self._turn:
            del self._waiting[payload]  # whoever asks the same from now on may mean a reading that has come since
            table = await self._ask.ask_table(subjects.LARGE_QUESTIONS, payload, self._timeout_s)
        return await asyncio.to_thread(_readings, table)


class LargeQuestions:
    """Answers what `LargeReadings` asks; `answer` is a handler for `Bus.answer`."""

    def __init__(self, store: ReadingStore) -> None:
        self._store = store

    async def answer(self, payload: bytes, _subject: str) -> pa.Table:
        """The rows, with what else is in `Readings` in the table's metadata. Raises InvalidInput, or the store's errors."""
        try:
            question = msgspec.msgpack.decode(payload, type=_Question)
        except msgspec.DecodeError as error:
            raise InvalidInput(f"{len(payload)} bytes are no question to the readings: {error}") from error
        return await asyncio.to_thread(_table, await self._answered(question))

    async def _answered(self, question: _Question) -> Readings:
        query, shards = question.query, question.shards
        if question.kind is Kind.RANGE:
            return await self._store.range(query, shards)
        summary = self._store.buckets if question.kind is Kind.BUCKETS else self._store.fleet
        return await summary(query, question.bucket_us, shards)


def _listed(shards: Sequence[int] | None) -> list[int] | None:
    return None if shards is None else list(shards)


def _table(answer: Readings) -> pa.Table:
    about = _About(answer.lake_version, answer.incomplete_shards, answer.applied)
    table = answer.frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    return table.replace_schema_metadata({_ABOUT: msgspec.json.encode(about)})


def _readings(table: pa.Table) -> Readings:
    metadata: dict[bytes, Any] = table.schema.metadata
    about = msgspec.json.decode(metadata[_ABOUT], type=_About)
    return Readings(pl.DataFrame(table), about.lake_version, about.incomplete_shards, about.applied)
