"""Signing in: passwords against sessions, in an order that tells a stranger nothing and costs the API little.

Before a password is hashed its address must have attempts left (`api.attempts`); hashing waits in a lane of its own; the
database is written after it, and looks again at what was read before. A name that nobody has, a locked or disabled
user and a wrong password take the same work and get the same answer. Clauses 5.4a, 7.2a, 7.2d.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import Engine, select

from api.attempts import Attempts
from api.lanes import Lanes
from api.sign_in_failures import SignInFailures, Tried
from domain.errors import Forbidden, InvalidInput, SessionEnded, Unauthenticated, VitalgridError
from domain.failed_sign_ins import Means, Why
from domain.ports import Clock
from domain.principals import Caller, Factor
from runtime.password_hashes import PasswordHashes
from runtime.password_policy import check_password, first_password
from runtime.second_factors import SecondFactors, Shown
from runtime.sql import second_factors, sessions, users
from runtime.sql.access import SERVICE_ACCESS_US, begin_service_access
from runtime.sql.engine import reading
from runtime.sql.lockout import LockRule
from runtime.sql.proofs import Proof
from runtime.sql.records import Author, Row
from runtime.sql.sessions import NOT_LET_IN, NewSession, SessionRules
from runtime.sql.tables import hospitals
from runtime.sql.users import FIRST_USER, KEPT_PASSWORDS, NOT_CHANGED, parse_user_name

logger = logging.getLogger(__name__)

_HOSPITALS: Final = 2_000  # whose names are held against a new password


@dataclass(frozen=True, slots=True)
class SignInRules:
    """How long sessions last, and when guessing ends."""

    session: SessionRules
    lock: LockRule


@dataclass(frozen=True, slots=True)
class Issued:
    """What who signed in gets. `must_change`: nothing but the password can be changed before it was."""

    access_token: str
    expires_in_s: int
    refresh_token: str | None = None
    must_change: bool = False


@dataclass(frozen=True, slots=True)
class Secrets:
    """What passwords and codes are checked with."""

    passwords: PasswordHashes
    second_factors: SecondFactors


@dataclass(frozen=True, slots=True)
class Listeners:
    """Who hears what comes of it: `changed` the id of each user whose session or password is another one now, `failures`
    each sign-in that fails.
    """

    changed: Callable[[str], Awaitable[None]]
    failures: SignInFailures


class SignIn:
    """See module."""

    def __init__(
        self, engine: Engine, secrets: Secrets, lanes: Lanes, clock: Clock, rules: SignInRules,
        listeners: Listeners, first_password_file: Path | None = None,
    ) -> None:  # fmt: skip
        self._engine = engine
        self._hashes = secrets.passwords
        self._factors = secrets.second_factors
        self._lanes = lanes
        self._clock = clock
        self._rules = rules
        self._changed = listeners.changed
        self.failures = listeners.failures
        self._first_password_file = first_password_file
        self.attempts = Attempts(clock)
        self._one_note = asyncio.Lock()
        self._noting: set[asyncio.Task[None]] = set()

    async def with_password(self, name: str, password: str, address: str, code: str = "") -> Issued:
        """Begin the user's session, and end the one they had. Raises Unauthenticated, TooManyAttempts, Busy.

        `code`: a one-time or recovery code, of a user who has a second factor. Only when the password was right it is
        told that one is missing (SecondFactorRequired) or wrong (SecondFactorWrong).
        """
        with self.failures.watched(Means.PASSWORD, address) as tried, self.attempts.password(address, name):
            self._lanes.hashing.check_room()
            user = await self._lanes.sql(self._find, name)
            if user is not None:
                tried.found(user, self._clock.now_us())
            if user is not None and not users.may_sign_in(user, self._clock.now_us()):
                # by their own scheme, as while they may; a right one takes no longer than a wrong one
                await self._lanes.hashing.run(self._hashes.check, password, user["password"])
                raise Unauthenticated(NOT_LET_IN)
            rehashed = await self._checked(user, password)
            if user is None:
                raise Unauthenticated(NOT_LET_IN)
            tried.was_right()
            await self.settled()  # so that guesses made at once are all counted before one of them lets somebody in
            shown = await self._lanes.sql(self.shown, user["id"], code) if code else None
            return await self._begin(user, user["password"], address, Proof(self._rules.lock, rehashed, shown))

    async def with_refresh(self, refresh_token: str, address: str) -> Issued:
        """New tokens for a session. Raises Unauthenticated, TooManyAttempts.

        A token that came before ends the session (SessionEnded).
        """
        now_us, rules = self._clock.now_us(), self._rules.session
        with self.failures.watched(Means.REFRESH, address, Why.WRONG_TOKEN), self.attempts.token(address):
            try:
                made = await self._lanes.sql(sessions.refresh_session, self._engine, refresh_token, now_us=now_us, rules=rules)
            except SessionEnded as ended:
                if ended.is_new:
                    await self._changed(ended.user_id)
                raise
            await self._changed(made.user_id)
            return self._issued(made)

    async def with_service_token(self, name: str, token: str, address: str) -> Issued:
        """A token for an hour, for a service that shows its own. Raises Unauthenticated, TooManyAttempts."""
        with self.failures.watched(Means.SERVICE, address, Why.WRONG_TOKEN), self.attempts.token(address):
            access = await self._lanes.sql(begin_service_access, self._engine, name, token, now_us=self._clock.now_us())
        return Issued(access, SERVICE_ACCESS_US // 1_000_000)

    async def sign_out(self, token: str, address: str) -> None:
        """End the session with this access or refresh token, if there is one. Raises TooManyAttempts."""
        with contextlib.suppress(Unauthenticated), self.attempts.token(address):
            user_id = await self._lanes.sql(sessions.sign_out, self._engine, token, now_us=self._clock.now_us())
            if user_id is None:
                raise Unauthenticated("the token opens no session")
            await self._changed(user_id)

    async def change_password(self, caller: Caller, present: str, new: str, address: str) -> Issued:
        """Replace a user's own password and begin a new session.

        Raises Forbidden when `present` is wrong (which counts as a failed sign-in), InvalidInput when the new one is
        not good enough or was in use before, TooManyAttempts, Busy.
        """
        with self.attempts.password(
            address, caller.principal.name
        ):  # counted too when the new password is refused: to estimate it costs work
            user = await self.present(caller, present, address)
            stored = await self._stored(user, new)
            author = Author(caller.principal.in_log, None, self._clock.now_us())
            await self._lanes.sql(
                users.set_password, self._engine, author, user["name"], stored, must_change=False, instead_of=user["password"]
            )
            await self._changed(user["id"])  # whatever comes now, the former session has ended
            self._forget_first_password(user["name"])
            proof = Proof(self._rules.lock, was_shown=Factor.TOTP in caller.factors)
            return await self._begin(user, stored, address, proof)

    @property
    def lock(self) -> LockRule:
        """When guessing ends."""
        return self._rules.lock

    async def settled(self) -> None:
        """Wait until each failure that was answered is counted."""
        await asyncio.gather(*self._noting)

    async def first_password(self) -> tuple[str, str]:
        """A password for somebody's next sign-in, and what is stored of it. Raises Busy."""
        password = first_password()
        return password, await self._lanes.hashing.run(self._hashes.make, password)

    async def present(self, caller: Caller, password: str, address: str) -> Row:
        """The caller's own row, as `password` opens it. Raises Forbidden, and counts and tells what is wrong; Busy."""
        with self.failures.watched(Means.AGAIN, address) as tried:
            return await self._present(caller, password, tried)

    async def _present(self, caller: Caller, password: str, tried: Tried) -> Row:
        await self.settled()
        user = await self._lanes.sql(self._find, caller.principal.name)
        is_theirs = user is not None and user["id"] == caller.principal.id  # a token has none, whatever its name
        if user is not None and is_theirs:
            tried.found(user, self._clock.now_us())
        if user is None or not is_theirs or not users.may_sign_in(user, self._clock.now_us()):
            raise Forbidden(NOT_CHANGED)
        try:
            await self._checked(user, password)
        except Unauthenticated:
            raise Forbidden("the present password is another one") from None
        await self.settled()  # guesses made at once are all counted before one of them changes anything
        return user

    def shown(self, user_id: str, code: str) -> Shown:
        """What a code shows of a user. Blocks: it reads the database and a key."""
        row = second_factors.find(self._engine, user_id)
        return Shown() if row is None else self._factors.shown(user_id, row["seed"], code, self._clock.now_us())

    async def _stored(self, user: Row, new: str) -> str:
        """What is stored of a new password. Raises InvalidInput, Busy."""
        guessed = await self._lanes.sql(self._hospital_words)
        await self._lanes.estimating.run(check_password, new, user_name=user["name"], also=guessed)
        former = await self._lanes.sql(users.kept_passwords, self._engine, user["id"])
        return await self._lanes.hashing.run(self._new, new, former)

    def _forget_first_password(self, name: str) -> None:
        if name != FIRST_USER or self._first_password_file is None:
            return
        try:
            self._first_password_file.unlink(missing_ok=True)
        except OSError as error:  # it opens nothing any more
            logger.warning("the file with the first password could not be removed: %s", error)

    def _find(self, name: str) -> Row | None:
        try:
            return users.find_for_sign_in(self._engine, parse_user_name(name))
        except InvalidInput:  # no user can have such a name
            return None

    async def _checked(self, user: Row | None, password: str) -> str | None:
        """Its hash made anew if it is right and outdated. Raises Unauthenticated, and counts it, when it is wrong."""
        stored = None if user is None else user["password"]
        is_right, rehashed = await self._lanes.hashing.run(self._check, password, stored)
        if not is_right:
            if user is not None:  # not waited for: how long the answer takes must not tell that there is one
                noting = asyncio.create_task(self._note_failure(user["id"]), name="note a failed sign-in")
                self._noting.add(noting)
                noting.add_done_callback(self._noting.discard)
            raise Unauthenticated(NOT_LET_IN)
        return rehashed

    async def _note_failure(self, user_id: str) -> None:
        now_us = self._clock.now_us()
        try:
            async with self._one_note:  # while the database is busy guessing holds one of its threads, not all
                await self._lanes.sql(users.note_failure, self._engine, user_id, self._rules.lock, now_us=now_us)
        except VitalgridError as error:
            logger.warning("a failed sign-in could not be counted: %s", error)

    def _check(self, password: str, stored: str | None) -> tuple[bool, str | None]:
        if not self._hashes.check(password, stored) or stored is None:
            return False, None
        return True, self._hashes.make(password) if self._hashes.is_outdated(stored) else None

    def _new(self, password: str, former: list[str]) -> str:
        if any(self._hashes.check(password, stored) for stored in former):
            raise InvalidInput(f"the password is one of the last {KEPT_PASSWORDS} of this user: take a new one")
        return self._hashes.make(password)

    async def _begin(self, user: Row, checked: str, address: str, proof: Proof) -> Issued:
        made = await self._lanes.sql(
            sessions.begin_session, self._engine, user["id"], checked=checked, address=address,
            now_us=self._clock.now_us(), rules=self._rules.session, proof=proof,
        )  # fmt: skip
        await self._changed(user["id"])
        return self._issued(made)

    def _issued(self, made: NewSession) -> Issued:
        left_s = (made.ends_us - self._clock.now_us()) // 1_000_000
        return Issued(made.access_token, left_s, made.refresh_token, made.must_change)

    def _hospital_words(self) -> list[str]:
        query = select(hospitals.c.id, hospitals.c.name).limit(_HOSPITALS)
        with reading(self._engine) as connection:
            return [word for row in connection.execute(query) for word in row]
