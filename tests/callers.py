"""Who calls in tests of the API, in one place."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from domain.errors import Unauthenticated
from domain.principals import Caller, Factor, Grant, Kind, Place, Principal, Role

TOKEN = "a-token-of-the-tests"
TOKEN_OF_NOBODY = "a-token-that-opens-nothing"
ADMINISTRATOR = Caller(Principal(Kind.SERVICE, "s-tests", "ada"), (Grant(Role.ADMINISTRATOR, Place("sz")),))
NOBODY = Caller(Principal(Kind.USER, "u-nobody", "eve"), ())  # known, and given nothing


def caller_as(text: str, patient_key: str | None = None) -> Caller:
    """Who is one thing at one place: `nurse@sz.h001/icu`."""
    role, _, place = text.partition("@")
    grant = Grant(Role(role), Place.parse(place))
    return Caller(Principal(Kind.USER, text, text), (grant,), factors=frozenset({Factor.PASSWORD}), patient_key=patient_key)


class KnownCallers:
    """`api.auth.Callers` that knows these tokens, those of `caller_as`, and no others."""

    def __init__(self, holders: Mapping[str, Caller]) -> None:
        self._holders = holders

    async def caller_of(self, token: str, *, is_activity: bool = True) -> Caller:
        if token not in self._holders and "@" in token:
            return caller_as(token)
        if token not in self._holders:
            raise Unauthenticated("the token is unknown or was revoked")
        return self._holders[token]

    async def until_ended(self, token: str, caller: Caller) -> tuple[str, str] | None:
        await asyncio.Event().wait()
        return None

    def forget(self, principal_id: str) -> None:
        pass
