"""Live streams by Server-Sent Events.

Each event has the stream's sequence as its id; a client that sends `Last-Event-ID` goes on behind it. A `heartbeat`
comes at least every second with the high-water mark and the lag: a client that hears nothing shows "no connection".
A client that is too slow gets a final `overflow` event and is disconnected. One whose session or token ended, or who may see
something else than when it came, gets a final `end` event with `code` and `detail` (`session-superseded`, `judged-anew`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, cast

import msgspec
from fastapi import Depends, Header, Query, Request

from api.asking import Asking
from api.emergency import has_wider
from api.errors import problems
from api.given import given
from api.live.alarms import alarm_client
from api.live.feed import Feed
from api.live.readings import reading_client
from api.live.scopes import alarm_scope, live_handles
from api.live.stream import EventStream
from api.live.subscription import Subscription, sse
from api.locators import near_hospitals, near_readings
from api.permissions import may_list
from api.reading_answers import MAX_NAMED
from api.routes.router import api_router
from api.scope_keys import END_TURN_KEY
from api.selecting import selected
from api.selection import ReadingFilter
from api.services import Backend, Behind
from domain.alarms import INTENDED_USE, Priority
from domain.errors import InvalidInput, NotFound, TooManyRequests
from domain.ids import parse_hospital_id
from domain.metrics import metric_of
from domain.permissions import Action
from domain.subjects import READINGS_STREAM
from runtime.sql.associations import worn_between
from runtime.sql.locating import wards_of_devices

router = api_router("/live", tags=["live"])
AlarmsWatch = Annotated[Asking, may_list(Action.ALARM_READ, at=near_hospitals)]
ReadingsWatch = Annotated[Asking, may_list(Action.READING_READ, at=near_readings)]

_HELLO_ALARMS: Final = {"intended_use": INTENDED_USE}
_SSE: Final[dict[int | str, dict[str, Any]]] = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}


async def _last_seen(
    last_event_id: Annotated[str | None, Header(description="Sequence of the last event seen.")] = None,
    after: Annotated[str | None, Query(description="As Last-Event-ID, for clients that cannot set headers.")] = None,
) -> int | None:
    given = last_event_id or after
    if given is None:
        return None
    if not given.isdecimal() or len(given) > 18:
        raise InvalidInput(f"Last-Event-ID {given!r} is not the id of one of our events: expected a stream sequence")
    return int(given)


@dataclass(frozen=True)
class LiveFilter:
    """Whose readings; at least one of the first four."""

    device: Annotated[list[str] | None, Query(description="`hospital/device`.", examples=["sz.h012/mon-7"])] = None
    handle: Annotated[list[int] | None, Query()] = None
    hospital: Annotated[list[str] | None, Query()] = None
    ward: Annotated[str | None, Query(description="Of the one hospital named.")] = None
    metric: Annotated[list[str] | None, Query(description="Only these.", examples=["heart_rate"])] = None


async def _end_turn(request: Request) -> Callable[[], None]:
    """What is left to do is to wait: for others of the caller that catch up, which holds up none who do not."""
    return cast("Callable[[], None]", request.scope.get(END_TURN_KEY, lambda: None))


LastSeen = Annotated[int | None, Depends(_last_seen)]
EndTurn = Annotated[Callable[[], None], Depends(_end_turn)]


@router.get(
    "/alarms", status_code=200, response_class=EventStream, responses={**_SSE, **problems(InvalidInput, TooManyRequests)}
)
async def live_alarms(
    who: AlarmsWatch,
    behind: Behind,
    last_seen: LastSeen,
    end_turn: EndTurn,
    hospital: Annotated[list[str] | None, Query(description="Only of these hospitals.")] = None,
    priority: Annotated[Priority, Query(description="This priority and above: 0 information … 3 high.")] = Priority.INFORMATION,
) -> EventStream:
    """The alarm events that you may see, as they are notified: `hello`, `alarm`, `heartbeat`, `gap`, `overflow`, `end`."""
    hospitals = [parse_hospital_id(one) for one in hospital or []]
    scope = await behind.read(alarm_scope, behind.engine, who.reach)
    client = alarm_client(behind.alarm_feed, behind.hosts, behind.services.clock, hospitals, priority, scope)
    end_turn()
    return await _opened(who, behind, behind.alarm_feed, client, last_seen, "alarms", _HELLO_ALARMS)


@router.get(
    "/readings",
    status_code=200,
    response_class=EventStream,
    responses={**_SSE, **problems(InvalidInput, NotFound, TooManyRequests)},
)
async def live_readings(
    who: ReadingsWatch,
    behind: Behind,
    last_seen: LastSeen,
    end_turn: EndTurn,
    wanted: Annotated[LiveFilter, given(LiveFilter)],
) -> EventStream:
    """Readings as they are stored in the stream: events `hello`, `readings`, `heartbeat`, `gap`, `overflow`, `end`.

    They come before a host has seen them, so retransmissions are not yet taken out, and marks that hosts set are not
    there. What isolated devices say, or gateways that are, is left out. A hospital's devices are those it has when the client
    connects. Whoever may see some patients and not others is disconnected when a device changes hands, one too that was not
    shown to them, and judged anew when they connect again. Where nothing may be shown now there are heartbeats alone.
    """
    seen = await behind.services.bus.stream_state(READINGS_STREAM)  # first: what the database says is not older
    by_name = ReadingFilter(device=wanted.device, handle=wanted.handle, hospital=wanted.hospital, ward=wanted.ward)
    selection = await selected(who, behind, by_name)
    handles, watch = await behind.read(
        live_handles, behind.engine, selection, reach=who.reach, now_us=behind.services.clock.now_us(), known=seen.last_sequence
    )
    if selection.judged.partly:
        last_seen = None  # what came before now may be somebody else's
    if not handles and not (watch is not None and watch.hidden):
        raise InvalidInput("live readings are asked for by device, handle, ward or hospital: name one that has devices")
    await behind.directory.refreshed_up_to(max(handles, default=0))
    if len(handles) <= MAX_NAMED:
        now_us = behind.services.clock.now_us()
        worn = await behind.read(worn_between, behind.engine, handles, now_us, now_us)
        who.shows(worn["patient_key"])
        who.shows_of(await behind.read(wards_of_devices, behind.engine, handles))
    metrics = frozenset(metric_of(code).id for code in wanted.metric or [])
    names = behind.live_wanted.get(behind.directory.device_ids(handles), metrics)
    client = reading_client(behind.reading_feed, behind.services.clock, selection.shards or [], names, watch)
    await behind.know_apart()
    end_turn()
    stream = await _opened(who, behind, behind.reading_feed, client, last_seen, "readings", {})
    try:
        await behind.know_apart()  # of an order that was given before this client was told of orders
    except BaseException:  # also that it is cancelled: a client that nobody serves would count as its caller's for ever
        await behind.reading_feed.leave(client)
        raise
    return stream


async def _opened(
    who: Asking, behind: Backend, feed: Feed, client: Subscription, last_seen: int | None, name: str, hello: dict[str, str]
) -> EventStream:
    was_shut = who.judge.usual is not None
    client.is_in_emergency = was_shut if was_shut or has_wider(who.caller) else None
    client.holder = who.caller.principal.id
    await feed.join(client, last_seen)
    if client.is_in_emergency not in (None, behind.trail.why_closed() is not None):
        client.close()  # an emergency began, or was over, since it was judged: it connects again
    greeting = hello | {"stream": name, "last_sequence": feed.last_sequence, "resumed_after": last_seen}
    client.greet(b"retry: 1000\n" + sse("hello", msgspec.json.encode(greeting)))
    return EventStream(feed, client, name, behind.telemetry)
