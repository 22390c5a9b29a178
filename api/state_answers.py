"""Questions whose answer is a summary or the hosts' present state: buckets, fleets, latest, freshness, search."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import polars as pl
from fastapi.responses import Response

from api.answers.columns import with_metric_names, with_quality_words
from api.paging import Paging, next_link
from api.reading_answers import (
    MAX_EXPORT_ROWS,
    Ask,
    Made,
    ReadingPage,
    about_of,
    answer,
    in_lane,
    is_light,
    is_short,
    led_back,
    query_of,
    written,
)
from api.schemas.readings import DeviceFreshness, Freshness
from api.selecting import selected
from api.selection import ReadingFilter, Selection, freshness_within, search, select_by, select_sums
from api.shown_readings import of_one_patient, shown_latest, shown_readings, without_doubtful
from domain.errors import InvalidInput
from domain.instants import DAY_US, NEVER_US, US_PER_S
from domain.messages import FreshnessQuery, LatestQuery
from domain.permissions import Action
from domain.quality import SKEWED_US
from runtime.lake import ReadingQuery
from runtime.lake_queries import CHANNEL, merged, summarise
from runtime.reading_store import Readings

MAX_BUCKETS: Final = 100_000
_LATEST: Final = (
    "hospital", "device_id", "patient_key", "handle", "metric", "instance", "time_us", "value", "unit", "validity", "mode",
    "origin", "marks", "quality", "state", "arrival_us",
)  # fmt: skip


async def latest(asked: Ask, wanted: ReadingFilter, paged: Paging, also: str | None = None) -> Response:
    """The newest reading of each channel, as the hosts hold it."""
    behind = asked.behind
    selection = _of_patient(await selected(asked.who, behind, wanted), wanted)
    if selection.handles is None and selection.hospitals is None:
        raise InvalidInput("the latest readings are asked for by device, handle, patient, ward or hospital: name one")
    hospitals = selection.hospitals or []
    one_hospital = hospitals[0] if selection.handles is None and len(hospitals) == 1 else None
    query = LatestQuery(selection.handles or [], wanted.metric_ids() or [], one_hospital)
    found = await behind.lanes.of_hosts(behind.services.readings.latest(query, selection.shards))

    def made() -> Made:
        rows = shown_latest(found.frame, selection.judged)
        frame, key = _page_of_channels(behind.directory.named(rows), paged, hospitals)
        return led_back(frame, also), about_of(asked, found, key)

    return await written(asked, found, ReadingQuery(handles=selection.handles), made)


def _page_of_channels(frame: pl.DataFrame, paged: Paging, hospitals: list[str]) -> tuple[pl.DataFrame, list[Any] | None]:
    """Named rows of one page by channel, and the key of the next."""
    if hospitals:
        frame = frame.filter(pl.col("hospital").is_in(hospitals))
    if paged.after:
        frame = frame.filter(_beyond(("handle", "metric", "instance"), paged.after))
    page = frame.head(paged.limit)
    last = page.select("handle", "metric", "instance").row(-1) if len(frame) > paged.limit else None
    shown = with_quality_words(with_metric_names(page)).select(_LATEST)
    return shown, None if last is None else list(last)


def _beyond(names: tuple[str, ...], key: tuple[Any, ...]) -> pl.Expr:
    reached = pl.lit(value=False)
    for name, value in reversed(list(zip(names, key, strict=True))):
        reached = (pl.col(name) > value) | ((pl.col(name) == value) & reached)
    return reached


def _of_patient(selection: Selection, wanted: ReadingFilter) -> Selection:
    return selection if wanted.patient is None else of_one_patient(selection, wanted.patient)


async def buckets(asked: Ask, wanted: ReadingFilter, page: ReadingPage, bucket_s: int) -> Response:
    """Usable readings of each channel by time bucket."""
    behind = asked.behind
    selection = _of_patient(await behind.read(select_by, behind.engine, wanted, reach=asked.who.reach), wanted)
    query = query_of(wanted, selection, page, asked)
    if query.from_us is None or selection.handles is None:
        raise InvalidInput("buckets are made of named devices (or a patient or ward) from a stated time on: give both")
    _check_buckets(query, bucket_s, behind.services.clock.now_us())
    heavy = not is_short(query)
    if selection.judged.partly:  # what is not shown must not be counted either
        found = await _buckets_of_shown(asked, query, selection, bucket_s * US_PER_S)
    else:
        found = await in_lane(
            asked, query, lambda store: store.buckets(query, bucket_s * US_PER_S, selection.shards), heavy=heavy
        )
    order = ("hospital", "device_id", "patient_key", "handle", "metric", "instance", "unit", "bucket_us", "count", "min", "max",
             "mean", "last", "last_time_us")  # fmt: skip

    def made() -> Made:
        named = behind.directory.named(found.frame.head(page.limit))
        return with_metric_names(named).select(order), _about_buckets(asked, found, page, bucket_s)

    return await written(asked, found, query, made)


async def _buckets_of_shown(asked: Ask, query: ReadingQuery, selection: Selection, bucket_us: int) -> Readings:
    """Buckets of the rows that may be shown. Raises InvalidInput for more readings than an answer holds."""
    rows = replace(query, limit=MAX_EXPORT_ROWS, usable_only=True)
    found = await in_lane(asked, rows, lambda store: store.range(rows, selection.shards), heavy=not is_short(query))
    if len(found.frame) == rows.limit:
        raise InvalidInput(f"the range holds {rows.limit} readings or more: ask for fewer devices, metrics or hours")

    def counted() -> Readings:
        shown = shown_readings(found.frame, selection.judged)
        return replace(found, frame=merged([summarise(shown.lazy(), CHANNEL, bucket_us).collect()], CHANNEL))

    return await asked.behind.lanes.codec(counted)


def _about_buckets(asked: Ask, found: Readings, page: ReadingPage, bucket_s: int) -> dict[str, Any]:
    return about_of(asked, found, None) | {"bucket_s": bucket_s, "is_cut": len(found.frame) > page.limit}


def _check_buckets(query: ReadingQuery, bucket_s: int, now_us: int) -> None:
    assert query.from_us is not None
    count = ((query.until_us or now_us) - query.from_us) / (bucket_s * US_PER_S)
    if count > MAX_BUCKETS:
        raise InvalidInput(f"{count:.0f} buckets of {bucket_s} s are too many: expected at most {MAX_BUCKETS}, use larger ones")


async def fleet(asked: Ask, wanted: ReadingFilter, page: ReadingPage, bucket_s: int) -> Response:
    """Usable real readings by hospital, metric and time bucket; the last day, if no time is given.

    Sums of named devices or of a patient are readings: to ask for them takes what it takes to read those.
    """
    behind = asked.behind
    if wanted.device is None and wanted.handle is None and wanted.patient is None:
        selection = await behind.read(select_sums, behind.engine, wanted, reach=asked.who.reach)
    else:
        by_reading = asked.who.reach_of(Action.READING_READ)
        selection = without_doubtful(await behind.read(select_by, behind.engine, wanted, reach=by_reading))
    query = query_of(wanted, selection, page, asked)
    if query.from_us is None:
        query = ReadingQuery(
            handles=query.handles, metrics=query.metrics, hospitals=query.hospitals, until_us=query.until_us, limit=query.limit,
            from_us=(query.until_us or behind.services.clock.now_us()) - DAY_US,
        )  # fmt: skip
    _check_buckets(query, bucket_s, behind.services.clock.now_us())
    found = await in_lane(asked, query, lambda store: store.fleet(query, bucket_s * US_PER_S, selection.shards), heavy=True)
    order = ("hospital", "metric", "unit", "bucket_us", "count", "min", "max", "mean", "last", "last_time_us")

    def made() -> Made:
        named = with_metric_names(found.frame.head(page.limit))
        return named.select(order), _about_buckets(asked, found, page, bucket_s)

    return await written(asked, found, query, made)


async def found_by(
    asked: Ask, wanted: ReadingFilter, page: ReadingPage, text: str | None, above: float | None, below: float | None,
    also: str | None = None,
) -> Response:  # fmt: skip
    """Readings of devices that are found by a part of a name, or beyond a threshold, over the whole region."""
    behind = asked.behind
    if text is None and above is None and below is None:
        raise InvalidInput("a search needs a part of a name (q) or a threshold (above, below)")
    if text is None:
        selection = await behind.read(select_by, behind.engine, wanted, reach=asked.who.reach)
    else:
        await behind.directory.warmed()
        by_id = await behind.lanes.codec(behind.directory.devices_named, text, wanted.hospital)
        named = asked.who.clear_of(Action.PATIENT_READ)
        selection = await behind.read(search, behind.engine, text, wanted.hospital, by_id, reach=asked.who.reach, clear=named)
    query = query_of(wanted, selection, page, asked)
    query = ReadingQuery(
        handles=query.handles, metrics=query.metrics, hospitals=query.hospitals, from_us=query.from_us, until_us=query.until_us,
        limit=query.limit, descending=query.descending, after=query.after, value_above=above, value_below=below,
    )  # fmt: skip
    heavy = not is_light(query)
    found = await in_lane(asked, query, lambda store: store.range(query, selection.shards), heavy=heavy)
    matched = None if selection.handles is None else len(selection.handles)
    return await answer(asked, found, query, selection, also=also, devices_matched=matched, is_cut=selection.is_cut)


async def freshness(asked: Ask, hospital_id: str, paged: Paging) -> Freshness:
    """What each device of a hospital delivered in the last minute against what its model promises.

    Patients' charts too, for whoever may read the patients: each is called by the patient's key.
    """
    behind, who = asked.behind, asked.who
    shards, shown, charts = await behind.read(
        freshness_within, behind.engine, hospital_id, reach=who.reach, of_patients=who.reach_of(Action.PATIENT_READ)
    )
    query = FreshnessQuery(hospital_id=hospital_id)
    found = await behind.lanes.of_hosts(behind.services.readings.freshness(query, shards))
    frame = found.frame.filter(pl.col("handle").is_in([*shown, *charts]))
    found = replace(found, frame=frame)
    if frame.is_empty():
        return Freshness.nothing(hospital_id, list(found.incomplete_shards))
    await behind.directory.refreshed_for(frame)
    answer = await behind.lanes.codec(lambda: _freshness_of(asked, hospital_id, found, behind.directory.named(frame), paged))
    who.shows(charts.get(item.handle) for item in answer.items)
    return answer


def _freshness_of(asked: Ask, hospital_id: str, found: Readings, named: pl.DataFrame, paged: Paging) -> Freshness:
    frame = found.frame
    named = named.filter(pl.col("handle") > (paged.after[0] if paged.after else 0))
    page = named.head(paged.limit)
    items = [
        DeviceFreshness(
            device_id=row["device_id"] or row["patient_key"] or "", handle=row["handle"], state=row["state"],
            expected_per_min=row["expected_per_min"], received_per_min=row["received_per_min"],
            last_arrival=None if row["last_arrival_us"] == NEVER_US else asked.zone.text(row["last_arrival_us"]),
            clock_offset_s=row["clock_offset_us"] / 1e6,
        )
        for row in page.iter_rows(named=True)
    ]  # fmt: skip
    following = next_link(asked.request, [page["handle"][-1]]) if len(named) > paged.limit else None
    return Freshness(
        hospital_id=hospital_id, devices=len(frame), states=dict(frame["state"].value_counts().iter_rows()),
        expected_per_min=float(frame["expected_per_min"].sum()), received_per_min=float(frame["received_per_min"].sum()),
        clocks_off=frame.filter(pl.col("clock_offset_us").abs() > SKEWED_US).height,
        incomplete_shards=list(found.incomplete_shards), items=items, next=following,
    )  # fmt: skip
