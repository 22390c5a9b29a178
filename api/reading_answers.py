"""Questions to the readings: a filter becomes a query, the store answers, the frame becomes JSON, CSV or Arrow.

Small questions run several at a time; large ones (many devices, long times, searches) wait for one another, so that
none of them can hold up a small one. CSV and Arrow are exports: they are recorded, with the lake version they were
read from. Clauses 7.1a, 7.1b, 7.1c, 6.1d.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeVar

import polars as pl
import pyarrow.compute as pc
from fastapi import Query, Request
from fastapi.responses import Response

from analytics.point_in_time import join_patients
from api.answers.columns import with_metric_names, with_quality_words, with_unit_words
from api.answers.formats import Format, TableAnswer, Wanted, table_response
from api.asking import Asking
from api.given import given
from api.locators import near_query, near_readings
from api.paging import NUMBER, cursor_key, next_link
from api.permissions import may_list
from api.selection import ReadingFilter, Selection, select_by, spans_of
from api.services import Behind
from api.shown_readings import shown_readings
from api.times import In
from domain.errors import InvalidInput
from domain.instants import DAY_US
from domain.permissions import Action
from runtime.lake import ReadingCursor, ReadingQuery
from runtime.lake_queries import cursor_behind
from runtime.large_questions import LargeReadings
from runtime.reading_store import Readings, ReadingStore
from runtime.sql.access import record_export, without_search
from runtime.sql.associations import worn_between
from runtime.sql.locating import wards_of_devices

MAX_JSON_ROWS: Final = 10_000
MAX_EXPORT_ROWS: Final = 1_000_000
MAX_NAMED: Final = 5_000  # devices of an answer, up to which the access log names who wore them
_LIGHT_HANDLES: Final = 500
_LIGHT_SPAN_US: Final = 2 * DAY_US
_LIGHT_ROWS: Final = 10_000
_KEY: Final = (range(2**32), range(2**16), range(2**8), NUMBER, range(2**31))  # handle, metric, instance, time, how many given
_SHOWN: Final = (
    "hospital", "device_id", "patient_key", "handle", "metric", "instance", "time_us", "value", "unit", "validity", "mode",
    "origin", "marks", "quality", "raw_value", "raw_unit", "source", "sequence", "arrival_us",
    "clock_offset_us", "clock_uncertainty_us",
)  # fmt: skip
With = Annotated[
    Literal["trace"] | None,
    Query(alias="with", description="`trace`: a column more, by which `GET /traces/{trace}` follows the message of a row."),
]
T = TypeVar("T")
Made = tuple[pl.DataFrame, dict[str, Any]]  # named rows, and the members beside them


@dataclass(frozen=True)
class Ask:
    """What every question to the readings comes with. Each kind of question says in `who` what it needs."""

    request: Request
    who: Asking
    behind: Behind
    zone: In
    format: Wanted


@dataclass(frozen=True)
class _AskReadings(Ask):
    who: Annotated[Asking, may_list(Action.READING_READ, at=near_readings)]


@dataclass(frozen=True)
class _AskStatistics(Ask):
    who: Annotated[Asking, may_list(Action.STATISTICS_READ, at=near_readings)]


@dataclass(frozen=True)
class _AskAlarms(Ask):
    who: Annotated[Asking, may_list(Action.ALARM_READ, at=near_readings)]


@dataclass(frozen=True)
class _AskFreshness(Ask):
    who: Annotated[Asking, may_list(Action.DEVICE_READ, at=near_query)]


Asked = Annotated[Ask, given(_AskReadings)]
AskedForStatistics = Annotated[Ask, given(_AskStatistics)]
AskedForAlarms = Annotated[Ask, given(_AskAlarms)]
AskedForFreshness = Annotated[Ask, given(_AskFreshness)]


@dataclass(frozen=True)
class ReadingPage:
    """Which part of the readings, and in which order."""

    request: Request
    limit: Annotated[int, Query(ge=1, le=MAX_EXPORT_ROWS, description="Most rows; JSON gives 10,000 at most.")] = 1000
    cursor: Annotated[str | None, Query(description="From the `next` link of the page before.")] = None
    descending: Annotated[bool, Query(description="The newest first, within each channel.")] = False

    def after(self) -> ReadingCursor | None:
        key = cursor_key(self.request, self.cursor, _KEY)
        return None if key is None else ReadingCursor(*key)


def query_of(wanted: ReadingFilter, selection: Selection, page: ReadingPage, asked: Ask) -> ReadingQuery:
    """The store's query. Raises InvalidInput, for a page too large for JSON too."""
    if asked.format is Format.JSON and page.limit > MAX_JSON_ROWS:
        raise InvalidInput(f"limit is {page.limit}: JSON gives at most {MAX_JSON_ROWS} rows, ask for CSV or Arrow")
    from_us, until_us = wanted.span()
    return ReadingQuery(
        handles=selection.handles, metrics=wanted.metric_ids(), hospitals=selection.hospitals, from_us=from_us,
        until_us=until_us, limit=page.limit, descending=page.descending, after=page.after(),
    )  # fmt: skip


async def in_lane(
    asked: Ask, query: ReadingQuery, question: Callable[[ReadingStore | LargeReadings], Awaitable[T]], *, heavy: bool = False
) -> T:
    """Put a question, in the lane of large ones if it is one."""
    lanes, services = asked.behind.lanes, asked.behind.services
    if not heavy and is_light(query):
        return await lanes.light(question(services.readings))
    return await question(services.large_readings)


def is_light(query: ReadingQuery) -> bool:
    """Few devices, a short time, not too many rows."""
    few_devices = query.handles is not None and len(query.handles) <= _LIGHT_HANDLES
    few_rows = query.limit is not None and query.limit <= _LIGHT_ROWS
    one_device = query.handles is not None and len(query.handles) <= 4
    return few_devices and few_rows and (is_short(query) or one_device)


def is_short(query: ReadingQuery) -> bool:
    """Two days at most. A summary of more reads much, however few its rows: no limit spares it any."""
    return query.from_us is not None and (query.until_us or 2**62) - query.from_us <= _LIGHT_SPAN_US


def led_back(frame: pl.DataFrame, also: str | None) -> pl.DataFrame:
    """`frame` with what `also` asks for: in `trace`, what each row's message is traced by (`domain.traces.OfArrival`)."""
    if also is None:
        return frame
    return frame.with_columns(trace=pl.format("at-{}-{}-{}", "handle", "time_us", "arrival_us"))


async def readings(asked: Ask, wanted: ReadingFilter, page: ReadingPage, also: str | None = None) -> Response:
    """Readings in a range. With a patient: only those taken while the device was surely on that patient."""
    behind = asked.behind
    selection = await behind.read(select_by, behind.engine, wanted, reach=asked.who.reach)
    query = query_of(wanted, selection, page, asked)
    found = await in_lane(asked, query, lambda store: store.range(query, selection.shards))
    if wanted.patient is None:
        return await answer(asked, found, query, selection, also=also)
    spans = await behind.read(spans_of, behind.engine, selection)

    def of_the_patient(frame: pl.DataFrame) -> pl.DataFrame:
        joined = joined_as_decided(frame, spans)
        return joined.filter(pl.col("patient_key") == wanted.patient).drop("patient_key", "ambiguous")

    return await answer(asked, found, query, selection, of_the_patient, also=also)


async def readings_by_patient(asked: Ask, wanted: ReadingFilter, page: ReadingPage, also: str | None = None) -> Response:
    """Readings with the patient each belongs to as of its time; near a boundary `ambiguous`, and nobody is named."""
    behind = asked.behind
    selection = await behind.read(select_by, behind.engine, wanted, reach=asked.who.reach)
    query = query_of(wanted, selection, page, asked)
    found = await in_lane(asked, query, lambda store: store.range(query, selection.shards))
    spans = await behind.read(spans_of, behind.engine, selection)

    def joined(frame: pl.DataFrame) -> pl.DataFrame:
        told = joined_as_decided(frame, spans)
        if wanted.patient is None:
            return told
        return told.filter((pl.col("patient_key") == wanted.patient) | pl.col("ambiguous"))

    return await answer(asked, found, query, selection, joined, also=also)


def joined_as_decided(frame: pl.DataFrame, spans: pl.DataFrame) -> pl.DataFrame:
    """Lake rows with their patients, looked up by the corrected time and uncertainty that the cell went by."""
    corrected = frame.with_columns(taken_us=pl.col("time_us") + pl.col("clock_offset_us"))
    return join_patients(corrected, spans, at="taken_us", uncertainty="clock_uncertainty_us").drop("taken_us")


async def answer(
    asked: Ask, found: Readings, query: ReadingQuery, selection: Selection,
    shape: Callable[[pl.DataFrame], pl.DataFrame] | None = None, *, also: str | None = None, **more: Any,
) -> Response:  # fmt: skip
    """The rows that may be shown, through `shape`, named and written in the format asked for, with `more` members."""

    def made() -> Made:
        following = cursor_behind(found.frame, query)
        rows = shown_readings(found.frame, selection.judged)
        frame = rows if shape is None else shape(rows)
        key = None
        if following is not None:
            key = [following.handle, following.metric, following.instance, following.time_us, following.given]
        return led_back(_shown(frame, asked.behind.directory.named), also), about_of(asked, found, key) | more

    return await written(asked, found, query, made)


async def written(asked: Ask, found: Readings, query: ReadingQuery, made: Callable[[], Made]) -> Response:
    """The response of what `made` makes of `found`; an export is recorded first and bears its number.

    All work on frames is one visit to a thread: on the event loop it would wait for frames of large questions, and
    each visit more waits for its turn again.
    """
    behind = asked.behind
    await behind.directory.refreshed_for(found.frame)
    worn = await wearing(asked, found.frame)
    if asked.format is Format.JSON or found.lake_version is None:
        return await behind.lanes.codec(lambda: _response(asked, worn, *made()))
    frame, about = await behind.lanes.codec(made)
    handles = query.handles if query.handles is not None else sorted(frame["handle"].unique()) if "handle" in frame else None
    asked_for = {"url": without_search(str(asked.request.url)), "rows": len(frame)}
    about["export_id"] = await behind.write(
        record_export, behind.engine, behind.author(asked.who), lake_version=found.lake_version, handles=handles,
        from_us=query.from_us, until_us=query.until_us, query=asked_for,
    )  # fmt: skip
    return await behind.lanes.codec(_response, asked, worn, frame, about)


def _response(asked: Ask, worn: pl.DataFrame | None, frame: pl.DataFrame, about: dict[str, Any]) -> Response:
    if worn is not None:
        asked.who.shows(on_whom(frame, worn))
    asked.who.shows([asked.request.query_params.get("patient")])
    if "patient_key" in frame.columns:
        asked.who.shows(frame["patient_key"].unique())
    told = TableAnswer(frame, asked.zone, about, units=_units_of(frame) if asked.format is Format.CSV else "")
    return table_response(told, asked.format)


async def wearing(asked: Ask, frame: pl.DataFrame) -> pl.DataFrame | None:
    """Who wore the devices of these rows meanwhile (spans); None for more devices than the access log names patients of.

    The log is told in which wards these devices are.
    """
    handles = pc.unique(frame["handle"].to_arrow()).to_pylist() if "handle" in frame.columns else []
    if not 0 < len(handles) <= MAX_NAMED:
        return None
    begin, end = _times_of(frame)
    first, last = int(frame[begin].to_numpy().min()), int(frame[end].to_numpy().max())
    asked.who.shows_of(await asked.behind.read(wards_of_devices, asked.behind.engine, handles))
    return await asked.behind.read(worn_between, asked.behind.engine, handles, first, last)


def on_whom(frame: pl.DataFrame, worn: pl.DataFrame) -> list[str]:
    """The patients whom the rows that are shown were measured of."""
    begin, end = _times_of(frame)
    if begin not in frame.columns or worn.is_empty():  # episodes say themselves whose they are
        return []
    rows = frame.select(pl.col("handle").cast(worn.schema["handle"]), begin_us=pl.col(begin), last_us=pl.col(end))
    met = rows.join(worn, on="handle").filter(
        pl.col("start_us") <= pl.col("last_us"), pl.col("end_us").is_null() | (pl.col("end_us") > pl.col("begin_us"))
    )
    return met["patient_key"].unique().to_list()


def _times_of(frame: pl.DataFrame) -> tuple[str, str]:
    """The columns with the first and the last moment of what each row tells."""
    return ("bucket_us", "last_time_us") if "bucket_us" in frame.columns else ("time_us", "time_us")


def about_of(asked: Ask, found: Readings, key: list[Any] | None) -> dict[str, Any]:
    """The members beside the rows."""
    return {
        "next": None if key is None else next_link(asked.request, key),
        "lake_version": found.lake_version,
        "incomplete_shards": list(found.incomplete_shards),
    }


def _shown(frame: pl.DataFrame, named: Callable[[pl.DataFrame], pl.DataFrame]) -> pl.DataFrame:
    told = frame.select("patient_key", "ambiguous") if "ambiguous" in frame.columns else None
    full = named(frame)
    if told is not None:
        full = full.with_columns(told["patient_key"], told["ambiguous"])
    full = with_unit_words(with_quality_words(with_metric_names(full)), "raw_unit")
    return full[[*_SHOWN, *(["ambiguous"] if told is not None else [])]]


def _units_of(frame: pl.DataFrame) -> str:
    """`heart_rate /min; spo2 %`: the units of the metrics in a table."""
    if "unit" not in frame.columns or "metric" not in frame.columns:
        return ""
    pairs = frame.select("metric", "unit").unique().sort("metric")
    return "; ".join(f"{metric} {unit or '?'}" for metric, unit in pairs.iter_rows())
