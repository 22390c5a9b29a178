"""Sessions of users: one a user, ended by the next sign-in, by idling, by their longest time. Clauses 7.2a, 7.2d.

A session is known by two tokens: the access token, which comes with each request, and the refresh token, which gets
a new pair. Of tokens that were good it is remembered for a day why they are not any more, and of refreshed ones for as
long as a session can last.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Connection, Engine, delete, insert, select, update

from domain.errors import FirstPasswordExpired, SessionEnded, Unauthenticated, Unavailable
from domain.instants import DAY_US
from domain.principals import Factor, Grant
from runtime.sql.engine import reading, writing
from runtime.sql.grants import grants_of, next_change_us, treated_by
from runtime.sql.identity_tables import ended_sessions, sessions, users
from runtime.sql.lockout import UNLOCKED, is_locked
from runtime.sql.proofs import Proof, factors_shown
from runtime.sql.records import Author, Row, by_platform, log_write, user_in_log
from runtime.tokens import Prefix, new_token, token_digest

logger = logging.getLogger(__name__)

_TOLD_FOR_US: Final = DAY_US
NOT_LET_IN: Final = "no user with this name and password may sign in now"  # whatever it is: strangers learn nothing


class Ended(StrEnum):
    """Why a token is good no more."""

    SUPERSEDED = "superseded"
    IDLE = "idle"
    EXPIRED = "expired"
    SIGNED_OUT = "signed-out"
    PASSWORD_CHANGED = "password-changed"  # noqa: S105 (the name of a reason)
    DISABLED = "disabled"
    ENDED = "ended"
    FACTOR_RESET = "second-factor-reset"
    REFRESHED = "refreshed"
    REFRESH_REUSED = "refresh-reused"


_SAYS: Final[Mapping[Ended, str]] = {
    Ended.SUPERSEDED: "the user signed in again, and has one session only",
    Ended.IDLE: "nothing was done for too long: sign in again",
    Ended.EXPIRED: "the session has lasted as long as one may: sign in again",
    Ended.SIGNED_OUT: "the user signed out",
    Ended.PASSWORD_CHANGED: "the password was changed: sign in with the new one",
    Ended.DISABLED: "the user was disabled",
    Ended.ENDED: "an administrator ended the session",
    Ended.FACTOR_RESET: "an administrator took the second factor away: sign in, and set up another one",
    Ended.REFRESHED: "the token was replaced by a newer one of the same session",
    Ended.REFRESH_REUSED: "a refresh token was used twice, so somebody else may have it: sign in again",
}


def says_why(code: str) -> str:
    """The sentence for the code of a SessionEnded; empty for any other text."""
    return next((says for why, says in _SAYS.items() if code == f"session-{why}"), "")


@dataclass(frozen=True, slots=True)
class SessionRules:
    """`idle_us`: longest time between two things that a user does; `lifetime_us`: longest time of a session.

    `password_us`: after how long a password has to be changed; None: never. A password that somebody else gave opens
    nothing any more when it was not changed within `given_us`.
    """

    idle_us: int
    lifetime_us: int
    password_us: int | None = None
    given_us: int = 7 * DAY_US

    @property
    def note_us(self) -> int:
        """How old the noted activity may get: a session may be taken for idle so much too early."""
        return self.idle_us // 30

    def old_at_us(self, user: Mapping[str, Any]) -> int | None:
        """When the password of this row of `users` has to be changed for its age."""
        return None if self.password_us is None else int(user["password_changed_us"]) + self.password_us

    def must_change(self, user: Mapping[str, Any], now_us: int) -> bool:
        """Whether the user has to change the password now, because somebody else gave it or it is old."""
        old_at_us = self.old_at_us(user)
        return bool(user["must_change"]) or (old_at_us is not None and now_us >= old_at_us)


@dataclass(frozen=True, slots=True)
class NewSession:
    """Tokens that were just made; they can be shown this once only."""

    user_id: str
    access_token: str
    refresh_token: str
    ends_us: int
    must_change: bool


@dataclass(frozen=True, slots=True)
class LiveSession:
    """A session in force, its user, and what they have now; `changes_us`: when some of that ends or begins by itself."""

    id: str
    user_id: str
    user_name: str
    must_change: bool
    factors: frozenset[Factor]
    grants: tuple[Grant, ...]
    treats: frozenset[str]
    patient_key: str | None
    changes_us: int | None
    address: str
    begun_us: int
    active_us: int
    ends_us: int

    def why_ended(self, now_us: int, rules: SessionRules) -> Ended | None:
        """Why its time is over, if it is."""
        if now_us >= self.ends_us:
            return Ended.EXPIRED
        return Ended.IDLE if now_us - self.active_us >= rules.idle_us else None


def begin_session(
    engine: Engine, user_id: str, *, checked: str, address: str, now_us: int, rules: SessionRules,
    proof: Proof | None = None,
) -> NewSession:  # fmt: skip
    """Begin the session of a user whose stored password `checked` was right, and end the one they have.

    Raises Unauthenticated when the user may not sign in: locked, disabled, or with another password since it was checked;
    FirstPasswordExpired, SecondFactorRequired, SecondFactorWrong.
    """
    with writing(engine) as connection:
        user = dict(connection.execute(select(users).where(users.c.id == user_id).with_for_update()).mappings().one())
        if is_locked(user, now_us) or user["status"] != "active" or user["password"] != checked:
            raise Unauthenticated(NOT_LET_IN)
        if user["must_change"] and now_us - user["password_changed_us"] >= rules.given_us:
            raise FirstPasswordExpired("the password was given too long ago and never used: have another one given")
        factors, refusal = factors_shown(connection, user, proof, now_us)
        if refusal is None:
            values = UNLOCKED | {"last_login_us": now_us, "password": (proof and proof.rehashed) or checked}
            connection.execute(update(users).where(users.c.id == user_id).values(values))
            return _begun(connection, user, factors, address, now_us, rules)
    raise refusal  # behind the transaction: that it failed is counted there


def _begun(connection: Connection, user: Row, factors: str, address: str, now_us: int, rules: SessionRules) -> NewSession:
    end_session(connection, user["id"], Ended.SUPERSEDED, now_us)
    _forget_old(connection, now_us, rules)
    session_id = f"e-{secrets.token_hex(8)}"
    made, digests = _new_tokens(user["id"], now_us + rules.lifetime_us, must_change=rules.must_change(user, now_us))
    row = {"user_id": user["id"], "id": session_id, "address": address, "begun_us": now_us, "active_us": now_us}
    connection.execute(insert(sessions).values(**row, **digests, factors=factors, ends_us=made.ends_us))
    detail = {"address": address, "factors": factors}
    log_write(connection, Author(user_in_log(connection, user["name"]), None, now_us), "session.begin", session_id, detail)
    return made


def session_of(engine: Engine, access_token: str, *, now_us: int, rules: SessionRules) -> LiveSession:
    """The session in force with this token. Raises SessionEnded for one that was, and Unauthenticated."""
    digest = token_digest(access_token)
    with reading(engine) as connection:
        row = _joined(connection, sessions.c.access_digest == digest)
        if row is None:
            raise _refusal(connection, ended_sessions.c.access_digest == digest)
        live = _live(connection, row, now_us, rules)
    why = live.why_ended(now_us, rules)
    if why is None:
        return live
    try:
        with writing(engine) as connection:
            end_session(connection, live.user_id, why, now_us, session_id=live.id)
    except Unavailable as error:  # it is over whether or not that can be written: whoever asks next finds the same
        logger.warning("the end of a session could not be noted: %s", error)
    raise SessionEnded(why, _SAYS[why], live.user_id, is_new=True)


def note_activity(engine: Engine, session_id: str, *, now_us: int) -> None:
    """The user did something."""
    with writing(engine) as connection:
        connection.execute(update(sessions).where(sessions.c.id == session_id).values(active_us=now_us))


def refresh_session(engine: Engine, refresh_token: str, *, now_us: int, rules: SessionRules) -> NewSession:
    """New tokens for the session: no activity, and no longer life. The former pair is good no more.

    A refresh token that comes a second time ends the session: one of the two who had it has no right to it. Raises
    SessionEnded and Unauthenticated. A token that changes nothing never waits for the writer: strangers send those.
    """
    digest = token_digest(refresh_token)
    with reading(engine) as connection:
        if not _is_of_live(connection, digest):
            raise _refusal(connection, ended_sessions.c.refresh_digest == digest)
    with writing(engine) as connection:
        row = _joined(connection, sessions.c.refresh_digest == digest)
        if row is not None:
            why = _live(connection, row, now_us, rules).why_ended(now_us, rules)
            if why is None:
                return _refreshed(connection, row, now_us, rules)
            end_session(connection, row["user_id"], why, now_us)
            refusal: Unauthenticated = SessionEnded(why, _SAYS[why], row["user_id"], is_new=True)
        else:
            refusal = _end_if_reused(connection, digest, now_us)
    raise refusal


def end_session(connection: Connection, user_id: str, why: Ended, now_us: int, *, session_id: str | None = None) -> bool:
    """End a user's session, if there is one (with `session_id`: if it is this one); part of the caller's transaction."""
    mine = sessions.c.user_id == user_id
    row = connection.execute(select(sessions).where(mine).with_for_update()).mappings().one_or_none()
    if row is None or (session_id is not None and row["id"] != session_id):
        return False
    connection.execute(delete(sessions).where(mine))
    _remember(connection, dict(row), why, now_us)
    return True


def sign_out(engine: Engine, token: str, *, now_us: int) -> str | None:
    """End the session with this access or refresh token; returns its user, or None when there is none."""
    digest = token_digest(token)
    either = (sessions.c.access_digest == digest) | (sessions.c.refresh_digest == digest)
    with reading(engine) as connection:  # first: what strangers send must not wait for the writer
        if _joined(connection, either) is None:
            return None
    with writing(engine) as connection:
        row = _joined(connection, either)
        if row is None:
            return None
        end_session(connection, row["user_id"], Ended.SIGNED_OUT, now_us)
        log_write(connection, Author(user_in_log(connection, row["name"]), None, now_us), "session.end", row["id"])
        return str(row["user_id"])


def _is_of_live(connection: Connection, refresh_digest: str) -> bool:
    """Whether a refresh token is, or once was, that of a session which is there still."""
    if _joined(connection, sessions.c.refresh_digest == refresh_digest) is not None:
        return True
    query = select(sessions.c.id).join(ended_sessions, ended_sessions.c.session_id == sessions.c.id)
    former = query.where(ended_sessions.c.refresh_digest == refresh_digest)
    return connection.execute(former).first() is not None


def _joined(connection: Connection, which: Any) -> Row | None:
    query = (
        select(sessions, users.c.name, users.c.must_change, users.c.password_changed_us, users.c.patient_key)
        .join(users, users.c.id == sessions.c.user_id)
        .where(which)
    )
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else dict(row)


def _live(connection: Connection, row: Row, now_us: int, rules: SessionRules) -> LiveSession:
    names = ("id", "user_id", "patient_key", "address", "begun_us", "active_us", "ends_us")
    user_id = row["user_id"]
    changes = (next_change_us(connection, user_id, now_us=now_us), rules.old_at_us(row))
    return LiveSession(
        **{name: row[name] for name in names}, user_name=row["name"], factors=_factors(row["factors"]),
        must_change=rules.must_change(row, now_us),
        grants=grants_of(connection, user_id, now_us=now_us), treats=treated_by(connection, user_id, now_us=now_us),
        changes_us=min((at_us for at_us in changes if at_us is not None and at_us > now_us), default=None),
    )  # fmt: skip


def _factors(kept: str) -> frozenset[Factor]:
    return frozenset(Factor(factor) for factor in kept.split())


def _refreshed(connection: Connection, row: Row, now_us: int, rules: SessionRules) -> NewSession:
    _remember(connection, row, Ended.REFRESHED, now_us)
    made, digests = _new_tokens(row["user_id"], row["ends_us"], must_change=rules.must_change(row, now_us))
    connection.execute(update(sessions).where(sessions.c.user_id == row["user_id"]).values(digests))
    return made


def _end_if_reused(connection: Connection, refresh_digest: str, now_us: int) -> Unauthenticated:
    """What to answer to a refresh token that opens nothing; ends the session that it belonged to."""
    which = ended_sessions.c.refresh_digest == refresh_digest
    former = connection.execute(select(ended_sessions).where(which)).mappings().one_or_none()
    if former is not None and former["why"] == Ended.REFRESHED:
        why = Ended.REFRESH_REUSED
        if end_session(connection, former["user_id"], why, now_us, session_id=former["session_id"]):
            log_write(connection, by_platform(_SAYS[why], now_us), "session.end", former["session_id"])
            return SessionEnded(why, _SAYS[why], former["user_id"], is_new=True)
    return _refusal(connection, which)


def _refusal(connection: Connection, which: Any) -> Unauthenticated:
    found = connection.execute(select(ended_sessions.c.why, ended_sessions.c.user_id).where(which)).one_or_none()
    if found is None:
        return Unauthenticated("the token is unknown, or its session ended long ago")
    return SessionEnded(found.why, _SAYS[Ended(found.why)], found.user_id)


def _new_tokens(user_id: str, ends_us: int, *, must_change: bool) -> tuple[NewSession, dict[str, str]]:
    access, access_digest = new_token(Prefix.SESSION)
    refresh, refresh_digest = new_token(Prefix.REFRESH)
    return (
        NewSession(user_id, access, refresh, ends_us, must_change),
        {"access_digest": access_digest, "refresh_digest": refresh_digest},
    )


def _remember(connection: Connection, row: Row, why: Ended, now_us: int) -> None:
    same = {name: row[name] for name in ("access_digest", "refresh_digest", "user_id")}
    connection.execute(insert(ended_sessions).values(**same, session_id=row["id"], why=why.value, at_us=now_us))


def _forget_old(connection: Connection, now_us: int, rules: SessionRules) -> None:
    """Tokens that were refreshed are known for as long as their session can last: one that comes twice must end it."""
    at_us, why = ended_sessions.c.at_us, ended_sessions.c.why
    may_live = (why == Ended.REFRESHED.value) & (at_us >= now_us - rules.lifetime_us)
    connection.execute(delete(ended_sessions).where(at_us < now_us - _TOLD_FOR_US, ~may_live))
