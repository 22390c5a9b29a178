"""The messages that brought what one device measured in a time, the newest first; what is missing between, what was refused.

For whoever has no receipt: MQTT clients that did not ask for one, and gateways that carry many devices.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

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
from domain.permissions import Located, Reach
from domain.readings import NO_SEQUENCE
from domain.traces import OfArrival, OfReject
from runtime.lake_schema import ReadingQuery
from runtime.rejects import RejectFilter
from runtime.sql.devices import find_device
from runtime.sql.engine import reading
from runtime.sql.hand_overs import shards_ever_of
from runtime.sql.locating import place_of
from runtime.sql.reading_reach import Judged, judge_each
from runtime.sql.records import shard_of
from runtime.stream_search import first_since

MOST_ROWS: Final = 20_000
MOST_MISSING: Final = 50
_MOST_REJECTS: Final = 300
_BACK_US: Final = tuple(minutes * 60 * US_PER_S for minutes in (2, 60, 24 * 60, 30 * 24 * 60))  # where no time is named
_AHEAD_US: Final = 3_600 * US_PER_S  # a device's clock may be ahead
_SILENT: Final = "what came in the last seconds: a host that has it does not answer"
_MORE_REJECTS: Final = "what was refused of it earlier in that time: more was refused than is looked at, ask for less time"


@dataclass(frozen=True, slots=True)
class _Device:
    handle: int
    hospital_id: str
    shards: list[int]
    judged: Judged


@dataclass(frozen=True, slots=True)
class _Found:
    """Readings from `from_us` on. `of`: without the shards whose host did not say what it holds, where the newest lie."""

    frame: pl.DataFrame
    from_us: int
    is_cut: bool
    of: _Device


async def messages_of(
    asked: Tracing, device: str, from_us: int | None, until_us: int | None, limit: int
) -> MessagesOut:  # fmt: skip
    """Messages by the event times of their readings. Raises NotFound, or Forbidden for a device that is out of reach."""
    behind = asked.behind
    of = await behind.read(_device_of, behind.engine, asked.who.reach, device)
    until_us = until_us if until_us is not None else behind.services.clock.now_us() + _AHEAD_US
    found = await _rows(asked, of, from_us, until_us, limit)
    rows = judged_by_clock(found.frame, of.judged)
    if not rows.is_empty():
        await worn_meanwhile(asked, rows)
    grouped = _by_message(rows)
    rejects, is_cut = await _rejects(asked, of, device, found.from_us, until_us)
    return MessagesOut(
        device=device, messages=[await _message(asked, row) for row in grouped.head(limit).iter_rows(named=True)],
        is_cut=found.is_cut or len(grouped) > limit,
        missing=[] if found.is_cut or asked.metrics else _missing(asked, rows.filter(pl.col("source") == of.handle)),
        rejects=rejects, unknown=[*([_SILENT] if found.of.shards != of.shards else []), *([_MORE_REJECTS] if is_cut else [])],
    )  # fmt: skip


def _device_of(engine: Engine, reach: Reach, device: str) -> _Device:
    row = find_device(engine, *split_device(device))
    with reading(engine) as connection:
        judged = judge_each(connection, reach, [row["handle"]])
        shards = {shard_of(connection, row["hospital_id"]), *shards_ever_of(connection, [row["hospital_id"]])}
    if row["handle"] in judged.closed:
        raise Forbidden(f"you may not trace anything that device {device} measures")
    return _Device(row["handle"], row["hospital_id"], sorted(shards), judged)


async def _rows(asked: Tracing, of: _Device, from_us: int | None, until_us: int, limit: int) -> _Found:
    """What names the newest readings of that time, without their values; without a beginning, of the last time that has any."""
    now_us = asked.behind.services.clock.now_us()
    begins = [from_us] if from_us is not None else [min(until_us, now_us) - back_us for back_us in _BACK_US]
    for begin_us in begins:
        found = await _between(asked, of, begin_us, until_us, MOST_ROWS)
        of = found.of
        if not found.frame.is_empty():
            break
    return await _newest(asked, found, until_us, limit) if found.is_cut else found


async def _newest(asked: Tracing, found: _Found, until_us: int, limit: int) -> _Found:
    """Of more readings than are looked at the newest, until they are of more messages than are asked for.

    Time is halved. A later half that is little enough is taken, and then the end of the earlier one; else it is halved again.
    """
    of, begin_us, end_us = found.of, found.from_us, until_us
    taken = found.frame.clear()
    while end_us > begin_us and len(taken) < MOST_ROWS and len(_by_message(taken)) <= limit:
        middle_us = (begin_us + end_us) // 2 if end_us - begin_us > US_PER_S else begin_us
        later = await _between(asked, of, middle_us, end_us, MOST_ROWS - len(taken))
        of = later.of
        if later.is_cut and middle_us > begin_us:
            begin_us = middle_us
        else:
            taken, end_us = pl.concat([later.frame, taken]), middle_us
    return _Found(taken, found.from_us, is_cut=True, of=of)


async def _between(asked: Tracing, of: _Device, from_us: int, until_us: int, most: int) -> _Found:
    """Whose host did not answer is not asked again: each time would cost its deadline."""
    query = ReadingQuery([of.handle], sorted(asked.metrics) or None, None, from_us, max(until_us, from_us), limit=most)
    found = await asked.behind.lanes.light(asked.behind.services.readings.range(query, of.shards))
    frame = found.frame.drop("value", "raw_value", "raw_unit")
    shards = [shard for shard in of.shards if shard not in found.incomplete_shards]
    return _Found(frame, from_us, is_cut=len(frame) == most, of=replace(of, shards=shards))


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


async def _rejects(asked: Tracing, of: _Device, device: str, from_us: int, until_us: int) -> tuple[list[RefusedOut], bool]:
    """What was refused of the device itself in that time, the newest first, to whom rejects of its hospital are within reach.

    And whether there may be more.
    """
    behind, zone = asked.behind, asked.zone
    place = await behind.read(place_of, behind.engine, of.hospital_id)
    if not asked.who.reach.holds(Located(place, LABELS["REJECTS"])):
        return [], False
    subject, bus = subjects.reject(of.hospital_id), behind.services.bus
    first, beyond = [
        await first_since(bus, subjects.REJECTS_STREAM, subject, time_us) for time_us in (from_us, until_us + 1)
    ]  # fmt: skip
    if first is None:
        return [], False
    page = await behind.rejects.page(
        RejectFilter(principal=device), since=first.sequence, before=None if beyond is None else beyond.sequence,
        limit=_MOST_REJECTS,
    )  # fmt: skip
    found = [
        RefusedOut(
            trace=str(OfReject(kept.sequence)), received=zone.text(kept.reject.received_us), door=kept.reject.door,
            reason=kept.reject.reason,
        )
        for kept in page.rejects
    ]  # fmt: skip
    return found, page.next_before is not None
