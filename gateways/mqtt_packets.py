"""The packets of MQTT 3.1.1 as frozen values. The four acknowledgements of QoS 1 and 2 are one type.

Spec: OASIS MQTT 3.1.1; section numbers stand beside the rules.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, TypeAlias

import msgspec

from domain.errors import InvalidInput

LEVEL_3_1_1: Final = 4
MAX_REMAINING: Final = 268_435_455  # 2.2.3: four bytes of seven bits


class MalformedPacket(InvalidInput):
    """The bytes break MQTT 3.1.1; the connection must be closed (4.8)."""

    code = "malformed-packet"


class UnsupportedLevel(InvalidInput):
    """CONNECT of a protocol version that is not 3.1.1 (3.1.2.2): answered by CONNACK 1."""

    code = "unsupported-protocol"


class PacketKind(IntEnum):
    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14


class ConnectCode(IntEnum):
    """3.2.2.3."""

    ACCEPTED = 0
    UNACCEPTABLE_PROTOCOL = 1
    IDENTIFIER_REJECTED = 2
    SERVER_UNAVAILABLE = 3
    BAD_CREDENTIALS = 4
    NOT_AUTHORISED = 5


SUBSCRIPTION_REFUSED: Final = 0x80


class Will(msgspec.Struct, frozen=True, gc=False):
    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False


class Connect(msgspec.Struct, frozen=True):
    client_id: str
    keep_alive_s: int = 60
    clean_session: bool = True
    username: str | None = None
    password: bytes | None = None
    will: Will | None = None


class ConnAck(msgspec.Struct, frozen=True, gc=False):
    code: int
    session_present: bool = False


class Publish(msgspec.Struct, frozen=True, gc=False):
    """`size_bytes` is what the sender sent; `payload` is shorter when that was over the reader's limit."""

    topic: str
    payload: bytes
    qos: int = 0
    packet_id: int = 0
    dup: bool = False
    retain: bool = False
    size_bytes: int = -1

    @property
    def is_cut(self) -> bool:
        return self.size_bytes > len(self.payload)


class Ack(msgspec.Struct, frozen=True, gc=False):
    """PUBACK, PUBREC, PUBREL, PUBCOMP or UNSUBACK of `packet_id`."""

    kind: PacketKind
    packet_id: int


class Subscribe(msgspec.Struct, frozen=True):
    packet_id: int
    topics: tuple[tuple[str, int], ...]  # (filter, requested QoS)


class SubAck(msgspec.Struct, frozen=True):
    packet_id: int
    codes: tuple[int, ...]


class Unsubscribe(msgspec.Struct, frozen=True):
    packet_id: int
    topics: tuple[str, ...]


class Simple(msgspec.Struct, frozen=True, gc=False):
    """PINGREQ, PINGRESP or DISCONNECT: a kind and nothing else."""

    kind: PacketKind


Packet: TypeAlias = Connect | ConnAck | Publish | Ack | Subscribe | SubAck | Unsubscribe | Simple
