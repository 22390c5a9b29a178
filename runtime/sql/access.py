"""Tokens of people and programs, the write log, exports and answers to rejects."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Engine, insert, select, update

from domain.errors import Conflict, NotFound, Unauthenticated
from runtime.sql.devices import new_token, token_digest
from runtime.sql.engine import reading, writing
from runtime.sql.records import Author, Page, Row, log_write, page
from runtime.sql.tables import exports, reject_actions, tokens, write_log

ADMINISTRATOR: Final = "administrator"


def create_first_administrator(engine: Engine, *, now_us: int) -> str | None:
    """Make the first token; returns it, or None when there is one already. It can be shown this once only."""
    with writing(engine) as connection:
        if connection.execute(select(tokens.c.name).limit(1)).first() is not None:
            return None
        token, digest = new_token()
        values = {"name": "admin", "sha256": digest, "role": ADMINISTRATOR, "created_us": now_us, "revoked_us": None}
        connection.execute(insert(tokens).values(values))
        log_write(connection, Author("vitalgrid", "first start", now_us), "token.create", "admin")
        return token


def create_token(engine: Engine, author: Author, name: str, role: str = ADMINISTRATOR) -> str:
    """A token for a person or program called `name`. Raises Conflict when the name is taken."""
    with writing(engine) as connection:
        if connection.execute(select(tokens.c.name).where(tokens.c.name == name)).first() is not None:
            raise Conflict(f"a token named {name!r} exists already")
        token, digest = new_token()
        values = {"name": name, "sha256": digest, "role": role, "created_us": author.now_us, "revoked_us": None}
        connection.execute(insert(tokens).values(values))
        log_write(connection, author, "token.create", name)
        return token


def revoke_token(engine: Engine, author: Author, name: str) -> None:
    """Raises NotFound."""
    with writing(engine) as connection:
        result = connection.execute(update(tokens).where(tokens.c.name == name).values(revoked_us=author.now_us))
        if not result.rowcount:
            raise NotFound(f"no token is named {name!r}")
        log_write(connection, author, "token.revoke", name)


def authenticate(engine: Engine, token: str) -> Row:
    """Name and role of who holds `token`; raises Unauthenticated for one that is unknown or revoked."""
    query = select(tokens.c.name, tokens.c.role).where(tokens.c.sha256 == token_digest(token), tokens.c.revoked_us.is_(None))
    with reading(engine) as connection:
        row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise Unauthenticated("the token is unknown or revoked")
    return dict(row)


def list_writes(engine: Engine, *, limit: int, after: tuple[Any, ...] | None = None, who: str | None = None) -> Page:
    """The write log, the newest first."""
    query = select(write_log)
    if who is not None:
        query = query.where(write_log.c.who == who)
    with reading(engine) as connection:
        return page(connection, query, [write_log.c.id], limit=limit, after=after, descending=True)


def record_export(
    engine: Engine, author: Author, *, lake_version: int, handles: list[int] | None, from_us: int | None,
    until_us: int | None, query: dict[str, Any],
) -> int:  # fmt: skip
    """Note what left the platform, so that a later correction can name it; returns the export's id."""
    values = {
        "at_us": author.now_us, "who": author.who, "lake_version": lake_version, "handles": handles, "from_us": from_us,
        "until_us": until_us, "query": query,
    }  # fmt: skip
    with writing(engine) as connection:
        key = connection.execute(insert(exports).values(values)).inserted_primary_key
        assert key is not None
        return int(key[0])


def record_resubmission(engine: Engine, author: Author, reject_id: str, receipt: str) -> None:
    """Note that a reject was repaired and accepted. Raises Conflict when it was before."""
    with writing(engine) as connection:
        same = select(reject_actions.c.receipt).where(reject_actions.c.reject_id == reject_id)
        before = connection.execute(same).scalar_one_or_none()
        if before is not None:
            raise Conflict(f"reject {reject_id!r} was resubmitted before: its receipt is {before}")
        values = {"reject_id": reject_id, "at_us": author.now_us, "who": author.who, "receipt": receipt}
        connection.execute(insert(reject_actions).values(values))
        log_write(connection, author, "reject.resubmit", reject_id)


def resubmissions(engine: Engine, reject_ids: list[str]) -> dict[str, Row]:
    """What became of these rejects, for those that were resubmitted."""
    query = select(reject_actions).where(reject_actions.c.reject_id.in_(reject_ids))
    with reading(engine) as connection:
        return {row["reject_id"]: dict(row) for row in connection.execute(query).mappings()}
