"""An application in which users sign in, over a real database, for tests."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from sqlalchemy import Engine

from api.app import create_app
from api.sign_in import SignInRules
from domain.principals import Grant, Place, Role
from runtime.access_journal import IN_MEMORY, AccessJournal
from runtime.callers import SqlCallers
from runtime.clock import ManualClock
from runtime.keys import make_missing
from runtime.password_hashes import PasswordHashes
from runtime.second_factors import SecondFactors
from runtime.security_profile import SecondFactorRule
from runtime.soft_keys import SoftKeys
from runtime.sql import users
from runtime.sql.lockout import LockRule
from runtime.sql.sessions import SessionRules
from tests.sql_fixtures import ADA
from tests.unit.api.conftest import NoBus, client_of, services_of

MINUTE_US = 60_000_000
RULES = SignInRules(SessionRules(15 * MINUTE_US, 720 * MINUTE_US), LockRule(5, 15 * MINUTE_US))
PASSWORD = "four unrelated small words"
NEW_PASSWORD = "seven rivers dance in umbrellas"


@dataclass
class House:
    """An application over a real database with users li.na (an administrator) and wang.wei (who was given nothing)."""

    engine: Engine
    clock: ManualClock
    folder: Path
    second_factor: SecondFactorRule = SecondFactorRule.NOBODY
    accesses: AccessJournal = field(default_factory=lambda: AccessJournal.open(IN_MEMORY))
    bus: NoBus = field(default_factory=NoBus)
    app: FastAPI = field(init=False)
    checks: list[bool] = field(default_factory=list)  # of each check of a password: was anything stored?

    def __post_init__(self) -> None:
        keys = SoftKeys(self.folder / "keys")
        make_missing(keys, ["pepper", "totp"])
        self.hashes = PasswordHashes(keys, iterations=1_000)
        self._count_checks()
        stored = self.hashes.make(PASSWORD)
        for name, given in (("li.na", [Grant(Role.ADMINISTRATOR, Place("sz"))]), ("wang.wei", [])):
            users.create_user(self.engine, ADA, name, stored, *given)
            users.set_password(self.engine, ADA, name, stored, must_change=False)
        self.app = create_app(services_of(
            engine=self.engine, clock=self.clock, second_factors=SecondFactors(keys),
            callers=SqlCallers(self.engine, "sz", self.clock, RULES.session, second_factor=self.second_factor),
            passwords=self.hashes, sign_in_rules=RULES, first_password_file=self.folder / "first-password",
            accesses=self.accesses, bus=self.bus,
        ), background=False)  # fmt: skip

    def _count_checks(self) -> None:
        check = self.hashes.check

        def counted(password: str, stored: str | None) -> bool:
            self.checks.append(stored is not None)
            return check(password, stored)

        self.hashes.check = counted  # type: ignore[method-assign]

    async def settled(self) -> None:
        await self.app.state.backend.sign_in.settled()

    def client(self, token: str | None = None, *, under: str = "/", **more: Any) -> httpx.AsyncClient:
        client = client_of(self.app, token, under=under)
        client.headers.update(more)
        return client


@contextlib.asynccontextmanager
async def open_house(
    engine: Engine, clock: ManualClock, folder: Path, second_factor: SecondFactorRule = SecondFactorRule.NOBODY
) -> AsyncIterator[House]:
    """A house whose application runs."""
    made = House(engine, clock, folder, second_factor)
    async with made.app.router.lifespan_context(made.app):
        yield made


async def ask(house: House, path: str = "/oauth/token", **form: str) -> httpx.Response:
    async with house.client() as client:
        return await client.post(path, data=form)


async def sign_in(house: House, name: str = "li.na", password: str = PASSWORD, **more: str) -> dict[str, Any]:
    answer = await ask(house, grant_type="password", username=name, password=password, **more)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def get(house: House, token: str, path: str = "/api/v1/me", **headers: str) -> tuple[int, str]:
    """The status, and the problem's code."""
    async with house.client(token) as client:
        answer = await client.get(path, headers=headers)
    return answer.status_code, answer.json().get("code", "") if answer.content else ""
