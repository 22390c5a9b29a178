"""Once after texts were sealed in place: rewrite what held them in clear, so that no page of the database still has them."""

from __future__ import annotations

import logging
from typing import Final

from sqlalchemy import Connection, Engine, delete, insert, select

from runtime.sql.tables import positions

logger = logging.getLogger(__name__)

_TO_SCRUB: Final = "to-scrub"  # a position: there from the commit that sealed until the pages are rewritten
_TABLES: Final = ("patients", "alarms", "associations", "maintenance_windows", "exports")


def ask_to_scrub(connection: Connection) -> None:
    """As part of the transaction that seals."""
    connection.execute(delete(positions).where(positions.c.name == _TO_SCRUB))
    connection.execute(insert(positions).values(name=_TO_SCRUB, sequence=1))


def scrub(engine: Engine) -> bool:
    """Rewrite what has to be; False when nothing had, or not all could be. The next call does again what was not done whole.

    The write-ahead log of PostgreSQL, its archive and every older backup still hold what they held.
    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        asked = select(positions.c.sequence).where(positions.c.name == _TO_SCRUB)
        if connection.execute(asked).first() is None:
            return False
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("VACUUM")
            is_busy, *_ = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
            if is_busy:
                logger.warning("text in clear is still in the log beside the database, as others read: done at the next start")
                return False
        else:
            for table in _TABLES:
                connection.exec_driver_sql(f"VACUUM FULL {table}")
        connection.execute(delete(positions).where(positions.c.name == _TO_SCRUB))
        return True
