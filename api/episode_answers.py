"""Episodes of limit alarms in event time, recomputed from the readings as they are in the lake and the tails now.

Limits are those in force now, of the ages and presets that the business database has. Readings of an hour before the
time asked for are looked at too, so that what lasted into it is known; an episode that began earlier begins there.
Clause 6.3f.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import polars as pl
from fastapi.responses import Response

from analytics.episodes import PATIENTS, PRESETS, WATCHED, limit_episodes
from api.answers.columns import with_metric_names
from api.reading_answers import MAX_EXPORT_ROWS, Ask, Made, about_of, in_lane, written
from api.selection import ReadingFilter, Selection, select_by, spans_of
from api.shown_readings import shown_readings
from domain.errors import InvalidInput
from domain.metrics import metric_of
from runtime.lake import ReadingQuery
from runtime.sql.presets import limits_of_patients

_LEAD_US: Final = 3_600_000_000
_SHOWN: Final = (
    "hospital", "device_id", "handle", "metric", "instance", "rule", "onset_us", "end_us", "patient_key", "limit", "value",
    "unit",
)  # fmt: skip


async def episodes(asked: Ask, wanted: ReadingFilter) -> Response:
    """The episodes that lasted at some time in the range. Raises InvalidInput for more readings than an answer holds."""
    behind = asked.behind
    selection = await behind.read(select_by, behind.engine, wanted, reach=asked.who.reach)
    query = _query_of(wanted, selection)
    found = await in_lane(asked, query, lambda store: store.range(query, selection.shards))
    if len(found.frame) == query.limit:
        raise InvalidInput(f"the range holds {query.limit} readings or more: ask for fewer devices, metrics or hours")
    spans = await behind.read(spans_of, behind.engine, selection)
    ages, presets = await behind.read(limits_of_patients, behind.engine, spans["patient_key"].unique().to_list())

    def made() -> Made:
        known = limit_episodes(shown_readings(found.frame, selection.judged), spans, _patients(ages), _presets(presets))
        frame = _lasting(known, wanted)
        named = behind.directory.named(frame.drop("patient_key")).with_columns(frame["patient_key"])
        return with_metric_names(named).select(_SHOWN), about_of(asked, found, None)

    return await written(asked, found, query, made)


def _query_of(wanted: ReadingFilter, selection: Selection) -> ReadingQuery:
    from_us, until_us = wanted.span()
    asked_for = wanted.metric_ids()
    query = ReadingQuery(
        handles=selection.handles, hospitals=selection.hospitals, usable_only=True, limit=MAX_EXPORT_ROWS,
        metrics=WATCHED if asked_for is None else [metric for metric in asked_for if metric in WATCHED],
        from_us=from_us, until_us=until_us,
    )  # fmt: skip
    return query if from_us is None else replace(query, from_us=from_us - _LEAD_US)


def _lasting(known: pl.DataFrame, wanted: ReadingFilter) -> pl.DataFrame:
    from_us, _ = wanted.span()
    if from_us is not None:
        known = known.filter(pl.col("end_us").is_null() | (pl.col("end_us") >= from_us))
    return known if wanted.patient is None else known.filter(pl.col("patient_key") == wanted.patient)


def _patients(ages: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame([(row["patient_key"], row["age_years"]) for row in ages], schema=PATIENTS, orient="row")


def _presets(presets: list[dict[str, Any]]) -> pl.DataFrame:
    rows = [(row["patient_key"], metric_of(row["metric"]).id, *row["limits"]) for row in presets]
    return pl.DataFrame(rows, schema=PRESETS, orient="row")
