"""Small SQLite files beside the business database, one writer each: what a commit acknowledged survives a power cut.

Their errors are said in our words: `StorageFull` when the disk takes nothing, `Unavailable` while another one writes,
`IntegrityViolation` for a file that is damaged.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from domain.errors import IntegrityViolation, StorageFull, Unavailable

_NO_ROOM: Final = ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN")
_IN_USE: Final = ("SQLITE_BUSY", "SQLITE_LOCKED")


def opened(file: Path, schema: str, what: str) -> sqlite3.Connection:
    """A connection for one thread at a time, in autocommit; `schema` is idempotent. Raises as `in_our_words` says."""
    with in_our_words(what):
        connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        try:
            connection.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;" + schema)
        except BaseException:
            connection.close()
            raise
    return connection


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All that the block does, or nothing, on disk at the end. Errors of SQLite as they are."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # SQLite has rolled back by itself when its disk is full
            connection.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def in_our_words(what: str) -> Iterator[None]:
    """`what`: several things, of which a sentence says that they cannot be written, or are damaged."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorname", "")
        if code.startswith(_NO_ROOM):
            raise StorageFull(f"{what} cannot be written ({code}): try again when there is room") from None
        if code.startswith(_IN_USE):
            raise Unavailable(f"{what} are in use by another process ({code}): try again") from None
        raise IntegrityViolation(f"{what} are damaged: {error}") from None
