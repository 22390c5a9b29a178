"""Copies of databases that others write to meanwhile, as of one moment, and what was in each table then.

SQLite: by its online backup, from a connection that holds one state. PostgreSQL: by pg_dump, at the snapshot of a
transaction that counted. Clause 9.3.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import Connection, Engine, inspect, make_url, text

from domain.errors import Conflict, IntegrityViolation, Unavailable
from runtime.backup_manifest import TableFacts
from runtime.small_database import in_our_words
from runtime.sql.alarm_projection import POSITION
from runtime.sql.engine import reading, writing

_ALARMS_TAKEN: Final = "SELECT sequence FROM positions WHERE name = ?"
_MODULUS: Final = 2**256
_WAIT_S: Final = 30.0
_AT_ONCE: Final = 5_000
_TOOL_DEADLINE_S: Final = 24 * 3600.0
_PLAIN: Final = ("--no-owner", "--no-privileges")  # accounts are the server's own: `vitalgrid sql-accounts`
_encoder: Final = msgspec.msgpack.Encoder(enc_hook=str)


class Copied(NamedTuple):
    """What the tables had at the moment of the copy, and where the alarm desk was in its stream (0: nowhere)."""

    tables: dict[str, TableFacts]
    alarms_taken: int


def copy_business(source: Path, target: Path) -> Copied:
    """As `copy_sqlite`, of a business database."""
    tables = copy_sqlite(source, target)
    with _opened(target) as connection:
        return Copied(tables, _number(connection.execute(_ALARMS_TAKEN, (POSITION,)).fetchone()))


def copy_sqlite(source: Path, target: Path, *, counted: bool = True) -> dict[str, TableFacts]:
    """Copy a database file to a new one without any beside it; what its tables had, if they are to be `counted`.

    Raises as `small_database.in_our_words`, IntegrityViolation for a damaged one.
    """
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with in_our_words(f"the tables of {source}"), _opened(source) as held, _new(target) as copy:
        held.execute("BEGIN")
        held.execute("SELECT count(*) FROM sqlite_master").fetchone()  # from here on this connection sees one state
        facts = _facts_of_sqlite(held) if counted else {}
        held.backup(copy)  # of the state that the connection holds
        held.execute("ROLLBACK")
        copy.execute("PRAGMA journal_mode=DELETE")
        if (problem := copy.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise IntegrityViolation(f"{source} is damaged: {problem}")
    return facts


def facts_of_sqlite(file: Path) -> dict[str, TableFacts]:
    """What the tables of a database file have. Raises as `copy_sqlite`."""
    with in_our_words(f"the tables of {file}"), _opened(file) as connection:
        connection.execute("BEGIN")
        return _facts_of_sqlite(connection)


def _facts_of_sqlite(connection: sqlite3.Connection) -> dict[str, TableFacts]:
    names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name")
    return {name: _facts(_batches(connection, name)) for (name,) in names.fetchall()}


def _batches(connection: sqlite3.Connection, name: str) -> Iterator[Sequence[Sequence[Any]]]:
    cursor = connection.execute(f'SELECT * FROM "{name}"')  # noqa: S608 (a name the database itself gave)
    while rows := cursor.fetchmany(_AT_ONCE):
        yield rows


def _facts(batches: Iterable[Sequence[Sequence[Any]]]) -> TableFacts:
    """The sum of the rows' digests: two databases may give their rows in different orders."""
    rows = total = 0
    for batch in batches:
        for row in batch:
            total += int.from_bytes(hashlib.sha256(_encoder.encode(tuple(row))).digest())
        rows += len(batch)
    return TableFacts(rows, f"{total % _MODULUS:064x}")


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[sqlite3.Connection]:
    uri = f"{file.resolve().as_uri()}?mode=rw"  # never makes one
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=_WAIT_S, isolation_level=None)) as connection:
        yield connection


@contextlib.contextmanager
def _new(file: Path) -> Iterator[sqlite3.Connection]:
    os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as connection:
        yield connection


def _number(row: Sequence[Any] | None) -> int:
    return int(row[0]) if row else 0


def dump_postgresql(engine: Engine, target: Path, environment: Mapping[str, str]) -> Copied:
    """Write the database in pg_dump's custom format, as of the moment at which its tables are counted. Raises Unavailable.

    `environment`: in which PostgreSQL's tools are run.
    """
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with reading(engine) as connection:
        connection.execution_options(isolation_level="REPEATABLE READ")
        snapshot = connection.execute(text("SELECT pg_export_snapshot()")).scalar_one()
        tables = _facts_of_postgresql(connection)
        taken = _number(connection.exec_driver_sql(_ALARMS_TAKEN.replace("?", "%s"), (POSITION,)).fetchone())
        _run("pg_dump", engine, environment, "--format=custom", f"--snapshot={snapshot}", *_PLAIN, f"--file={target}")
    return Copied(tables, taken)


def restore_postgresql(engine: Engine, source: Path, environment: Mapping[str, str]) -> None:
    """Bring a dump into a database without tables, all or nothing. Raises Conflict, Unavailable."""
    with reading(engine) as connection:
        if tables := inspect(connection).get_table_names():
            raise Conflict(f"the database has {len(tables)} tables already: nothing is overwritten, give an empty one")
    _run("pg_restore", engine, environment, "--single-transaction", "--exit-on-error", *_PLAIN, str(source))


def facts_of_tables(engine: Engine) -> dict[str, TableFacts]:
    """What the tables of a database have. Raises Unavailable."""
    if engine.dialect.name == "sqlite":
        return facts_of_sqlite(Path(str(engine.url.database)))
    with reading(engine) as connection:
        connection.execution_options(isolation_level="REPEATABLE READ")
        return _facts_of_postgresql(connection)


def _facts_of_postgresql(connection: Connection) -> dict[str, TableFacts]:
    facts = {}
    for name in sorted(inspect(connection).get_table_names()):
        rows = connection.execution_options(stream_results=True).exec_driver_sql(f'SELECT t::text FROM "{name}" t')  # noqa: S608 (as above)
        facts[name] = _facts(rows.partitions(_AT_ONCE))
    return facts


def _run(tool: str, engine: Engine, environment: Mapping[str, str], *options: str) -> None:
    """Run one of PostgreSQL's tools; the password goes by the environment, where other users do not see it."""
    found = shutil.which(tool)
    if found is None:
        raise Unavailable(f"{tool} is not installed: it comes with PostgreSQL's client programs")
    url = make_url(engine.url)
    place = url.set(drivername="postgresql", password=None).render_as_string()
    environment = {**environment, **({"PGPASSWORD": str(url.password)} if url.password else {})}
    try:
        subprocess.run(  # noqa: S603 (a tool found by its name, with a database and a file of ours)
            [found, f"--dbname={place}", *options], env=environment, check=True, capture_output=True, timeout=_TOOL_DEADLINE_S
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        words = (error.stderr or b"").decode(errors="replace").strip().splitlines()[-1:]
        raise Unavailable(f"{tool} failed: {''.join(words)[:300] or type(error).__name__}") from None


def send_again(engine: Engine, since_us: int) -> int:
    """Let messages to hosts that were marked as sent since then be sent again, under the same ids; how many."""
    with writing(engine) as connection:
        sent = text("UPDATE outbox SET published_us = NULL WHERE published_us >= :since")
        return connection.execute(sent, {"since": since_us}).rowcount
