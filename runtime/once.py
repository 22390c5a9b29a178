"""Requests with an idempotency key: the same key, sender and body are stored once and answered alike, for a day.

What became of a key is kept in the stream itself (subject `once.<digest>`), so it outlives the door and is seen by
every door. First a claim (body's digest, arrival time), then the frames, under message ids made from the claim, then
the receipt. Whoever comes again finds the receipt, or the claim, and then repeats the frames under the same message
ids with the same rows (times default to the claim's arrival).

Guarantee: a repeat within `KEPT_S` is answered with the first receipt and stores nothing. One gap remains: a door
that died after storing the frames and before recording the receipt, *and* a repeat that comes later than the stream's
duplicate window (2 h by default). Then the frames are stored twice, row for row alike, and shards tell them by source
sequence, or mark them as possible duplicates. A refused request keeps no claim: its key is free.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final, Protocol

import msgspec

from domain import subjects
from domain.errors import Conflict, Unavailable
from domain.instants import US_PER_S
from domain.messages import encode
from domain.ports import Claim, Clock, Receipt, Sender
from runtime.follower import StreamMessage

KEPT_S: Final = 86_400


class RecordBus(Protocol):
    """The part of the bus that keeps records."""

    async def publish(self, subject: str, payload: bytes, message_id: str) -> int: ...
    async def last_sequence(self, stream: str, subject: str) -> int: ...
    async def get_message(self, stream: str, sequence: int) -> StreamMessage | None: ...


class _Record(msgspec.Struct, frozen=True):
    """`claim` is the sequence of the claim that a receipt belongs to; 0 in a claim itself."""

    body: str
    arrival_us: int
    claim: int = 0
    receipt: Receipt | None = None


_decoder: Final = msgspec.json.Decoder(_Record)


class OnceLedger:
    """Claims and receipts of keyed requests. Raises Unavailable when the stream does not answer.

    `publish` is the Intake's, which retries.
    """

    def __init__(self, bus: RecordBus, clock: Clock, publish: Callable[[str, bytes, str], Awaitable[int]]) -> None:
        self._bus = bus
        self._clock = clock
        self._publish = publish

    async def claim(self, sender: Sender, key: str, payload: bytes) -> Claim:
        """As `domain.ports.OnceIntake.claim`."""
        name = hashlib.sha256(f"{sender.handle}\0{key}".encode()).hexdigest()[:40]
        body = hashlib.sha256(payload).hexdigest()
        now_us = self._clock.now_us()
        sequence = await self._bus.last_sequence(subjects.READINGS_STREAM, subjects.once(name))
        record = await self._read(sequence) if sequence else None
        if record is None or now_us - record.arrival_us > KEPT_S * US_PER_S:
            mine = encode(_Record(body, now_us))
            # of several doors that claim at once, the stream keeps one; all read back the same
            sequence = await self._publish(subjects.once(name), mine, f"once-{name}-{sequence}")
            record = await self._read(sequence)
        if record is None:
            raise Unavailable("the record of an idempotency key cannot be read back")
        if record.body != body:
            raise Conflict("the idempotency key was used within a day with another body: use a new key for a new request")
        return Claim(name, record.claim or sequence, record.arrival_us, body, record.receipt)

    async def located(self, receipt: Receipt) -> Receipt:
        """The receipt with the shard whose subject the message has: an earlier try may have been before a hand-over."""
        message = await self._bus.get_message(subjects.READINGS_STREAM, receipt.stream_sequence)
        kind, _, shard = ("" if message is None else message.subject).partition(".")
        return replace(receipt, shard=int(shard)) if kind in (subjects.READING, subjects.CONTROL) else receipt

    async def settle(self, claim: Claim, receipt: Receipt) -> None:
        """Record the receipt of a claim."""
        record = encode(_Record(claim.body, claim.arrival_us, claim.sequence, replace(receipt, counts_anew=False)))
        await self._publish(subjects.once(claim.name), record, f"once-{claim.name}-{claim.sequence}-done")

    async def _read(self, sequence: int) -> _Record | None:
        message = await self._bus.get_message(subjects.READINGS_STREAM, sequence)
        return None if message is None else _decoder.decode(message.payload)
