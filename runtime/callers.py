"""Who calls the API, from the business database, with a short memory: a request is no query."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final
from weakref import WeakValueDictionary

from sqlalchemy import Engine

from domain.bounded import keep_newest
from domain.errors import Unauthenticated, Unavailable
from domain.ports import Clock
from domain.principals import Caller, Factor, Grant, Kind, Must, Place, Principal, Role
from runtime.security_profile import SecondFactorRule
from runtime.sql.access import authenticate, service_of
from runtime.sql.sessions import LiveSession, SessionRules, note_activity, session_of
from runtime.tokens import Prefix, token_digest

logger = logging.getLogger(__name__)

REMEMBER_S: Final = 10.0
MOST_REMEMBERED: Final = 10_000
LOOK_AGAIN_S: Final = 30.0  # at tokens that live streams hold


@dataclass(frozen=True, slots=True)
class _Kept:
    at_s: float
    caller: Caller
    session: LiveSession | None = None
    changes_us: int | None = None  # when it holds no longer as it stands


class SqlCallers:
    """`api.auth.Callers`: a holder of a token is remembered for some seconds, a refusal never, a token itself never.

    What becomes of a session, a user, a grant or a token in this process holds at once (`forget`), in another one as soon
    as the bus has told it; when the bus is away, within `REMEMBER_S`, and for live streams with the next look.
    """

    def __init__(
        self, engine: Engine, region_id: str, clock: Clock, rules: SessionRules, now_s: Callable[[], float] = time.monotonic,
        *, second_factor: SecondFactorRule = SecondFactorRule.NOBODY,
    ) -> None:  # fmt: skip
        self._engine = engine
        self._region = Place(region_id)
        self._clock = clock
        self._rules = rules
        self._second_factor = second_factor
        self._now_s = now_s
        self._kept: dict[str, _Kept] = {}  # by digest, the oldest first
        self._changes: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()  # of those that somebody waits for
        self._forgotten = 0  # how often: what was read before must not be remembered after

    async def caller_of(self, token: str, *, is_activity: bool = True) -> Caller:
        """The holder of `token`; raises Unauthenticated, and SessionEnded which says why.

        With `is_activity` a user's session counts as used: it begins to idle anew.
        """
        digest = token_digest(token)
        kept = self._kept.get(digest)
        if kept is None or not self._holds(kept):
            forgotten = self._forgotten
            kept = await asyncio.to_thread(self._ask, token)
            if forgotten == self._forgotten:
                keep_newest(self._kept, digest, kept, MOST_REMEMBERED)
        if kept.session is not None and is_activity:
            await self._note(digest, kept, kept.session)
        return kept.caller

    async def until_ended(self, token: str, caller: Caller) -> tuple[str, str] | None:
        """Why `token` is good no more, once it is: code and sentence. None once `caller` is to be judged anew.

        That is when they have something else than then.
        Asks when they are forgotten, and each `LOOK_AGAIN_S`.
        """
        while True:
            changed = self._changes.setdefault(caller.principal.id, asyncio.Event())  # first: nothing is missed meanwhile
            try:
                if await self.caller_of(token, is_activity=False) != caller:
                    return None
            except Unauthenticated as error:  # not itself: it holds on to all that led here
                return error.code, str(error)
            except Unavailable as error:  # nothing is known against it
                logger.info("a live stream goes on unasked: %s", error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_AGAIN_S):
                    await changed.wait()

    def forget(self, principal_id: str) -> None:
        """Ask anew for this principal."""
        self._forgotten += 1
        changed = self._changes.pop(principal_id, None)
        if changed is not None:
            changed.set()
        for digest in [digest for digest, kept in self._kept.items() if kept.caller.principal.id == principal_id]:
            del self._kept[digest]

    def _holds(self, kept: _Kept) -> bool:
        if self._now_s() - kept.at_s >= REMEMBER_S:
            return False
        now_us = self._clock.now_us()
        if kept.session is not None and kept.session.why_ended(now_us, self._rules) is not None:
            return False
        return kept.changes_us is None or now_us < kept.changes_us

    def _ask(self, token: str) -> _Kept:
        at_s, now_us = self._now_s(), self._clock.now_us()
        if token.startswith(Prefix.SESSION):
            session = session_of(self._engine, token, now_us=now_us, rules=self._rules)
            return _Kept(at_s, caller_of_session(session, self._second_factor), session, session.changes_us)
        if token.startswith(Prefix.SERVICE):
            row = service_of(self._engine, token, now_us=now_us)
        else:
            row = authenticate(self._engine, token, now_us=now_us)
        # names of tokens stay taken for ever, so that a name can be the id
        service = Principal(Kind.SERVICE, row["name"], row["name"])
        place = self._region if row["place"] is None else Place.parse(row["place"])
        caller = Caller(service, (Grant(Role(row["role"]), place),), factors=frozenset({Factor.TOKEN}))
        return _Kept(at_s, caller, changes_us=row.get("ends_us"))

    async def _note(self, digest: str, kept: _Kept, session: LiveSession) -> None:
        """Seldom, so that a request is no write."""
        now_us = self._clock.now_us()
        if now_us - session.active_us < self._rules.note_us:
            return
        if digest in self._kept:  # before the database is asked: requests that come together write once
            self._kept[digest] = replace(kept, session=replace(session, active_us=now_us))
        try:
            await asyncio.to_thread(note_activity, self._engine, session.id, now_us=now_us)
        except Unavailable as error:  # a full disk locks nobody out; it is tried again once the session is asked for anew
            logger.warning("what a user did could not be noted: %s", error)


def caller_of_session(session: LiveSession, second_factor: SecondFactorRule) -> Caller:
    """The user of a session, as they call."""
    return Caller(
        Principal(Kind.USER, session.user_id, session.user_name, is_patient=session.patient_key is not None), session.grants,
        session.id, _must(session, second_factor), session.factors, session.patient_key, session.treats,
    )  # fmt: skip


def _must(session: LiveSession, second_factor: SecondFactorRule) -> Must | None:
    """One duty after the other. Who has a second factor showed it when they signed in, so who did not has none."""
    if session.must_change:
        return Must.PASSWORD_CHANGE
    is_needed = second_factor.is_for({grant.role for grant in session.grants})
    return Must.SECOND_FACTOR if is_needed and Factor.TOTP not in session.factors else None
