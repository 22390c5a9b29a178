"""The way of a message that the stream has, by its receipt: frames of readings, and events of devices.

One message of the stream is read, the row groups of the lake that can have its readings, and some hundred notes of others,
however much the platform holds: at most MOST_READINGS readings of MOST_DEVICES devices are followed at a time.
"""

from __future__ import annotations

from typing import Final

import msgspec
import polars as pl

from api.schemas.traces import SenderOut, TraceOut
from api.tracing.fates import NAMED, Taken, fates_of, named_rows, refusals
from api.tracing.following import add_alarms, alarms_between, followed, worn_meanwhile
from api.tracing.question import Tracing, Within, device_name, judged_by_clock, shards_of, unknown, within
from api.tracing.steps import (
    Steps,
    commit_by,
    committed,
    doors_say,
    host_and_commit,
    host_says,
    received,
    stored,
    taken,
    taker_of,
)
from domain import subjects
from domain.errors import IntegrityViolation, NotFound, RejectedInput
from domain.frames import Frame, decode_frame
from domain.messages import DeviceEvent, Reject, decode_control
from domain.metrics import BY_ID
from domain.readings import ReadingBatch
from domain.traces import DoorAnswer, OfReceipt
from runtime.follower import StreamMessage

_EVENT_SLACK_US: Final = 2_000_000
_BY_DEVICE: Final = (
    "whose readings they were: the lake knows device, source and arrival of each, not the receipt. Find the message by its "
    "device and time: GET /api/v1/traces?device=…&from=…&until=…"
)


async def of_receipt(asked: Tracing, key: OfReceipt) -> TraceOut:
    """The way of the message that a receipt names. Raises NotFound for what is none, or none within reach."""
    message = await asked.behind.services.bus.get_message(subjects.READINGS_STREAM, key.sequence) if key.sequence else None
    if message is None:
        return await _not_in_stream(asked, key)
    if message.subject == subjects.LOST:
        return _lost(asked, key, message)
    if message.subject == subjects.reading(key.shard):
        return await of_frame(asked, message, str(key))
    if message.subject == subjects.control(key.shard):
        return await _of_event(asked, message, key)
    raise unknown(key)


async def _not_in_stream(asked: Tracing, key: OfReceipt) -> TraceOut:
    state = await asked.behind.services.bus.stream_state(subjects.READINGS_STREAM)
    if key.sequence > state.last_sequence:
        raise NotFound(f"message {key} is unknown: the stream is at {state.last_sequence}, such a receipt was never given")
    host = await host_says(asked.behind, key.shard, key.sequence) if key.shard < asked.behind.services.shards else None
    if host is None or key.sequence >= state.first_sequence or key.sequence > host.committed or not key.sequence:
        raise unknown(key)
    steps = Steps(unknown=[_BY_DEVICE, "when it was stored, taken and committed: the stream has it no more"])
    steps.add(
        "stored", None, f"gone from the stream, which begins at {state.first_sequence} now", stream=subjects.READINGS_STREAM,
        shard=key.shard, sequence=key.sequence,
    )  # fmt: skip
    says = f"the lake holds what shard {key.shard} was to keep up to {host.committed}, of this message too"
    steps.add("committed", None, says, shard=key.shard, position=host.committed)
    return TraceOut(
        trace=str(key), receipt=str(key), kind="unknown", kept_in=["lake"], steps=steps.out(asked.zone), unknown=steps.unknown
    )  # fmt: skip


def _lost(asked: Tracing, key: OfReceipt, message: StreamMessage) -> TraceOut:
    steps = Steps(unknown=["what the message said, and whether the lake had taken it: ask by device and time"])
    says = "lost: the stream's file was damaged from before here on, and was led on behind it when the platform started"
    steps.add("lost", message.stored_us, says, sequence=key.sequence)
    return TraceOut(
        trace=str(key), receipt=str(key), kind="unknown", kept_in=[], steps=steps.out(asked.zone), unknown=steps.unknown
    )  # fmt: skip


# ---- readings


async def of_frame(asked: Tracing, message: StreamMessage, trace: str) -> TraceOut:
    """The way of a message of readings. Raises NotFound when none of them is within reach."""
    _, shard = subjects.of_shard(message.subject)
    key = OfReceipt(shard, message.sequence)
    try:
        frame = decode_frame(message.payload)
    except (RejectedInput, IntegrityViolation):
        return await _damaged(asked, message, key)
    inside = await within(asked, named_rows(frame.readings))
    if inside.shown.is_empty():
        raise unknown(key)
    if inside.listed.is_empty():
        raise NotFound(f"message {key} brought no such reading: leave device and metric out to see what it brought")
    doors = await _doors(asked, message, frame, inside)
    hospitals = [one for one in inside.listed["hospital"].unique(maintain_order=True) if one is not None]
    taker = await taker_of(asked.behind, hospitals[0], shard, message) if hospitals else shard
    host, commit = await host_and_commit(asked.behind, taker, message)
    about = Taken(
        frozenset({shard, taker}), message.sequence, frame.header.arrival_us, message.stored_us,
        None if host is None else host.applied >= message.sequence, tuple(hospitals),
    )  # fmt: skip
    tails = sorted({shard, taker, *await shards_of(asked.behind, hospitals)})
    fates = await fates_of(asked.behind, inside.listed.select(*NAMED), about, tails)
    rows = judged_by_clock(fates.rows, inside.judged)
    stored_here = rows.filter(pl.col("fate") == "stored")["where"]
    if commit is None and "lake" in stored_here:  # it came between the two looks
        commit = await commit_by(asked.behind, taker, message)
    steps = Steps()
    received(steps, frame.header, message, doors)
    taken(steps, taker, message.sequence, host, commit)
    committed(steps, taker, host, commit, is_in_lake="lake" in stored_here, is_in_tail="tail" in stored_here)
    out = TraceOut(
        trace=trace, receipt=str(key), kind="readings", kept_in=["stream", *sorted(set(stored_here))], steps=[],
        senders=await _senders(asked, inside, doors), readings_in_message=frame.header.rows,
        readings_of_others=inside.others, readings_not_listed=len(inside.shown) - len(inside.listed),
        rejects=[f"reject-{sequence}" for sequence in fates.rejects],
    )  # fmt: skip
    return await followed(asked, out, steps, rows, frame.header.arrival_us, is_cut=fates.is_cut)


async def _doors(asked: Tracing, message: StreamMessage, frame: Frame, inside: Within) -> DoorAnswer | None:
    senders = inside.listed["source"].unique().to_list()
    return await doors_say(asked.behind, message.sequence, frame.header.arrival_us, senders)


async def _senders(asked: Tracing, inside: Within, doors: DoorAnswer | None) -> list[SenderOut]:
    """Who brought what is listed, by the sources in it."""
    zone, found = asked.zone, list[SenderOut]()
    for source in inside.listed["source"].unique(maintain_order=True).to_list():
        sender = SenderOut(sender=await device_name(asked, source), handle=source)
        for connection in doors.connections if doors else ():
            if connection.sender == source:
                sender.protocol, sender.connection, sender.peer = connection.protocol, connection.connection_id, connection.peer
        for request in doors.requests if doors else ():
            if request.sender == source:
                sender.protocol, sender.request, sender.peer = "http", request.request_id, request.peer
                sender.path, sender.size_bytes = request.path, request.size_bytes
                sender.received, sender.answered = zone.text(request.received_us), zone.text(request.answered_us)
        found.append(sender)
    return found


async def _damaged(asked: Tracing, message: StreamMessage, key: OfReceipt) -> TraceOut:
    """A message that cannot be read: of whom it was is not known, so it is the region's."""
    if not asked.is_of_region:
        raise unknown(key)
    steps = Steps(unknown=["whose readings they were: the message cannot be read"])
    stored(steps, message)
    taken_by = Taken(frozenset({key.shard}), key.sequence, 0, message.stored_us, is_applied=None)
    rejects = await _rejected(asked, steps, taken_by)
    return TraceOut(
        trace=str(key), receipt=str(key), kind="unknown", kept_in=["stream"], steps=steps.out(asked.zone), rejects=rejects,
        unknown=steps.unknown,
    )  # fmt: skip


async def _rejected(asked: Tracing, steps: Steps, message: Taken) -> list[str]:
    """Note as steps what hosts refused of a message that is one whole; the names of these rejects."""
    rejects = list[str]()
    async for kept in refusals(asked.behind, message):
        reject = msgspec.json.decode(kept.payload, type=Reject)
        rejects.append(f"reject-{kept.sequence}")
        steps.add("rejected", reject.received_us, f"refused by its host: {reject.reason}", reason=reject.reason)
    return rejects


# ---- events of devices


async def _of_event(asked: Tracing, message: StreamMessage, key: OfReceipt) -> TraceOut:
    """The way of what a device said, or what happened to it. What else is told to shards is nobody's message."""
    try:
        event = decode_control(message.payload)
    except RejectedInput:
        return await _damaged(asked, message, key)
    if not isinstance(event, DeviceEvent):
        raise unknown(key)
    inside = await within(asked, _as_row(event))
    if inside.shown.is_empty():
        raise unknown(key)
    taker = await taker_of(asked.behind, event.hospital_id, key.shard, message)
    host = await host_says(asked.behind, taker, key.sequence)
    steps = Steps(unknown=["by which door it came: that is remembered of readings alone"])
    stored(steps, message)
    taken(steps, taker, key.sequence, host, None)
    shards, hospital = frozenset({key.shard, taker}), (event.hospital_id,)
    rejects = await _rejected(asked, steps, Taken(shards, key.sequence, 0, message.stored_us, None, hospital))
    sender = event.brought_by or event.handle
    said_us = (message.stored_us, message.stored_us + _EVENT_SLACK_US)
    found = await alarms_between(asked, [event.handle], min(event.at_us, said_us[0]) - _EVENT_SLACK_US, said_us[1])
    alarms = [one for one in found if one.rule.startswith("device.") and said_us[0] <= one.arrival_us <= said_us[1]]
    await worn_meanwhile(asked, inside.shown)
    out = TraceOut(
        trace=str(key), receipt=str(key), kind="event", kept_in=["stream"], steps=steps.out(asked.zone),
        senders=[SenderOut(sender=await device_name(asked, sender), handle=sender)], rejects=rejects, unknown=steps.unknown,
    )  # fmt: skip
    await add_alarms(asked, out, [(one, None) for one in alarms])
    return out


def _as_row(event: DeviceEvent) -> pl.DataFrame:
    """Whose an event was is judged as of a reading taken then."""
    return named_rows(ReadingBatch.of(handle=event.handle, metric=next(iter(BY_ID)), time_us=event.at_us, value=0.0))
