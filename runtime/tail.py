"""The hot tail: rows that are applied but not yet, or only just, in the lake. One a host, all its shards in it.

A reader takes one lake version, then asks the tail for what lies beyond that version's positions. Rows stay for a
while after their commit, so that a reader whose version is a little old still finds them; where they are gone the
answer's `complete_from` says so, and the reader takes a newer version. Nothing is ever missing silently.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from domain.errors import InvalidInput, NotFound
from domain.messages import TailQuery
from runtime.lake_schema import HELD_ROWS, STREAM_SEQUENCE, TAIL_ROWS, to_rows

KEEP_COMMITTED_US: Final = 60_000_000
KEEP_LEAST_US: Final = 5_000_000  # however many rows there are: readers' versions of the lake are younger
MANY_ROWS: Final = 2_000_000  # from here on committed rows stay that long only: a flood must not fill the memory
_SEGMENT_ROWS: Final = 65_536  # small appends are merged up to this many rows
_SEGMENT_TABLES: Final = 64
_COMPLETE_FROM: Final = b"vitalgrid.complete_from"
_APPLIED: Final = b"vitalgrid.applied"


@dataclass(frozen=True, slots=True)
class TailExtent:
    """What an answer covers: every row of the shard with complete_from < stream sequence <= applied."""

    complete_from: int
    applied: int

    @classmethod
    def of(cls, answer: pa.Table) -> TailExtent:
        """Read from an answer of `HotTail.query`; raises InvalidInput for any other table."""
        metadata = answer.schema.metadata or {}
        if _COMPLETE_FROM not in metadata or _APPLIED not in metadata:
            raise InvalidInput("the table is no answer of a hot tail: it does not say which sequences it covers")
        return cls(int(metadata[_COMPLETE_FROM]), int(metadata[_APPLIED]))

    def stamp(self, table: pa.Table) -> pa.Table:
        """`table`, saying that it covers this."""
        return table.replace_schema_metadata(
            {_COMPLETE_FROM: str(self.complete_from).encode(), _APPLIED: str(self.applied).encode()}
        )


@dataclass(slots=True)
class _Segment:
    """Rows in (first, last] by stream sequence."""

    first: int
    last: int
    rows: int
    tables: list[pa.Table]
    is_sealed: bool = False  # nothing is added behind a commit, so that committed rows can leave
    times: tuple[int, int] | None = None  # the least and the greatest event time, once somebody has asked

    def add(self, last: int, table: pa.Table) -> None:
        self.last = last
        self.rows += table.num_rows
        if table.num_rows:
            self.tables.append(table)
            self.times = None

    def is_full(self) -> bool:
        return self.is_sealed or self.rows >= _SEGMENT_ROWS or len(self.tables) >= _SEGMENT_TABLES

    def table(self) -> pa.Table:
        """All rows, contiguous; merged once, then kept."""
        if len(self.tables) != 1:
            merged = pa.concat_tables(self.tables) if self.tables else HELD_ROWS.empty_table()
            self.tables = [merged.combine_chunks()]
        return self.tables[0]

    def can_have(self, query: TailQuery) -> bool:
        """Whether a row can be of the times asked for. Most questions are about times long before the tail's."""
        if query.from_us is None and query.until_us is None:
            return True
        if self.times is None:
            bounds = pc.min_max(self.table()["time_us"])
            self.times = (bounds["min"].as_py(), bounds["max"].as_py())
        first_us, last_us = self.times
        is_before = query.until_us is not None and first_us >= query.until_us
        return not is_before and (query.from_us is None or last_us >= query.from_us)


@dataclass(slots=True)
class _ShardTail:
    position: int  # where the shard was taken over
    complete_from: int
    applied: int
    segments: list[_Segment] = field(default_factory=list)
    commits: list[tuple[int, int]] = field(default_factory=list)  # (sequence, when), newest last

    def open_segment(self) -> _Segment:
        if not self.segments or self.segments[-1].is_full():
            self.segments.append(_Segment(self.applied, self.applied, 0, []))
        return self.segments[-1]

    def beyond(self, query: TailQuery) -> list[pa.Table]:
        """Tables that hold all rows that `query` asks for, and others."""
        segments = (segment for segment in self.segments if segment.last > query.after_sequence and segment.rows)
        return [segment.table() for segment in segments if segment.can_have(query)]

    def drop_until(self, sequence: int) -> int:
        """Drop whole segments up to `sequence`; returns how many rows that were."""
        rows = 0
        while self.segments and self.segments[0].last <= sequence:
            rows += self.segments[0].rows
            self.complete_from = self.segments.pop(0).last
        return rows


class HotTail:
    """Thread-safe. Times are the host's (stream arrival or system time): only their differences matter."""

    def __init__(self, keep_committed_us: int = KEEP_COMMITTED_US, many_rows: int = MANY_ROWS) -> None:
        self._keep_us = keep_committed_us
        self._many_rows = many_rows
        self._rows = 0
        self._lock = threading.Lock()
        self._shards: dict[int, _ShardTail] = {}

    def hold(self, shard: int, position: int) -> None:
        """Begin with a shard at the lake's `position`: the tail will hold everything behind it. Forgets what it held."""
        with self._lock:
            self._forget(shard)
            self._shards[shard] = _ShardTail(position, position, position)

    def forget(self, shard: int) -> None:
        """The shard is held here no more; its questions are answered NotFound from now on."""
        with self._lock:
            self._forget(shard)

    def append(self, shard: int, sequence: int, rows: pa.Table) -> None:
        """Add rows that the stream brought by `sequence` (`HELD_ROWS`, or `ROWS` if all came by `sequence`), in order.

        Several calls may name one sequence; none at all (a tick) moves the extent on. Rows that were in the lake when
        the shard was taken over are left out, so a replay may start before that. Raises NotFound for a shard that is
        not held, InvalidInput for a sequence before the last one.
        """
        with self._lock:
            tail = self._tail(shard)
            if sequence <= tail.position:
                return
            if sequence < tail.applied:
                raise InvalidInput(f"shard {shard} is at stream sequence {tail.applied}: rows of {sequence} come too late")
            table = _tail_table(rows, sequence, tail.position)
            tail.open_segment().add(sequence, table)
            self._rows += table.num_rows
            tail.applied = sequence

    def committed(self, shard: int, sequence: int, now_us: int) -> None:
        """The lake holds the shard up to `sequence`; rows leave the tail `keep_committed_us` later, sooner if they are many.

        Nothing happens for a shard that is not held: it may have been given away while the commit was under way.
        """
        with self._lock:
            tail = self._shards.get(shard)
            if tail is None:
                return
            tail.commits.append((sequence, now_us))
            if tail.segments:
                tail.segments[-1].is_sealed = True
            keep_us = self._keep_us if self._rows < self._many_rows else min(self._keep_us, KEEP_LEAST_US)
            old = [commit for commit in tail.commits if commit[1] <= now_us - keep_us]
            if old:
                tail.commits = tail.commits[len(old) :]
                self._rows -= tail.drop_until(old[-1][0])

    def query(self, shard: int, query: TailQuery) -> pa.Table:
        """Rows of `TAIL_ROWS` beyond `query.after_sequence` that it asks for, in stream order.

        The table says by `TailExtent` which sequences it covers: when `complete_from` is beyond `after_sequence`, rows
        between them are in the lake only. Raises NotFound for a shard that is not held.
        """
        with self._lock:
            tail = self._tail(shard)
            extent = TailExtent(tail.complete_from, tail.applied)
            tables = tail.beyond(query)
        return extent.stamp(_beyond(tables, query.after_sequence, query).cast(TAIL_ROWS))

    def rows(self) -> int:
        """Rows held, over all shards."""
        with self._lock:
            return self._rows

    def _forget(self, shard: int) -> None:
        tail = self._shards.pop(shard, None)
        if tail is not None:
            self._rows -= sum(segment.rows for segment in tail.segments)

    def _tail(self, shard: int) -> _ShardTail:
        if shard not in self._shards:
            raise NotFound(f"shard {shard} is not held by this tail (`hold` begins): held are {sorted(self._shards)}")
        return self._shards[shard]


def _tail_table(rows: pa.Table, sequence: int, position: int) -> pa.Table:
    table = to_rows(rows)
    if STREAM_SEQUENCE not in rows.column_names:
        came_by = pa.repeat(pa.scalar(sequence, pa.int64()), len(rows))
        return table.append_column(HELD_ROWS.field(STREAM_SEQUENCE), came_by)
    came_by = rows[STREAM_SEQUENCE].cast(pa.int64())
    if len(rows) and pc.max(came_by).as_py() > sequence:
        raise InvalidInput(f"rows of stream sequence {pc.max(came_by)} were appended as if they came by {sequence}")
    table = table.append_column(HELD_ROWS.field(STREAM_SEQUENCE), came_by)
    return _beyond([table], position)


def _beyond(tables: list[pa.Table], sequence: int, query: TailQuery | None = None) -> pa.Table:
    wanted = pc.field(STREAM_SEQUENCE) > sequence
    if query is not None:
        wanted = _asked_for(wanted, query)
    return pa.concat_tables([HELD_ROWS.empty_table(), *(table.filter(wanted) for table in tables)])


def _asked_for(wanted: pc.Expression, query: TailQuery) -> pc.Expression:
    for name in ("handle", "metric"):
        keys: list[int] = getattr(query, f"{name}s")
        if keys:
            wanted &= pc.field(name).isin(pa.array(keys, TAIL_ROWS.field(name).type))
    if query.from_us is not None:
        wanted &= pc.field("time_us") >= query.from_us
    if query.until_us is not None:
        wanted &= pc.field("time_us") < query.until_us
    if query.value_above is not None:
        wanted &= pc.field("value") > query.value_above
    if query.value_below is not None:
        wanted &= pc.field("value") < query.value_below
    return wanted
