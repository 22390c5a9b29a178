"""The steps of one message: what the stream, the doors, the hosts and the lake's log each say of it. Clause 9.2a."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from sqlalchemy import Engine, select

from api.schemas.traces import Fact, StepOut
from api.services import Backend
from api.times import Zone
from domain import subjects
from domain.errors import NotFound, RejectedInput, Unavailable
from domain.frames import FrameHeader
from domain.messages import HandOver, HandOverStep, TurnQuery, decode_control, encode
from domain.traces import DoorAnswer, DoorQuestion
from runtime.follower import StreamMessage
from runtime.lake_places import Commit, commit_of
from runtime.sql.engine import reading
from runtime.sql.tables import hand_overs
from runtime.stream_search import stored_between

_ASK_S: Final = 5.0
_TAKERS: Final = {1: "doors", 2: "API"}  # by the source in a frame's header
_CRC: Final = slice(8, 12)  # of a frame
_CUT_SLACK_US: Final = 10_000_000
_MOST_CONTROLS: Final = 1_000


@dataclass(slots=True)
class Steps:
    """Steps in the order of the road, and what is not known of them."""

    found: list[tuple[str, int | None, str, dict[str, Fact]]] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def add(self, step: str, at_us: int | None, says: str, **facts: Fact) -> None:
        self.found.append((step, at_us, says, facts))

    def out(self, zone: Zone) -> list[StepOut]:
        first_us = next((at_us for _, at_us, _, _ in self.found if at_us is not None), 0)
        return [
            StepOut(
                step=step, at=zone.maybe(at_us), after_ms=None if at_us is None else round((at_us - first_us) / 1000, 3),
                says=says, facts=facts,
            )
            for step, at_us, says, facts in self.found
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class HostAnswer:
    """What the host that holds a shard says of a message; times None where it does not remember the turn."""

    host: str
    epoch: int
    applied: int
    committed: int
    began_us: int | None
    ended_us: int | None
    readings: int | None


async def doors_say(behind: Backend, sequence: int, arrival_us: int, senders: Sequence[int]) -> DoorAnswer | None:
    """What the doors remember; None when they do not answer."""
    try:
        asked = encode(DoorQuestion(sequence, arrival_us, list(senders)))
        answer = await behind.services.bus.ask(subjects.DOOR_STAMPS, asked, _ASK_S)
    except (Unavailable, NotFound):
        return None
    return msgspec.json.decode(answer, type=DoorAnswer)


async def host_says(behind: Backend, shard: int, sequence: int) -> HostAnswer | None:
    """What the host of a shard says of a message; None when nobody holds it now."""
    try:
        table = await behind.services.bus.ask_table(subjects.shard(shard), encode(TurnQuery(sequence)), _ASK_S)
    except (Unavailable, NotFound):
        return None
    return HostAnswer(**table.to_pylist()[0])


def received(steps: Steps, header: FrameHeader, message: StreamMessage, doors: DoorAnswer | None) -> None:
    """Taken in, stored, acknowledged."""
    taker = _TAKERS.get(header.source, "source")
    door = _protocol(doors)
    whose = f"the {door} door" if door else f"the {taker}" if header.source in _TAKERS else f"source {header.source}"
    steps.add(
        "received", header.arrival_us, f"taken in by {whose}, with what others sent in the same milliseconds", taken_by=taker,
        door=door, frame=header.sequence or None, readings=header.rows, frame_bytes=len(message.payload),
        crc32=message.payload[_CRC][::-1].hex(),
    )  # fmt: skip
    stored(steps, message)
    stamp = None if doors is None else doors.frame
    if stamp is None:
        steps.unknown.append("when its senders were acknowledged: the doors remember the newest messages since their start")
        steps.add("acknowledged", None, "acknowledged after it was stored; when is not known any more")
    else:
        steps.add("acknowledged", stamp.acknowledged_us, "acknowledged to its senders", submissions=stamp.submissions)


def stored(steps: Steps, message: StreamMessage) -> None:
    says = "on disk in the stream (fsync), and named by its receipt"
    _, shard = subjects.of_shard(message.subject)
    steps.add(
        "stored", message.stored_us, says, stream=subjects.READINGS_STREAM, subject=message.subject, shard=shard,
        sequence=message.sequence,
    )  # fmt: skip


def _protocol(doors: DoorAnswer | None) -> str | None:
    if doors is None:
        return None
    protocols = {"http"} if doors.requests else set[str]()
    protocols |= {one.protocol for one in doors.connections}
    return " and ".join(sorted(protocols)) or None


def taken(steps: Steps, shard: int, sequence: int, host: HostAnswer | None, commit: Commit | None) -> None:
    """Which host took it, in which turn; after a restart that of the replay."""
    if host is None:
        steps.add("taken", None, f"no host answers for shard {shard} now", shard=shard)
        steps.unknown.append(f"which turn took it: no host answers for shard {shard}")
        return
    if host.applied < sequence:
        steps.add("taken", None, f"not yet: {host.host} is at {host.applied} of the stream", shard=shard, host=host.host)
        return
    is_again = host.began_us is not None and commit is not None and host.began_us > commit.at_us
    if host.began_us is None:
        steps.unknown.append(f"which turn took it: {host.host} remembers its newest turns since it started")
        says = f"taken by the host of shard {shard}; the turn is not known any more"
    else:
        says = f"taken again by {host.host}, in a replay: the lake had it already" if is_again else f"taken by {host.host}"
    steps.add(
        "taken", host.began_us, says, shard=shard, host=host.host if host.began_us is not None else None,
        epoch=host.epoch if host.began_us is not None else None, readings_of_turn=host.readings,
        turn_ms=None if host.ended_us is None or host.began_us is None else (host.ended_us - host.began_us) // 1000,
    )  # fmt: skip


def committed(
    steps: Steps, shard: int | None, host: HostAnswer | None, commit: Commit | None, *, is_in_lake: bool, is_in_tail: bool
) -> None:  # fmt: skip
    """By which commit the lake has it."""
    if commit is not None and (is_in_lake or not is_in_tail):
        by = f"version {commit.version} of the lake, by {commit.writer or 'a host'}"
        says = f"in the lake since {by}" if is_in_lake else f"passed by {by}: nothing of it was to be stored"
        steps.add(
            "committed", commit.at_us, says, version=commit.version,
            shard=shard, position=commit.position, epoch=commit.epoch, host=commit.writer,
        )  # fmt: skip
    elif is_in_lake:
        steps.add("committed", None, "in the lake; its log says no more by which commit", shard=shard)
        steps.unknown.append("by which commit it came: the lake's log is kept for two days")
    else:
        position = None if host is None else host.committed
        says = "not in the lake yet: it lies in its host's tail" if is_in_tail else "nothing of it is in the lake yet"
        steps.add("committed", None, says, shard=shard, position=position)


async def taker_of(behind: Backend, hospital_id: str, shard: int, message: StreamMessage) -> int:
    """The shard whose host took a message of `shard`'s: another one, when the hospital was handed over before it."""
    for row in await behind.read(_hand_overs_of, behind.engine, hospital_id):
        if row["from_shard"] == shard and row["cut_by"] is not None and message.stored_us >= row["begun_us"]:
            cut = await _cut_of(behind, row)
            if cut is not None and message.sequence > cut:
                shard = int(row["to_shard"])
    return shard


async def _cut_of(behind: Backend, row: dict[str, Any]) -> int | None:
    """The sequence at which a hospital changed shards; an upper bound when the stream has that message no more."""
    bus, subject = behind.services.bus, subjects.control(row["from_shard"])
    from_us, until_us = row["begun_us"] - _CUT_SLACK_US, row["switched_us"] + _CUT_SLACK_US
    async for message in stored_between(bus, subjects.READINGS_STREAM, subject, from_us, until_us, most=_MOST_CONTROLS):
        try:
            control = decode_control(message.payload)
        except RejectedInput:
            continue
        if isinstance(control, HandOver) and (control.number, control.step) == (row["number"], HandOverStep.CUT):
            return message.sequence
    return int(row["cut_by"])


def _hand_overs_of(engine: Engine, hospital_id: str) -> list[dict[str, Any]]:
    query = select(hand_overs).where(hand_overs.c.hospital_id == hospital_id).order_by(hand_overs.c.number)
    with reading(engine) as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


async def host_and_commit(behind: Backend, shard: int, message: StreamMessage) -> tuple[HostAnswer | None, Commit | None]:
    """What the host of a shard and the lake's log say of a message."""
    return await asyncio.gather(host_says(behind, shard, message.sequence), commit_by(behind, shard, message))


async def commit_by(behind: Backend, shard: int, message: StreamMessage) -> Commit | None:
    """The commit by which the lake got a message, as far as its log says."""
    log = behind.services.lake.path
    return await behind.lanes.codec(commit_of, log, message.stored_us, shard=shard, sequence=message.sequence)
