"""Readings, whole: one version of the lake, and from the hosts' hot tails what lies beyond that version.

A question takes one lake version, reads its positions, and asks each shard for rows beyond its position. A host that
has no longer all of them (they are in a newer version) makes the question start again with that; one that does not
answer is named in the answer. So an answer never misses or doubles a reading without saying so. Clauses 7.1a, 7.1b.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import polars as pl
import pyarrow as pa

from domain import subjects
from domain.errors import NotFound, Unavailable
from domain.ids import NO_HANDLE
from domain.messages import FreshnessQuery, LatestQuery, ShardQuery, TailQuery, encode
from runtime import lake_queries, lake_row_groups
from runtime.lake import Lake, LakeView, ReadingQuery
from runtime.lake_queries import CHANNEL, FLEET
from runtime.lake_schema import HOUR_US, POLARS_ROWS, TAIL_ROWS, is_marked
from runtime.tail import TailExtent

ASK_TIMEOUT_S: Final = 2.0
LOOK_AHEAD_BYTES: Final = 4 * 2**30
_VERSIONS_TRIED: Final = 3
_VERSION_KEPT_S: Final = 1.0  # tails keep rows far longer after their commit, so a version this old is as right as the newest
LATEST: Final = pl.Schema(
    {
        "handle": pl.UInt32, "instance": pl.UInt8, "metric": pl.UInt16, "time_us": pl.Int64, "arrival_us": pl.Int64,
        "value": pl.Float64, "quality": pl.UInt16, "state": pl.String,
    }
)  # fmt: skip
FRESHNESS: Final = pl.Schema(
    {
        "handle": pl.UInt32, "expected_per_min": pl.Float64, "received_per_min": pl.Float64, "last_arrival_us": pl.Int64,
        "clock_offset_us": pl.Int64, "state": pl.String,
    }
)  # fmt: skip


class AskTable(Protocol):
    """Who can put a question to whoever holds a subject; `runtime.bus.Bus` does."""

    async def ask_table(self, subject: str, payload: bytes, timeout_s: float) -> pa.Table:
        """The answer. Raises Unavailable when nobody answers, else the error the answerer raised."""
        ...


@dataclass(frozen=True, slots=True)
class Readings:
    """An answer. `lake_version` names the lake's part, for exports and questions asked again (None: not asked).

    `incomplete_shards`: hosts of these did not answer, so readings of the last seconds may be missing.
    `applied`: up to which stream sequence the others' readings are in it.
    """

    frame: pl.DataFrame
    lake_version: int | None
    incomplete_shards: tuple[int, ...] = ()
    applied: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Whole:
    """A lake version, and what tails gave beyond its positions."""

    view: LakeView
    beyond: list[pa.Table]
    incomplete: tuple[int, ...]
    applied: dict[int, int]

    def answer(self, frame: pl.DataFrame) -> Readings:
        return Readings(frame, self.view.version, self.incomplete, self.applied)


class ReadingStore:
    """Questions over lake and tails together; `shards` says whom to ask when a question does not.

    A question may name the shards its devices or hospitals belong to; fewer shards are fewer messages.
    """

    def __init__(self, lake: Lake, ask: AskTable, shards: Iterable[int], *, timeout_s: float = ASK_TIMEOUT_S) -> None:
        self._lake = lake
        self._ask = ask
        self._shards = tuple(shards)
        self._timeout_s = timeout_s
        self._view: tuple[float, LakeView] | None = None  # the version looked at last, and when

    async def look_ahead(self, most_bytes: int = LOOK_AHEAD_BYTES) -> None:
        """Look at the newest files, so that the first questions need not: a second or two for 10⁹ readings."""
        for path in await asyncio.to_thread(self._lake.newest_files, most_bytes):
            await asyncio.to_thread(lake_row_groups.look_at, self._lake.folder, path)

    async def range(self, query: ReadingQuery, shards: Sequence[int] | None = None) -> Readings:
        """Readings (columns of the lake's `ROWS`) in ANSWER_ORDER, at most the query's limit, behind its cursor.

        The next page begins at `lake_queries.cursor_behind(answer.frame, query)`.
        """
        whole = await self._whole(query, shards)
        return whole.answer(await asyncio.to_thread(self._read, query, whole))

    async def buckets(self, query: ReadingQuery, bucket_us: int, shards: Sequence[int] | None = None) -> Readings:
        """Usable readings by channel and time bucket; columns as of `Lake.buckets`."""
        return await self._summary(query, CHANNEL, bucket_us, shards, real_only=False)

    async def fleet(self, query: ReadingQuery, bucket_us: int = HOUR_US, shards: Sequence[int] | None = None) -> Readings:
        """Usable real readings by hospital, metric and hour; columns as of `Lake.fleet`."""
        return await self._summary(query, FLEET, bucket_us, shards, real_only=True)

    async def latest(self, query: LatestQuery, shards: Sequence[int] | None = None) -> Readings:
        """The newest reading of each channel, as the hosts hold it in state; the lake is not asked."""
        return await self._of_hosts(query, LATEST, ("handle", "metric", "instance"), shards)

    async def freshness(self, query: FreshnessQuery, shards: Sequence[int] | None = None) -> Readings:
        """Readings expected against received by device, as the hosts count them; the lake is not asked."""
        return await self._of_hosts(query, FRESHNESS, ("handle",), shards)

    async def _of_hosts(
        self, query: ShardQuery, schema: pl.Schema, order: Sequence[str], shards: Sequence[int] | None
    ) -> Readings:
        asked = self._shards if shards is None else tuple(shards)
        answers = await asyncio.gather(*(self._ask_shard(shard, query) for shard in asked))
        silent = tuple(shard for shard, answer in zip(asked, answers, strict=True) if answer is None)

        def together() -> pl.DataFrame:
            frames = [pl.DataFrame(answer).select(*schema).cast(schema) for answer in answers if answer is not None]
            return pl.concat([schema.to_frame(), *frames]).sort(order)

        return Readings(await asyncio.to_thread(together), None, silent)

    async def _summary(
        self, query: ReadingQuery, keys: Sequence[str], bucket_us: int, shards: Sequence[int] | None, *, real_only: bool
    ) -> Readings:
        whole = await self._whole(query, shards)

        def summarise() -> pl.DataFrame:
            version = whole.view.version
            lake = self._lake.summary(query, keys, bucket_us, real_only=real_only, version=version)
            fresh = self._fresh(query, whole).lazy()
            tail = lake_queries.summarise(fresh, keys, bucket_us, real_only=real_only).collect()
            return lake_queries.merged([lake, tail], keys)

        return whole.answer(await asyncio.to_thread(summarise))

    # -- one whole --------------------------------------------------------------------------------------------------

    async def _whole(self, query: ReadingQuery, shards: Sequence[int] | None) -> _Whole:
        """The version is read first: what hosts commit afterwards stays in their tails for a while."""
        asked = self._shards if shards is None else tuple(shards)
        for attempt in range(_VERSIONS_TRIED):
            view = await self._version(kept_is_good=attempt == 0)
            whole, gaps = await self._beyond(view, query, asked)
            if not gaps:
                break
        return whole

    async def _version(self, *, kept_is_good: bool) -> LakeView:
        now_s = asyncio.get_running_loop().time()
        if not kept_is_good or self._view is None or now_s - self._view[0] > _VERSION_KEPT_S:
            self._view = (now_s, await asyncio.to_thread(self._lake.positions))
        return self._view[1]

    async def _beyond(self, view: LakeView, query: ReadingQuery, asked: tuple[int, ...]) -> tuple[_Whole, bool]:
        """What tails hold beyond `view`, and whether rows between both are in a newer version only."""
        positions = [view.positions.get(shard, 0) for shard in asked]
        questions = [self._ask_shard(shard, _tail_query(query, at)) for shard, at in zip(asked, positions, strict=True)]
        answers = await asyncio.gather(*questions)
        tables, incomplete, applied, has_gap = [TAIL_ROWS.empty_table()], [], {}, False
        for shard, position, answer in zip(asked, positions, answers, strict=True):
            if answer is None:
                incomplete.append(shard)
                continue
            extent = TailExtent.of(answer)
            tables.append(answer.cast(TAIL_ROWS))
            applied[shard] = max(extent.applied, position)
            if extent.complete_from > position:
                incomplete.append(shard)
                has_gap = True
        return _Whole(view, tables, tuple(incomplete), applied), has_gap

    async def _ask_shard(self, shard: int, query: ShardQuery) -> pa.Table | None:
        try:
            return await self._ask.ask_table(subjects.shard(shard), encode(query), self._timeout_s)
        except (Unavailable, NotFound):  # no host, a slow one, or one that is giving the shard away
            return None

    # -- lake and tail as one ---------------------------------------------------------------------------------------

    def _read(self, query: ReadingQuery, whole: _Whole) -> pl.DataFrame:
        """Both parts begin at the cursor's channel and time; only together they know which rows were given before."""
        given = query.after.given if query.after is not None else 0
        lake_query = replace(
            query,
            limit=None if query.limit is None else query.limit + given,
            after=None if query.after is None else replace(query.after, given=0),
        )
        lake = self._lake.read(lake_query, version=whole.view.version)
        return lake_queries.page_of(pl.concat([lake, self._fresh(query, whole)]), query)

    def _fresh(self, query: ReadingQuery, whole: _Whole) -> pl.DataFrame:
        """Tail rows without repeats, neither of each other nor of a marked row in the lake."""
        tail = _fitting(whole.beyond, query)
        marked = tail.filter(is_marked())
        if marked.is_empty():
            return tail
        around = replace(
            query.without_page(),
            handles=marked["handle"].unique().to_list(),
            metrics=marked["metric"].unique().to_list(),
            from_us=marked.select(pl.col("time_us").min()).item(),
            until_us=marked.select(pl.col("time_us").max() + 1).item(),
        )
        known = self._lake.read(around, version=whole.view.version).filter(is_marked())
        new = lake_queries.without_repeats(marked.lazy()).collect()
        new = new.join(known, on=lake_queries.SAME_READING, how="anti", maintain_order="left")
        return pl.concat([tail.filter(~is_marked()), new])


def _fitting(tables: list[pa.Table], query: ReadingQuery) -> pl.DataFrame:
    """Rows of tails that fit the question, as the lake has them."""
    tail = pl.DataFrame(pa.concat_tables(tables))[[*POLARS_ROWS]]
    return lake_queries.matching(tail.lazy(), query).with_columns(pl.col("raw_value").fill_nan(None)).collect()


def _tail_query(query: ReadingQuery, position: int) -> TailQuery:
    """What of `query` a tail can answer by itself. No keys at all would mean all keys there, so handle 0 stands for none."""
    return TailQuery(
        after_sequence=position,
        handles=[] if query.handles is None else query.handles or [NO_HANDLE],
        metrics=[] if query.metrics is None else query.metrics or [0],
        from_us=query.from_us,
        until_us=query.until_us,
        value_above=query.value_above,
        value_below=query.value_below,
    )
