"""The way of the message that brought a reading, by the reading itself: from the screen back to the wire.

A reading that is shown is known by device, event time and arrival. While the stream has its message it is found there, by the
time at which it was stored, and followed from its receipt; afterwards the lake alone knows it.
"""

from __future__ import annotations

from typing import Final

import polars as pl

from api.schemas.traces import SenderOut, TraceOut
from api.tracing.fates import IDENTITY, NAMED, named_rows, stored_rows
from api.tracing.following import followed
from api.tracing.messages_of_stream import of_frame
from api.tracing.question import Tracing, device_name, judged_by_clock, shards_of, unknown, within
from api.tracing.steps import Steps, committed
from domain import subjects
from domain.errors import IntegrityViolation, RejectedInput
from domain.frames import decode_frame, decode_header
from domain.instants import DAY_US, US_PER_S
from domain.traces import OfArrival
from runtime.follower import StreamMessage
from runtime.lake_places import commit_of
from runtime.lake_schema import ReadingQuery
from runtime.stream_search import stored_between

_MAX_HANDLE: Final = 2**32 - 1
_NEAR_US: Final = (0, 300 * US_PER_S, DAY_US)  # the latest readings bear times that rules corrected
_STORED_WITHIN_US: Final = 30 * US_PER_S
_STREAM_AHEAD_US: Final = 2 * US_PER_S  # of the clock of a door: stream time never goes back
_MOST: Final = (64, 512)  # messages that are looked at: behind the arrival, then before it


async def of_arrival(asked: Tracing, key: OfArrival) -> TraceOut:
    """The way of the message that brought a reading. Raises NotFound for what is none, or none within reach."""
    behind = asked.behind
    if key.handle > _MAX_HANDLE:
        raise unknown(key)
    await behind.directory.refreshed_up_to(key.handle)
    hospital = behind.directory.named(pl.DataFrame({"handle": [key.handle]}, schema={"handle": pl.UInt32}))["hospital"][0]
    if hospital is None:
        raise unknown(key)
    shards = await shards_of(behind, [hospital])
    rows, is_cut = await _brought(asked, key, shards)
    if rows.is_empty():
        raise unknown(key)
    inside = await within(asked, rows.select(*NAMED))
    rows = judged_by_clock(rows, inside.judged).join(inside.shown, on=IDENTITY, how="semi", maintain_order="left")
    if rows.is_empty():
        raise unknown(key)
    message = await _message_of(asked, rows, key.arrival_us, shards)
    if message is not None:
        return await of_frame(asked, message, str(key))
    return await _of_rows(asked, key, rows, is_cut=is_cut)


async def _brought(asked: Tracing, key: OfArrival, shards: list[int]) -> tuple[pl.DataFrame, bool]:
    """What the lake and the tails have of the device with that very arrival, near that event time."""
    rows, is_cut = pl.DataFrame(), False
    for near_us in _NEAR_US:
        query = ReadingQuery(handles=[key.handle], from_us=key.time_us - near_us, until_us=key.time_us + near_us + 1)
        found, _, is_cut = await stored_rows(asked.behind, query, shards)
        rows = found.filter(pl.col("arrival_us") == key.arrival_us).with_columns(fate=pl.lit("stored"))
        if not rows.is_empty():
            break
    return rows, is_cut


async def _message_of(asked: Tracing, rows: pl.DataFrame, arrival_us: int, shards: list[int]) -> StreamMessage | None:
    """The message of the stream that has one of these readings; the newest stored before or at their arrival."""
    bus, (behind_it, before_it) = asked.behind.services.bus, _MOST
    ranges = (
        (arrival_us, arrival_us + _STORED_WITHIN_US, behind_it),
        (arrival_us - _STREAM_AHEAD_US, arrival_us, before_it),
    )
    for shard in shards:
        for from_us, until_us, most in ranges:
            subject = subjects.reading(shard)
            async for message in stored_between(bus, subjects.READINGS_STREAM, subject, from_us, until_us, most=most):
                if _has(message, rows, arrival_us):
                    return message
    return None


def _has(message: StreamMessage, rows: pl.DataFrame, arrival_us: int) -> bool:
    try:
        header = decode_header(message.payload)
        if not header.rows or header.arrival_us > arrival_us:
            return False
        named = named_rows(decode_frame(message.payload).readings)
    except (RejectedInput, IntegrityViolation):
        return False
    return not rows.join(named, on=IDENTITY, how="semi").is_empty()


async def _of_rows(asked: Tracing, key: OfArrival, rows: pl.DataFrame, *, is_cut: bool) -> TraceOut:
    """What the lake alone knows."""
    behind, steps = asked.behind, Steps()
    steps.unknown.append(
        "receipt, door, connection, size and acknowledgement: the stream has the message no more, or the platform's clock was "
        "set back between it and the arrival"
    )
    steps.add("received", key.arrival_us, "arrival in stream time, as the lake has it")
    in_lake = rows.filter(pl.col("where") == "lake")
    file = "" if in_lake.is_empty() else str(in_lake["file"][0])
    commit = await behind.lanes.codec(commit_of, behind.services.lake.path, key.arrival_us, file=file) if file else None
    shard = None if commit is None else commit.shard
    committed(steps, shard, None, commit, is_in_lake=bool(file), is_in_tail=not file)
    sources = rows["source"].unique(maintain_order=True).to_list()
    out = TraceOut(
        trace=str(key), receipt=None, kind="readings", kept_in=sorted(set(rows["where"])), steps=[],
        senders=[SenderOut(sender=await device_name(asked, source), handle=source) for source in sources],
    )  # fmt: skip
    return await followed(asked, out, steps, rows, key.arrival_us, is_cut=is_cut)
