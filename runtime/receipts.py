"""Receipts that their holders look up later: is what I was told is kept still kept?

A receipt names a stream position. While the stream has the message, it is read again, checksum and all, and must hold
something of the asker's. Afterwards the shard's host tells how far the lake has come: everything up to there is in it.
Clauses 5.4c, 8.1.
"""

from __future__ import annotations

from typing import Protocol

import pyarrow as pa

from domain import subjects
from domain.errors import NotFound
from domain.frames import decode_frame
from domain.messages import DeviceEvent, PositionQuery, decode_control, encode
from domain.ports import KeptIn, ReceiptState, Sender
from runtime.follower import StreamMessage


class ReceiptBus(Protocol):
    """What is needed of `runtime.bus.Bus`."""

    async def get_message(self, stream: str, sequence: int) -> StreamMessage | None: ...
    async def ask_table(self, subject: str, payload: bytes, timeout_s: float) -> pa.Table: ...


class StreamReceipts:
    """Implements `domain.ports.Receipts`."""

    def __init__(self, bus: ReceiptBus, timeout_s: float = 5.0) -> None:
        self._bus = bus
        self._timeout_s = timeout_s

    async def look_up(self, sender: Sender, shard: int, sequence: int) -> ReceiptState:
        """As `domain.ports.Receipts.look_up`."""
        unknown = NotFound(f"receipt {shard}-{sequence} is none of {sender.name}'s")
        if sequence < 1:
            raise unknown
        message = await self._bus.get_message(subjects.READINGS_STREAM, sequence)
        if message is not None:
            readings = _of(sender, message, shard)
            if readings is None:
                raise unknown
            return ReceiptState(KeptIn.STREAM, message.stored_us, readings)
        position = await self._bus.ask_table(subjects.shard(shard), encode(PositionQuery()), self._timeout_s)
        if sequence > position["committed"][0].as_py():
            raise unknown
        return ReceiptState(KeptIn.LAKE, None, None)


def _of(sender: Sender, message: StreamMessage, shard: int) -> int | None:
    """How many readings of the sender's a message holds, 0 for its event; None when nothing there is its own.

    Raises IntegrityViolation when the stored frame is damaged.
    """
    if message.subject == subjects.reading(shard):
        readings = decode_frame(message.payload).readings
        return int(((readings.source == sender.handle) | (readings.handle == sender.handle)).sum()) or None
    if message.subject == subjects.control(shard):
        control = decode_control(message.payload)
        return 0 if isinstance(control, DeviceEvent) and control.handle == sender.handle else None
    return None
