"""The native JSON of device events: MQTT topic `v1/devices/me/events`, HTTP `POST /v1/events`. Clauses 5.4b, 6.2c.

    {"event": "lead_off", "at": "2026-11-23T08:00:00Z", "detail": "electrode RA"}
    {"event": "occlusion", "handle": 4711}            a gateway, of a device that it carries

`event` is one that the device's thing model says, or, of a gateway for its devices, `online`, `offline`, `disconnected`.
Without `at` (RFC 3339, or Unix milliseconds) it happened on its arrival at the door; with it, an event that is sent again
is known as the same one. `mode`: real, test, demo. One event a message; unknown fields are refused.
Errors: RejectedInput (`malformed-json`, `malformed-value`, `unknown-event`, `implausible-time`). The door does not know
what the devices of a gateway are: an event that such a device does not say is refused behind it, by its host.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from domain.errors import RejectedInput
from domain.ids import NO_HANDLE
from domain.instants import to_rfc3339
from domain.messages import DeviceEvent
from domain.ports import Sender
from domain.quality import Mode
from gateways.json_rows import parse_time

_MODES: Final = {mode.name.lower(): mode for mode in Mode}


class NativeEvent(msgspec.Struct, forbid_unknown_fields=True):
    event: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    at: str | int | None = None
    detail: Annotated[str, msgspec.Meta(max_length=1000)] | None = None
    handle: Annotated[int, msgspec.Meta(ge=1, le=2**32 - 1)] | None = None
    mode: Literal["real", "test", "demo"] = "real"


_decoder: Final = msgspec.json.Decoder(NativeEvent)


def decode_event(payload: bytes, sender: Sender, arrival_us: int) -> DeviceEvent:
    """The event of one message. Total: an event, or RejectedInput."""
    try:
        said = _decoder.decode(payload)
    except msgspec.ValidationError as error:
        raise RejectedInput("malformed-value", f"the JSON is not of an event: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RejectedInput("malformed-json", f"the payload is not JSON: {error}") from None
    if sender.model is not None:
        sender.model.check_event(said.event)
    at_us = arrival_us if said.at is None else parse_time(said.at, arrival_us)
    handle = said.handle or sender.handle
    brought_by = NO_HANDLE if handle == sender.handle else sender.handle
    return DeviceEvent(sender.hospital_id, handle, said.event, at_us, said.detail, _MODES[said.mode], brought_by)


def encode_event(event: DeviceEvent) -> bytes:
    """As its device, or its gateway, says it: `decode_event` gives it back."""
    mode = event.mode.name.lower()
    said = {"event": event.event, "at": to_rfc3339(event.at_us), "detail": event.detail, "handle": event.handle, "mode": mode}
    return msgspec.json.encode({name: value for name, value in said.items() if value is not None})
