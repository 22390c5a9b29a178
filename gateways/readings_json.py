"""The native JSON of readings: MQTT topic `v1/devices/me/readings`, HTTP `POST /v1/readings`. Clause 5.4b.

Accepts one reading, a list of them, or an envelope:

    {"metric": "heart_rate", "value": 72, "unit": "/min", "time": "2026-11-23T08:00:00Z", "seq": 17}
    [{"metric": "spo2", "value": 97, "instance": 1}, …]
    {"readings": [{"metric": "hr", "value": 72}, …], "time": 1795420800000, "seq": 17, "mode": "test"}

`metric` is a metric's code or a key of the device's thing model. Without `unit` the value is in the metric's own;
without `time` (RFC 3339, or Unix milliseconds) the reading has its arrival at the door. `seq` is the device's running
number from 1: with it a retransmission is known as one, and a replay refused. A device that counts from 1 again after each
start states `boot`, a number that is higher each time (a counter, or the Unix time of the start in seconds); without it, its
readings have to state times later than all before. `mode`: real, test, demo; `validity`: as in
`domain.quality`. Unknown fields are refused, so that a misspelled `unit` never passes for none.
Errors: RejectedInput (`malformed-json`, `malformed-value`, and those of `gateways.json_rows`).
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from domain.errors import RejectedInput
from domain.ports import Sender
from domain.quality import Mode, Validity, pack
from domain.readings import NO_SEQUENCE, ReadingBatch
from gateways.json_rows import JsonRows, JsonValue, parse_time

_Sequence = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
_Boot = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
_Instance = Annotated[int, msgspec.Meta(ge=0, le=255)]
_Mode = Literal["real", "test", "demo"]
_Validity = Literal[
    "valid", "questionable", "calibrating", "invalid", "not-available", "overflow", "underflow", "ongoing", "validated"
]
_NUMBERS_OF_A_BOOT: Final = 2**32
_MODE_BITS: Final = {mode.name.lower(): pack(mode=mode) for mode in Mode}
_VALIDITY_BITS: Final = {validity.name.lower().replace("_", "-"): int(validity) for validity in Validity}


class NativeReading(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    metric: str
    value: JsonValue
    unit: str | None = None
    time: str | int | None = None
    instance: _Instance | None = None
    seq: _Sequence | None = None
    boot: _Boot | None = None
    mode: _Mode | None = None
    validity: _Validity | None = None


class NativeMessage(msgspec.Struct, forbid_unknown_fields=True):
    """The envelope; its time, sequence and mode hold for the readings that state none."""

    readings: list[NativeReading]
    time: str | int | None = None
    seq: _Sequence | None = None
    boot: _Boot | None = None
    mode: _Mode | None = None


_one: Final = msgspec.json.Decoder(NativeReading)
_many: Final = msgspec.json.Decoder(list[NativeReading])
_envelope: Final = msgspec.json.Decoder(NativeMessage)


def decode_readings(payload: bytes, sender: Sender, arrival_us: int) -> ReadingBatch:
    """The readings of one native JSON message. Total: a batch, or RejectedInput for the whole message."""
    return ReadingBatch.from_rows(pack_readings(payload, sender, arrival_us))


def pack_readings(payload: bytes, sender: Sender, arrival_us: int) -> bytes:
    """As `decode_readings`, as packed records."""
    message = _parsed(payload)
    rows = JsonRows(sender, arrival_us)
    time_us = arrival_us if message.time is None else parse_time(message.time, arrival_us)
    for reading in message.readings:
        mode = reading.mode or message.mode
        rows.add(
            reading.metric if reading.instance is None else f"{reading.metric}.{reading.instance}",
            reading.value,
            time_us if reading.time is None else parse_time(reading.time, arrival_us),
            reading.unit,
            _number(reading.seq or message.seq, reading.boot or message.boot),
            (_MODE_BITS[mode] if mode else 0) | (_VALIDITY_BITS[reading.validity] if reading.validity else 0),
        )
    return rows.packed()


def _number(sequence: int | None, boot: int | None) -> int:
    """One that rises over all starts: `boot` counts more than `seq`."""
    if boot is None:
        return sequence or NO_SEQUENCE
    if sequence is None or sequence >= _NUMBERS_OF_A_BOOT:
        raise RejectedInput("malformed-value", f"'boot' is {boot} and 'seq' {sequence}: expected a 'seq' below 2^32 with it")
    return boot * _NUMBERS_OF_A_BOOT + sequence


def _parsed(payload: bytes) -> NativeMessage:
    try:
        if payload.lstrip()[:1] == b"[":
            return NativeMessage(_many.decode(payload))
        if b'"readings"' in payload:
            return _envelope.decode(payload)
        return NativeMessage([_one.decode(payload)])
    except msgspec.ValidationError as error:
        raise RejectedInput("malformed-value", f"the JSON is not of readings: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RejectedInput("malformed-json", f"the payload is not JSON: {error}") from None
