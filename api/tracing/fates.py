"""What became of each reading of a message: stored where, marked how, taken for a double, refused, or still waiting.

A reading is known again by all that names it: handle, metric, instance, event time, source and source sequence. Values are
never looked at. One row of the lake that came not before the message is the reading's; one that came earlier makes it a
double. Rows that came later than it are another message's where a host refused those readings of this one: they were sent
again. Clause 9.2a.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import polars as pl

from api.services import Backend
from domain import subjects
from domain.errors import IntegrityViolation, NotFound, RejectedInput, Unavailable
from domain.frames import decode_frame
from domain.messages import Reject, TailQuery, encode
from domain.readings import ReadingBatch
from runtime.follower import StreamMessage
from runtime.lake_places import PLACED, placed_rows
from runtime.lake_schema import STREAM_SEQUENCE, ReadingQuery
from runtime.stream_search import stored_between

IDENTITY: Final = ("handle", "metric", "instance", "time_us", "source", "sequence")
NAMED: Final[dict[str, Any]] = {name: PLACED[name] for name in IDENTITY}
_TAIL: Final = {name: dtype for name, dtype in PLACED.items() if name not in ("file", "row_group", "is_rolled_up")}
_ASK_S: Final = 5.0
_REJECTS_BEFORE_US: Final = 1_000_000
_REJECTS_WITHIN_US: Final = 600_000_000  # a host may be away for some minutes
_MOST_REJECTS: Final = 300
_decode_reject: Final = msgspec.json.Decoder(Reject).decode


@dataclass(frozen=True, slots=True)
class Fates:
    """`rows`: NAMED columns with `fate`, and where it is stored the columns of PLACED; null where not. One row a reading.

    `where`: `lake` or `tail`. `rejects`: sequences of refusals of these readings, with the reason of each. `version`: of the
    lake that was looked at.
    """

    rows: pl.DataFrame
    version: int
    rejects: dict[int, str]
    is_cut: bool


def named_rows(readings: ReadingBatch) -> pl.DataFrame:
    """What names each reading; not what it says."""
    return pl.DataFrame({name: getattr(readings, name) for name in IDENTITY}, schema=NAMED)


async def stored_rows(behind: Backend, query: ReadingQuery, shards: list[int]) -> tuple[pl.DataFrame, int, bool]:
    """Rows of lake and tails (PLACED, `where`), the lake's version, and whether not all was looked at."""
    placed = await behind.lanes.light(behind.lanes.codec(placed_rows, behind.services.lake, query))
    held = await asyncio.gather(*(_of_tail(behind, query, shard) for shard in shards))
    parts = [placed.rows.with_columns(where=pl.lit("lake")), *(rows for rows in held if rows is not None)]
    rows = pl.concat(parts, how="diagonal_relaxed")
    first = rows.unique(subset=[*IDENTITY, "arrival_us"], keep="first", maintain_order=True)  # the lake's before the tail's
    return first, placed.version, placed.is_cut


async def _of_tail(behind: Backend, query: ReadingQuery, shard: int) -> pl.DataFrame | None:
    """Rows that a shard's host holds, committed some seconds ago or not yet; None when nobody answers."""
    asked = TailQuery(0, query.handles or [], query.metrics or [], query.from_us, query.until_us)
    try:
        table = await behind.services.bus.ask_table(subjects.shard(shard), encode(asked), _ASK_S)
    except (Unavailable, NotFound):
        return None
    kept = table.select([*_TAIL, STREAM_SEQUENCE])
    frame = pl.DataFrame(kept).cast(_TAIL)  # type: ignore[arg-type]  # names and types
    return frame.drop(STREAM_SEQUENCE).with_columns(where=pl.lit("tail"))


def query_for(readings: pl.DataFrame) -> ReadingQuery:
    """The question that has all of these readings among its answers."""
    first_us, last_us = readings.select(pl.col("time_us").min().alias("first"), pl.col("time_us").max().alias("last")).row(0)
    return ReadingQuery(
        handles=readings["handle"].unique().to_list(), metrics=readings["metric"].unique().to_list(), from_us=first_us,
        until_us=last_us + 1,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Taken:
    """The message whose readings they are. `is_applied`: None when no host says how far it is.

    `shards`: whose hosts took it; more than one when a hospital was handed over. `hospitals`: of those readings.
    """

    shards: frozenset[int]
    sequence: int
    arrival_us: int
    stored_us: int
    is_applied: bool | None
    hospitals: tuple[str, ...] = ()


async def fates_of(behind: Backend, readings: pl.DataFrame, message: Taken, shards: list[int]) -> Fates:
    """What became of these readings (NAMED), which `message` brought. `shards`: whose tails may hold them."""
    stored, version, is_cut = await stored_rows(behind, query_for(readings), shards)
    numbered = readings.with_row_index("row")
    met = numbered.join(stored, on=IDENTITY, how="left", maintain_order="left")
    here = met.filter(pl.col("arrival_us") >= message.arrival_us).sort("row", "arrival_us").unique("row", keep="first")
    before = met.filter(pl.col("arrival_us") < message.arrival_us).sort("row", "arrival_us").unique("row", keep="first")
    in_doubt = numbered.join(here.filter(pl.col("arrival_us") == message.arrival_us), on="row", how="anti")
    in_doubt = in_doubt.join(before, on="row", how="anti")
    rejects, refused = dict[int, str](), dict[int, str]()
    if len(in_doubt) and message.is_applied is not False:
        rejects, refused = await _refused(behind, in_doubt, message)
    here = here.filter(~pl.col("row").is_in(list(refused)))
    lost = in_doubt.join(here, on="row", how="anti")
    otherwise = "waiting" if message.is_applied is False else "unknown"
    fates = [refused.get(row, otherwise) for row in lost["row"].to_list()]
    parts = [
        here.with_columns(fate=pl.lit("stored")), before.with_columns(fate=pl.lit("double")),
        lost.with_columns(fate=pl.Series(fates, dtype=pl.String)),
    ]  # fmt: skip
    return Fates(pl.concat(parts, how="diagonal_relaxed").sort("row").drop("row"), version, rejects, is_cut)


async def _refused(behind: Backend, rows: pl.DataFrame, message: Taken) -> tuple[dict[int, str], dict[int, str]]:
    """The refusals of these rows (`row`) by a host, and the fate of each that is in one. Of others in the message nothing."""
    found, refused = dict[int, str](), dict[int, str]()
    async for kept in refusals(behind, message):
        reject = _decode_reject(kept.payload)
        try:
            mine = rows.join(named_rows(decode_frame(reject.payload).readings), on=IDENTITY, how="semi")
        except (RejectedInput, IntegrityViolation):
            mine = rows  # the whole message, as it came
        if not mine.is_empty():
            found[kept.sequence] = reject.reason
            refused |= dict.fromkeys(mine["row"].to_list(), f"rejected: {reject.reason}")
    return found, refused


async def refusals(behind: Backend, message: Taken) -> AsyncIterator[StreamMessage]:
    """What hosts refused of a message: the messages of the rejects' stream, once each."""
    begins = tuple(f"host-{shard}-{message.sequence}-" for shard in message.shards)
    seen = set[str]()
    from_us, until_us = message.stored_us - _REJECTS_BEFORE_US, message.stored_us + _REJECTS_WITHIN_US
    bus = behind.services.bus
    for hospital in (None, *message.hospitals):  # only what is isolated is refused with its hospital's name
        wanted = subjects.reject(hospital)
        async for kept in stored_between(bus, subjects.REJECTS_STREAM, wanted, from_us, until_us, most=_MOST_REJECTS):
            reject = _decode_reject(kept.payload)
            if reject.reject_id.startswith(begins) and reject.reject_id not in seen:
                seen.add(reject.reject_id)
                yield kept
