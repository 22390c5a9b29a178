"""From the readings of a message on: what became of each, the alarms they went into, and who could have seen them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import polars as pl

from api.reading_answers import on_whom
from api.schemas.traces import ShownOut, TracedAlarm, TracedReading, TraceOut, ViewingOut
from api.times import Zone
from api.tracing.question import Tracing
from api.tracing.steps import Steps
from api.tracing.viewers import Subject, viewings
from domain import subjects
from domain.labels import LABELS
from domain.metrics import BY_ID
from domain.permissions import Action, Located
from domain.principals import Place
from domain.quality import describe
from domain.traces import OfArrival
from runtime.sql.alarm_traces import Notified, notified_about
from runtime.sql.associations import worn_between
from runtime.sql.locating import places_of_devices

_ALARM_WITHIN_US: Final = 120_000_000  # scores settle behind the readings they are made of
_MOST_ALARMS: Final = 100  # notifications that are listed, the first ones
_UNKNOWN: Final = (
    "what became of some readings: they are neither stored nor refused. They were doubles whose first copy is kept no more, "
    "or their host has not said yet, or the refusal is kept no more, or too many others lie before it"
)
_CUT: Final = "where all of the readings lie: more of the lake could have some of them than is looked at"


async def followed(
    asked: Tracing, out: TraceOut, steps: Steps, rows: pl.DataFrame, came_us: int, *, is_cut: bool = False
) -> TraceOut:  # fmt: skip
    """`out` with `steps`, and with what became of these readings (rows of `Fates`), which came at `came_us`."""
    await asked.behind.directory.refreshed_for(rows)
    rows = asked.behind.directory.named(rows)
    steps.unknown += [_CUT] if is_cut else []
    steps.unknown += [_UNKNOWN] if (rows["fate"] == "unknown").any() else []
    out.readings, out.fates = [_reading(row, asked.zone) for row in rows.iter_rows(named=True)], dict(Counter(rows["fate"]))
    if not rows.is_empty():
        worn = await worn_meanwhile(asked, rows)
        await _add_alarms(asked, out, rows)
        out.shown = await shown(asked, await _subjects(asked, rows, worn), came_us)
    out.steps, out.unknown = steps.out(asked.zone), steps.unknown
    return out


async def worn_meanwhile(asked: Tracing, rows: pl.DataFrame) -> pl.DataFrame:
    """Who wore the devices of these rows meanwhile. The access log is told whose readings were followed."""
    first, last = rows.select(pl.col("time_us").min().alias("first"), pl.col("time_us").max().alias("last")).row(0)
    handles = rows["handle"].unique().to_list()
    worn = await asked.behind.read(worn_between, asked.behind.engine, handles, first, last)
    asked.who.shows(on_whom(rows, worn))
    return worn


def _reading(row: dict[str, Any], zone: Zone) -> TracedReading:
    name = f"{row['hospital']}/{row['device_id']}" if row["device_id"] else None
    words: dict[str, Any] = {} if row["quality"] is None else describe(row["quality"])
    place = None if row["arrival_us"] is None else str(OfArrival(row["handle"], row["time_us"], row["arrival_us"]))
    return TracedReading(
        device=name, handle=row["handle"], metric=metric_code(row["metric"]), instance=row["instance"],
        time=zone.text(row["time_us"]), source_sequence=row["sequence"], fate=row["fate"], where=row["where"],
        lake_file=row["file"], row_group=row["row_group"], in_rollups=row["is_rolled_up"], trace=place, **words,
    )  # fmt: skip


def metric_code(metric: int) -> str:
    return BY_ID[metric].code if metric in BY_ID else str(metric)


# ---- alarms


async def _add_alarms(asked: Tracing, out: TraceOut, rows: pl.DataFrame) -> None:
    """Notifications that had one of these readings among their inputs, known by metric and the time that rules went by."""
    placed = rows.filter(pl.col("fate") == "stored")
    if placed.is_empty():
        return
    forward = pl.max_horizontal(pl.col("clock_offset_us").fill_null(0), pl.lit(0))
    rules = placed.with_columns(rule_us=pl.min_horizontal(pl.col("time_us") + forward, pl.col("arrival_us")))
    from_us, until_us = int(rules["rule_us"].min()), int(rules["arrival_us"].max()) + _ALARM_WITHIN_US  # type: ignore[arg-type]
    inputs = {(metric_code(metric), time_us) for metric, time_us in rules.select("metric", "rule_us").iter_rows()}
    found = await alarms_between(asked, rows["handle"].unique().to_list(), from_us, until_us)
    used = [(one, metric) for one in found for metric, time_us in sorted(one.inputs) if (metric, time_us) in inputs]
    await add_alarms(asked, out, used)


async def alarms_between(asked: Tracing, handles: list[int], from_us: int, until_us: int) -> list[Notified]:
    behind, who = asked.behind, asked.who
    shown = who.reach_of(Action.ALARM_READ)
    return await behind.read(notified_about, behind.engine, who.reach, shown, handles, from_us, until_us)


async def add_alarms(asked: Tracing, out: TraceOut, found: Sequence[tuple[Notified, str | None]]) -> None:
    """Tell of these, each with the metric that it was about: the first _MOST_ALARMS; of others than may be read, how many."""
    shown = [(one, metric) for one, metric in found if one.is_shown]
    out.alarms = list(await asyncio.gather(*(_traced(asked, one, metric) for one, metric in shown[:_MOST_ALARMS])))
    out.alarms_of_others = len(found) - len(shown)


async def _traced(asked: Tracing, one: Notified, metric: str | None) -> TracedAlarm:
    said = await asked.behind.services.bus.get_message(subjects.ALARMS_STREAM, one.stream_sequence)
    asked.who.shows([one.patient_key])
    zone = asked.zone
    return TracedAlarm(
        alarm_id=one.alarm_id, rule=one.rule, phase=one.phase, priority=one.priority, metric=metric, live=one.is_live,
        at=zone.text(one.event_us), notified=None if said is None else zone.text(said.stored_us), state=one.state,
        outcome=one.outcome, acknowledged_by=one.acknowledged_by, acknowledged=zone.maybe(one.acknowledged_us),
    )  # fmt: skip


# ---- viewers


async def _subjects(asked: Tracing, rows: pl.DataFrame, worn: pl.DataFrame) -> list[Subject]:
    """The devices of these rows, where they stand, and who wore each meanwhile."""
    known = rows.filter(pl.col("device_id").is_not_null()).unique("handle", maintain_order=True)
    devices = {row["handle"]: (row["hospital"], row["device_id"]) for row in known.iter_rows(named=True)}
    places = await asked.behind.read(places_of_devices, asked.behind.engine, list(devices.values()))
    return [
        Subject("/".join(name), handle, places[name], frozenset(on_whom(rows.filter(pl.col("handle") == handle), worn)))
        for handle, name in devices.items()
        if name in places
    ]


async def shown(asked: Tracing, about: list[Subject], came_us: int) -> ShownOut | None:
    """Answers and streams that could have shown it; whoever may not read the access log is told how many."""
    behind, zone = asked.behind, asked.zone
    if not about:
        return None
    found = await behind.lanes.codec(viewings, behind.services.log.folder, about, came_us)
    may_read = asked.who.may(Action.AUDIT_READ, Located(Place(behind.services.region_id), LABELS["AUDIT"]))
    events = [
        ViewingOut(
            index=one.index, at=zone.text(one.answered.at_us), who=one.answered.who, action=one.answered.action,
            route=one.answered.route, is_stream=one.is_stream,
        )
        for one in found.found
    ]  # fmt: skip
    streams = sum(one.is_stream for one in found.found)
    return ShownOut(
        answers=len(found.found) - streams, streams=streams, since=zone.text(found.from_us), until=zone.text(found.until_us),
        is_cut=found.is_cut, events=events if may_read else None, link=found.link if may_read else None,
    )  # fmt: skip
