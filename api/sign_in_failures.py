"""Each failed sign-in on its way to the access log: noted in memory at once, on disk and in the log a moment later.

Whoever is refused waits for none of it, so that neither a slow log nor a full disk changes what a stranger is answered, or
when. Of an address (an IPv6 /64 is one) the first failures of a minute are told one by one; the rest of that minute is one
event with counts. So a flood of them cannot fill the log, nor memory while nothing can be written: then everything is
summed. Clauses 6.1b, 7.2a.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from domain.errors import Forbidden, SessionEnded, Unauthenticated, VitalgridError
from domain.failed_sign_ins import FailedSignIns, Failure, Means, Why, failed_sign_ins_event
from domain.instants import US_PER_S
from domain.peers import peer_of
from domain.ports import Clock
from runtime.access_journal import NewAccess
from runtime.outbox_relay import carry_for_ever
from runtime.sql.lockout import is_locked

logger = logging.getLogger(__name__)

WINDOW_US: Final = 60 * US_PER_S
SINGLY_OF_ADDRESS: Final = 5  # in a window
SINGLY: Final = 30  # in a window, of all addresses
SUMS: Final = 10  # in a window, by address; further addresses are summed together
ACCOUNTS: Final = 20  # that a sum names
WAITING: Final = 1_000  # events that memory may hold
_LOOK_S: Final = 0.2
_AT_ONCE: Final = 100
_AT_END_S: Final = 2.0


class Notes(Protocol):
    """What keeps events for the access log (`runtime.access_trail.AccessTrail`)."""

    async def note(self, *accesses: NewAccess) -> None:
        """Return once they are on disk. Raises Unavailable. One that comes again changes nothing."""
        ...


@dataclass(slots=True)
class Tried:
    """What is known of a sign-in under way: whose account it is for, and why it fails if it does now."""

    why: str = Why.UNKNOWN_ACCOUNT
    user_id: str | None = None

    def found(self, user: Mapping[str, Any], now_us: int) -> None:
        """There is such a user (a row of `users`)."""
        self.user_id = user["id"]
        if user["status"] != "active":
            self.why = Why.DISABLED
        else:
            self.why = Why.LOCKED if is_locked(user, now_us) else Why.WRONG_PASSWORD

    def was_right(self) -> None:
        """The password was: what fails now fails because of what happened meanwhile, unless the error says more."""
        self.why = Why.CHANGED


@dataclass(slots=True)
class _Sum:
    first_us: int
    last_us: int = 0
    counts: Counter[Failure] = field(default_factory=Counter)
    accounts: Counter[str] = field(default_factory=Counter)

    def add(self, failure: Failure, user_id: str | None, now_us: int) -> None:
        self.last_us = now_us
        self.counts[failure] += 1
        if user_id is not None and (user_id in self.accounts or len(self.accounts) < ACCOUNTS):
            self.accounts[user_id] += 1

    def told(self, address: str | None) -> FailedSignIns:
        return FailedSignIns(_new_id(), self.first_us, self.last_us, address, dict(self.counts), dict(self.accounts))


class SignInFailures:
    """See module. `site` is the region. Calls come from one event loop."""

    def __init__(self, notes: Notes, clock: Clock, site: str) -> None:
        self._notes = notes
        self._clock = clock
        self._site = site
        self._begun_us = clock.now_us()
        self._singly: Counter[str] = Counter()
        self._sums: dict[str | None, _Sum] = {}
        self._are_due = False  # their window is over
        self._waiting: deque[FailedSignIns] = deque()
        self._writing = asyncio.Lock()

    @contextlib.contextmanager
    def watched(self, means: Means, address: str, why: Why = Why.UNKNOWN_ACCOUNT) -> Iterator[Tried]:
        """A sign-in: when the block raises it has failed, and is told. `why`: if nothing more is known.

        A token of a session that ended is no sign-in: that session's end is told elsewhere.
        """
        tried = Tried(why)
        try:
            yield tried
        except SessionEnded:
            raise
        except BaseException as error:
            self.add(Failure(means, _why(error, tried)), address, tried.user_id)
            raise

    def add(self, failure: Failure, address: str, user_id: str | None) -> None:
        """One failed. Takes no time, and cannot fail."""
        now_us, peer = self._clock.now_us(), peer_of(address)
        self._look_at_the_time(now_us)
        if self._has_room_for(peer):
            self._singly[peer] += 1
            accounts = {} if user_id is None else {user_id: 1}
            self._waiting.append(FailedSignIns(_new_id(), now_us, now_us, address, {failure: 1}, accounts))
        else:
            self._sum_of(peer, now_us).add(failure, user_id, now_us)

    async def run(self) -> None:
        """Write for ever; a disk that is full is waited for."""
        await carry_for_ever(self.write, _AT_ONCE, "failed sign-ins for the access log", look_s=_LOOK_S)

    async def write(self) -> int:
        """Write what waits now, at most some; returns how many. Raises Unavailable, with all of it still waiting."""
        async with self._writing:
            self._look_at_the_time(self._clock.now_us())
            part = [self._waiting[number] for number in range(min(len(self._waiting), _AT_ONCE))]
            if part:
                events = [NewAccess(one.id, one.last_us, failed_sign_ins_event(one, self._site)) for one in part]
                await self._notes.note(*events)
                for _ in part:
                    self._waiting.popleft()
            return len(part)

    async def close(self) -> None:
        """Write all there is, sums too, if that goes soon."""
        self._cut()
        try:
            async with asyncio.timeout(_AT_END_S):
                while await self.write():
                    pass
        except (TimeoutError, VitalgridError) as error:
            logger.warning("failed sign-ins are missing from the access log: %s", error, extra={"events": len(self._waiting)})

    def _has_room_for(self, peer: str) -> bool:
        is_few = self._singly[peer] < SINGLY_OF_ADDRESS if peer in self._singly else True
        return is_few and self._singly.total() < SINGLY and len(self._waiting) < WAITING

    def _sum_of(self, peer: str, now_us: int) -> _Sum:
        key = peer if peer in self._sums or len(self._sums) < SUMS else None
        return self._sums.setdefault(key, _Sum(now_us))

    def _look_at_the_time(self, now_us: int) -> None:
        """End the window when it is over. While memory is full, its sums go on until there is room."""
        if not 0 <= now_us - self._begun_us < WINDOW_US:
            self._begun_us = now_us
            self._singly.clear()
            self._are_due = True
        if self._are_due and len(self._waiting) < WAITING:
            self._cut()

    def _cut(self) -> None:
        self._are_due = False
        self._waiting.extend(one.told(peer) for peer, one in self._sums.items())
        self._sums.clear()


def _why(error: BaseException, tried: Tried) -> str:
    """The error's own code, where the answer says it; else what only the log is told."""
    match error:
        case Unauthenticated(code=Unauthenticated.code) | Forbidden(code=Forbidden.code):
            return tried.why
        case VitalgridError():
            return error.code
        case Exception():
            return Why.BROKEN
        case _:
            return Why.ABANDONED


def _new_id() -> str:
    return f"s-{uuid.uuid4().hex}"
