"""Who calls the API, from the business database, with a short memory: a request is no query."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from sqlalchemy import Engine

from domain.principals import Caller, Grant, Kind, Place, Principal, Role
from runtime.sql.access import authenticate
from runtime.tokens import token_digest

REMEMBER_S: Final = 10.0
MOST_REMEMBERED: Final = 10_000


class SqlCallers:
    """`api.auth.Callers`: a holder of a token is remembered for some seconds, a refusal never, a token itself never."""

    def __init__(self, engine: Engine, region_id: str, now_s: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._region = Place(region_id)
        self._now_s = now_s
        self._kept: dict[str, tuple[float, Caller]] = {}  # by digest, the oldest first

    async def caller_of(self, token: str) -> Caller:
        """The holder of `token`; raises Unauthenticated. A revoked token stops working within `REMEMBER_S`."""
        digest, now_s = token_digest(token), self._now_s()
        kept = self._kept.get(digest)
        if kept is not None and now_s - kept[0] < REMEMBER_S:
            return kept[1]
        row = await asyncio.to_thread(authenticate, self._engine, token)
        # names of tokens stay taken for ever, so that a name can be the id
        caller = Caller(Principal(Kind.SERVICE, row["name"], row["name"]), (Grant(Role(row["role"]), self._region),))
        self._remember(digest, now_s, caller)
        return caller

    def _remember(self, digest: str, now_s: float, caller: Caller) -> None:
        self._kept.pop(digest, None)
        while len(self._kept) >= MOST_REMEMBERED:
            del self._kept[next(iter(self._kept))]
        self._kept[digest] = (now_s, caller)
