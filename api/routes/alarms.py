"""The alarm desk: what is open, what was known, and people's answers. Clauses 6.3f, 9.2c."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated

from fastapi import Query, Response

from api import episode_answers
from api.answers.formats import TABLE_RESPONSES
from api.asking import Asking
from api.errors import NotAcceptable, problems
from api.given import given
from api.locators import near_query, near_ward, of_alarm
from api.masks import view_in
from api.paging import NUMBER, TEXT, Paging, paged_by
from api.permissions import may, may_list
from api.preconditions import OptionalVersion, set_etag
from api.reading_answers import AskedForAlarms
from api.routes.router import api_router
from api.schemas.alarms import (
    AcknowledgeIn,
    AlarmOut,
    AlarmPage,
    Burden,
    BurdenRow,
    EpisodeTable,
    Knowledge,
    NotificationOut,
    PauseIn,
)
from api.selection import ReadingFilter
from api.services import Behind
from api.times import In, Rfc3339, instant, maybe_instant
from domain.alarms import OPEN_STATES, AlarmState, Priority
from domain.errors import Conflict, InvalidInput, NotFound, StaleVersion
from domain.permissions import NOWHERE, Action
from runtime.sql import alarms

router = api_router("/alarms", tags=["alarms"])
Paged = Annotated[Paging, paged_by(NUMBER, TEXT)]
AlarmList = Annotated[Asking, may_list(Action.ALARM_READ, at=near_ward)]
AlarmCount = Annotated[Asking, may_list(Action.STATISTICS_READ, at=near_query)]
AlarmRead = Annotated[Asking, may(Action.ALARM_READ, at=of_alarm)]
AlarmAnswer = Annotated[Asking, may(Action.ALARM_ANSWER, at=of_alarm)]
_ANSWER = problems(NotFound, Conflict, StaleVersion)


@dataclass(frozen=True)
class AlarmFilter:
    """Which alarms; whatever is left out does not matter."""

    hospital: Annotated[str | None, Query()] = None
    ward: Annotated[str | None, Query()] = None
    patient: Annotated[str | None, Query(description="Patient key.")] = None
    handle: Annotated[int | None, Query(description="Device handle.")] = None
    state: Annotated[list[AlarmState] | None, Query(description="One or more; all, if left out.")] = None
    open: Annotated[bool, Query(description="Only those that are not closed.")] = False
    priority: Annotated[Priority | None, Query(description="This priority and above: 0 information … 3 high.")] = None
    rule: Annotated[str | None, Query()] = None
    live: Annotated[bool | None, Query(description="Whether the data was live when it came.")] = None
    since: Annotated[Rfc3339 | None, Query(description="Raised from then on.")] = None

    def states(self) -> list[str] | None:
        if self.state:
            return [state.value for state in self.state]
        return sorted(OPEN_STATES) if self.open else None


@router.get("", responses=problems(NotFound))
async def list_alarms(
    who: AlarmList, behind: Behind, paged: Paged, zone: In, wanted: Annotated[AlarmFilter, given(AlarmFilter)]
) -> AlarmPage:
    """The alarms that you may see, the newest first."""
    question = partial(
        alarms.list_alarms, behind.engine, states=wanted.states(),
        min_priority=wanted.priority, hospital_id=wanted.hospital, ward_id=wanted.ward, patient_key=wanted.patient,
        handle=wanted.handle, since_us=maybe_instant(wanted.since), live=wanted.live, rule=wanted.rule,
    )  # fmt: skip
    found = await behind.read(question, reach=who.reach, clear=who.clear, limit=paged.limit, after=paged.after)
    usual = who.judge.usual
    if usual is not None and not found.rows and (wanted.patient, wanted.handle) != (None, None):
        beyond = await behind.read(question, reach=usual.reach, clear=NOWHERE, limit=1, after=None)
        who.judge.check_shut(lambda _: bool(beyond.rows))  # an empty list would say that nobody has an alarm there
    who.shows_rows(found.rows)
    return AlarmPage(items=[AlarmOut.of(row, zone, view_in(row)) for row in found.rows], next=paged.link_after(found.after))


@router.get("/counts")
async def count_alarms(
    who: AlarmCount,
    behind: Behind,
    hospital: Annotated[str | None, Query()] = None,
    since: Annotated[Rfc3339 | None, Query()] = None,
) -> Burden:
    """The alarm burden of the places whose sums you may see: counts by state, priority and rule."""
    found = await behind.read(
        alarms.count_alarms, behind.engine, reach=who.reach, hospital_id=hospital, since_us=maybe_instant(since)
    )
    rows = [BurdenRow(**row) for row in found]
    still_open = sum(row.count for row in rows if row.state in OPEN_STATES)
    return Burden(open=still_open, total=sum(row.count for row in rows), rows=rows)


@router.get(
    "/episodes", response_class=Response,
    responses={200: TABLE_RESPONSES[200] | {"model": EpisodeTable}, **problems(NotFound, InvalidInput, NotAcceptable)},
)  # fmt: skip
async def list_episodes(asked: AskedForAlarms, wanted: Annotated[ReadingFilter, given(ReadingFilter)]) -> Response:
    """Limit alarms as conditions in event time, recomputed from the readings; what was notified is not changed by it."""
    return await episode_answers.episodes(asked, wanted)


@router.get("/{alarm_id}", responses=problems(NotFound))
async def show_alarm(who: AlarmRead, alarm_id: str, behind: Behind, zone: In, response: Response) -> AlarmOut:
    """One alarm as it stands."""
    row = await behind.read(alarms.get_alarm, behind.engine, alarm_id)
    set_etag(response, row["version"])
    return AlarmOut.of(row, zone, who.view)


@router.get("/{alarm_id}/knowledge", responses=problems(NotFound))
async def show_knowledge(who: AlarmRead, alarm_id: str, behind: Behind, zone: In) -> Knowledge:
    """What did the platform know? Inputs with age and quality, rule version, patient link, each notification."""
    row = await behind.read(alarms.get_alarm, behind.engine, alarm_id)
    events = await behind.read(alarms.events_of, behind.engine, alarm_id)
    return Knowledge(
        alarm=AlarmOut.of(row, zone, who.view), notifications=[NotificationOut.of(event, zone) for event in events]
    )


@router.post("/{alarm_id}/acknowledge", responses=_ANSWER)
async def acknowledge(
    who: AlarmAnswer, alarm_id: str, body: AcknowledgeIn, behind: Behind, version: OptionalVersion, zone: In, response: Response
) -> AlarmOut:
    """A person has seen it and says what it was. Does nothing to the device."""
    row = await behind.write(
        alarms.acknowledge, behind.engine, behind.author(who), alarm_id, body.outcome, note=body.note, version=version
    )
    set_etag(response, row["version"])
    return AlarmOut.of(row, zone, who.view)


@router.post("/{alarm_id}/pause-audio", responses={**_ANSWER, **problems(InvalidInput)})
async def pause_audio(
    who: AlarmAnswer, alarm_id: str, body: PauseIn, behind: Behind, version: OptionalVersion, zone: In, response: Response
) -> AlarmOut:
    """Sound off until a stated end. Does nothing to the device."""
    row = await behind.write(
        alarms.pause_audio, behind.engine, behind.author(who), alarm_id, instant(body.until), version=version
    )
    set_etag(response, row["version"])
    return AlarmOut.of(row, zone, who.view)
