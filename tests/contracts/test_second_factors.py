"""A code is taken once, a recovery code too, and wrong ones lock, on both databases. Clauses 5.4a, 7.2a."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import Engine

from domain.errors import Conflict, NotFound, SecondFactorRequired, SecondFactorWrong, Unauthenticated
from domain.principals import Factor
from runtime.sealing import Sealer
from runtime.second_factors import Shown
from runtime.sql import access, second_factors, sessions, users
from runtime.sql.engine import open_engine
from runtime.sql.identity_tables import recovery_codes
from runtime.sql.lockout import LockRule
from runtime.sql.proofs import Proof
from runtime.sql.records import Row
from runtime.sql.sessions import NewSession, SessionRules
from tests.sql_fixtures import ADA, MINUTE_US, NOW_US, count

RULES = SessionRules(idle_us=15 * MINUTE_US, lifetime_us=720 * MINUTE_US)
LOCK = LockRule(failures=5, lock_us=15 * MINUTE_US)
STORED = "a stored password"
SEED = b"a sealed seed"
STEP = NOW_US // 30_000_000


@pytest.fixture
def lina(engine: Engine) -> Row:
    return users.create_user(engine, ADA, "li.na", STORED)


@pytest.fixture
def factor(engine: Engine, lina: Row) -> NewSession:
    """The session in which li.na confirmed a factor with the code of STEP."""
    made = begin(engine, lina)
    second_factors.propose(engine, ADA, lina["id"], SEED)
    confirm(engine, lina, made)
    return made


def begin(engine: Engine, user: Row, shown: Shown | None = None, now_us: int = NOW_US) -> NewSession:
    proof = Proof(LOCK, shown=shown)
    return sessions.begin_session(
        engine, user["id"], checked=STORED, address="10.0.0.7", now_us=now_us, rules=RULES, proof=proof
    )


def confirm(engine: Engine, user: Row, session: NewSession, seed: bytes = SEED) -> None:
    session_id = sessions.session_of(engine, session.access_token, now_us=NOW_US, rules=RULES).id
    codes = ["first", "second"]
    second_factors.confirm(engine, ADA, user["id"], session_id, seed=seed, step=STEP, recovery=codes)


def factors(engine: Engine, session: NewSession) -> set[Factor]:
    return set(sessions.session_of(engine, session.access_token, now_us=NOW_US, rules=RULES).factors)


@pytest.mark.clause("5.4a")
def test_who_confirmed_a_factor_is_let_in_with_it_only(engine: Engine, lina: Row, factor: NewSession) -> None:
    assert factors(engine, factor) == {Factor.PASSWORD, Factor.TOTP}
    with pytest.raises(SecondFactorRequired):
        begin(engine, lina)
    with pytest.raises(SecondFactorWrong):
        begin(engine, lina, Shown())
    assert factors(engine, factor)  # the session that is there goes on
    assert factors(engine, begin(engine, lina, Shown(step=STEP + 1))) == {Factor.PASSWORD, Factor.TOTP}


@pytest.mark.clause("7.2a")
def test_a_factor_that_is_not_confirmed_opens_nothing_and_is_asked_of_nobody(engine: Engine, lina: Row) -> None:
    second_factors.propose(engine, ADA, lina["id"], SEED)
    session = begin(engine, lina, Shown(step=STEP))
    assert factors(engine, session) == {Factor.PASSWORD}
    second_factors.propose(engine, ADA, lina["id"], b"another")
    with pytest.raises(Conflict):
        confirm(engine, lina, session)  # of the seed that was replaced
    assert factors(engine, session) == {Factor.PASSWORD}
    confirm(engine, lina, session, b"another")
    for again in (lambda: second_factors.propose(engine, ADA, lina["id"], SEED), lambda: confirm(engine, lina, session)):
        with pytest.raises(Conflict):
            again()


@pytest.mark.clause("7.2a")
def test_a_code_and_all_before_it_are_good_no_more_once_it_was_taken(engine: Engine, lina: Row, factor: NewSession) -> None:
    for step, is_good in ((STEP, False), (STEP + 2, True), (STEP + 2, False), (STEP + 1, False), (STEP + 3, True)):
        if is_good:
            begin(engine, lina, Shown(step=step))
        else:
            with pytest.raises(SecondFactorWrong):
                begin(engine, lina, Shown(step=step))


@pytest.mark.clause("7.2a")
@pytest.mark.parametrize("shown", [Shown(step=STEP + 1), Shown(recovery_digest="first")], ids=["code", "recovery code"])
def test_a_code_is_taken_once_even_in_parallel(
    engine: Engine, sealer: Sealer, lina: Row, factor: NewSession, shown: Shown
) -> None:
    told: list[str] = []
    together = threading.Barrier(12)
    others = [open_engine(engine.url.render_as_string(hide_password=False), sealer) for _ in range(2)]  # as two processes

    def sign_in(number: int) -> None:
        together.wait(30)
        try:
            begin(others[number % 2], lina, shown)
            told.append("in")
        except Unauthenticated as error:
            told.append(error.code)

    threads = [threading.Thread(target=sign_in, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for other in others:
        other.dispose()
    assert (len(told), told.count("in")) == (12, 1)
    assert users.get_user(engine, "li.na", now_us=NOW_US)["locked_until_us"] is not None  # by the eleven others


@pytest.mark.clause("7.2a")
def test_a_recovery_code_stands_in_once_and_is_its_users_own(engine: Engine, lina: Row, factor: NewSession) -> None:
    begin(engine, lina, Shown(recovery_digest="first"))
    other = users.create_user(engine, ADA, "wang.wei", STORED)
    second_factors.propose(engine, ADA, other["id"], SEED)
    second_factors.confirm(
        engine, ADA, other["id"], sessions.session_of(engine, begin(engine, other).access_token, now_us=NOW_US, rules=RULES).id,
        seed=SEED, step=STEP, recovery=["third"],
    )  # fmt: skip
    for user, digest in ((lina, "first"), (lina, "third"), (other, "second"), (lina, "nobodys")):
        with pytest.raises(SecondFactorWrong):
            begin(engine, user, Shown(recovery_digest=digest))
    assert [second_factors.recovery_codes_left(engine, user["id"]) for user in (lina, other)] == [1, 1]


@pytest.mark.clause("7.2a")
def test_wrong_codes_lock_as_wrong_passwords_do_and_the_right_password_alone_counts_for_nothing(
    engine: Engine, lina: Row, factor: NewSession
) -> None:
    for _ in range(LOCK.failures - 1):
        with pytest.raises(SecondFactorWrong):
            begin(engine, lina, Shown())
        with pytest.raises(SecondFactorRequired):
            begin(engine, lina)
    with pytest.raises(SecondFactorWrong):
        begin(engine, lina, Shown(step=STEP))
    with pytest.raises(Unauthenticated) as refused:
        begin(engine, lina, Shown(step=STEP + 1))
    assert refused.value.code == "unauthenticated"  # as whoever is locked: nothing is told
    begin(engine, lina, Shown(step=STEP + 40), NOW_US + LOCK.lock_us)


@pytest.mark.clause("9.3b")
def test_a_factor_goes_by_a_code_of_it_or_by_an_administrator_and_its_recovery_codes_go_too(
    engine: Engine, lina: Row, factor: NewSession
) -> None:
    assert not second_factors.remove(engine, ADA, lina["id"], Shown(step=STEP), LOCK)
    assert users.find_for_sign_in(engine, "li.na")["failures"] == 1  # type: ignore[index]
    assert second_factors.remove(engine, ADA, lina["id"], Shown(step=STEP + 1), LOCK)
    assert factors(engine, factor) == {Factor.PASSWORD}
    with pytest.raises(Conflict):
        second_factors.reset(engine, ADA, "li.na")
    second_factors.propose(engine, ADA, lina["id"], SEED)
    confirm(engine, lina, factor)
    assert second_factors.reset(engine, ADA, "li.na") == lina["id"]
    with pytest.raises(Unauthenticated) as refused:
        factors(engine, factor)
    assert refused.value.code == "session-second-factor-reset"
    assert factors(engine, begin(engine, lina)) == {Factor.PASSWORD}
    assert count(engine, recovery_codes) == 0
    with pytest.raises(NotFound):
        second_factors.reset(engine, ADA, "nobody")


@pytest.mark.clause("7.2a")
def test_who_is_locked_takes_no_factor_away(engine: Engine, lina: Row, factor: NewSession) -> None:
    for _ in range(LOCK.failures):
        assert not second_factors.remove(engine, ADA, lina["id"], Shown(), LOCK)
    assert not second_factors.remove(engine, ADA, lina["id"], Shown(step=STEP + 1), LOCK)


def test_no_seed_and_no_code_stands_in_the_write_log(engine: Engine, lina: Row, factor: NewSession) -> None:
    begin(engine, lina, Shown(recovery_digest="first"))
    logged = str(access.list_writes(engine, limit=99).rows)
    assert "second-factor.confirm" in logged
    assert all(secret not in logged for secret in ("sealed", "first", "second'"))
