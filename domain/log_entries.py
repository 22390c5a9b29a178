"""What the access log holds of each event: a commitment to it, never the event itself. Pure.

The event (who did what to whom, and why) may name people's doings and must be able to vanish; the tree can forget
nothing. So the tree has SHA-256 of a random salt and the event, and the event lies beside it with its salt. Who is
shown both can check them against the tree; who is shown neither learns nothing, not even by guessing. Clauses 6.1b, 9.3e.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

import msgspec

SALT_BYTES: Final = 32
WRITES: Final = "writes"  # `by` of rows of the write log
EMPTYING: Final = "emptying"  # `by` of the log's own word of what an erasure empties (`domain.log_emptying`)
UNREADABLE: Final = "unreadable"  # `by` of what could not be read
_MOST_CHARS: Final = 100
_INT64: Final = 2**63


class LogRecord(msgspec.Struct, frozen=True):
    """An event on its way into the log. `id` is its own: under it the log has it once. `event` is JSON."""

    id: str
    at_us: int
    by: str  # which part of the platform tells it
    n: int  # that part's own count; it grows, but may have holes: a database's sequence skips what was rolled back
    event: msgspec.Raw

    def __post_init__(self) -> None:
        if not (0 < len(self.id) <= _MOST_CHARS and 0 < len(self.by) <= _MOST_CHARS):
            raise ValueError(f"a record's id and by have 1 to {_MOST_CHARS} characters")
        if not (-_INT64 <= self.at_us < _INT64 and -_INT64 <= self.n < _INT64):
            raise ValueError("a record's at_us and n are integers of 64 bits")


class LogEntry(msgspec.Struct, frozen=True):
    """A leaf of the tree. Nothing in it is about a patient."""

    id: str
    at_us: int
    commitment: str  # base64
    by: str
    n: int
    v: int = 1


_records: Final = msgspec.json.Decoder(LogRecord)
_entries: Final = msgspec.json.Decoder(LogEntry)
_encoder: Final = msgspec.json.Encoder(order="sorted")


def read_record(payload: bytes, sequence: int, stored_us: int) -> LogRecord:
    """A message of the stream. What cannot be read is a record too, of the bytes as they came: nothing vanishes.

    So is what says that it is the log's own word: that comes by no stream.
    """
    try:
        record = _records.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        record = None
    if record is None or record.by == EMPTYING:
        return LogRecord(f"stream-{sequence}", stored_us, UNREADABLE, sequence, msgspec.Raw(payload))
    return record


def commitment(salt: bytes, event: bytes) -> str:
    """SHA-256 of salt and event, base64."""
    return base64.b64encode(hashlib.sha256(salt + event).digest()).decode()


def entry_of(record: LogRecord, salt: bytes) -> bytes:
    """The leaf of a record, as bytes for ever."""
    committed = commitment(salt, bytes(record.event))
    return _encoder.encode(LogEntry(record.id, record.at_us, committed, record.by, record.n))


def read_entry(entry: bytes) -> LogEntry:
    """Raises msgspec.MsgspecError for what `entry_of` did not write."""
    return _entries.decode(entry)
