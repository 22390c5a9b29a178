"""What costs an address one of its attempts, and what does not."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from api.attempts import BURST, REFILL_US, RIGHT_BURST, RIGHT_REFILL_US, Attempts
from domain.errors import (
    Busy,
    Forbidden,
    InvalidInput,
    SecondFactorRequired,
    SessionEnded,
    StorageFull,
    TooManyAttempts,
    Unauthenticated,
)
from runtime.clock import ManualClock


def fail(attempts: Attempts, error: BaseException) -> None:
    with pytest.raises(type(error)), attempts.one("10.0.0.7"):
        raise error


@pytest.mark.clause("7.2a")
@pytest.mark.parametrize("error", [
    Unauthenticated("wrong"), Forbidden("the present one is wrong"), InvalidInput("a bad new one"), asyncio.CancelledError(),
])  # fmt: skip
def test_what_is_wrong_costs_an_attempt_and_time_brings_it_back(error: BaseException) -> None:
    clock = ManualClock()
    attempts = Attempts(clock)
    for _ in range(BURST):
        fail(attempts, error)
    fail(attempts, TooManyAttempts("none left"))
    with attempts.one("10.0.0.8"):
        pass
    clock.advance(REFILL_US / 1e6)
    with attempts.one("10.0.0.7"):
        pass


@pytest.mark.clause("7.2a")
def test_who_has_a_network_of_addresses_has_the_attempts_of_one() -> None:
    attempts = Attempts(ManualClock())
    for number in range(BURST):
        with pytest.raises(Unauthenticated), attempts.one(f"2001:db8::{number}"):
            raise Unauthenticated("wrong")
        with pytest.raises(Unauthenticated), attempts.token(f"2001:db8::{number}"):
            raise Unauthenticated("wrong")
    with pytest.raises(TooManyAttempts), attempts.one("2001:db8::ffff"):
        pass
    with pytest.raises(TooManyAttempts), attempts.token("2001:db8::ffff"):
        pass
    with pytest.raises(TooManyAttempts), attempts.password("2001:db8::ffff", "li.na"):
        pass
    with attempts.one("2001:db8:0:1::1"):
        pass


@pytest.mark.parametrize("error", [
    Busy("a full queue"), StorageFull("a full disk"), RuntimeError("a defect"), SessionEnded("idle", "was good once", "u-1"),
])  # fmt: skip
def test_what_is_nobodys_guess_costs_none(error: Exception) -> None:
    attempts = Attempts(ManualClock())
    for _ in range(3 * BURST):
        fail(attempts, error)


def test_attempts_under_way_are_no_failures_and_few_hash_at_once() -> None:
    attempts = Attempts(ManualClock())
    with contextlib.ExitStack() as under_way:
        for _ in range(60):
            under_way.enter_context(attempts.token("10.0.0.7"))
        for name in ("li.na", "wang.wei"):
            under_way.enter_context(attempts.password("10.0.0.7", name))
        with pytest.raises(Busy), attempts.password("10.0.0.7", "zhao"):
            pass
        under_way.enter_context(attempts.password("10.0.0.8", "li.na"))
        with pytest.raises(Busy), attempts.password("10.0.0.9", "Li.Na "):
            pass
    with attempts.password("10.0.0.7", "zhao"):
        pass


def test_a_right_password_without_its_second_factor_is_work_too() -> None:
    clock = ManualClock()
    attempts = Attempts(clock)
    for number in range(RIGHT_BURST):
        with pytest.raises(SecondFactorRequired), attempts.password(f"10.0.0.{number}", "li.na"):
            raise SecondFactorRequired("one is missing")
    with pytest.raises(TooManyAttempts), attempts.password("10.0.1.1", "li.na"):
        pass
    clock.advance(RIGHT_REFILL_US / 1e6)
    with attempts.password("10.0.1.1", "li.na"):
        pass


@pytest.mark.clause("7.2a")
async def test_a_clock_that_is_set_back_keeps_nobody_out_for_longer_than_an_empty_bucket() -> None:
    clock = ManualClock()
    attempts = Attempts(clock)
    clock.advance(3_600)
    for _ in range(RIGHT_BURST):
        with attempts.password("10.0.0.7", "ada"):
            pass
    fail(attempts, Unauthenticated("wrong"))
    clock.advance(-3_600)
    fail(attempts, TooManyAttempts("none left"))
    with pytest.raises(TooManyAttempts), attempts.password("10.0.0.7", "ada"):
        pass
    clock.advance(max(REFILL_US, RIGHT_REFILL_US) / 1e6)
    with attempts.password("10.0.0.7", "ada"):
        pass
