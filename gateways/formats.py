"""The formats of readings, and of events, that doors take: one row a format, whichever door it comes through.

A refused message is kept with its topic (or HTTP path); `format_of` finds the row that decodes it again after repair.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from domain.errors import IntegrityViolation, NotFound, RejectedInput
from domain.frames import as_it_came, decode_frame
from domain.messages import DeviceEvent
from domain.ports import Sender
from domain.readings import ReadingBatch
from gateways.checks import check_readings
from gateways.events_json import decode_event
from gateways.readings_json import decode_readings, pack_readings
from gateways.thingsboard import decode_telemetry, pack_telemetry

Decode = Callable[[bytes, Sender, int], ReadingBatch]


@dataclass(frozen=True, slots=True)
class Format:
    """`decode(payload, sender, arrival_us)` gives checked readings or raises RejectedInput; it keeps no state.

    `pack` does the same for formats of single readings, as packed `domain.readings.ROW` records.
    """

    name: str
    media_type: str
    topic: str
    path: str
    decode: Decode
    pack: Callable[[bytes, Sender, int], bytes] | None = None


@dataclass(frozen=True, slots=True)
class EventFormat:
    """As `Format`, of events instead of readings: `decode` gives one checked event."""

    name: str
    media_type: str
    topic: str
    path: str
    decode: Callable[[bytes, Sender, int], DeviceEvent]


def decode_checked_frame(payload: bytes, sender: Sender, arrival_us: int) -> ReadingBatch:
    """The readings of one binary frame. Raises RejectedInput, with `damaged-frame` where its checksum fails."""
    try:
        frame = decode_frame(payload)
    except IntegrityViolation as error:
        raise RejectedInput("damaged-frame", f"{error}; send it again") from None
    if not len(frame.readings):
        raise RejectedInput("empty-message", "the frame holds no reading: expected one or more")
    return as_it_came(check_readings(frame.readings, sender, arrival_us), payload, frame)


FRAME: Final = Format("frame", "application/vnd.vitalgrid.frame", "v1/devices/me/frames", "/v1/frames", decode_checked_frame)
FORMATS: Final = (
    Format("readings", "application/json", "v1/devices/me/readings", "/v1/readings", decode_readings, pack_readings),
    Format(
        "thingsboard",
        "application/json",
        "v1/devices/me/telemetry",
        "/api/v1/{token}/telemetry",
        decode_telemetry,
        pack_telemetry,
    ),
    FRAME,
)
EVENTS: Final = EventFormat("event", "application/json", "v1/devices/me/events", "/v1/events", decode_event)
AnyFormat = Format | EventFormat
ALL_FORMATS: Final[tuple[AnyFormat, ...]] = (*FORMATS, EVENTS)
BY_TOPIC: Final = {row.topic: row for row in ALL_FORMATS}
BY_NAME: Final = {row.name: row for row in ALL_FORMATS}
ERRORS_TOPIC: Final = "v1/devices/me/errors"
RECEIPTS_TOPIC: Final = "v1/devices/me/receipts"


def format_of(topic_or_path: str) -> AnyFormat:
    """The format of an MQTT topic or HTTP path. Raises NotFound."""
    for row in ALL_FORMATS:
        if topic_or_path in (row.topic, row.path):
            return row
    raise NotFound(f"{topic_or_path!r} carries nothing of devices: expected one of {', '.join(BY_TOPIC)}")
