"""Each failed sign-in leaves a trace in the access log, a flood of them few, and nobody waits for it. Clauses 6.1b, 7.2a."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Engine

from api.attempts import BURST
from api.sign_in_failures import ACCOUNTS, SINGLY, SINGLY_OF_ADDRESS, SUMS, WAITING, WINDOW_US, SignInFailures
from domain.audit_reading import concerned, said
from domain.errors import AuditUnavailable, StorageFull, Unavailable
from domain.failed_sign_ins import SEVERAL, Failure, Means, Why
from runtime.access_journal import AccessJournal, NewAccess
from runtime.batches import NewMessage
from runtime.clock import ManualClock
from runtime.sql import second_factors, users
from runtime.tasks import end
from tests.sql_fixtures import ADA
from tests.unit.api.conftest import NoBus
from tests.unit.api.house import PASSWORD, House, ask, sign_in
from tests.unit.api.test_second_factor import code_of, set_up
from tests.waiting import until

WRONG = Failure(Means.PASSWORD, Why.WRONG_PASSWORD)
SECRETS = ("Xiaofang-typed-1", "hunter2 in the name field", "Öüäß")


class BusAway(NoBus):
    """Takes no notes of accesses: they stay in the journal."""

    async def publish_all(self, messages: Sequence[NewMessage]) -> None:
        raise Unavailable("the bus is away")


class Full(AccessJournal):
    """A journal whose disk is full for as long as `is_full`."""

    is_full = False

    def add(self, accesses: Sequence[NewAccess]) -> None:
        if self.is_full:
            raise StorageFull("no room")
        super().add(accesses)


@pytest.fixture
async def house(engine: Engine, clock: ManualClock, tmp_path: Path) -> AsyncIterator[House]:
    made = House(engine, clock, tmp_path, accesses=Full.open(tmp_path / "accesses.db"), bus=BusAway())
    async with made.app.router.lifespan_context(made.app):
        yield made
    made.accesses.close()


async def events(house: House) -> list[bytes]:
    """Of failed sign-ins, as they are on disk now."""
    while await house.app.state.backend.sign_in.failures.write():
        pass
    return [waiting.event for waiting in house.accesses.waiting(10**6) if b"sign-in.fail" in waiting.event]


def lines(found: list[bytes]) -> list[tuple[str, str, set[str]]]:
    """Who, why, and the accounts."""
    read = [(said(event), concerned(event), msgspec.json.decode(event)) for event in found]
    assert all(line is not None for line, _, _ in read)
    return [(line.who, event["outcomeDesc"], set(people.principals) - {line.who}) for line, people, event in read if line]


async def _password(house: House) -> None:
    await ask(house, grant_type="password", username="Li.Na", password=SECRETS[0])


async def _nobody(house: House) -> None:
    for typed in SECRETS:
        await ask(house, grant_type="password", username=typed, password=SECRETS[1])


async def _locked(house: House) -> None:
    users.disable_user(house.engine, ADA, "wang.wei")
    await ask(house, grant_type="password", username="wang.wei", password=PASSWORD)


async def _page(house: House) -> None:
    async with house.client() as client:
        headers = {"Origin": "http://test"}
        answer = await client.post("/login", data={"username": "li.na", "password": SECRETS[0]}, headers=headers)
        assert answer.status_code == 401


async def _service(house: House) -> None:
    await ask(house, grant_type="client_credentials", client_id=SECRETS[0], client_secret=SECRETS[1])
    async with house.client() as client:
        basic = base64.b64encode(f"{SECRETS[0]}:vgt_{SECRETS[1]}".encode()).decode()
        form = {"grant_type": "client_credentials"}
        await client.post("/oauth/token", data=form, headers={"Authorization": f"Basic {basic}"})


async def _refresh(house: House) -> None:
    await ask(house, grant_type="refresh_token", refresh_token=f"vgr_{SECRETS[0]}")


@pytest.mark.clause("6.1b", "7.2a", "9.3e")
@pytest.mark.parametrize(
    ("attempt", "expected", "account"),
    [
        (_password, ["wrong-password"], "li.na"), (_nobody, ["unknown-account"] * 3, None), (_locked, ["disabled"], "wang.wei"),
        (_page, ["wrong-password"], "li.na"), (_service, ["wrong-token"] * 2, None), (_refresh, ["wrong-token"], None),
    ],
)  # fmt: skip
async def test_a_failed_sign_in_is_noted_with_its_account_and_never_with_what_was_typed(
    house: House, attempt: Callable[[House], Awaitable[None]], expected: list[str], account: str | None
) -> None:
    await attempt(house)
    found = await events(house)
    ids = set() if account is None else {users.get_user(house.engine, account, now_us=ADA.now_us)["id"]}
    assert lines(found) == [("127.0.0.1", why, ids) for why in expected]
    for event in found:
        assert not any(typed.encode() in event for typed in (*SECRETS, "li.na", "Li.Na", "wang.wei"))


@pytest.mark.clause("6.1b", "7.2a")
async def test_second_factors_that_are_missing_or_wrong_are_noted_and_wrong_passwords_of_who_is_in(house: House) -> None:
    token = (await sign_in(house))["access_token"]
    secret, _ = await set_up(house, token)
    await ask(house, grant_type="password", username="li.na", password=PASSWORD)
    await ask(house, grant_type="password", username="li.na", password=PASSWORD, totp="000000")
    house.clock.advance(60)
    again = (await sign_in(house, totp=code_of(house, secret)))["access_token"]
    async with house.client(again) as client:
        body = {"present": SECRETS[0], "new": "seven rivers dance in umbrellas"}
        assert (await client.post("/api/v1/me/password", json=body)).status_code == 403
    user_id = users.get_user(house.engine, "li.na", now_us=ADA.now_us)["id"]
    expected = ["second-factor-required", "second-factor-wrong", "wrong-password"]
    assert lines(await events(house)) == [("127.0.0.1", why, {user_id}) for why in expected]
    assert second_factors.find(house.engine, user_id) is not None


@pytest.mark.clause("6.1b", "7.2a")
async def test_a_flood_of_one_address_is_few_events_and_none_is_missing_from_their_counts(house: House) -> None:
    for number in range(BURST + 30):
        await ask(house, grant_type="password", username=("li.na", "nobody")[number % 2], password="wrong")
    assert len(await events(house)) == SINGLY_OF_ADDRESS
    house.clock.advance(WINDOW_US / 1e6)
    found = await events(house)
    assert len(found) == SINGLY_OF_ADDRESS + 1
    counted = msgspec.json.decode(found[-1])
    assert counted["entity"][0]["detail"][0]["valueString"] == f"{BURST + 30 - SINGLY_OF_ADDRESS}"
    assert "30 password too-many-attempts" in counted["outcomeDesc"]
    assert set(counted["period"]) == {"start", "end"}
    assert lines(found)[-1][2] == {users.get_user(house.engine, "li.na", now_us=ADA.now_us)["id"]}


@pytest.mark.clause("6.1b", "7.2a")
async def test_neither_a_full_disk_nor_a_slow_one_changes_who_is_let_in_or_how_others_are_refused(house: House) -> None:
    usual = await ask(house, grant_type="password", username="nobody", password="wrong")
    house.accesses.is_full = True  # type: ignore[attr-defined]
    answers = [await ask(house, grant_type="password", username=name, password="wrong") for name in ("li.na", "nobody")]
    assert {(answer.status_code, answer.text) for answer in answers} == {(usual.status_code, usual.text)}
    assert await sign_in(house)
    with pytest.raises(AuditUnavailable):
        await house.app.state.backend.sign_in.failures.write()
    house.accesses.is_full = False  # type: ignore[attr-defined]
    assert [why for _, why, _ in lines(await events(house))] == ["unknown-account", "wrong-password", "unknown-account"]


async def test_they_reach_the_disk_by_themselves_and_at_the_end_what_was_summed_too(
    engine: Engine, clock: ManualClock, tmp_path: Path
) -> None:
    journal = AccessJournal.open(tmp_path / "accesses.db")
    house = House(engine, clock, tmp_path, accesses=journal, bus=BusAway())
    async with house.app.router.lifespan_context(house.app):
        for _ in range(SINGLY_OF_ADDRESS + 3):
            await ask(house, grant_type="password", username="nobody", password="wrong")
        await until(lambda: journal.count() == SINGLY_OF_ADDRESS)
    assert "3 password unknown-account" in said_last(journal)
    journal.close()


def said_last(journal: AccessJournal) -> str:
    return str(msgspec.json.decode(journal.waiting(10**6)[-1].event)["outcomeDesc"])


class Kept:
    """Keeps events in memory, unless it cannot; takes its time when it is told to."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.is_full = False
        self.may_go = asyncio.Event()
        self.may_go.set()

    async def note(self, *accesses: NewAccess) -> None:
        await self.may_go.wait()
        if self.is_full:
            raise AuditUnavailable("no room")
        self.events += [msgspec.json.decode(access.event) for access in accesses]

    def count(self) -> int:
        return sum(int(event["entity"][0]["detail"][0]["valueString"]) for event in self.events)


async def _all(failures: SignInFailures) -> None:
    while await failures.write():
        pass


@pytest.mark.clause("6.1b")
async def test_a_flood_from_everywhere_is_bounded_too(clock: ManualClock) -> None:
    kept = Kept()
    failures = SignInFailures(kept, clock, "sz")
    for number in range(20_000):
        failures.add(WRONG, f"2001:db8:0:{number:x}::1", f"u-{number}")
    clock.advance(61)
    await _all(failures)
    assert kept.count() == 20_000
    assert len(kept.events) == SINGLY + SUMS + 1
    rest = kept.events[-1]
    assert rest["agent"][0]["who"]["display"] == SEVERAL
    assert len(rest["entity"]) == 1 + ACCOUNTS


@pytest.mark.clause("6.1b")
async def test_who_has_an_ipv6_network_hides_no_others_behind_a_flood_of_its_addresses(clock: ManualClock) -> None:
    kept = Kept()
    failures = SignInFailures(kept, clock, "sz")
    for number in range(200):
        failures.add(WRONG, f"2001:db8::{number:x}", None)
    failures.add(WRONG, "10.0.0.1", None)
    clock.advance(61)
    await _all(failures)
    came_from = [event["agent"][0]["who"]["display"] for event in kept.events]
    assert came_from == [*(f"2001:db8::{number}" for number in range(SINGLY_OF_ADDRESS)), "10.0.0.1", "2001:db8::/64"]
    assert kept.count() == 201


@pytest.mark.clause("6.1b")
async def test_while_nothing_can_be_written_memory_is_bounded_and_counts_go_on(clock: ManualClock) -> None:
    kept = Kept()
    kept.is_full = True
    failures = SignInFailures(kept, clock, "sz")
    minutes, each = 60, 200
    for minute in range(minutes):
        for number in range(each):
            failures.add(WRONG, f"10.0.{minute}.{number}", None)
        clock.advance(61)
        with pytest.raises(AuditUnavailable):
            await failures.write()
    kept.is_full = False
    clock.advance(61)
    await _all(failures)
    assert kept.count() == minutes * each
    assert len(kept.events) < WAITING + 2 * (SUMS + 1)


async def test_what_fails_while_the_disk_is_slow_is_noted_behind_it_once(clock: ManualClock) -> None:
    kept = Kept()
    failures = SignInFailures(kept, clock, "sz")
    failures.add(WRONG, "10.0.0.1", None)
    kept.may_go.clear()
    writing = asyncio.create_task(failures.write())
    await asyncio.sleep(0)
    failures.add(WRONG, "10.0.0.2", None)
    kept.may_go.set()
    assert await writing == 1
    assert await failures.write() == 1
    assert [event["agent"][0]["who"]["display"] for event in kept.events] == ["10.0.0.1", "10.0.0.2"]


async def test_at_an_end_in_the_midst_of_writing_none_is_lost_or_kept_twice(clock: ManualClock, tmp_path: Path) -> None:
    from runtime.access_trail import AccessTrail  # noqa: PLC0415 (of this test alone)

    journal = AccessJournal.open(tmp_path / "accesses.db")
    failures = SignInFailures(AccessTrail(journal, BusAway(), lambda: None), clock, "sz")
    failures.add(WRONG, "10.0.0.1", "u-1")
    writing = asyncio.create_task(failures.write())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await end(writing)
    failures.add(WRONG, "10.0.0.2", "u-2")
    await failures.close()
    assert [said(event.event).who for event in journal.waiting(9)] == ["10.0.0.1", "10.0.0.2"]  # type: ignore[union-attr]
    journal.close()


async def test_who_does_not_wait_for_the_answer_is_noted_all_the_same(clock: ManualClock) -> None:
    kept = Kept()
    failures = SignInFailures(kept, clock, "sz")
    with pytest.raises(asyncio.CancelledError), failures.watched(Means.PASSWORD, "10.0.0.1"):
        raise asyncio.CancelledError
    with pytest.raises(ZeroDivisionError), failures.watched(Means.PASSWORD, "10.0.0.1"):
        raise ZeroDivisionError
    await _all(failures)
    assert [(event["outcomeDesc"], event["outcome"]) for event in kept.events] == [("abandoned", "4"), ("broken", "8")]
