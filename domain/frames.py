"""Frames: many readings in one checksummed message.

Layout, little endian: a fixed header, then Arrow IPC record batch messages (LZ4) of `readings.SCHEMA`, mostly one.

    magic "VGFR" | version u8 | kind u8 | header_bytes u16 | crc32 u32 | payload_bytes u32
    | rows u32 | source u32 | sequence u64 | arrival_us i64

`crc32` covers everything after itself, header and payload alike. Compatibility rule: a later version may lengthen
the header (readers skip to `header_bytes`) and append columns to the schema under a higher `version`; a reader
refuses a version it does not know, so writers are upgraded last. A frame of no rows is a tick: it carries time only.
Clause 5.4b (one device-to-cloud package), 5.4c (error detection).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import groupby
from typing import Any, Final

import pyarrow as pa
from numpy.typing import NDArray

from domain.errors import IntegrityViolation, RejectedInput
from domain.readings import DTYPES, ROW, SCHEMA, EncodedBatch, ReadingBatch

MAGIC: Final = b"VGFR"
VERSION: Final = 1
_HEADER: Final = struct.Struct("<4sBBHIIIIQq")
_CRC_END: Final = 12  # the checksum covers all bytes after itself
MAX_ROWS: Final = 100_000
# without Arrow's threads: handing a frame's small columns to them costs more than it saves
_OPTIONS: Final = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
_READ_OPTIONS: Final = pa.ipc.IpcReadOptions(use_threads=False)
_EOS_BYTES: Final = 8
_WORTH_KEEPING_ROWS: Final = 1_000  # fewer are encoded anew in less time than each message of them costs a reader
_ROOM_BYTES: Final = 4_096  # that a message of those may have beside its rows


class FrameKind(IntEnum):
    READINGS = 1
    WAVEFORM = 2  # its schema comes with the waveform table


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """`source`: handle of the sender; `sequence`: its running frame number; `arrival_us`: when the Intake took it."""

    source: int
    sequence: int
    arrival_us: int
    rows: int
    kind: FrameKind = FrameKind.READINGS


@dataclass(frozen=True, slots=True)
class Frame:
    header: FrameHeader
    readings: ReadingBatch


def _schema_message() -> bytes:
    sink = pa.BufferOutputStream()
    pa.ipc.new_stream(sink, SCHEMA, options=_OPTIONS).close()
    message: bytes = sink.getvalue().to_pybytes()[:-_EOS_BYTES]
    return message


_SCHEMA_MESSAGE: Final = _schema_message()  # pinned by VERSION, so it is not sent


def encode_frame(readings: ReadingBatch, *, source: int, sequence: int, arrival_us: int) -> bytes:
    """The bytes of one frame. Raises RejectedInput (`frame-too-large`) above MAX_ROWS rows."""
    return encode_batches([readings], source=source, sequence=sequence, arrival_us=arrival_us)


def encode_batches(batches: Sequence[ReadingBatch], *, source: int, sequence: int, arrival_us: int) -> bytes:
    """As `encode_frame`, of the rows of many batches in order. Those that came encoded go on in the bytes they came in."""
    rows = sum(map(len, batches))
    if rows > MAX_ROWS:
        raise RejectedInput("frame-too-large", f"frame holds {rows} readings, at most {MAX_ROWS} are allowed")
    bodies: list[bytes] = []
    for is_encoded, alike in groupby(batches, lambda batch: isinstance(batch, EncodedBatch)):
        parts = list(alike)
        bodies += [part.body for part in parts if isinstance(part, EncodedBatch)] if is_encoded else [_body_of(parts)]
    payload = b"".join(bodies)
    header = _HEADER.pack(MAGIC, VERSION, FrameKind.READINGS, _HEADER.size, 0, len(payload), rows, source, sequence, arrival_us)
    crc = zlib.crc32(payload, zlib.crc32(header[_CRC_END:]))
    return header[: _CRC_END - 4] + crc.to_bytes(4, "little") + header[_CRC_END:] + payload


def _body_of(batches: list[ReadingBatch]) -> bytes:
    readings = batches[0] if len(batches) == 1 else ReadingBatch.concat(batches)
    if not len(readings):
        return b""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA, options=_OPTIONS) as writer:
        writer.write_batch(readings.to_arrow())
    return memoryview(sink.getvalue())[len(_SCHEMA_MESSAGE) : -_EOS_BYTES].tobytes()


def as_it_came(readings: ReadingBatch, data: bytes, decoded: Frame) -> ReadingBatch:
    """`readings`, what a door made of a frame, with the bytes it came in if these say the same and are worth keeping."""
    start = int.from_bytes(data[6:8], "little")  # header_bytes
    is_worth = len(readings) >= _WORTH_KEEPING_ROWS and len(data) - start <= len(readings) * ROW.itemsize + _ROOM_BYTES
    columns = {name: getattr(readings, name) for name in DTYPES}
    if is_worth and all(_is_same(column, getattr(decoded.readings, name)) for name, column in columns.items()):
        return EncodedBatch(**columns, body=data[start:])
    return readings


def _is_same(column: NDArray[Any], other: NDArray[Any]) -> bool:
    """To the bit, so that NaN is NaN."""
    return column is other or column.tobytes() == other.tobytes()


def decode_header(data: bytes) -> FrameHeader:
    """Check a frame's header and checksum without decoding its readings. Errors as `decode_frame`."""
    return _checked(data)[0]


def decode_frame(data: bytes) -> Frame:
    """Decode one frame.

    Raises RejectedInput (`malformed-frame`, `frame-version`) for what was never a frame of ours, and
    IntegrityViolation where a frame was damaged on its way.
    """
    header, start = _checked(data)
    if header.rows == 0:
        return Frame(header, ReadingBatch.empty())
    try:
        stream = pa.ipc.open_stream(pa.py_buffer(_SCHEMA_MESSAGE + data[start:]), options=_READ_OPTIONS)
        batches = list(stream)
        for batch in batches:
            batch.validate(full=True)
    except (pa.ArrowException, EOFError, OSError) as error:  # ArrowException: a claimed size may exceed memory
        raise RejectedInput("malformed-frame", f"frame payload is not Arrow record batches: {error}") from error
    rows = sum(batch.num_rows for batch in batches)
    if rows != header.rows:
        raise RejectedInput("malformed-frame", f"frame says {header.rows} rows and holds {rows}")
    parts = [ReadingBatch.from_arrow(batch) for batch in batches]
    return Frame(header, parts[0] if len(parts) == 1 else ReadingBatch.concat(parts))


def _checked(data: bytes) -> tuple[FrameHeader, int]:
    if len(data) < _HEADER.size or data[:4] != MAGIC:
        raise RejectedInput("malformed-frame", f"{len(data)} bytes starting {data[:4]!r} are no frame: expected {MAGIC!r}")
    _, version, kind, header_bytes, crc, payload_bytes, rows, source, sequence, arrival_us = _HEADER.unpack_from(data)
    if version != VERSION or kind != FrameKind.READINGS:
        raise RejectedInput("frame-version", f"frame version {version}, kind {kind} is unknown here: expected {VERSION}, 1")
    if header_bytes < _HEADER.size or header_bytes + payload_bytes != len(data) or rows > MAX_ROWS:
        raise RejectedInput("malformed-frame", f"frame of {len(data)} bytes claims {header_bytes} + {payload_bytes}")
    if zlib.crc32(memoryview(data)[_CRC_END:]) != crc:
        raise IntegrityViolation(f"frame {sequence} of source {source} fails its checksum: it was damaged on the way")
    return FrameHeader(source, sequence, arrival_us, rows), header_bytes
