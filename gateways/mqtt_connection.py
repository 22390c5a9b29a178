"""One MQTT connection of the door: who it is, what it may do, and what it is owed.

QoS 1: PUBACK follows when the readings are in the stream, in the order of the PUBLISHes (4.6). A refused message is
kept as a reject, told on `v1/devices/me/errors`, and acknowledged, since sending it again would not help. When the
stream does not answer, or there is no room on disk, there is no PUBACK: that is told on the same topic, the connection
ends and the sender repeats (DUP). QoS 0 gets no answer; a message that could not be stored is counted and told. QoS 2
is not spoken: the connection ends. Who subscribes to `v1/devices/me/receipts` is told there, before each PUBACK, where
the message is kept: {"packet": id, "receipt": "<shard>-<sequence>", "readings": n}; HTTP looks receipts up.
Back-pressure: with `max_in_flight` messages unanswered, or as many as the Intake allows now, or answers that the peer
does not read, or more readings than the sender may send (`gateways.paces`), reading pauses. What a lost connection had
sent, and what still waited for room, is not stored.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from functools import partial
from typing import Any, Final, cast

import msgspec

from domain.errors import RejectedInput, StorageFull, Unavailable
from domain.ports import Receipt, Sender, Shown
from gateways.client_certificates import fingerprint_shown
from gateways.formats import BY_TOPIC, ERRORS_TOPIC, RECEIPTS_TOPIC, EventFormat
from gateways.listener import Guest
from gateways.mqtt import encode, encode_puback, encode_publish
from gateways.mqtt_hello import Refused, shown_by, who_shows
from gateways.mqtt_packets import (
    SUBSCRIPTION_REFUSED,
    Ack,
    ConnAck,
    Connect,
    ConnectCode,
    MalformedPacket,
    Packet,
    PacketKind,
    Publish,
    Simple,
    SubAck,
    Subscribe,
    Unsubscribe,
    UnsupportedLevel,
    Will,
)
from gateways.mqtt_parts import DoorOfConnections, Owed, receipt_of, submitted
from gateways.mqtt_reader import PacketReader
from gateways.paces import NO_LIMIT

logger = logging.getLogger(__name__)

DOOR: Final = "mqtt"
_PINGRESP: Final = encode(Simple(PacketKind.PINGRESP))
_SUBSCRIBABLE: Final = frozenset({ERRORS_TOPIC, RECEIPTS_TOPIC})
_TOPIC_CHARS: Final = 200  # of a topic that are kept with a reject
GOODBYE: Final = "goodbye"  # why a connection ended: the device said DISCONNECT
TAKEN_OVER: Final = "taken-over"
CLOSING: Final = "door-closing"
DEFECT: Final = "defect"
_SLOW: Final = "slow-reader"
CONTROLS_AT_ONCE: Final = 256  # packets, or topics, that a connection is read of in one turn of the loop
_NEVER: Final = float("inf")
_CLOSE_S: Final = 5.0  # for what is still to be sent when a connection is closed
_SILENT: Final = frozenset({"keep-alive", "no-connect", TAKEN_OVER, _SLOW, DEFECT, "crowded-out"})  # the peer may be gone


class _State(Enum):
    NEW = auto()  # no CONNECT yet
    IDENTIFYING = auto()
    OPEN = auto()
    CLOSED = auto()


class MqttConnection(asyncio.Protocol):
    """See module. `why_ended` says how it came to its end, in one word that counters use."""

    def __init__(self, door: DoorOfConnections, guest: Guest) -> None:
        self._door = door
        self._guest = guest
        self._loop = asyncio.get_running_loop()
        self._reader = PacketReader(door.max_payload_bytes, first_kind=PacketKind.CONNECT)
        self._state = _State.NEW
        self._owed: deque[Owed] = deque()
        self._out = bytearray()
        self._is_flush_called = False
        self._is_write_paused = False
        self._is_read_paused = False
        self._subscribed: set[str] = set()
        self._silence_allowed_s = _NEVER
        self._last_heard_s = self._loop.time()
        self._deadline_s = self._last_heard_s + door.connect_timeout_s  # for something other than silence
        self._transport: asyncio.Transport | None = None
        self._certificate: str | None = None
        self._pace = NO_LIMIT
        self._controls_left = CONTROLS_AT_ONCE  # until others have their turn
        self.sender: Sender | None = None
        self.connection_id, self.since_us = "", 0  # by which logs and traces name it; when it was admitted
        self.client_id, self.turn = "", 0  # of two connections of one sender the one with the later turn stays
        self.sighting_due_s = _NEVER  # when the door notes that it is still there
        self.will: Will | None = None
        self.why_ended = "lost"

    # ---- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are none of asyncio's classes
        self.peer: str | None = next(iter(transport.get_extra_info("peername") or ()), None)
        self._certificate = fingerprint_shown(transport)
        self._guest.cut = partial(self.end, "crowded-out")
        self._door.opened(self)

    def data_received(self, data: bytes) -> None:
        self._last_heard_s = self._loop.time()
        self._door.counters.bytes_received += len(data)
        self._reader.feed(data)
        self._pump()

    def pause_writing(self) -> None:
        self._is_write_paused = True
        self._deadline_s = min(self._deadline_s, self._loop.time() + self._door.write_timeout_s)

    def resume_writing(self) -> None:
        self._is_write_paused = False
        if self._state is _State.OPEN:
            self._deadline_s = _NEVER
        self._pump()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's signature)
        self._state = _State.CLOSED
        for owed in self._owed:
            if owed.stored is not None:
                owed.stored.cancel()  # nobody is there to be answered: what waits for room need not be stored
        self._guest.left()
        self._door.ended(self)
        self._transport = None  # a cycle would keep both, TLS's buffers too, until Python looks for it

    # ---- the door's side

    @property
    def address(self) -> str:
        """Where the peer is."""
        return self._guest.address

    @property
    def heard_s(self) -> float:
        """When the peer was heard last, as the loop counts."""
        return self._last_heard_s

    @property
    def is_idle(self) -> bool:
        """Whether every message was answered."""
        return not self._owed

    def look_after(self, now_s: float) -> bool:
        """End the connection when its keep-alive (3.1.2.10) or another time it had is over; read on if it may.

        Returns whether reading was paused, so that what had come meanwhile was looked at now.
        """
        if now_s > self._deadline_s:
            self._overdue()
            return False
        if self._is_read_paused:
            self._pump()  # it may have been for want of room, and nobody tells of that
            return True
        if now_s - self._last_heard_s > self._silence_allowed_s:
            self.end("keep-alive")
        return False

    def _overdue(self) -> None:
        if self._transport is not None and self._transport.is_closing():
            self._transport.abort()  # what it does not read would keep it for ever
        else:
            self.end(_SLOW if self._state is _State.OPEN else "no-connect")

    def stop_reading(self) -> None:
        """Take no more messages; answers of those taken still go out."""
        self._state = _State.CLOSED
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def end(self, why: str) -> None:
        """Send what is owed by now and close; a peer that may be gone is not waited for."""
        if self._transport is None or self._transport.is_closing():
            return
        self.why_ended = why
        self._state = _State.CLOSED
        self._deadline_s = self._loop.time() + _CLOSE_S
        self._flush()
        if why in _SILENT:
            self._transport.abort()
        else:
            self._transport.close()

    # ---- packets in

    def _count(self, controls: int) -> None:
        """Take packets that are no message, or their topics, from what the sender may send, and from its turn."""
        self._pace.left -= controls
        if self._controls_left > 0 >= self._controls_left - controls:
            self._loop.call_soon(self._next_turn)  # after what it is answered was written
        self._controls_left -= controls

    def _next_turn(self) -> None:
        self._controls_left = CONTROLS_AT_ONCE
        self._pump()

    def _pump(self) -> None:
        """Handle what has arrived, as far as answers keep up."""
        try:
            while not self._is_held():
                packet = self._reader.next_packet()
                if packet is None:
                    break
                if type(packet) is Publish and self._state is _State.OPEN:
                    self._take(packet)
                else:
                    self._handle(packet)
        except UnsupportedLevel:
            self._refuse(ConnectCode.UNACCEPTABLE_PROTOCOL, "unsupported-protocol")
        except MalformedPacket as error:
            logger.info("a connection sent what is not MQTT", extra=self._about(error=str(error)))
            if not self._guest.is_known:
                self._door.counters.connections_refused["malformed"] += 1
                self._guest.failed()
            self.end("malformed")
        self._hold_or_go_on()

    def _is_held(self) -> bool:
        if self._controls_left <= 0 or self._owes_enough() or self._is_write_paused:
            return True
        return self._state in (_State.IDENTIFYING, _State.CLOSED)

    def _owes_enough(self) -> bool:
        """Whether to read no further: until something is answered, there is room, or the sender may send more."""
        if self.sender is None:
            return False
        door = self._door
        if self._pace.left < 0 and door.watch.paces.holds(self._pace, self.sender, DOOR, self.address, door.counters):
            return True
        return len(self._owed) >= min(door.max_in_flight, door.intake.allowance(self.sender))

    def _hold_or_go_on(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        # only who has sent more already: of a connection that is not read nobody hears that it was lost
        is_held = self._is_held() and (self._is_read_paused or self._reader.has_more)
        if is_held and not self._is_read_paused:
            self._transport.pause_reading()
        elif not is_held and self._is_read_paused:
            self._transport.resume_reading()
            self._last_heard_s = self._loop.time()  # what it sent meanwhile was not heard
        self._is_read_paused = is_held

    def _handle(self, packet: Packet) -> None:
        handler = _HANDLERS.get(type(packet))
        if handler is None:
            raise MalformedPacket(f"a client does not send {type(packet).__name__}")
        handler(self, packet)

    def _on_connect(self, packet: Connect) -> None:
        if self._state is not _State.NEW:
            raise MalformedPacket("a second CONNECT came on one connection (3.1)")
        shown = shown_by(packet, self._certificate)
        if not packet.client_id and not packet.clean_session:
            self._refuse(ConnectCode.IDENTIFIER_REJECTED, "client-id")
        elif shown.is_nothing:
            self._refuse(ConnectCode.BAD_CREDENTIALS, "no-token")
        else:
            self._state = _State.IDENTIFYING
            self._door.spawn(self._identify(packet, shown))

    async def _identify(self, packet: Connect, shown: Shown) -> None:
        try:
            known = await who_shows(self._door, self._guest, shown, lambda: self._state is _State.IDENTIFYING)
        except Refused as refused:
            self._refuse(refused.code, refused.why)
            return
        if known is None:
            return
        self.sender, self.client_id, self.will = known.sender, packet.client_id, packet.will
        self._pace = self._door.watch.paces.of(known.sender)
        self.turn = known.turn
        if why_not := self._door.admit(self, known.good_at):
            self.sender = None
            self._refuse(ConnectCode.SERVER_UNAVAILABLE, why_not)
            return
        self._guest.known()
        self._deadline_s = _NEVER
        self._silence_allowed_s = 1.5 * packet.keep_alive_s or _NEVER
        self._write(encode(ConnAck(ConnectCode.ACCEPTED)))
        self._state = _State.OPEN
        self._pump()

    def _refuse(self, code: ConnectCode, why: str) -> None:
        """Answer CONNECT with a refusal, and count it. No payload came, so there is no reject to keep."""
        if self._transport is None or self._transport.is_closing():
            return
        self._door.counters.connections_refused[why] += 1
        logger.info("a connection was refused", extra=self._about(why=why, peer=self.peer))
        self._write(encode(ConnAck(code)))
        self.end("refused")

    def _on_subscribe(self, packet: Subscribe) -> None:
        self._count(len(packet.topics))
        codes = []
        for topic, _ in packet.topics:
            is_known = topic in _SUBSCRIBABLE
            self._subscribed |= {topic} if is_known else set()
            codes.append(0 if is_known else SUBSCRIPTION_REFUSED)
        self._write(encode(SubAck(packet.packet_id, tuple(codes))))

    def _on_unsubscribe(self, packet: Unsubscribe) -> None:
        self._count(len(packet.topics))
        self._subscribed -= set(packet.topics)
        self._write(encode(Ack(PacketKind.UNSUBACK, packet.packet_id)))

    def _on_simple(self, packet: Simple) -> None:
        self._count(1)
        if packet.kind is PacketKind.PINGREQ:
            self._write(_PINGRESP)
        elif packet.kind is PacketKind.DISCONNECT:
            self.end(GOODBYE)
        else:
            raise MalformedPacket("a client does not send PINGRESP")

    # ---- messages

    def _take(self, packet: Publish) -> None:
        assert self.sender is not None
        if packet.qos > 1:
            self.end("qos-2")
            return
        self._door.counters.messages += 1
        owed = Owed(packet.packet_id)
        self._owed.append(owed)
        try:
            row = BY_TOPIC.get(packet.topic)
            if row is None:
                raise RejectedInput(
                    "wrong-topic", f"topic {packet.topic[:80]!r} takes no message: expected {', '.join(BY_TOPIC)}"
                )
            if packet.is_cut:
                limit = self._door.max_payload_bytes
                raise RejectedInput("oversize", f"payload of {packet.size_bytes} bytes is too large: at most {limit} are taken")
            stored = submitted(self._door, self.sender, self._pace, row, packet.payload)
        except RejectedInput as error:
            self._door.spawn(self._reject(packet, owed, error))
            return
        owed.stored = None if isinstance(row, EventFormat) else stored
        stored.add_done_callback(partial(self._on_stored, packet, owed))

    def _on_stored(self, packet: Publish, owed: Owed, stored: asyncio.Future[Receipt]) -> None:
        error = None if stored.cancelled() else stored.exception()
        if isinstance(error, RejectedInput):
            self._door.spawn(self._reject(packet, owed, error))
        elif stored.cancelled() or error is not None:
            if error is not None and not isinstance(error, Unavailable):
                logger.error("a message met an unexpected error", exc_info=error, extra=self._about())
            self._not_stored(packet, owed, error)
        else:
            owed.receipt = stored.result()
            if self.sender is not None:
                self._door.watch.stored(self.sender, DOOR, self.address, owed.receipt)
            self._door.counters.readings += owed.receipt.readings
            self._answered(owed)

    async def _reject(self, packet: Publish, owed: Owed, error: RejectedInput) -> None:
        self._pace.left -= 1
        self._door.counters.rejects[error.reason] += 1
        logger.info("a message was refused", extra=self._about(reason=error.reason))
        if self.sender is not None:
            self._door.watch.refused(self.sender, DOOR, self.address, error.reason, error.detail)
        try:
            await self._door.intake.reject(
                door=DOOR, sender=self.sender, topic=packet.topic[:_TOPIC_CHARS], payload=packet.payload,
                reason=error.reason, detail=error.detail,
            )  # fmt: skip
        except Unavailable as unavailable:
            self._not_stored(packet, owed, unavailable)
            return
        self._tell(error.reason, error.detail, packet.topic)
        self._answered(owed)

    def _not_stored(self, packet: Publish, owed: Owed, error: BaseException | None) -> None:
        self._door.counters.unavailable += 1
        if isinstance(error, StorageFull):
            self._tell(error.code, f"the message was not stored: {error}", packet.topic)
        else:
            self._tell("unavailable", "the message was not stored: send it again later", packet.topic)
        if packet.qos:
            self.end("unavailable")
        else:
            self._answered(owed)

    def _tell(self, reason: str, detail: str, topic: str) -> None:
        if ERRORS_TOPIC in self._subscribed:
            told = msgspec.json.encode({"reason": reason, "detail": detail, "topic": topic})
            self._write(encode_publish(ERRORS_TOPIC, told))

    def _answered(self, owed: Owed) -> None:
        """Send the PUBACKs that are due: those of the longest answered run from the oldest message on."""
        owed.is_done = True
        while self._owed and self._owed[0].is_done:
            first = self._owed.popleft()
            if first.packet_id:
                if first.receipt is not None and RECEIPTS_TOPIC in self._subscribed:
                    self._write(encode_publish(RECEIPTS_TOPIC, receipt_of(first.packet_id, first.receipt)))
                self._write(encode_puback(first.packet_id))
        if self._is_read_paused and (not self._owed or len(self._owed) <= self._door.max_in_flight // 2):
            self._pump()

    # ---- bytes out

    def _write(self, data: bytes) -> None:
        """Queue bytes; all of one turn of the loop go out in one call."""
        self._out += data
        if not self._is_flush_called:
            self._is_flush_called = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flush_called = False
        if self._out and self._transport is not None and not self._transport.is_closing():
            self._transport.write(bytes(self._out))
        self._out.clear()

    def _about(self, **more: str | None) -> dict[str, str | None]:
        return {"device": self.sender.name if self.sender else None, "connection": self.connection_id, **more}


_HANDLERS: Final[dict[type, Callable[[MqttConnection, Any], None]]] = {
    Connect: MqttConnection._on_connect,  # noqa: SLF001 (the class's own table, made after it)
    Subscribe: MqttConnection._on_subscribe,  # noqa: SLF001
    Unsubscribe: MqttConnection._on_unsubscribe,  # noqa: SLF001
    Simple: MqttConnection._on_simple,  # noqa: SLF001
}
