"""Recordings of the stream of readings (`vitalgrid fleet record`): nothing is read from the bus before it is granted here.

The recorder reads the bus with the machine's own key, so what its caller may not see is named to it, and left out by it.
Clauses 6.1b, 9.3c, 9.3e.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from api.asking import Asking, Unplaced
from api.errors import problems
from api.locators import in_query, of_list
from api.permissions import may, may_where_body_says
from api.routes.router import api_router
from api.schemas.recordings import LeftOut, RecordingIn, RecordingOut
from api.selection import handles_of, left_out_of
from api.services import Behind
from api.times import In
from domain.errors import InvalidInput, NotFound
from domain.ids import parse_hospital_id
from domain.instants import US_PER_S
from domain.permissions import Action
from runtime.sql.access import record_export

router = api_router("/recordings", tags=["readings"])
# "READINGS": what the stream holds, of patients too. Who may not see these in the whole place records nothing of it
RecordingBegin = Annotated[Unplaced, may_where_body_says(Action.READING_READ)]
RecordingRead = Annotated[Asking, may(Action.READING_READ, at=of_list("READINGS"))]


@router.post("", status_code=201, responses=problems(NotFound, InvalidInput))
async def begin_recording(who: RecordingBegin, body: RecordingIn, behind: Behind, zone: In) -> RecordingOut:
    """Begin to record what a hospital, or the region, sends: it is noted as an export, and what to leave out is answered.

    Needs the right to read patients' readings in the whole place; for some of its wards, or for devices alone, it is refused.
    Ask once more (`GET /recordings/left-out`) before anything is written: a patient may have been withheld meanwhile.
    """
    hospital_id = None if body.hospital_id is None else parse_hospital_id(body.hospital_id)
    asking = who.at(await in_query(behind, "READINGS", hospital_id))
    left_out = await behind.read(left_out_of, behind.engine, hospital_id, reach=asking.reach)
    handles = None  # of everything
    if hospital_id is not None:
        handles = sorted({*await behind.read(handles_of, behind.engine, [hospital_id])}.difference(left_out))
    author, lake = behind.author(asking), await behind.read(behind.services.lake.positions)
    until_us = author.now_us + round(body.duration_s * US_PER_S)
    number = await behind.write(  # of any time until its end: readings may come late
        record_export, behind.engine, author, lake_version=lake.version, handles=handles, from_us=None, until_us=until_us,
        query={"recording": hospital_id or behind.services.region_id, "duration_s": body.duration_s},
    )  # fmt: skip
    return RecordingOut(id=number, until=zone.text(until_us), left_out_handles=left_out)


@router.get("/left-out", responses=problems(NotFound, InvalidInput))
async def list_left_out(who: RecordingRead, behind: Behind, hospital: Annotated[str | None, Query()] = None) -> LeftOut:
    """What a recording of a hospital, or of the region, may not hold as things are now."""
    return LeftOut(left_out_handles=await behind.read(left_out_of, behind.engine, hospital, reach=who.reach))
