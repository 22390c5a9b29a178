"""The outbox: messages written with the change they tell of, published afterwards in order."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Engine, func, select, update

from runtime.sql.engine import reading, writing
from runtime.sql.records import Row
from runtime.sql.tables import outbox


def unpublished(engine: Engine, limit: int = 500) -> list[Row]:
    """The oldest messages that wait: id, subject, payload."""
    query = select(outbox.c.id, outbox.c.subject, outbox.c.payload).where(outbox.c.published_us.is_(None))
    with reading(engine) as connection:
        return [dict(row) for row in connection.execute(query.order_by(outbox.c.id).limit(limit)).mappings()]


def mark_published(engine: Engine, ids: Sequence[int], now_us: int) -> None:
    with writing(engine) as connection:
        connection.execute(update(outbox).where(outbox.c.id.in_(list(ids))).values(published_us=now_us))


def waiting(engine: Engine) -> int:
    """How many messages wait to be published."""
    with reading(engine) as connection:
        return int(connection.execute(select(func.count()).where(outbox.c.published_us.is_(None))).scalar_one())
