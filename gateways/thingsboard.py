"""ThingsBoard's telemetry, so that devices made for it need no change: `v1/devices/me/telemetry`,
HTTP `POST /api/v1/{token}/telemetry`. Clauses 5.4d, 5.4e.

Accepts its three shapes, and lists of them; keys are those of the device's thing model, values in the metric's unit:

    {"hr": 72, "spo2": 97}
    [{"hr": 72}, {"spo2": 97}]
    {"ts": 1795420800000, "values": {"hr": 72}}

Not covered: its attributes, RPC, claiming and gateway topics. Unlike ThingsBoard, which stores what it is told, a key
that the thing model has not is refused. Errors: as `gateways.readings_json`.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from domain.errors import RejectedInput
from domain.ports import Sender
from domain.readings import ReadingBatch
from gateways.json_rows import JsonRows, JsonValue, parse_time

_Entry: TypeAlias = dict[str, JsonValue | dict[str, JsonValue]]
_decoder: Final[msgspec.json.Decoder[_Entry | list[_Entry]]] = msgspec.json.Decoder(_Entry | list[_Entry])


def decode_telemetry(payload: bytes, sender: Sender, arrival_us: int) -> ReadingBatch:
    """The readings of one telemetry message. Total: a batch, or RejectedInput for the whole message."""
    return ReadingBatch.from_rows(pack_telemetry(payload, sender, arrival_us))


def pack_telemetry(payload: bytes, sender: Sender, arrival_us: int) -> bytes:
    """As `decode_telemetry`, as packed records."""
    try:
        message = _decoder.decode(payload)
    except msgspec.ValidationError as error:
        raise RejectedInput("malformed-value", f"the JSON is not telemetry: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RejectedInput("malformed-json", f"the payload is not JSON: {error}") from None
    rows = JsonRows(sender, arrival_us)
    for entry in [message] if isinstance(message, dict) else message:
        _add_entry(rows, entry)
    return rows.packed()


def _add_entry(rows: JsonRows, entry: _Entry) -> None:
    values = entry.get("values")
    if not isinstance(values, dict):
        _add_values(rows, entry, rows.arrival_us)
        return
    time_ms = entry.get("ts")
    if not isinstance(time_ms, int | float) or time_ms != time_ms // 1 or len(entry) != 2:
        raise RejectedInput("malformed-value", "telemetry with 'values' must have 'ts' in whole milliseconds and nothing else")
    _add_values(rows, values, parse_time(int(time_ms), rows.arrival_us))


def _add_values(rows: JsonRows, values: _Entry | dict[str, JsonValue], time_us: int) -> None:
    for key, value in values.items():
        if isinstance(value, dict):
            raise RejectedInput("malformed-value", f"telemetry key {key[:40]!r} holds an object: expected a number")
        rows.add(key, value, time_us)
