"""Events of the access log with their salts, and the entries made of them: a SQLite file of the audit process alone.

An entry's place, id and bytes are fixed here before anything of it is in the tree; the database itself refuses to change
or delete them. Event and salt may be taken away later, for a reason that the log has (`runtime.log_emptying`): the tree stays
whole without. What was signed is kept here too, before it is published: no size is ever signed with two roots.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import msgspec

from domain.audit_reading import certificate_in, concerned
from domain.errors import IntegrityViolation
from domain.log_entries import LogRecord, entry_of
from runtime.log_emptying import PATIENT, PRINCIPAL, LogEmptying
from runtime.log_emptying import SCHEMA as _SCHEMA_OF_ERASED
from runtime.small_database import in_our_words, opened, transaction

FILE: Final = "events.db"
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS events (
    idx INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, stream_seq INTEGER NOT NULL, source TEXT NOT NULL,
    source_seq INTEGER NOT NULL, at_us INTEGER NOT NULL, salt BLOB, event BLOB, entry BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS ix_events_stream_seq ON events (stream_seq);
CREATE INDEX IF NOT EXISTS ix_events_at_us ON events (at_us);
CREATE TABLE IF NOT EXISTS concerned (
    kind TEXT NOT NULL, name TEXT NOT NULL, idx INTEGER NOT NULL, PRIMARY KEY (kind, name, idx)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS signed (size INTEGER PRIMARY KEY, root BLOB NOT NULL);
CREATE TRIGGER IF NOT EXISTS events_stay BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'the log only grows'); END;
CREATE TRIGGER IF NOT EXISTS events_are_fixed BEFORE UPDATE OF idx, id, stream_seq, source, source_seq, at_us, entry ON events
    BEGIN SELECT RAISE(ABORT, 'the log only grows'); END;
CREATE TRIGGER IF NOT EXISTS signed_stays BEFORE DELETE ON signed BEGIN SELECT RAISE(ABORT, 'what was signed stays'); END;
CREATE TRIGGER IF NOT EXISTS signed_is_fixed BEFORE UPDATE ON signed BEGIN SELECT RAISE(ABORT, 'what was signed stays'); END;
"""
_AT_ONCE: Final = 1000  # old events that are indexed
_PATIENCE_MS: Final = 5000  # for those who read while what was emptied is to leave the log beside the file
_INSERT: Final = "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING"


class Received(NamedTuple):
    """A record as the stream gave it."""

    sequence: int
    record: LogRecord


class Event(NamedTuple):
    """An event as it is kept. Without `salt` and `event` when they were taken away."""

    at: int  # its index in the log
    id: str
    salt: bytes | None
    event: bytes | None
    entry: bytes


class LogEvents:
    """See module. One at a time may be open to write; calls come from one thread at a time."""

    def __init__(self, folder: Path, connection: sqlite3.Connection, make_salt: Callable[[], bytes]) -> None:
        self._folder = folder
        self._connection = connection
        self._make_salt = make_salt
        self._emptying = LogEmptying(connection)

    @classmethod
    def open(cls, folder: Path, make_salt: Callable[[], bytes]) -> Self:
        """Open the events of `folder` to write. Raises IntegrityViolation for a damaged file, StorageFull."""
        events = cls(folder, opened(folder / FILE, _SCHEMA + _SCHEMA_OF_ERASED, _what(folder)), make_salt)
        try:
            events._index_old()
            events._clear_log(patience_ms=0)
        except BaseException:
            events.close()
            raise
        return events

    def close(self) -> None:
        self._connection.close()

    def add(self, received: Sequence[Received]) -> int:
        """Keep records in their order behind those that are there, all or none, durably; how many entries were new.

        A record whose id is there already is passed over when its event is the same; another event under a known id is
        kept too, under an id of its own, because nobody may overwrite what was said. Behind a record that erases somebody
        comes what the log says of that (`runtime.log_emptying`). Raises StorageFull.
        """
        with self._transaction():
            before = index = self.count()
            for sequence, record in received:
                index += self._add(index, sequence, record)
                for said in self._emptying.ordered(index, record):
                    index += self._add(index, sequence, said)
        self._clear_log(patience_ms=0)
        return index - before

    def empty(self, size: int) -> None:
        """Take away what published entries, those below `size`, say is emptied. Raises StorageFull."""
        if not self._rows("SELECT 1 FROM doomed LIMIT 1"):
            return
        with self._transaction():
            is_emptied = self._emptying.carry_out(size)
        if is_emptied:
            self._clear_log(patience_ms=_PATIENCE_MS)

    def _clear_log(self, *, patience_ms: int) -> None:
        """Let what was emptied leave the log beside the file too: now, or while others read it, with one of the next records.

        `user_version` is 1 from the order to empty until then, whenever this process ends.
        """
        if not self._rows("PRAGMA user_version")[0][0] or self._emptying.is_pending():
            return
        self._rows(f"PRAGMA busy_timeout={patience_ms}")
        is_busy = self._rows("PRAGMA wal_checkpoint(TRUNCATE)")[0][0]
        self._rows(f"PRAGMA busy_timeout={_PATIENCE_MS}")
        if not is_busy:
            self._rows("PRAGMA user_version=0")

    def _add(self, index: int, sequence: int, record: LogRecord) -> int:
        known = self._connection.execute("SELECT event, entry FROM events WHERE id = ?", (record.id,)).fetchone()
        if known is not None:
            if known[0] in (None, bytes(record.event)):
                return 0
            record = msgspec.structs.replace(record, id=f"{record.id[:60]}#stream-{sequence}")
        salt = self._make_salt()
        row = (index, record.id, sequence, record.by, record.n, record.at_us, salt, bytes(record.event), entry_of(record, salt))
        self._connection.execute(_INSERT, row)
        self._index(index, bytes(record.event))
        return 1

    def _index(self, at: int, event: bytes) -> None:
        """Let an event be found by whom it concerns."""
        people = concerned(event)
        rows = [(PATIENT, key, at) for key in people.patients] + [(PRINCIPAL, name, at) for name in people.principals]
        self._connection.executemany("INSERT INTO concerned VALUES (?, ?, ?) ON CONFLICT DO NOTHING", rows)

    def _index_old(self) -> None:
        """Index what was kept before there was an index, once: all or nothing, so many in memory at a time."""
        if self._rows("SELECT 1 FROM concerned LIMIT 1"):
            return
        some = "SELECT idx, event FROM events WHERE idx >= ? AND idx < ? AND event IS NOT NULL"
        with self._transaction():
            for start in range(0, self.count(), _AT_ONCE):
                for at, event in self._connection.execute(some, (start, start + _AT_ONCE)).fetchall():
                    self._index(at, event)

    def count(self) -> int:
        return int(self._rows("SELECT coalesce(max(idx) + 1, 0) FROM events")[0][0])

    def last_sequence(self) -> int:
        """The last message of the stream that is here; 0 when there is none."""
        return int(self._rows("SELECT coalesce(max(stream_seq), 0) FROM events")[0][0])

    def entries(self, start: int, limit: int) -> list[bytes]:
        """Entries from index `start` on. Raises IntegrityViolation when one is missing in between."""
        rows = self._rows("SELECT idx, entry FROM events WHERE idx >= ? ORDER BY idx LIMIT ?", start, limit)
        if [row[0] for row in rows] != list(range(start, start + len(rows))):
            raise IntegrityViolation(f"the log's {FILE} lacks entries behind {start}")
        return [row[1] for row in rows]

    def note_signed(self, size: int, root: bytes) -> None:
        """Keep, durably, that `root` is signed for `size`. Raises IntegrityViolation when another root was."""
        with self._transaction():
            self._connection.execute("INSERT INTO signed VALUES (?, ?) ON CONFLICT (size) DO NOTHING", (size, root))
            if self._connection.execute("SELECT root FROM signed WHERE size = ?", (size,)).fetchone()[0] != root:
                raise IntegrityViolation(f"another root was signed for {size} entries of the log: nothing is signed any more")

    def last_signed(self, within: int = 2**62) -> int | None:
        """The largest size up to `within` that a root was signed for; None when there is none."""
        found = self._rows("SELECT max(size) FROM signed WHERE size <= ?", within)[0][0]
        return None if found is None else int(found)

    def _rows(self, query: str, *values: int) -> list[Any]:
        """Raises IntegrityViolation for a damaged file, StorageFull."""
        with in_our_words(_what(self._folder)):
            return self._connection.execute(query, values).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with in_our_words(_what(self._folder)), transaction(self._connection):
            yield


def events_between(folder: Path, start: int, end: int) -> list[Event]:
    """Events with an index in [start, end), for a reader beside the audit process; none while there is no file."""
    if not (folder / FILE).exists():
        return []
    with in_our_words(_what(folder)), contextlib.closing(_read_only(folder)) as connection:
        query = "SELECT idx, id, salt, event, entry FROM events WHERE idx >= ? AND idx < ? ORDER BY idx"
        return [Event(*row) for row in connection.execute(query, (start, end))]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events are looked for: of a patient (the key), of a principal (the name), of a time; all, if nothing is said."""

    patient: str | None = None
    principal: str | None = None
    from_us: int | None = None
    until_us: int | None = None


def find_events(folder: Path, wanted: Wanted, *, before: int | None, limit: int) -> list[Event]:
    """Events that are wanted, the newest first, with an index below `before`. For a reader beside the audit process."""
    if not (folder / FILE).exists():
        return []
    named = [(kind, name) for kind, name in ((PATIENT, wanted.patient), (PRINCIPAL, wanted.principal)) if name is not None]
    source = "concerned JOIN events USING (idx)" if named else "events"
    conditions = ["kind = ? AND name = ?", "idx IN (SELECT idx FROM concerned WHERE kind = ? AND name = ?)"][: len(named)]
    values: list[Any] = [value for pair in named for value in pair]
    bounds = (("idx < ?", before), ("at_us >= ?", wanted.from_us), ("at_us < ?", wanted.until_us))
    within = [condition for condition, bound in bounds if bound is not None]
    values += [bound for _, bound in bounds if bound is not None]
    if not named and (wanted.from_us, wanted.until_us) != (None, None):  # by times alone: their index, not every event
        # the plus keeps SQLite from going through the events in their order instead
        within = [f"idx IN (SELECT idx FROM events WHERE {' AND '.join(within)} ORDER BY +idx DESC LIMIT {int(limit)})"]  # noqa: S608
    conditions += within
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    query = f"SELECT idx, id, salt, event, entry FROM {source} {where} ORDER BY idx DESC LIMIT ?"  # noqa: S608 (fixed texts)
    with in_our_words(_what(folder)), contextlib.closing(_read_only(folder)) as connection:
        return [Event(*row) for row in connection.execute(query, (*values, limit))]


class Emptied(NamedTuple):
    """What became of the events about a patient who was erased: without content, and kept because others are in them too."""

    emptied: int
    kept: int


def emptied_of(folder: Path, patient_key: str) -> Emptied | None:
    """None: the log has not heard yet that the patient was erased, or its file still has what was emptied.

    For a reader beside the audit process.
    """
    if not (folder / FILE).exists():
        return None
    with in_our_words(_what(folder)), contextlib.closing(_read_only(folder)) as connection:
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'erased'").fetchone() is None:
            return None
        if connection.execute("PRAGMA user_version").fetchone()[0]:
            return None
        row = connection.execute("SELECT emptied FROM erased WHERE name = ?", (patient_key,)).fetchone()
        kept = "SELECT count(*) FROM concerned JOIN events USING (idx) WHERE kind = ? AND name = ? AND event IS NOT NULL"
        return None if row is None else Emptied(row[0], connection.execute(kept, (PATIENT, patient_key)).fetchone()[0])


def certified_by(folder: Path, patient_key: str, digest: str) -> Event | None:
    """The event that names the certificate of the patient's erasure with this SHA-256. For a reader beside the audit process.

    None: the log does not have it yet, though it may have an earlier one, of before a restore.
    """
    before: int | None = None
    while page := find_events(folder, Wanted(patient=patient_key), before=before, limit=_AT_ONCE):
        for event in page:
            if event.event is not None and certificate_in(event.event) == digest:
                return event
        before = page[-1].at
    return None


def taken_of_stream(folder: Path) -> int:
    """The last message of the stream that the log in `folder` has; 0 when there is none."""
    if not (folder / FILE).exists():
        return 0
    with in_our_words(_what(folder)), contextlib.closing(_read_only(folder)) as connection:
        return int(connection.execute("SELECT coalesce(max(stream_seq), 0) FROM events").fetchone()[0])


def _read_only(folder: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{(folder / FILE).resolve().as_uri()}?mode=ro", uri=True)


def _what(folder: Path) -> str:
    return f"the log's events in {folder}"
