"""The messages that brought what one device measured in a time, the newest first; what is missing between, what was refused.

For whoever has no receipt: MQTT clients that did not ask for one, and gateways that carry many devices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec
import polars as pl
from sqlalchemy import Engine

from api.device_names import split_device
from api.schemas.traces import MessageOut, MessagesOut, MissingOut, RefusedOut
from api.tracing.following import metric_code, worn_meanwhile
from api.tracing.question import Tracing, device_name, judged_by_clock
from domain import subjects
from domain.errors import Forbidden
from domain.instants import US_PER_S
from domain.labels import LABELS
from domain.messages import Reject
from domain.permissions import Located, Reach
from domain.readings import NO_SEQUENCE
from domain.traces import OfArrival, OfReject
from runtime.lake_schema import ReadingQuery
from runtime.sql.devices import find_device
from runtime.sql.engine import reading
from runtime.sql.hand_overs import shards_ever_of
from runtime.sql.locating import place_of
from runtime.sql.reading_reach import Judged, judge_each
from runtime.sql.records import shard_of
from runtime.stream_search import stored_between

MOST_ROWS: Final = 20_000
MOST_MISSING: Final = 50
_MOST_REJECTS: Final = 300
_BACK_US: Final = tuple(minutes * 60 * US_PER_S for minutes in (2, 60, 24 * 60, 30 * 24 * 60))  # where no time is named
_AHEAD_US: Final = 3_600 * US_PER_S  # a device's clock may be ahead
_decode_reject: Final = msgspec.json.Decoder(Reject).decode


@dataclass(frozen=True, slots=True)
class _Device:
    handle: int
    hospital_id: str
    shards: list[int]
    judged: Judged


async def messages_of(
    asked: Tracing, device: str, from_us: int | None, until_us: int | None, limit: int
) -> MessagesOut:  # fmt: skip
    """Messages by the event times of their readings. Raises NotFound, or Forbidden for a device that is out of reach."""
    behind = asked.behind
    of = await behind.read(_device_of, behind.engine, asked.who.reach, device)
    until_us = until_us if until_us is not None else behind.services.clock.now_us() + _AHEAD_US
    frame, is_cut, from_us = await _rows(asked, of, from_us, until_us)
    rows = judged_by_clock(frame, of.judged)
    if not rows.is_empty():
        await worn_meanwhile(asked, rows)
    grouped = _by_message(rows)
    return MessagesOut(
        device=device, messages=[await _message(asked, row) for row in grouped.head(limit).iter_rows(named=True)],
        is_cut=is_cut or len(grouped) > limit,
        missing=[] if is_cut or asked.metrics else _missing(asked, rows.filter(pl.col("source") == of.handle)),
        rejects=await _rejects(asked, of, device, from_us, until_us),
    )  # fmt: skip


def _device_of(engine: Engine, reach: Reach, device: str) -> _Device:
    row = find_device(engine, *split_device(device))
    with reading(engine) as connection:
        judged = judge_each(connection, reach, [row["handle"]])
        shards = {shard_of(connection, row["hospital_id"]), *shards_ever_of(connection, [row["hospital_id"]])}
    if row["handle"] in judged.closed:
        raise Forbidden(f"you may not trace anything that device {device} measures")
    return _Device(row["handle"], row["hospital_id"], sorted(shards), judged)


async def _rows(asked: Tracing, of: _Device, from_us: int | None, until_us: int) -> tuple[pl.DataFrame, bool, int]:
    """What names the readings of that time, without their values; without a beginning, of the last time that has any."""
    store, lanes = asked.behind.services.readings, asked.behind.lanes
    metrics = sorted(asked.metrics) or None
    now_us = asked.behind.services.clock.now_us()
    frame, is_cut, begin_us = pl.DataFrame(), False, until_us
    for begin_us in [from_us] if from_us is not None else [min(until_us, now_us) - back_us for back_us in _BACK_US]:
        query = ReadingQuery([of.handle], metrics, None, begin_us, max(until_us, begin_us), limit=MOST_ROWS)
        found = await lanes.light(store.range(query, of.shards))
        frame, is_cut = found.frame.drop("value", "raw_value", "raw_unit"), len(found.frame) == MOST_ROWS
        if not frame.is_empty():
            break
    return frame, is_cut, begin_us


def _by_message(rows: pl.DataFrame) -> pl.DataFrame:
    if rows.is_empty():
        return rows
    grouped = rows.group_by("arrival_us", "source", "handle").agg(
        readings=pl.len(), metrics=pl.col("metric").unique().sort(), first_us=pl.col("time_us").min(),
        last_us=pl.col("time_us").max(), first_sequence=pl.col("sequence").min(), last_sequence=pl.col("sequence").max(),
    )  # fmt: skip
    return grouped.sort("arrival_us", "last_us", descending=True)


async def _message(asked: Tracing, row: dict[str, Any]) -> MessageOut:
    zone = asked.zone
    return MessageOut(
        trace=str(OfArrival(row["handle"], row["last_us"], row["arrival_us"])), arrival=zone.text(row["arrival_us"]),
        sender=await device_name(asked, row["source"]), readings=row["readings"],
        metrics=[metric_code(metric) for metric in row["metrics"]], first_time=zone.text(row["first_us"]),
        last_time=zone.text(row["last_us"]), first_sequence=row["first_sequence"], last_sequence=row["last_sequence"],
    )  # fmt: skip


def _missing(asked: Tracing, own: pl.DataFrame) -> list[MissingOut]:
    """Gaps in the numbers that the device itself gave its messages: none of that time has them."""
    if own.is_empty():
        return []
    numbered = own.filter(pl.col("sequence") != NO_SEQUENCE).group_by("sequence").agg(pl.col("time_us").min()).sort("sequence")
    gaps = numbered.with_columns(next=pl.col("sequence").shift(-1), next_us=pl.col("time_us").shift(-1))
    gaps = gaps.filter(pl.col("next") > pl.col("sequence") + 1).head(MOST_MISSING)
    zone = asked.zone
    return [
        MissingOut(
            first_sequence=row["sequence"] + 1, last_sequence=row["next"] - 1, after=zone.text(row["time_us"]),
            before=zone.text(row["next_us"]),
        )
        for row in gaps.iter_rows(named=True)
    ]  # fmt: skip


async def _rejects(asked: Tracing, of: _Device, device: str, from_us: int, until_us: int) -> list[RefusedOut]:
    """What doors refused of the device itself in that time; to whom rejects of its hospital are within reach."""
    behind, zone = asked.behind, asked.zone
    place = await behind.read(place_of, behind.engine, of.hospital_id)
    if not asked.who.reach.holds(Located(place, LABELS["REJECTS"])):
        return []
    subject, bus = subjects.reject(of.hospital_id), behind.services.bus
    found = []
    async for kept in stored_between(bus, subjects.REJECTS_STREAM, subject, from_us, until_us, most=_MOST_REJECTS):
        reject = _decode_reject(kept.payload)
        if reject.principal == device:
            found.append(
                RefusedOut(
                    trace=str(OfReject(kept.sequence)), received=zone.text(reject.received_us), door=reject.door,
                    reason=reject.reason,
                )
            )  # fmt: skip
    return found[::-1]
