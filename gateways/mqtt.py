"""MQTT 3.1.1: packets to bytes and back. Pure; `gateways.mqtt_reader` cuts a stream of bytes into packets.

Spec: OASIS MQTT 3.1.1; section numbers stand beside the rules. Covered: every packet of 3.1.1, both directions, so
that a door may grow QoS 2 without touching the codec. MQTT 5: CONNECT names its level first, and `UnsupportedLevel`
says which one came; the table of decoders is where a second level's column goes.
Errors: `MalformedPacket` for bytes that are not MQTT (the connection is closed).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, Final

from domain.errors import InvalidInput
from gateways.mqtt_packets import (
    LEVEL_3_1_1,
    MAX_REMAINING,
    SUBSCRIPTION_REFUSED,
    Ack,
    ConnAck,
    Connect,
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

_U16: Final = struct.Struct(">H")
_ACK: Final = struct.Struct(">BBH")
_ACK_FLAGS: Final = MappingProxyType({
    PacketKind.PUBACK: 0x40, PacketKind.PUBREC: 0x50, PacketKind.PUBREL: 0x62,
    PacketKind.PUBCOMP: 0x70, PacketKind.UNSUBACK: 0xB0,
})  # fmt: skip
_CONNECT_HEAD: Final = b"\x00\x04MQTT\x04"
_LEGACY_NAME: Final = "MQIsdp"  # MQTT 3.1
_USERNAME, _PASSWORD, _WILL_RETAIN, _WILL, _CLEAN = 0x80, 0x40, 0x20, 0x04, 0x02


# ---- encoding


def encode(packet: Packet) -> bytes:
    """The bytes of `packet`. Raises InvalidInput for a text, payload or topic that MQTT cannot carry."""
    return _ENCODERS[type(packet)](packet)


def encode_publish(
    topic: str, payload: bytes, qos: int = 0, packet_id: int = 0, dup: bool = False, retain: bool = False
) -> bytes:
    """A PUBLISH without making the value first."""
    head = _text(topic) + (_U16.pack(packet_id) if qos else b"")
    return _framed(0x30 | dup << 3 | qos << 1 | retain, head, payload)


def encode_puback(packet_id: int) -> bytes:
    return _ACK.pack(0x40, 2, packet_id)


def _framed(first: int, *parts: bytes) -> bytes:
    length = sum(map(len, parts))
    if length > MAX_REMAINING:
        raise InvalidInput(f"MQTT packet of {length} bytes is too large: at most {MAX_REMAINING} fit")
    head = bytearray((first,))
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return b"".join((head, *parts))


def _binary(data: bytes) -> bytes:
    if len(data) > 0xFFFF:
        raise InvalidInput(f"MQTT field of {len(data)} bytes is too long: at most 65535 fit")
    return _U16.pack(len(data)) + data


def _text(text: str) -> bytes:
    return _binary(text.encode())


def _connect_body(packet: Connect) -> bytes:
    flags = packet.clean_session << 1
    fields = [_text(packet.client_id)]
    if packet.will is not None:
        flags |= _WILL | packet.will.qos << 3 | packet.will.retain << 5
        fields += [_text(packet.will.topic), _binary(packet.will.payload)]
    if packet.username is not None:
        flags |= _USERNAME
        fields.append(_text(packet.username))
    if packet.password is not None:
        flags |= _PASSWORD
        fields.append(_binary(packet.password))
    return _CONNECT_HEAD + bytes((flags,)) + _U16.pack(packet.keep_alive_s) + b"".join(fields)


def _subscribe_body(packet: Subscribe) -> bytes:
    return _U16.pack(packet.packet_id) + b"".join(_text(topic) + bytes((qos,)) for topic, qos in packet.topics)


_ENCODERS: Final[MappingProxyType[type, Callable[[Any], bytes]]] = MappingProxyType({
    Connect: lambda p: _framed(0x10, _connect_body(p)),
    ConnAck: lambda p: bytes((0x20, 2, p.session_present, p.code)),
    Publish: lambda p: encode_publish(p.topic, p.payload, p.qos, p.packet_id, p.dup, p.retain),
    Ack: lambda p: _ACK.pack(_ACK_FLAGS[p.kind], 2, p.packet_id),
    Subscribe: lambda p: _framed(0x82, _subscribe_body(p)),
    SubAck: lambda p: _framed(0x90, _U16.pack(p.packet_id) + bytes(p.codes)),
    Unsubscribe: lambda p: _framed(0xA2, _U16.pack(p.packet_id) + b"".join(map(_text, p.topics))),
    Simple: lambda p: bytes((p.kind << 4, 0)),
})  # fmt: skip


# ---- decoding


class _Body:
    """Reads fields of one packet's body, front to back; a field that runs over the end is malformed."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def is_empty(self) -> bool:
        return self._at >= len(self._data)

    def take(self, count: int) -> bytes:
        part = self._data[self._at : self._at + count]
        if len(part) != count:
            raise MalformedPacket(f"MQTT packet ends {count - len(part)} bytes early: its fields are longer than its body")
        self._at += count
        return part

    def u8(self) -> int:
        return self.take(1)[0]

    def u16(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def packet_id(self) -> int:
        number = self.u16()
        if number == 0:
            raise MalformedPacket("MQTT packet id is 0: expected 1 to 65535 (2.3.1)")
        return number

    def binary(self) -> bytes:
        return self.take(self.u16())

    def text(self) -> str:
        return _to_text(self.binary())

    def end(self) -> None:
        if not self.is_empty:
            raise MalformedPacket(f"MQTT packet has {len(self._data) - self._at} bytes after its last field")


def _to_text(data: bytes) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise MalformedPacket("MQTT text is not UTF-8 (1.5.3)") from None
    if "\0" in text:
        raise MalformedPacket("MQTT text holds a null character (1.5.3)")
    return text


def _to_topic(data: bytes) -> str:
    topic = _to_text(data)
    if not topic or "+" in topic or "#" in topic:
        raise MalformedPacket("MQTT topic name is empty or holds a wildcard (3.3.2.1)")
    return topic


def _decode_connect(_flags: int, data: bytes) -> Connect:
    body = _Body(data)
    name = body.text()
    level = body.u8()
    if name not in ("MQTT", _LEGACY_NAME):
        raise MalformedPacket("CONNECT does not name the protocol 'MQTT' (3.1.2.1)")
    if name == _LEGACY_NAME or level != LEVEL_3_1_1:
        raise UnsupportedLevel(f"MQTT protocol level {level} is not spoken here: expected 4, which is MQTT 3.1.1")
    flags = body.u8()
    _check_connect_flags(flags)
    keep_alive_s = body.u16()
    client_id = body.text()
    will = None
    if flags & _WILL:
        will = Will(_to_topic(body.binary()), body.binary(), flags >> 3 & 3, bool(flags & _WILL_RETAIN))
    username = body.text() if flags & _USERNAME else None
    password = body.binary() if flags & _PASSWORD else None
    body.end()
    return Connect(client_id, keep_alive_s, bool(flags & _CLEAN), username, password, will)


def _check_connect_flags(flags: int) -> None:
    will_qos = flags >> 3 & 3
    if flags & 1:
        raise MalformedPacket("CONNECT sets its reserved flag (3.1.2.3)")
    if will_qos == 3 or (not flags & _WILL and (will_qos or flags & _WILL_RETAIN)):
        raise MalformedPacket("CONNECT flags describe a will that cannot be (3.1.2.6)")
    if flags & _PASSWORD and not flags & _USERNAME:
        raise MalformedPacket("CONNECT has a password and no user name (3.1.2.9)")


def decode_publish(flags: int, data: bytes, size: int = -1) -> Publish:
    """`data` may be the first part only of a body of `size` bytes; it then holds the topic and the packet id."""
    qos = flags >> 1 & 3
    start = (data[0] << 8 | data[1]) + 2 if len(data) > 1 else 3
    payload_start = start + 2 if qos else start
    if qos == 3 or (not qos and flags & 8):
        raise MalformedPacket("PUBLISH flags are not of QoS 0, 1 or 2 (3.3.1)")
    if payload_start > len(data):
        raise MalformedPacket("PUBLISH ends before its topic and packet id do (3.3.2)")
    packet_id = data[start] << 8 | data[start + 1] if qos else 0
    if qos and not packet_id:
        raise MalformedPacket("MQTT packet id is 0: expected 1 to 65535 (2.3.1)")
    size_bytes = (len(data) if size < 0 else size) - payload_start
    return Publish(_to_topic(data[2:start]), data[payload_start:], qos, packet_id, bool(flags & 8), bool(flags & 1), size_bytes)


def _decode_ack(kind: PacketKind) -> Callable[[int, bytes], Ack]:
    def decode(_flags: int, data: bytes) -> Ack:
        body = _Body(data)
        ack = Ack(kind, body.packet_id())
        body.end()
        return ack

    return decode


def _decode_simple(kind: PacketKind) -> Callable[[int, bytes], Simple]:
    packet = Simple(kind)

    def decode(_flags: int, data: bytes) -> Simple:
        if data:
            raise MalformedPacket(f"{kind.name} has a body of {len(data)} bytes: expected none")
        return packet

    return decode


def _decode_connack(_flags: int, data: bytes) -> ConnAck:
    if len(data) != 2 or data[0] > 1:
        raise MalformedPacket("CONNACK is not of two bytes, the first 0 or 1 (3.2.2)")
    return ConnAck(data[1], bool(data[0]))


def _decode_subscribe(_flags: int, data: bytes) -> Subscribe:
    body = _Body(data)
    packet_id = body.packet_id()
    topics = []
    while not body.is_empty:
        topics.append((body.text(), body.u8()))
    if not topics or any(qos > 2 or not topic for topic, qos in topics):
        raise MalformedPacket("SUBSCRIBE names no topic filter, or a QoS above 2 (3.8.3)")
    return Subscribe(packet_id, tuple(topics))


def _decode_suback(_flags: int, data: bytes) -> SubAck:
    body = _Body(data)
    packet_id = body.packet_id()
    codes = []
    while not body.is_empty:
        codes.append(body.u8())
    if not codes or any(code not in (0, 1, 2, SUBSCRIPTION_REFUSED) for code in codes):
        raise MalformedPacket("SUBACK has no return code, or one that is not 0, 1, 2 or 128 (3.9.3)")
    return SubAck(packet_id, tuple(codes))


def _decode_unsubscribe(_flags: int, data: bytes) -> Unsubscribe:
    body = _Body(data)
    packet_id = body.packet_id()
    topics = []
    while not body.is_empty:
        topics.append(body.text())
    if not topics or not all(topics):
        raise MalformedPacket("UNSUBSCRIBE names no topic filter (3.10.3)")
    return Unsubscribe(packet_id, tuple(topics))


_K = PacketKind
# kind -> (fixed-header flags it must carry, decoder of its body); PUBLISH has its own way, it is nearly all there is
DECODERS: Final[MappingProxyType[int, tuple[int, Callable[[int, bytes], Packet]]]] = MappingProxyType({
    _K.CONNECT: (0, _decode_connect),
    _K.CONNACK: (0, _decode_connack),
    _K.PUBACK: (0, _decode_ack(_K.PUBACK)),
    _K.PUBREC: (0, _decode_ack(_K.PUBREC)),
    _K.PUBREL: (2, _decode_ack(_K.PUBREL)),
    _K.PUBCOMP: (0, _decode_ack(_K.PUBCOMP)),
    _K.SUBSCRIBE: (2, _decode_subscribe),
    _K.SUBACK: (0, _decode_suback),
    _K.UNSUBSCRIBE: (2, _decode_unsubscribe),
    _K.UNSUBACK: (0, _decode_ack(_K.UNSUBACK)),
    _K.PINGREQ: (0, _decode_simple(_K.PINGREQ)),
    _K.PINGRESP: (0, _decode_simple(_K.PINGRESP)),
    _K.DISCONNECT: (0, _decode_simple(_K.DISCONNECT)),
})  # fmt: skip
