"""What a connection of the MQTT door stands on: its door, what it owes, how a receipt is told, how a message is counted and
handed on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from domain.ports import Clock, Identities, PackedIntake, Receipt, Sender
from domain.readings import ROW
from gateways.counters import DoorCounters
from gateways.formats import AnyFormat, EventFormat
from gateways.paces import Pace
from gateways.watch import Watch

if TYPE_CHECKING:
    from gateways.mqtt_connection import MqttConnection

_ROW_BYTES: Final = ROW.itemsize


class DoorOfConnections(Protocol):
    """What a connection needs of its door."""

    identities: Identities
    intake: PackedIntake
    clock: Clock
    counters: DoorCounters
    watch: Watch
    max_payload_bytes: int
    max_in_flight: int
    connect_timeout_s: float
    write_timeout_s: float
    changes: int
    turns: Iterator[int]

    def opened(self, connection: MqttConnection) -> None: ...
    def admit(self, connection: MqttConnection, asked_at: int) -> str | None: ...
    def ended(self, connection: MqttConnection) -> None: ...
    def spawn(self, work: Coroutine[Any, Any, None]) -> None: ...


class Owed:
    """A PUBLISH that waits for its answer; `packet_id` 0 at QoS 0."""

    __slots__ = ("is_done", "packet_id", "receipt", "stored")

    def __init__(self, packet_id: int) -> None:
        self.packet_id = packet_id
        self.is_done = False
        self.stored: asyncio.Future[Receipt] | None = None  # of readings
        self.receipt: Receipt | None = None


def receipt_of(packet_id: int, receipt: Receipt) -> bytes:
    place = f"{receipt.shard}-{receipt.stream_sequence}"
    return msgspec.json.encode({"packet": packet_id, "receipt": place, "readings": receipt.readings})


def submitted(door: DoorOfConnections, sender: Sender, pace: Pace, row: AnyFormat, payload: bytes) -> asyncio.Future[Receipt]:
    """Decode a message and hand it on; what it says is taken from `pace`. Raises RejectedInput, and then takes nothing."""
    now_us = door.clock.now_us()
    if isinstance(row, EventFormat):
        event = row.decode(payload, sender, now_us)
        pace.left -= 1
        return asyncio.ensure_future(door.intake.submit_event(sender, event))
    if row.pack is not None:
        packed = row.pack(payload, sender, now_us)
        pace.left -= len(packed) // _ROW_BYTES
        return asyncio.ensure_future(door.intake.submit_packed(sender, packed, now_us))
    readings = row.decode(payload, sender, now_us)
    pace.left -= len(readings)
    return asyncio.ensure_future(door.intake.submit(sender, readings, now_us))
