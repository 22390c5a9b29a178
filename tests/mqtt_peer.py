"""A door on a bus in memory, and a peer of it that sends bytes and reads packets."""

from __future__ import annotations

import asyncio
import contextlib
import json
from contextlib import asynccontextmanager
from typing import ClassVar

from gateways.mqtt import encode
from gateways.mqtt_door import MqttDoor, MqttLimits
from gateways.mqtt_packets import (
    ConnAck,
    Connect,
    SubAck,
    Subscribe,
)
from gateways.mqtt_reader import PacketReader
from gateways.watch import Watch
from runtime.intake import StreamIntake
from runtime.intake_lanes import IntakeLimits
from tests.doors import (
    DictIdentities,
    MemoryBus,
    clock,
)

READINGS, TELEMETRY, FRAMES, ERRORS, RECEIPTS = (
    f"v1/devices/me/{name}" for name in ("readings", "telemetry", "frames", "errors", "receipts")
)
HR_72 = b'{"metric": "heart_rate", "value": 72}'


class Stage:
    """A door on a bus in memory."""

    def __init__(self, bus, identities, door, port, intake):
        self.bus, self.identities, self.door, self.port, self.intake = bus, identities, door, port, intake


@asynccontextmanager
async def opened(*, tls=None, ack_timeout_s=10.0, replays=None, pace=None, now_s=None, **limits):
    """`pace`: how much senders may send; `now_s`: the clock of what the door notices."""
    bus, identities = MemoryBus(), DictIdentities()
    intake = StreamIntake(bus, identities, clock(), source=1, limits=IntakeLimits(ack_timeout_s=ack_timeout_s), replays=replays)
    also = {} if now_s is None else {"now_s": now_s}
    watch = Watch(intake, clock(), limits=pace, **also)
    door = MqttDoor(identities, intake, clock(), limits=MqttLimits(**limits), tls=tls, watch=watch)
    port = await door.start("127.0.0.1", 0)
    try:
        yield Stage(bus, identities, door, port, intake)
    finally:
        while Raw.open:
            Raw.open.pop().drop()
        bus.failures = 0
        bus.release()
        await door.close(deadline_s=1)
        await intake.close()


class Raw:
    """A peer that sends bytes and reads packets."""

    open: ClassVar[list[Raw]] = []

    def __init__(self, reader, writer):
        self.open.append(self)
        self._reader, self._writer = reader, writer
        self._packets = PacketReader(10**6)

    @classmethod
    async def connect(cls, port, token=None, **fields):
        raw = cls(*await asyncio.open_connection("127.0.0.1", port))
        if token is not None:
            raw.send(encode(Connect(fields.pop("client_id", "raw"), username=token, **fields)))
            assert await raw.next() == ConnAck(0)
        return raw

    def send(self, *data):
        self._writer.write(b"".join(data))

    async def next(self):
        """The next packet; None when the connection was closed."""
        async with asyncio.timeout(10):
            while (packet := self._packets.next_packet()) is None:
                data = b""
                with contextlib.suppress(ConnectionResetError):
                    data = await self._reader.read(65536)
                if not data:
                    self.drop()
                    return None
                self._packets.feed(data)
            return packet

    def drop(self):
        self._writer.transport.abort()

    async def listen_to_errors(self):
        self.send(encode(Subscribe(1, ((ERRORS, 1),))))
        assert await self.next() == SubAck(1, (0,))

    async def next_error(self):
        packet = await self.next()
        assert packet.topic == ERRORS
        return json.loads(packet.payload)
