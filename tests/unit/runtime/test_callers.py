"""Who holds a token: asked of the database seldom, and never remembered for long."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from domain.errors import Unauthenticated
from domain.principals import Kind, Place, Role
from runtime import callers
from runtime.callers import REMEMBER_S, SqlCallers
from runtime.sql import access
from tests.sql_fixtures import ADA


class Watch:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def known(engine: Engine, watch: Watch) -> SqlCallers:
    return SqlCallers(engine, "sz", watch)


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tokens that the database was asked about."""
    asked: list[str] = []

    def authenticate(engine: Engine, token: str) -> access.Row:
        asked.append(token)
        return access.authenticate(engine, token)

    monkeypatch.setattr(callers, "authenticate", authenticate)
    return asked


@pytest.mark.clause("5.4a")
async def test_the_holder_of_a_token_is_a_principal_with_its_role_in_the_whole_region(
    engine: Engine, known: SqlCallers
) -> None:
    caller = await known.caller_of(access.create_token(engine, ADA, "planner"))
    assert (caller.principal.kind, caller.principal.name) == (Kind.SERVICE, "planner")
    assert [(grant.role, grant.place) for grant in caller.grants] == [(Role.ADMINISTRATOR, Place("sz"))]


@pytest.mark.clause("5.4a")
async def test_a_revoked_token_stops_within_seconds(engine: Engine, known: SqlCallers, watch: Watch) -> None:
    token = access.create_token(engine, ADA, "planner")
    await known.caller_of(token)
    access.revoke_token(engine, ADA, "planner")
    watch.s += REMEMBER_S
    for _ in range(2):
        with pytest.raises(Unauthenticated):
            await known.caller_of(token)


async def test_a_holder_is_asked_for_once_and_a_stranger_each_time(
    engine: Engine, known: SqlCallers, questions: list[str]
) -> None:
    token = access.create_token(engine, ADA, "planner")
    for _ in range(3):
        await known.caller_of(token)
        with pytest.raises(Unauthenticated):
            await known.caller_of("wrong")
    assert questions == [token, "wrong", "wrong", "wrong"]


async def test_memory_is_bounded_and_the_oldest_goes_first(
    engine: Engine, known: SqlCallers, questions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callers, "MOST_REMEMBERED", 2)
    first, second, third = (access.create_token(engine, ADA, f"planner {n}") for n in range(3))
    for token in (first, second, third, third, second, first):
        await known.caller_of(token)
    assert questions == [first, second, third, first]


async def test_a_token_is_not_kept_in_memory(engine: Engine, known: SqlCallers) -> None:
    token = access.create_token(engine, ADA, "planner")
    await known.caller_of(token)
    assert token not in repr(vars(known))
