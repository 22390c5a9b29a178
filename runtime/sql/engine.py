"""Open the business database, bring its schema up to date, and read or write it in transactions.

SQLite and PostgreSQL are used in one way: many readers beside one writer at a time. So what a write has read stays true
until it commits, handles and outbox rows become visible in the order of their numbers, and both databases pass the
same tests. The price is that writes queue; the largest, a fleet of 100,000 devices, takes seconds.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InternalError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from domain.errors import Conflict, InvalidInput, StorageFull, Unavailable
from runtime.sealing import Sealer
from runtime.sql.names import NameIndex
from runtime.sql.scrub import scrub
from runtime.sql.sealed import NAMES, SEALER

_MIGRATIONS: Final = Path(__file__).with_name("migrations")
_WAIT_MS: Final = 30_000  # for the writer before us
_WAL_RETRY_S: Final = 0.01
_WRITER_LOCK: Final = 7_251_839_402  # PostgreSQL advisory lock: whoever holds it writes
_LATER: Final = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_CANTOPEN")
_NO_ROOM: Final = ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY", "53100")  # 53100: PostgreSQL's disk is full
_READ_ONLY: Final = "25006"  # PostgreSQL is a standby, or was told to write nothing
_SAME_OR_GONE: Final = (
    "23505", "23503", "SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY", "SQLITE_CONSTRAINT_FOREIGNKEY",
)  # fmt: skip


def open_engine(url: str, sealer: Sealer | None = None) -> Engine:
    """An engine for `url` (`sqlite:///…` or `postgresql+psycopg://…`).

    SQLite runs in WAL mode with `synchronous=FULL`: what a commit acknowledged survives a power cut. Errors and logs
    of the engine never show parameters, because names of patients are among them. Without a `sealer` what is sealed can be
    neither read nor written: for processes that have nothing to do with it.
    """
    with_names: dict[str, Any] = {} if sealer is None else {SEALER: sealer, NAMES: NameIndex(sealer)}
    parsed = make_url(url)
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() == "postgresql":
        options = {"options": f"-c lock_timeout={_WAIT_MS}"}
        return create_engine(
            parsed, pool_pre_ping=True, pool_size=8, hide_parameters=True, connect_args=options,
            execution_options=with_names,
        )  # fmt: skip
    if parsed.database and parsed.database != ":memory:":
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    by_hand = {"timeout": _WAIT_MS / 1000, "isolation_level": None}  # we say BEGIN ourselves
    engine = create_engine(parsed, hide_parameters=True, connect_args=by_hand, execution_options=with_names)
    event.listen(engine, "connect", _prepare_sqlite)
    return engine


def migrate(engine: Engine, revision: str = "head") -> None:
    """Bring the schema up to this version's, all or nothing. Idempotent; safe at every start and from two processes.

    What an earlier version kept in clear is sealed by the way: that needs an engine with a sealer.
    """
    from alembic import command  # noqa: PLC0415 (one process of all migrates, and importing this takes a fifth of a second)
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    with writing(engine) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    with _in_our_words():
        scrub(engine)


def has_sealed(engine: Engine) -> bool:
    """Whether this database is of a version that seals: then the keys must be there already."""
    with reading(engine) as connection:
        inspector = inspect(connection)
        return inspector.has_table("patients") and any(c["name"] == "ref_index" for c in inspector.get_columns("patients"))


@contextlib.contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A write transaction: committed when the block ends, rolled back when it raises.

    Raises Unavailable when the database is away or busy for too long, Conflict when a row that was to be added exists
    or one that it needs does not, InvalidInput for a value that its column cannot hold.
    """
    with _in_our_words(), engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            with _sqlite_transaction(connection):
                yield connection
        else:
            with connection.begin():
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITER_LOCK})")
                yield connection


@contextlib.contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A connection that only reads. Raises Unavailable."""
    with _in_our_words(), engine.connect() as connection:
        yield connection


@contextlib.contextmanager
def _sqlite_transaction(connection: Connection) -> Iterator[None]:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    try:
        yield
        connection.exec_driver_sql("COMMIT")
    except BaseException:
        with contextlib.suppress(SQLAlchemyError):  # SQLite has rolled back by itself when its disk is full
            connection.exec_driver_sql("ROLLBACK")
        raise


@contextlib.contextmanager
def _in_our_words() -> Iterator[None]:
    """Errors of the database as errors of ours. The database's own may quote rows, so they are never passed on."""
    try:
        yield
    except IntegrityError as error:
        if _code(error) in _SAME_OR_GONE:
            raise Conflict("the change names something that was just added or removed by somebody else: read again") from None
        raise RuntimeError(f"a rule of the schema is broken: {_message(error)}").with_traceback(error.__traceback__) from None
    except (DataError, OverflowError):
        raise InvalidInput("a value is too long or too large to be stored") from None
    except PoolTimeout:
        raise Unavailable("the business database has no connection free: try again") from None
    except (OperationalError, InternalError) as error:
        code = _code(error)
        if isinstance(error, InternalError) and code != _READ_ONLY:
            raise
        if code.startswith(_NO_ROOM):
            raise StorageFull(
                f"the business database cannot write to its disk ({code}): try again when there is room"
            ) from None
        if code.startswith("SQLITE_") and not code.startswith(_LATER):
            raise
        raise Unavailable(f"the business database does not answer ({code or 'no connection'}): try again") from None


def _code(error: DBAPIError) -> str:
    """The database's own code: `SQLITE_BUSY`, or an SQLSTATE such as `23505`; empty when it was not reached."""
    return str(getattr(error.orig, "sqlite_errorname", None) or getattr(error.orig, "sqlstate", None) or "")


def _message(error: DBAPIError) -> str:
    """What the database says without the details in which PostgreSQL quotes the row."""
    diagnosis = getattr(error.orig, "diag", None)
    return str(error.orig if diagnosis is None else diagnosis.message_primary)


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in (f"busy_timeout={_WAIT_MS}", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    _use_wal(cursor)
    cursor.close()


def _use_wal(cursor: sqlite3.Cursor) -> None:
    """Of two that open a new database at once SQLite tells one that it is busy, without waiting as it does elsewhere."""
    deadline = time.monotonic() + _WAIT_MS / 1000
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
        time.sleep(_WAL_RETRY_S)
