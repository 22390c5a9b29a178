"""Who holds a token: asked of the database seldom, and never remembered for long."""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

import pytest
from sqlalchemy import Engine

from domain.errors import SessionEnded, StorageFull, Unauthenticated
from domain.principals import Grant, Kind, Place, Role
from runtime import callers
from runtime.callers import REMEMBER_S, SqlCallers
from runtime.clock import ManualClock
from runtime.sql import access, grants, sessions, users
from runtime.sql.sessions import SessionRules
from tests.sql_fixtures import ADA, MINUTE_US, NOW_US
from tests.waiting import until

RULES = SessionRules(15 * MINUTE_US, 720 * MINUTE_US)


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
    return SqlCallers(engine, "sz", ManualClock(NOW_US), RULES, watch)


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tokens that the database was asked about."""
    asked: list[str] = []

    def authenticate(engine: Engine, token: str, *, now_us: int) -> access.Row:
        asked.append(token)
        return access.authenticate(engine, token, now_us=now_us)

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
    token = access.create_token(engine, ADA, "planner", Role.CAPACITY_PLANNER)
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


@pytest.fixture
def session(engine: Engine) -> sessions.NewSession:
    user = users.create_user(engine, ADA, "li.na", "stored")
    return sessions.begin_session(engine, user["id"], checked="stored", address="here", now_us=NOW_US, rules=RULES)


@pytest.mark.clause("7.2d")
async def test_what_was_read_before_a_session_ended_is_not_remembered_after(
    engine: Engine, known: SqlCallers, session: sessions.NewSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended_meanwhile(engine: Engine, token: str, **more: Any) -> sessions.LiveSession:
        live = sessions.session_of(engine, token, **more)
        sessions.sign_out(engine, token, now_us=NOW_US)
        known.forget(live.user_id)
        return live

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(callers, "session_of", ended_meanwhile)
        assert (await known.caller_of(session.access_token)).session_id  # it came just before
    with pytest.raises(SessionEnded):
        await known.caller_of(session.access_token)


async def test_activity_is_written_seldom_and_by_one_of_many_requests(
    engine: Engine, known: SqlCallers, session: sessions.NewSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[int] = []
    monkeypatch.setattr(callers, "note_activity", lambda _engine, _id, *, now_us: noted.append(now_us))
    clock = known._clock
    assert isinstance(clock, ManualClock)
    for step_s in (0, 29, 1, 0, 29, 1):
        clock.advance(step_s)
        await asyncio.gather(*(known.caller_of(session.access_token) for _ in range(3)))
        await known.caller_of(session.access_token, is_activity=False)
    assert noted == [NOW_US + 30_000_000, NOW_US + 60_000_000]


@pytest.mark.clause("7.2d")
async def test_whoever_waits_for_the_end_of_a_session_hears_of_it_at_once(
    engine: Engine, known: SqlCallers, session: sessions.NewSession
) -> None:
    caller = await known.caller_of(session.access_token)
    waiting = asyncio.create_task(known.until_ended(session.access_token, caller))
    known.forget("somebody-else")
    known.forget(session.user_id)  # something else became of the user
    await asyncio.wait({waiting}, timeout=0.2)
    assert not waiting.done()
    sessions.sign_out(engine, session.access_token, now_us=NOW_US)
    known.forget(session.user_id)
    why = await asyncio.wait_for(waiting, 10)
    assert why is not None
    assert why[0].startswith("session-")
    await asyncio.wait_for(known.until_ended(session.access_token, caller), 10)  # who comes late too
    await until(lambda: not known._changes)  # a thread may hold the last refusal, and who waited for it, a moment longer


@pytest.mark.clause("9.3b")
async def test_whoever_waits_hears_at_once_that_they_have_something_else(
    engine: Engine, known: SqlCallers, session: sessions.NewSession
) -> None:
    caller = await known.caller_of(session.access_token)
    waiting = asyncio.create_task(known.until_ended(session.access_token, caller))
    grants.give(engine, ADA, "li.na", Grant(Role.HEALTH_COMMISSION, Place("sz")))
    known.forget(session.user_id)
    assert await asyncio.wait_for(waiting, 10) is None
    assert (await known.caller_of(session.access_token)).grants == (Grant(Role.HEALTH_COMMISSION, Place("sz")),)


@pytest.mark.clause("9.3b")
async def test_a_grant_that_ends_by_itself_is_not_remembered_beyond_that(
    engine: Engine, known: SqlCallers, session: sessions.NewSession
) -> None:
    ends_us = NOW_US + MINUTE_US
    grants.give(engine, ADA, "li.na", Grant(Role.HEALTH_COMMISSION, Place("sz"), until_us=ends_us))
    assert (await known.caller_of(session.access_token)).grants[0].until_us == ends_us
    clock = known._clock
    assert isinstance(clock, ManualClock)
    clock.advance(60)
    assert (await known.caller_of(session.access_token)).grants == ()


@pytest.mark.clause("7.2d")
async def test_whoever_waits_hears_of_idling_and_revocation_too_a_little_later(
    engine: Engine, known: SqlCallers, watch: Watch, session: sessions.NewSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callers, "LOOK_AGAIN_S", 0.05)
    token = access.create_token(engine, ADA, "planner", Role.CAPACITY_PLANNER)
    waiting = [
        asyncio.create_task(known.until_ended(each, await known.caller_of(each))) for each in (session.access_token, token)
    ]
    await asyncio.wait(waiting, timeout=0.2)
    assert not any(task.done() for task in waiting)
    access.revoke_token(engine, ADA, "planner")
    watch.s += REMEMBER_S
    clock = known._clock
    assert isinstance(clock, ManualClock)
    clock.advance(15 * 60)
    await asyncio.wait_for(asyncio.gather(*waiting), 10)


@pytest.mark.clause("5.4a")
async def test_a_database_that_cannot_write_locks_nobody_out_and_lets_nobody_stay(
    engine: Engine, known: SqlCallers, session: sessions.NewSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_engine: Engine) -> NoReturn:
        raise StorageFull("the disk is full")

    token = access.create_token(engine, ADA, "planner")
    for module in (access, sessions):
        monkeypatch.setattr(module, "writing", full)
    clock = known._clock
    assert isinstance(clock, ManualClock)
    clock.advance(60)  # so that there is something to note of both
    assert (await known.caller_of(token)).principal.name == "planner"
    assert (await known.caller_of(session.access_token)).principal.name == "li.na"
    clock.advance(15 * 60)
    with pytest.raises(SessionEnded) as refused:
        await known.caller_of(session.access_token)
    assert refused.value.code == "session-idle"
