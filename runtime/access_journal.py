"""Accesses that wait to be carried to the access log: a SQLite file of one process, each on disk before its answer goes.

So an answer waits for this disk alone, whatever bus and log are doing. Clause 9.3e.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Self

from domain.errors import IntegrityViolation, StorageFull
from runtime.small_database import in_our_words, opened, transaction

logger = logging.getLogger(__name__)

IN_MEMORY: Final = Path(":memory:")
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS waiting (
    n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, at_us INTEGER NOT NULL, event BLOB NOT NULL
);
"""
_WHAT: Final = "the accesses that wait for the access log"


class NewAccess(NamedTuple):
    """An access to be kept: its id, when it was, and its event as JSON."""

    id: str
    at_us: int
    event: bytes


class WaitingAccess(NamedTuple):
    """An access that waits, with its number: numbers grow and never come again."""

    n: int
    id: str
    at_us: int
    event: bytes


class AccessJournal:
    """See module. Calls block, and may come from any thread."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    @classmethod
    def open(cls, file: Path) -> Self:
        """Open the journal, made new when there is none; IN_MEMORY keeps nothing. Raises IntegrityViolation, StorageFull."""
        if file != IN_MEMORY:
            try:
                file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                file.touch(mode=0o600)
            except OSError as error:
                raise StorageFull(f"accesses cannot be noted ({error.strerror}): try again when there is room") from None
        return cls(opened(file, _SCHEMA, _WHAT))

    @classmethod
    def open_or_anew(cls, file: Path, now_us: int) -> Self:
        """As `open`; a damaged file is put aside under another name, so that those who treat can go on. Raises StorageFull."""
        try:
            return cls.open(file)
        except IntegrityViolation as error:
            aside = file.with_name(f"{file.name}.damaged-{now_us}")
            file.rename(aside)
            for rest in ("-wal", "-shm"):
                file.with_name(file.name + rest).unlink(missing_ok=True)
            logger.error("%s: it is kept as %s, and a new one begun", error, aside.name)
            return cls.open(file)

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def add(self, accesses: Sequence[NewAccess]) -> None:
        """Keep accesses, all or none, durably; one that waits already changes nothing.

        Raises StorageFull, IntegrityViolation.
        """
        insert = "INSERT INTO waiting (id, at_us, event) VALUES (?, ?, ?) ON CONFLICT (id) DO NOTHING"
        with self._changing() as connection:
            connection.executemany(insert, accesses)

    def waiting(self, limit: int) -> list[WaitingAccess]:
        """Those that wait, the oldest first."""
        with self._lock, in_our_words(_WHAT):
            rows = self._connection.execute("SELECT n, id, at_us, event FROM waiting ORDER BY n LIMIT ?", (limit,))
            return [WaitingAccess(*row) for row in rows]

    def count(self) -> int:
        """How many wait."""
        with self._lock, in_our_words(_WHAT):
            return int(self._connection.execute("SELECT count(*) FROM waiting").fetchone()[0])

    def carried(self, last: int) -> None:
        """The log will have all up to number `last`: they go from here."""
        with self._changing() as connection:
            connection.execute("DELETE FROM waiting WHERE n <= ?", (last,))

    @contextlib.contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        with self._lock, in_our_words(_WHAT), transaction(self._connection):
            yield self._connection
