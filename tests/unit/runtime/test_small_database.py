"""Small databases: all of a block or nothing, and errors in words that say what can be done."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from domain.errors import IntegrityViolation, StorageFull, Unavailable
from runtime.small_database import in_our_words, opened, transaction

SCHEMA = "CREATE TABLE IF NOT EXISTS things (n INTEGER PRIMARY KEY);"
WHAT = "the things"


def numbers(connection: sqlite3.Connection) -> list[int]:
    return [row[0] for row in connection.execute("SELECT n FROM things")]


def test_what_a_block_breaks_off_is_not_done(tmp_path: Path) -> None:
    with contextlib.closing(opened(tmp_path / "x.db", SCHEMA, WHAT)) as connection:
        with transaction(connection):
            connection.execute("INSERT INTO things VALUES (1)")
        with pytest.raises(sqlite3.IntegrityError), transaction(connection):
            connection.executemany("INSERT INTO things VALUES (?)", [(2,), (1,)])
        assert numbers(connection) == [1]
    with contextlib.closing(opened(tmp_path / "x.db", SCHEMA, WHAT)) as connection:
        assert numbers(connection) == [1]


def test_who_writes_beside_is_waited_for_and_no_damage(tmp_path: Path) -> None:
    with (
        contextlib.closing(opened(tmp_path / "x.db", SCHEMA, WHAT)) as one,
        contextlib.closing(opened(tmp_path / "x.db", SCHEMA, WHAT)) as other,
    ):
        other.execute("PRAGMA busy_timeout=0")
        refused = pytest.raises(Unavailable, match="the things are in use")
        with transaction(one), refused as told, in_our_words(WHAT), transaction(other):
            pass
    assert not isinstance(told.value, StorageFull)


def test_a_file_that_cannot_be_opened_or_is_none_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(StorageFull, match="the things cannot be written"):
        opened(tmp_path / "no" / "x.db", SCHEMA, WHAT)
    (tmp_path / "x.db").write_bytes(b"no database at all" * 300)
    with pytest.raises(IntegrityViolation, match="the things are damaged"):
        opened(tmp_path / "x.db", SCHEMA, WHAT)
