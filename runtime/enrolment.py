"""Enrolment of devices, in the one process that may sign; doors, where strangers are, ask it over the bus."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

import msgspec
from sqlalchemy import Engine

from domain import subjects
from domain.claim_codes import parse_claim_code
from domain.enrolment import ClaimAsked, Enrolled, RenewalAsked, decode_asked
from domain.errors import Busy, TooManyAttempts, TooManyRequests, Unauthenticated
from domain.peers import peer_of
from domain.ports import Clock, Sender
from runtime.buckets import Buckets
from runtime.bus import Bus
from runtime.device_authority import DeviceAuthority, read_request
from runtime.sql.credentials import EnrolmentRules, claim, renew

_GUESSES: Final = 20  # of one peer, wrong or under way
_GUESS_US: Final = 6_000_000  # until it may make another
_RENEWALS: Final = 12  # of one device, in vain or not
_RENEWAL_US: Final = 30_000_000  # until it may ask for another
_MOST_RENEWING: Final = 32  # of all devices at once, each some milliseconds
_ANSWER_S: Final = 10.0


class Enrolments:
    """`domain.ports.Enrolment` over the business database; `answer` is a handler for `Bus.answer` on `subjects.ENROLMENT`.

    `changed` tells doors that a token was replaced: a connection that came with the old one is ended.
    """

    def __init__(
        self, engine: Engine, authority: DeviceAuthority, clock: Clock, rules: EnrolmentRules,
        changed: Callable[[], Awaitable[None]],
    ) -> None:  # fmt: skip
        self._engine = engine
        self._authority = authority
        self._clock = clock
        self._rules = rules
        self._changed = changed
        self._guesses = Buckets(clock.now_us, _GUESSES, _GUESS_US)
        self._under_way: Counter[str] = Counter()  # by peer: each may prove to be a wrong guess
        self._renewals = Buckets(clock.now_us, _RENEWALS, _RENEWAL_US)
        self._renewing = 0
        self._is_renewing = asyncio.Lock()  # they write one after the other anyway: several would only hold threads

    async def answer(self, payload: bytes, _subject: str) -> bytes:
        """Errors as of `claim` and `renew`."""
        asked = decode_asked(payload)
        if isinstance(asked, ClaimAsked):
            return msgspec.json.encode(await self.claim(asked.code, asked.request, asked.address))
        return msgspec.json.encode(await self._renewed(asked))

    async def claim(self, code: str, request: bytes, address: str) -> Enrolled:
        """As `domain.ports.Enrolment.claim`."""
        with self._guess(peer_of(address)):
            parse_claim_code(code)  # who mistyped it has not guessed
            given = await asyncio.to_thread(self._claim, code, request)
        if given.token is not None:
            with contextlib.suppress(Exception):  # the bus is away: doors look again within seconds
                await self._changed()
        return given

    async def renew(self, sender: Sender, request: bytes) -> Enrolled:
        """As `domain.ports.Enrolment.renew`."""
        return await self._renewed(RenewalAsked(sender.handle, sender.credentials, request))

    @contextlib.contextmanager
    def _guess(self, peer: str) -> Iterator[None]:
        if wait_us := self._guesses.wait_us(peer):
            raise TooManyAttempts(f"too many claim codes of your address were wrong: try again in {-(-wait_us // 10**6)} s")
        if self._guesses.wait_us(peer, self._under_way[peer] + 1):
            raise Busy("many claims of your address are under way: try again in a second")
        self._under_way[peer] += 1
        try:
            yield
        except Unauthenticated:
            self._guesses.take(peer)
            raise
        finally:
            self._under_way[peer] -= 1
            if not self._under_way[peer]:
                del self._under_way[peer]

    def _claim(self, code: str, request: bytes) -> Enrolled:
        asked, signer = (read_request(request), self._authority.signer()) if request else (None, None)
        return claim(self._engine, code, asked, signer, self._clock.now_us(), self._rules)

    async def _renewed(self, asked: RenewalAsked) -> Enrolled:
        def work() -> Enrolled:
            signer, now_us = self._authority.signer(), self._clock.now_us()
            return renew(self._engine, asked.handle, asked.shown, read_request(asked.request), signer, now_us, self._rules)

        if self._renewing >= _MOST_RENEWING:
            raise Busy("many certificates are being renewed: try again in a second")
        if wait_us := self._renewals.take(str(asked.handle)):
            raise TooManyRequests(
                f"a certificate of this device was asked for too often: try again in {-(-wait_us // 10**6)} s"
            )
        self._renewing += 1
        try:
            async with self._is_renewing:
                return await asyncio.to_thread(work)
        finally:
            self._renewing -= 1


class BusEnrolment:
    """`domain.ports.Enrolment`, asked of whoever answers on the bus."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def claim(self, code: str, request: bytes, address: str) -> Enrolled:
        return await self._ask(ClaimAsked(code, request, address))

    async def renew(self, sender: Sender, request: bytes) -> Enrolled:
        return await self._ask(RenewalAsked(sender.handle, sender.credentials, request))

    async def _ask(self, asked: ClaimAsked | RenewalAsked) -> Enrolled:
        said = await self._bus.ask(subjects.ENROLMENT, msgspec.json.encode(asked), _ANSWER_S)
        return msgspec.json.decode(said, type=Enrolled)
