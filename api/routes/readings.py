"""Readings: ranges, the latest, down-sampled, joined to patients, searched. Clauses 7.1a, 7.1b, 7.1c, 6.1d."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Response

from api import reading_answers, state_answers
from api.answers.formats import TABLE_RESPONSES
from api.errors import NotAcceptable, problems
from api.given import given
from api.paging import NUMBER, PagedByNumber, Paging, paged_by
from api.reading_answers import (
    Asked,
    AskedForFreshness,
    AskedForStatistics,
    ReadingPage,
    With,
)
from api.routes.router import api_router
from api.schemas.readings import BucketTable, Freshness, JoinedTable, LatestTable, ReadingTable
from api.selection import ReadingFilter
from domain.errors import InvalidInput, NotFound, Unavailable

router = api_router(tags=["readings"])
Filter = Annotated[ReadingFilter, given(ReadingFilter)]
PagedByChannel = Annotated[Paging, paged_by(NUMBER, NUMBER, NUMBER)]
Part = Annotated[ReadingPage, given(ReadingPage)]
BucketS = Annotated[int, Query(ge=1, le=31 * 86_400, description="Length of a bucket in seconds.")]
PartOfName = Annotated[
    str | None, Query(min_length=2, max_length=64, description="Part of a device's, ward's or patient's name.")
]
_ERRORS = problems(NotFound, InvalidInput, NotAcceptable, Unavailable)


def _table(model: Any) -> dict[int | str, dict[str, Any]]:
    return {200: TABLE_RESPONSES[200] | {"model": model}, **_ERRORS}


@router.get("/readings", response_class=Response, responses=_table(ReadingTable))
async def list_readings(asked: Asked, wanted: Filter, page: Part, also: With = None) -> Response:
    """Readings in a range, by channel and time: from the lake and, for the last seconds, from the hosts."""
    return await reading_answers.readings(asked, wanted, page, also)


@router.get("/readings/by-patient", response_class=Response, responses=_table(JoinedTable))
async def join_readings(asked: Asked, wanted: Filter, page: Part, also: With = None) -> Response:
    """Readings joined to the patient each was taken of, as of its time. Near a boundary nobody is named."""
    return await reading_answers.readings_by_patient(asked, wanted, page, also)


@router.get("/readings/latest", response_class=Response, responses=_table(LatestTable))
async def show_latest(asked: Asked, wanted: Filter, paged: PagedByChannel, also: With = None) -> Response:
    """The newest reading of each channel with the channel's state, asked of the hosts."""
    return await state_answers.latest(asked, wanted, paged, also)


@router.get("/readings/buckets", response_class=Response, responses=_table(BucketTable))
async def show_buckets(asked: Asked, wanted: Filter, page: Part, bucket_s: BucketS = 60) -> Response:
    """Readings of named devices down-sampled: count, least, greatest, mean and last of each bucket."""
    return await state_answers.buckets(asked, wanted, page, bucket_s)


@router.get("/readings/search", response_class=Response, responses=_table(ReadingTable))
async def search_readings(
    asked: Asked,
    wanted: Filter,
    page: Part,
    q: Annotated[
        str | None, Query(min_length=2, max_length=64, description="Part of a device's, ward's or patient's name.")
    ] = None,
    above: Annotated[float | None, Query(description="Only values above.")] = None,
    below: Annotated[float | None, Query(description="Only values below.")] = None,
    also: With = None,
) -> Response:
    """Readings over the region found by a part of a name, or beyond a threshold."""
    return await state_answers.found_by(asked, wanted, page, q, above, below, also)


@router.get("/aggregates/fleet", response_class=Response, responses=_table(BucketTable))
async def aggregate_fleet(asked: AskedForStatistics, wanted: Filter, page: Part, bucket_s: BucketS = 3600) -> Response:
    """Usable real readings by hospital, metric and hour. The last day, if no time is given."""
    return await state_answers.fleet(asked, wanted, page, bucket_s)


@router.get("/freshness", responses=_ERRORS)
async def show_freshness(asked: AskedForFreshness, paged: PagedByNumber, hospital: Annotated[str, Query()]) -> Freshness:
    """Expected against received readings of a hospital's devices over the last minute of stream time.

    What was entered at the bedside of patients whom you may read counts as one device each, called by the patient's key.
    """
    return await state_answers.freshness(asked, hospital, paged)
