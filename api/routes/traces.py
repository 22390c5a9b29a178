"""The way of one message from the wire to the screen, by its id; and back from a reading that is shown. Clause 9.2a."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Query
from sqlalchemy import Engine

from api.asking import Asking
from api.device_names import split_device
from api.errors import problems
from api.given import given
from api.locators import near_device
from api.permissions import may_list
from api.routes.router import api_router
from api.schemas.traces import MessagesOut, TraceOut
from api.services import Backend, Behind
from api.times import In, Rfc3339, Zone, maybe_instant
from api.tracing.messages_of_device import messages_of
from api.tracing.messages_of_lake import of_arrival
from api.tracing.messages_of_stream import of_receipt
from api.tracing.question import Tracing
from api.tracing.refused_messages import of_reject
from domain.errors import Forbidden, InvalidInput, NotFound, Unavailable
from domain.ids import NO_HANDLE
from domain.metrics import metric_of
from domain.permissions import Action
from domain.traces import OfArrival, OfReceipt, parse_key
from runtime.sql.devices import find_device

router = api_router("/traces", tags=["traces"])
MessageTrace = Annotated[Asking, may_list(Action.MESSAGE_TRACE)]
DeviceTrace = Annotated[Asking, may_list(Action.MESSAGE_TRACE, at=near_device)]
Metrics = Annotated[list[str] | None, Query(description="Only readings of these metrics.", examples=["heart_rate"])]
_ERRORS = problems(NotFound, InvalidInput, Unavailable)


@dataclass(frozen=True)
class MessageFilter:
    """Which messages: of what a device measured in [from, until) by event time."""

    device: Annotated[str, Query(description="`hospital/device`.", examples=["sz.h012/mon-7"])]
    start: Annotated[Rfc3339 | None, Query(alias="from", description="None: the newest that there are.")] = None
    until: Annotated[Rfc3339 | None, Query()] = None
    metric: Metrics = None
    limit: Annotated[int, Query(ge=1, le=500)] = 50


@router.get("", responses={**_ERRORS, **problems(Forbidden)})
async def find_messages(
    who: DeviceTrace, behind: Behind, zone: In, wanted: Annotated[MessageFilter, given(MessageFilter)]
) -> MessagesOut:  # fmt: skip
    """The messages that brought what a device measured in a time, the newest first: each with the `trace` that follows it."""
    from_us, until_us = maybe_instant(wanted.start), maybe_instant(wanted.until)
    if from_us is not None and until_us is not None and from_us > until_us:
        raise InvalidInput("the time range ends before it starts")
    asked = await _asked(behind, who, zone, None, wanted.metric)
    return await messages_of(asked, wanted.device, from_us, until_us, wanted.limit)


@router.get("/{receipt}", responses=_ERRORS)
async def follow_message(
    who: MessageTrace,
    behind: Behind,
    zone: In,
    receipt: str,
    device: Annotated[str | None, Query(description="Of a message of many: list readings of this `hospital/device`.")] = None,
    metric: Metrics = None,
) -> TraceOut:
    """The way of one message, by its receipt, by the `trace` of a reading that is shown, or by that of a reject.

    No value of a reading and no name of a person is in it; readings beyond your reach are counted.
    """
    asked, key = await _asked(behind, who, zone, device, metric), parse_key(receipt)
    if isinstance(key, OfReceipt):
        return await of_receipt(asked, key)
    return await (of_arrival(asked, key) if isinstance(key, OfArrival) else of_reject(asked, key))


async def _asked(behind: Backend, who: Asking, zone: Zone, device: str | None, metric: list[str] | None) -> Tracing:
    handle = None if device is None else await behind.read(_handle_of, behind.engine, device)
    return Tracing(behind, who, zone, handle, frozenset(metric_of(code).id for code in metric or ()))


def _handle_of(engine: Engine, device: str) -> int:
    """Of a device that there is none of, that of nobody: it is not told which there are."""
    try:
        return int(find_device(engine, *split_device(device))["handle"])
    except NotFound:
        return NO_HANDLE
