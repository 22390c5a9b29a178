"""The mailboxes of the actors that a host holds, and the questions to its shards.

Whoever holds a hospital's shard answers for all its actors, on the bus or in the same process alike. What an actor is
told goes into the stream of its own shard first and is answered then: the cell takes it at its place in that order, so
a replay takes it there too. Every message gets an answer: one that cannot be read, that the actor's kind does not
understand, or that is about somebody else is answered by InvalidInput, an unknown actor by NotFound.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec
import pyarrow as pa

from actors.shard import ShardCell
from actors.shard_runner import ShardRunner
from domain import subjects
from domain.errors import InvalidInput, RejectedInput, Unavailable
from domain.ids import ActorKind, Address
from domain.limits import check_preset
from domain.messages import (
    Control,
    DeviceEvent,
    LimitsPreset,
    PositionQuery,
    Posted,
    TailQuery,
    Tell,
    TurnQuery,
    decode_actor_message,
    decode_query,
    encode,
)
from runtime.bus import Bus
from runtime.stamps import TurnStamps
from runtime.tail import HotTail

# what may be told to each kind of actor, by the message's tag; all may be asked to describe themselves
TELLABLE: Final[Mapping[ActorKind, Mapping[type[Control], str]]] = {
    ActorKind.DEVICE: {DeviceEvent: "device-event"},
    ActorKind.PATIENT: {LimitsPreset: "limits-preset"},
    ActorKind.BED: {},
    ActorKind.HOSPITAL: {},
}


class Mailboxes:
    """See module. Opened for a shard when it is held and when it has new hospitals, closed when it is let go."""

    def __init__(
        self, host: str, bus: Bus, runners: Mapping[int, ShardRunner], tail: HotTail, turns: TurnStamps
    ) -> None:  # fmt: skip
        self._host = host
        self._bus = bus
        self._turns = turns
        self._runners = runners
        self._tail = tail
        self._open: dict[str, tuple[int, Callable[[], Awaitable[None]]]] = {}  # subject -> its shard, and how to close it

    async def open(self, runner: ShardRunner) -> None:
        """Answer for the shard and for all its hospitals, from when this returns. Quick when that is so already."""
        wanted = {subjects.shard(runner.shard): self._answer_shard}
        wanted |= {subjects.actors_of_hospital(hospital_id): self._answer_actor for hospital_id in runner.cell.hospital_ids()}
        fresh = [subject for subject in wanted if subject not in self._open]
        for subject in fresh:
            self._open[subject] = (runner.shard, await self._bus.answer(subject, wanted[subject]))
        for subject in [subject for subject, (of, _) in self._open.items() if of == runner.shard and subject not in wanted]:
            _, unsubscribe = self._open.pop(subject)  # the hospital was handed over to another shard
            await unsubscribe()
        if fresh:
            await self._bus.flush()

    async def close(self, shard: int) -> None:
        """Answer for the shard no more: somebody else does, or soon will."""
        for subject in [subject for subject, (of, _) in self._open.items() if of == shard]:
            _, unsubscribe = self._open.pop(subject)
            await unsubscribe()

    def holds(self, hospital_id: str) -> bool:
        """Whether the actors of a hospital are here."""
        return any(hospital_id in runner.cell.hospital_ids() for runner in self._runners.values())

    async def receive(self, address: Address, payload: bytes) -> bytes:
        """Take one message to an actor and return its answer. Raises InvalidInput, NotFound, Unavailable."""
        message = decode_actor_message(payload)
        runner = self._holder_of(address)
        if isinstance(message, Tell):
            _check(runner.cell, address, message.message)
            return encode(await self._post(runner.shard, address, message))
        return msgspec.json.encode(runner.cell.describe(address))

    async def _post(self, shard: int, address: Address, told: Tell) -> Posted:
        message_id = f"tell-{address}-{told.message_id}"
        return Posted(shard, await self._bus.publish(subjects.control(shard), encode(told.message), message_id))

    def _holder_of(self, address: Address) -> ShardRunner:
        for runner in self._runners.values():
            if address.hospital_id in runner.cell.hospital_ids():
                return runner
        raise Unavailable(f"hospital {address.hospital_id} is not held here any more")

    async def _answer_actor(self, payload: bytes, subject: str) -> bytes:
        return await self.receive(subjects.address_of(subject), payload)

    async def _answer_shard(self, payload: bytes, subject: str) -> pa.Table:
        shard = int(subject.rpartition(".")[2])
        runner = self._runners.get(shard)
        if runner is None:
            raise Unavailable(f"shard {shard} is not held here any more")
        query = decode_query(payload)
        if isinstance(query, PositionQuery):
            return pa.table({"applied": [runner.applied], "committed": [runner.committed]})
        if isinstance(query, TailQuery):
            return self._tail.query(shard, query)
        if isinstance(query, TurnQuery):
            return self._turn_of(runner, query.sequence)
        return runner.cell.answer(query)

    def _turn_of(self, runner: ShardRunner, sequence: int) -> pa.Table:
        turn = self._turns.find(runner.shard, sequence)
        row = {
            "applied": runner.applied, "committed": runner.committed, "epoch": runner.epoch,
            "began_us": turn and turn.began_us, "ended_us": turn and turn.ended_us, "readings": turn and turn.readings,
        }  # fmt: skip
        return pa.table({"host": [self._host], **{name: pa.array([value], pa.int64()) for name, value in row.items()}})


def _check(cell: ShardCell, address: Address, message: Control) -> None:
    """Raise InvalidInput for what the actor does not understand, or what is about somebody else."""
    handle, known = cell.handle_of(address), TELLABLE[address.kind]
    if type(message) not in known:
        words = ", ".join(["describe", *known.values()])
        raise InvalidInput(f"a {address.kind} does not understand a {type(message).__name__}: expected one of {words}")
    about = message.patient_handle if isinstance(message, LimitsPreset) else getattr(message, "handle", handle)
    if (message.hospital_id, about) != (address.hospital_id, handle):
        raise InvalidInput(
            f"the message is about handle {about} of {message.hospital_id}, {address} has handle {handle}: tell it to that one"
        )
    if isinstance(message, LimitsPreset) and message.limits is not None:
        check_preset(message.metric, message.limits)
    if isinstance(message, DeviceEvent):
        try:
            cell.check_event(message)
        except RejectedInput as error:  # whoever tells is told so; there is no door that would keep it
            raise InvalidInput(error.detail) from error
