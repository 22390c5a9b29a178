"""How much one address may get wrong, and one principal may ask: refused with 429 before it costs anything. Clause 9.1b.

An address (an IPv6 /64 is one) is charged for what is *not* believed: tokens that are unknown. Who has shown a good one here
before is let through whatever others do at the same address, so that neither a test of load from one machine nor a ward
behind one NAT is slowed by its own size. A principal is charged for what its requests cost, by path; of those that read the
lake at large only so many may run for it at once, and of the others only a few at a time are worked on. Sign-ins have a
measure of their own (`api.attempts`).
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from math import ceil
from typing import Final

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.auth import OPEN_PATHS, is_live
from api.errors import problem_response
from api.paths import PREFIX
from api.scope_keys import CALLER_KEY, END_TURN_KEY, GONE_KEY
from api.turns import Turns
from domain.bounded import keep_newest
from domain.errors import TooManyRequests
from domain.instants import US_PER_S
from domain.peers import peer_of
from runtime.buckets import Buckets

_CREDENTIALS: Final = (b"authorization", b"cookie")
_MOST_GOOD: Final = 20_000  # credentials that are remembered for having been good once
_MOST_UNPROVEN: Final = 4_096  # of one address at once: a ward, or a test of load, that begins anew
_PROBES: Final = frozenset({"/health", "/ready", "/metrics"})
_MOST_WAITING: Final = 1_000  # of one principal
_STREAMS_AT_ONCE: Final = 2  # of one principal begin: each is as much work as many simple questions
_STREAM_S: Final = 5  # until it is worth a try to open one more
LARGE: Final = 20
_COST_OF: Final[Mapping[str, int]] = {
    "/readings": 3,
    "/readings/by-patient": LARGE,
    "/readings/buckets": LARGE,
    "/readings/search": LARGE,
    "/aggregates/fleet": LARGE,
    "/fleets": LARGE,
    "/devices/import": LARGE,
    "/retention": LARGE,
}


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """As `runtime.settings.LimitSettings`."""

    failures: int = 200
    failures_a_s: float = 5.0
    cost: int = 50_000
    cost_a_s: float = 5_000.0
    at_once: int = 8
    large_at_once: int = 24
    live_streams: int = 256


def _monotonic_us() -> int:
    return time.monotonic_ns() // 1_000


class AddressLimit:
    """ASGI middleware before authentication: an address that shows too many tokens which are nobody's waits."""

    def __init__(self, app: ASGIApp, limits: RequestLimits) -> None:
        self._app = app
        self._failures = Buckets(_monotonic_us, limits.failures, round(US_PER_S / limits.failures_a_s))
        self._salt = secrets.token_bytes(16)
        self._unproven: Counter[str] = Counter()  # requests of which it is not known yet, by address
        self._good: dict[bytes, None] = {}  # digests of credentials, the oldest first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        credential = self._credential(scope)
        if credential in self._good:
            await self._believe(scope, receive, send, credential)
            return
        address = peer_of(scope["client"][0]) if scope.get("client") else ""
        if wait_us := self._failures.wait_us(address):
            await self._refuse(wait_us, scope, receive, send)
        elif self._unproven[address] >= _MOST_UNPROVEN:
            await self._refuse(US_PER_S, scope, receive, send)
        else:
            await self._prove(scope, receive, send, address, credential)

    async def _believe(self, scope: Scope, receive: Receive, send: Send, credential: bytes) -> None:
        """Let it through, and once it turned out to be nobody's any more not again.

        That of a browser is refused (403) too when another site's page makes use of it, which must not cost its user anything.
        """

        async def judged(message: Message) -> None:
            is_begun = message["type"] == "http.response.start"
            if is_begun and CALLER_KEY not in scope and message["status"] == HTTPStatus.UNAUTHORIZED:
                self._good.pop(credential, None)
            await send(message)

        await self._app(scope, receive, judged)

    async def _prove(self, scope: Scope, receive: Receive, send: Send, address: str, credential: bytes) -> None:
        """Once the answer begins it is known whether the token was somebody's. Of guesses that came together those that
        are beyond the measure are not told what they were.
        """
        self._unproven[address] += 1
        is_proven, wait_us = False, 0

        def proven() -> None:
            nonlocal is_proven
            if not is_proven:
                is_proven = True
                self._unproven[address] -= 1
                if not self._unproven[address]:
                    del self._unproven[address]

        async def judged(message: Message) -> None:
            nonlocal wait_us
            if message["type"] == "http.response.start":
                proven()
                if CALLER_KEY in scope:
                    keep_newest(self._good, credential, None, _MOST_GOOD)
                elif message["status"] < 500:
                    wait_us = self._failures.take(address)
            if not wait_us:
                await send(message)

        try:
            await self._app(scope, receive, judged)
        finally:
            proven()
        if wait_us:
            await self._refuse(wait_us, scope, receive, send)

    async def _refuse(self, wait_us: int, scope: Scope, receive: Receive, send: Send) -> None:
        error = TooManyRequests("too many requests of this address came without a good token: wait, then try again")
        await _refusal(error, wait_us, scope)(scope, receive, send)

    def _credential(self, scope: Scope) -> bytes:
        digest = hashlib.blake2b(key=self._salt, digest_size=16)
        for name, value in scope["headers"]:
            if name in _CREDENTIALS:
                digest.update(b"%d %b %b" % (len(value), name, value))
        return digest.digest()


class PrincipalLimit:
    """ASGI middleware behind authentication: nobody gets all of the platform, by number of requests or by their weight.

    A few requests of one principal are worked on at once; further ones wait their turn behind them, so that what another one
    asks stands behind few. A turn ends when the answer begins, or by `END_TURN_KEY`: who reads slowly holds up nobody. Of a
    request whose sender left while it waited nothing is done.

    A live stream costs as a large request when it begins, and so many may be open. Cost and turns of these are counted by
    themselves: a display of alarms that connects again does not stand behind what else is asked with its token.
    """

    def __init__(self, app: ASGIApp, limits: RequestLimits) -> None:
        self._app = app
        self._limits = limits
        self._costs = Buckets(_monotonic_us, limits.cost, max(1, round(US_PER_S / limits.cost_a_s)))
        self._large: Counter[str] = Counter()  # that run, by principal
        self._turns = Turns(limits.at_once)
        self._live = Counter[tuple[str, str]]()  # streams that are open or begin, by principal and path
        self._live_costs = Buckets(_monotonic_us, limits.cost, max(1, round(US_PER_S / limits.cost_a_s)))
        self._live_turns = Turns(_STREAMS_AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "").removeprefix(PREFIX)
        if CALLER_KEY not in scope or path in _PROBES:
            await self._app(scope, receive, send)
            return
        if is_live(scope):
            await self._stream(scope[CALLER_KEY].principal.id, path, scope, receive, send)
            return
        principal, cost = scope[CALLER_KEY].principal.id, _COST_OF.get(path, 1)
        if cost >= LARGE and self._large[principal] >= self._limits.large_at_once:
            said = f"{self._limits.large_at_once} large requests of yours run already: wait for one to be answered"
            await _refusal(TooManyRequests(said), US_PER_S, scope)(scope, receive, send)
        elif self._turns.waiting(principal) >= _MOST_WAITING:
            said = f"{_MOST_WAITING} requests of yours wait already: wait for some to be answered"
            await _refusal(TooManyRequests(said), US_PER_S, scope)(scope, receive, send)
        elif wait_us := self._costs.take(principal, cost):
            said = "your requests of the last seconds cost more than one caller may: wait, then go on"
            await _refusal(TooManyRequests(said), wait_us, scope)(scope, receive, send)
        elif cost >= LARGE:
            await self._one_large(principal, scope, receive, send)
        else:
            await self._in_turn(self._turns, principal, scope, receive, send)

    async def _stream(self, principal: str, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        if self._live[principal, path] >= self._limits.live_streams:
            said = f"{self._limits.live_streams} such live streams of yours are open already: close some, then try again"
            await _refusal(TooManyRequests(said), _STREAM_S * US_PER_S, scope)(scope, receive, send)
            return
        if wait_us := self._live_costs.take(principal, LARGE):
            said = "you began more live streams in the last seconds than one caller may: wait, then go on"
            await _refusal(TooManyRequests(said), wait_us, scope)(scope, receive, send)
            return
        self._live[principal, path] += 1
        try:
            await self._in_turn(self._live_turns, principal, scope, receive, send)
        finally:
            self._live[principal, path] -= 1
            if not self._live[principal, path]:
                del self._live[principal, path]

    async def _one_large(self, principal: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Those have a queue of their own (`runtime.large_questions`)."""
        self._large[principal] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._large[principal] -= 1
            if not self._large[principal]:
                del self._large[principal]

    async def _in_turn(self, turns: Turns, principal: str, scope: Scope, receive: Receive, send: Send) -> None:
        await turns.take(principal)
        has_turn = True

        def end_turn() -> None:
            nonlocal has_turn
            if has_turn:
                has_turn = False
                turns.give_back(principal)

        async def begun(message: Message) -> None:
            end_turn()
            await send(message)

        scope[END_TURN_KEY] = end_turn
        try:
            if GONE_KEY in scope and scope[GONE_KEY]():  # it left while it waited: others have not
                return
            await self._app(scope, receive, begun)
        finally:
            end_turn()


def _refusal(error: TooManyRequests, wait_us: int, scope: Scope) -> Response:
    refusal = problem_response(error, scope)
    refusal.headers["Retry-After"] = str(ceil(wait_us / US_PER_S))  # RFC 6585 4
    return refusal
