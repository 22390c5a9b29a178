"""How a user gets a second factor, and how it goes: with the present password, and with a code of it. Clauses 5.4a, 7.2a."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Engine

from api.lanes import Lanes
from api.sign_in import SignIn
from domain.errors import Conflict, Forbidden, InvalidInput, SecondFactorWrong
from domain.failed_sign_ins import Failure, Means
from domain.ports import Clock
from domain.principals import Caller
from runtime.second_factors import SecondFactors, new_recovery_codes, provisioning_uri, recovery_digest
from runtime.sql import second_factors
from runtime.sql.records import Author, Row

_PROPOSED_FOR_US: Final = 900_000_000


@dataclass(frozen=True, slots=True)
class Proposed:
    """What an authenticator app needs. Shown this once."""

    secret: str
    uri: str


@dataclass(frozen=True, slots=True)
class FactorState:
    """`since_us` None: there is no second factor."""

    since_us: int | None
    recovery_codes_left: int


class SecondFactorSetUp:
    """See module. `changed` is told the id of each user whose factors are others now; `issuer` stands in their app."""

    def __init__(
        self, engine: Engine, sign_in: SignIn, factors: SecondFactors, lanes: Lanes, clock: Clock,
        changed: Callable[[str], Awaitable[None]], *, issuer: str,
    ) -> None:  # fmt: skip
        self._engine = engine
        self._sign_in = sign_in
        self._factors = factors
        self._lanes = lanes
        self._clock = clock
        self._changed = changed
        self._issuer = issuer

    async def propose(self, caller: Caller, present: str, address: str) -> Proposed:
        """A secret for an authenticator app. Before a code of it confirmed it, in a quarter of an hour, it opens nothing.

        Raises Forbidden when `present`, the password, is wrong (which counts as a failed sign-in), Conflict when there is
        a second factor, TooManyAttempts, Busy.
        """
        with self._sign_in.attempts.password(address, caller.principal.name):
            user = await self._sign_in.present(caller, present, address)
            secret, sealed = await self._lanes.sql(self._factors.make, user["id"])
            await self._lanes.sql(second_factors.propose, self._engine, self._author(caller), user["id"], sealed)
            return Proposed(secret, provisioning_uri(secret, user["name"], self._issuer))

    async def confirm(self, caller: Caller, code: str, address: str) -> list[str]:
        """The proposed secret is the second factor, and this session has it; returns the recovery codes, this once.

        Raises InvalidInput for a wrong code, Conflict when nothing was proposed lately, TooManyAttempts.
        """
        user_id = caller.principal.id
        with self._sign_in.attempts.one(address):
            row = await self._proposed(caller)
            shown = await self._lanes.sql(self._factors.shown, user_id, row["seed"], code, self._clock.now_us())
            if shown.step is None:
                raise InvalidInput("the code is not the one of now: take the newest, and look whether the app's clock is right")
            codes = new_recovery_codes()
            await self._lanes.sql(
                second_factors.confirm, self._engine, self._author(caller), user_id, caller.session_id or "",
                seed=row["seed"], step=shown.step, recovery=[recovery_digest(user_id, each) for each in codes],
            )  # fmt: skip
            await self._changed(user_id)
            return codes

    async def remove(self, caller: Caller, present: str, code: str, address: str) -> None:
        """Take the second factor away. A wrong password or code counts as a failed sign-in.

        Raises Forbidden, Conflict when there is none, TooManyAttempts, Busy.
        """
        with self._sign_in.attempts.password(address, caller.principal.name):
            user = await self._sign_in.present(caller, present, address)
            if (await self.state(caller)).since_us is None:
                raise Conflict("there is no second factor to remove")
            shown = await self._lanes.sql(self._sign_in.shown, user["id"], code)
            author = self._author(caller)
            if not await self._lanes.sql(second_factors.remove, self._engine, author, user["id"], shown, self._sign_in.lock):
                self._sign_in.failures.add(Failure(Means.AGAIN, SecondFactorWrong.code), address, user["id"])
                raise Forbidden("the code is wrong, or was used before: wait for the next one")
            await self._changed(user["id"])

    async def state(self, caller: Caller) -> FactorState:
        """Whether the caller has a second factor."""
        row = await self._lanes.sql(second_factors.find, self._engine, caller.principal.id)
        if row is None or row["confirmed_us"] is None:
            return FactorState(None, 0)
        left = await self._lanes.sql(second_factors.recovery_codes_left, self._engine, caller.principal.id)
        return FactorState(row["confirmed_us"], left)

    async def _proposed(self, caller: Caller) -> Row:
        row = await self._lanes.sql(second_factors.find, self._engine, caller.principal.id)
        now_us = self._clock.now_us()
        if row is None or row["confirmed_us"] is not None or now_us - row["made_us"] >= _PROPOSED_FOR_US:
            raise Conflict("no second factor was begun in the last quarter of an hour: begin with the password")
        return row

    def _author(self, caller: Caller) -> Author:
        return Author(caller.principal.in_log, None, self._clock.now_us())
