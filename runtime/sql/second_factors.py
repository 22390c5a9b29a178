"""Second factors of users: proposed, confirmed by a first code, each code taken once, taken away. Clauses 7.2a, 9.3b."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, Engine, delete, func, insert, select, update

from domain.errors import Conflict
from domain.principals import Factor
from runtime.second_factors import Shown
from runtime.sql.engine import reading, writing
from runtime.sql.identity_tables import recovery_codes, second_factors, sessions, users
from runtime.sql.lockout import LockRule, add_failure, is_locked
from runtime.sql.proofs import spend
from runtime.sql.records import Author, Row, log_write, one, user_in_log
from runtime.sql.sessions import Ended, end_session


def find(engine: Engine, user_id: str) -> Row | None:
    """The factor of a user, confirmed or not."""
    with reading(engine) as connection:
        row = connection.execute(select(second_factors).where(second_factors.c.user_id == user_id)).mappings().one_or_none()
        return None if row is None else dict(row)


def has_second_factors(engine: Engine) -> bool:
    """Whether any user has one: before that no key is needed."""
    with reading(engine) as connection:
        return connection.execute(select(second_factors.c.user_id).limit(1)).first() is not None


def recovery_codes_left(engine: Engine, user_id: str) -> int:
    """How many recovery codes of a user are not used yet."""
    unused = (recovery_codes.c.user_id == user_id) & recovery_codes.c.used_us.is_(None)
    with reading(engine) as connection:
        return connection.execute(select(func.count()).select_from(recovery_codes).where(unused)).scalar_one()


def propose(engine: Engine, author: Author, user_id: str, seed: bytes) -> None:
    """Keep a new sealed seed, in place of one that was not confirmed. Raises Conflict for a user who has a factor."""
    with writing(engine) as connection:
        user = _user(connection, users.c.id == user_id)
        row = _row(connection, user_id)
        if row is not None and row["confirmed_us"] is not None:
            raise Conflict("there is a second factor already: remove it first")
        connection.execute(delete(second_factors).where(second_factors.c.user_id == user_id))
        connection.execute(insert(second_factors).values(user_id=user_id, seed=seed, made_us=author.now_us))
        log_write(connection, author, "second-factor.propose", user_in_log(connection, user["name"]))


def confirm(
    engine: Engine, author: Author, user_id: str, session_id: str, *, seed: bytes, step: int, recovery: Collection[str]
) -> None:
    """The user showed a code of the seed that was proposed: from now on it is their second factor, shown in this session.

    `recovery`: digests of the recovery codes that go with it. Raises Conflict when another seed was proposed meanwhile, or
    the session ended.
    """
    proposed = (second_factors.c.user_id == user_id) & second_factors.c.confirmed_us.is_(None)
    this = (sessions.c.user_id == user_id) & (sessions.c.id == session_id)
    with writing(engine) as connection:
        user = _user(connection, users.c.id == user_id)
        confirmed = {"confirmed_us": author.now_us, "last_step": step}
        is_kept = connection.execute(update(second_factors).where(proposed, second_factors.c.seed == seed).values(confirmed))
        in_session = connection.execute(update(sessions).where(this).values(factors=f"{Factor.PASSWORD} {Factor.TOTP}"))
        if not (is_kept.rowcount and in_session.rowcount):
            raise Conflict("the second factor was just set up or proposed anew, or the session ended: begin again")
        connection.execute(delete(recovery_codes).where(recovery_codes.c.user_id == user_id))
        connection.execute(insert(recovery_codes), [{"digest": digest, "user_id": user_id} for digest in recovery])
        log_write(connection, author, "second-factor.confirm", user_in_log(connection, user["name"]))


def remove(engine: Engine, author: Author, user_id: str, shown: Shown, lock: LockRule) -> bool:
    """Take away the factor of a user who shows it, whose session goes on without.

    False when this does not show it, which counts as a failed sign-in; of a user who is locked nothing does.
    """
    with writing(engine) as connection:
        user = _user(connection, users.c.id == user_id)
        if is_locked(user, author.now_us) or not spend(connection, user_id, shown, author.now_us):
            add_failure(connection, user, lock, author.now_us)
            return False
        _take_away(connection, user_id)
        connection.execute(update(sessions).where(sessions.c.user_id == user_id).values(factors=Factor.PASSWORD.value))
        log_write(connection, author, "second-factor.remove", user_in_log(connection, user["name"]))
        return True


def reset(engine: Engine, author: Author, name: str) -> str:
    """Take away the factor of a user who lost it, and end their session; returns the user's id.

    Raises NotFound, and Conflict without a factor.
    """
    with writing(engine) as connection:
        user = _user(connection, users.c.name == name, f"user {name!r}")
        if not _take_away(connection, user["id"]):
            raise Conflict(f"user {name!r} has no second factor")
        end_session(connection, user["id"], Ended.FACTOR_RESET, author.now_us)
        log_write(connection, author, "second-factor.reset", user_in_log(connection, name))
        return str(user["id"])


def _take_away(connection: Connection, user_id: str) -> int:
    connection.execute(delete(recovery_codes).where(recovery_codes.c.user_id == user_id))
    return connection.execute(delete(second_factors).where(second_factors.c.user_id == user_id)).rowcount


def _row(connection: Connection, user_id: str) -> Row | None:
    row = connection.execute(select(second_factors).where(second_factors.c.user_id == user_id)).mappings().one_or_none()
    return None if row is None else dict(row)


def _user(connection: Connection, which: Any, what: str = "user") -> Row:
    return one(connection, select(users).where(which).with_for_update(), what)
