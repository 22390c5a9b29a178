"""A stream of bytes in, MQTT packets out, wherever the network cut them. Bounded in memory."""

from __future__ import annotations

from typing import Final

from gateways.mqtt import DECODERS, decode_publish
from gateways.mqtt_packets import MalformedPacket, Packet, PacketKind

_CONTROL_LIMIT: Final = 16_384  # bytes of any packet but PUBLISH: names, a token and a will; or topics that take milliseconds


class PacketReader:
    """Bytes in by `feed`, packets out by `next_packet`, wherever the network cut them.

    A PUBLISH with a payload over `max_payload_bytes` is read to its end but kept only in part (`Publish.is_cut`), so
    that its sender can be answered; any other packet over its limit is malformed, and memory stays bounded. With
    `first_kind`, the first packet must be of that kind (a server expects CONNECT).
    """

    def __init__(self, max_payload_bytes: int, first_kind: PacketKind | None = None) -> None:
        self._max_payload = max_payload_bytes
        self._first_kind = first_kind
        self._buffer = bytearray()
        self._at = 0
        self._skipping: tuple[int, bytes, int, int] | None = None  # flags, kept head, size, bytes still to skip

    @property
    def has_more(self) -> bool:
        """Whether bytes have come that no packet was made of yet."""
        return self._at < len(self._buffer)

    def feed(self, data: bytes) -> None:
        if self._at:
            del self._buffer[: self._at]
            self._at = 0
        self._buffer += data

    def next_packet(self) -> Packet | None:
        """The next whole packet, or None until more bytes come. Raises MalformedPacket or UnsupportedLevel."""
        if self._skipping is not None:
            return self._skip()
        buffer, at = self._buffer, self._at
        if len(buffer) - at < 2:
            return None
        first, length, body = buffer[at], buffer[at + 1], at + 2
        if length > 0x7F:
            length, body = self._long_length(at + 1)
        end = body + length
        if first & 0xF0 != 0x30 or self._first_kind is not None:
            return self._control_packet(first, body, end)
        if length > self._max_payload:
            return self._large_publish(first & 15, body, length)
        if not body or end > len(buffer):
            return None
        self._at = end
        return decode_publish(first & 15, bytes(buffer[body:end]))

    def _control_packet(self, first: int, body: int, end: int) -> Packet | None:
        kind = first >> 4
        if self._first_kind is not None and kind != self._first_kind:
            raise MalformedPacket(f"the first packet is of kind {kind}: expected {self._first_kind.name} (3.1)")
        if kind not in DECODERS or DECODERS[kind][0] != first & 15:
            raise MalformedPacket(f"MQTT packet starts with {first:#04x}, which is no kind with its flags (2.2)")
        if end - body > _CONTROL_LIMIT:
            raise MalformedPacket(f"MQTT packet of {end - body} bytes is too large: at most {_CONTROL_LIMIT} are taken")
        if not body or end > len(self._buffer):
            return None
        self._at, self._first_kind = end, None
        return DECODERS[kind][1](first & 15, bytes(self._buffer[body:end]))

    def _long_length(self, at: int) -> tuple[int, int]:
        """(remaining length, where the body starts); the start is 0 while the length is not all there."""
        length = 0
        for i, byte in enumerate(self._buffer[at : at + 4]):
            length |= (byte & 0x7F) << 7 * i
            if byte < 0x80:
                return length, at + i + 1
        if len(self._buffer) - at >= 4:
            raise MalformedPacket("MQTT remaining length is longer than four bytes (2.2.3)")
        return 0, 0

    def _large_publish(self, flags: int, body: int, length: int) -> Packet | None:
        """A body over the payload limit: perhaps only by its topic, else keep the head and skip the rest."""
        have = len(self._buffer) - body
        if have < 2:
            return None
        head = 2 + int.from_bytes(self._buffer[body : body + 2], "big") + (2 if flags >> 1 & 3 else 0)
        keep = min(length, head + self._max_payload)
        if have < keep:
            return None
        kept = bytes(self._buffer[body : body + keep])
        if keep == length:
            self._at = body + length
            return decode_publish(flags, kept)
        self._at = body + keep
        self._skipping = (flags, kept, length, length - keep)
        return self._skip()

    def _skip(self) -> Packet | None:
        assert self._skipping is not None
        flags, kept, size, left = self._skipping
        skipped = min(left, len(self._buffer) - self._at)
        self._at += skipped
        if skipped < left:
            self._skipping = (flags, kept, size, left - skipped)
            return None
        self._skipping = None
        return decode_publish(flags, kept, size)
