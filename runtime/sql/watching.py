"""Who is signed in, and ending their sessions. Clauses 7.2a, 7.2d."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, Select, select

from domain.errors import NotFound
from domain.permissions import Reach
from runtime.sql.engine import reading, writing
from runtime.sql.identity_tables import sessions, users
from runtime.sql.records import Author, Page, Row, log_write, page
from runtime.sql.sessions import Ended, SessionRules, end_session
from runtime.sql.within import users_within

_SHOWN = ("id", "user_id", "address", "factors", "begun_us", "active_us", "ends_us")


def list_sessions(  # noqa: PLR0913 (one filter each)
    engine: Engine, rules: SessionRules, *, reach: Reach, region_id: str, now_us: int, limit: int,
    after: tuple[Any, ...] | None = None, user: str | None = None,
) -> Page:  # fmt: skip
    """Sessions in force of users within `reach`, by their names; of one, if named. None that has idled or lasted too long."""
    query = _named().where(users_within(reach, region_id))
    query = query.where(sessions.c.ends_us > now_us, sessions.c.active_us > now_us - rules.idle_us)
    if user is not None:
        query = query.where(users.c.name == user)
    with reading(engine) as connection:
        return page(connection, query, [users.c.name], limit=limit, after=after)


def find_session(engine: Engine, session_id: str) -> Row | None:
    """A session that nothing has ended yet, with its user's `name`."""
    with reading(engine) as connection:
        row = connection.execute(_named().where(sessions.c.id == session_id)).mappings().one_or_none()
        return None if row is None else dict(row)


def end_by_order(engine: Engine, author: Author, session_id: str) -> str:
    """End a session; returns its user's id. Raises NotFound for one that is not there any more."""
    with writing(engine) as connection:
        row = connection.execute(select(sessions.c.user_id).where(sessions.c.id == session_id)).one_or_none()
        if row is None or not end_session(connection, row.user_id, Ended.ENDED, author.now_us, session_id=session_id):
            raise NotFound(f"session {session_id!r} is unknown")
        log_write(connection, author, "session.end", session_id)
        return str(row.user_id)


def _named() -> Select[Any]:
    return select(users.c.name, *(sessions.c[name] for name in _SHOWN)).join(users, users.c.id == sessions.c.user_id)
