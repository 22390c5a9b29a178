"""One session a user, and why it ended, on both databases. Clauses 7.2a, 7.2d."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
from sqlalchemy import Engine, select

from domain.errors import Conflict, FirstPasswordExpired, Forbidden, InvalidInput, NotFound, SessionEnded, Unauthenticated
from domain.principals import Grant, Place, Role
from runtime.sealing import Sealer
from runtime.soft_keys import SoftKeys
from runtime.sql import access, sessions, users
from runtime.sql.engine import open_engine, reading
from runtime.sql.identity_tables import ended_sessions, password_history
from runtime.sql.identity_tables import sessions as session_table
from runtime.sql.lockout import LockRule
from runtime.sql.records import Row
from runtime.sql.sessions import NewSession, SessionRules
from runtime.sql.users import KEPT_PASSWORDS
from tests.sql_fixtures import ADA, ALL, MINUTE_US, NOW_US, count

RULES = SessionRules(idle_us=15 * MINUTE_US, lifetime_us=720 * MINUTE_US)
LOCK = LockRule(failures=5, lock_us=15 * MINUTE_US)
REGION = Grant(Role.ADMINISTRATOR, Place("sz"))
STORED = "a stored password"


@pytest.fixture
def lina(engine: Engine) -> Row:
    return users.create_user(engine, ADA, "li.na", STORED, REGION)


def begin(engine: Engine, user: Row, now_us: int = NOW_US, checked: str = STORED) -> NewSession:
    return sessions.begin_session(engine, user["id"], checked=checked, address="10.0.0.7", now_us=now_us, rules=RULES)


def why(engine: Engine, token: str, now_us: int = NOW_US) -> str:
    """The code of the refusal of `token`; `in force` when it is good."""
    try:
        sessions.session_of(engine, token, now_us=now_us, rules=RULES)
    except Unauthenticated as error:
        return error.code
    return "in force"


@pytest.mark.clause("7.2d")
def test_fifty_sign_ins_at_once_leave_one_session(engine: Engine, lina: Row, sealer: Sealer) -> None:
    made: list[NewSession] = []
    together = threading.Barrier(50)
    others = [open_engine(engine.url.render_as_string(hide_password=False), sealer) for _ in range(2)]  # as two processes

    def sign_in(number: int) -> None:
        together.wait(30)
        made.append(begin(others[number % 2], lina, NOW_US + number))

    threads = [threading.Thread(target=sign_in, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for other in others:
        other.dispose()
    told = [why(engine, session.access_token, NOW_US + 60) for session in made]
    assert (len(told), told.count("in force"), told.count("session-superseded")) == (50, 1, 49)
    assert count(engine, session_table) == 1


@pytest.mark.clause("7.2d")
def test_the_second_sign_in_ends_the_first_and_only_the_users_own(engine: Engine, lina: Row) -> None:
    first, other = begin(engine, lina), begin(engine, users.create_user(engine, ADA, "wang.wei", STORED))
    second = begin(engine, lina, NOW_US + 1)
    assert [why(engine, each.access_token) for each in (first, second, other)] == ["session-superseded", "in force", "in force"]


@pytest.mark.clause("7.2d")
def test_a_session_tells_its_user_and_what_they_were_given(engine: Engine, lina: Row) -> None:
    live = sessions.session_of(engine, begin(engine, lina).access_token, now_us=NOW_US, rules=RULES)
    assert (live.user_id, live.user_name, live.grants, live.address) == (lina["id"], "li.na", (REGION,), "10.0.0.7")
    assert live.must_change  # an administrator knows the password


@pytest.mark.clause("7.2d")
def test_idling_ends_a_session_and_activity_puts_that_off(engine: Engine, lina: Row) -> None:
    token = begin(engine, lina).access_token
    session_id = sessions.session_of(engine, token, now_us=NOW_US, rules=RULES).id
    assert why(engine, token, NOW_US + RULES.idle_us - 1) == "in force"
    sessions.note_activity(engine, session_id, now_us=NOW_US + RULES.idle_us - 1)
    assert why(engine, token, NOW_US + 2 * RULES.idle_us - 2) == "in force"
    assert why(engine, token, NOW_US + 2 * RULES.idle_us - 1) == "session-idle"
    assert why(engine, token, NOW_US) == "session-idle"  # for good, whatever the clock does
    assert count(engine, session_table) == 0


@pytest.mark.clause("7.2d")
def test_no_activity_keeps_a_session_beyond_its_longest_time(engine: Engine, lina: Row) -> None:
    token = begin(engine, lina).access_token
    ends_us = NOW_US + RULES.lifetime_us
    session_id = sessions.session_of(engine, token, now_us=NOW_US, rules=RULES).id
    sessions.note_activity(engine, session_id, now_us=ends_us - 1)
    assert why(engine, token, ends_us - 1) == "in force"
    assert why(engine, token, ends_us) == "session-expired"


def test_a_refresh_replaces_both_tokens_and_neither_is_activity_nor_longer_life(engine: Engine, lina: Row) -> None:
    first = begin(engine, lina)
    later_us = NOW_US + RULES.idle_us - 1
    second = sessions.refresh_session(engine, first.refresh_token, now_us=later_us, rules=RULES)
    assert (why(engine, first.access_token, later_us), why(engine, second.access_token, later_us)) == (
        "session-refreshed", "in force",
    )  # fmt: skip
    assert second.ends_us == first.ends_us
    with pytest.raises(SessionEnded) as refused:
        sessions.refresh_session(engine, second.refresh_token, now_us=later_us + 1, rules=RULES)
    assert refused.value.code == "session-idle"


@pytest.mark.clause("7.2a")
def test_a_refresh_token_that_comes_twice_ends_the_session_it_was_of_and_no_later_one(engine: Engine, lina: Row) -> None:
    def refresh(token: str) -> NewSession:
        return sessions.refresh_session(engine, token, now_us=NOW_US, rules=RULES)

    first = begin(engine, lina)
    second = refresh(first.refresh_token)
    with pytest.raises(SessionEnded) as refused:
        refresh(first.refresh_token)
    assert refused.value.code == "session-refresh-reused"
    assert why(engine, second.access_token) == "session-refresh-reused"
    later = begin(engine, lina)
    with pytest.raises(SessionEnded):
        refresh(first.refresh_token)
    assert why(engine, later.access_token) == "in force"
    with pytest.raises(Unauthenticated, match="unknown"):
        refresh("vgr_nobodys")


def test_signing_out_by_either_token_ends_the_session(engine: Engine, lina: Row) -> None:
    for token in ("access_token", "refresh_token"):
        session = begin(engine, lina)
        assert sessions.sign_out(engine, getattr(session, token), now_us=NOW_US) == lina["id"]
        assert why(engine, session.access_token) == "session-signed-out"
        assert sessions.sign_out(engine, getattr(session, token), now_us=NOW_US) is None


@pytest.mark.clause("9.3b")
def test_a_new_password_a_reset_and_disabling_end_the_session(engine: Engine, lina: Row) -> None:
    session = begin(engine, lina)
    users.set_password(engine, ADA, "li.na", "another", must_change=False, instead_of=STORED)
    assert why(engine, session.access_token) == "session-password-changed"
    session = begin(engine, lina, checked="another")
    assert not sessions.session_of(engine, session.access_token, now_us=NOW_US, rules=RULES).must_change
    users.create_user(engine, ADA, "second", STORED, REGION)
    users.disable_user(engine, ADA, "li.na")
    assert why(engine, session.access_token) == "session-disabled"
    with pytest.raises(Unauthenticated):
        begin(engine, lina, checked="another")
    users.enable_user(engine, ADA, "li.na")
    assert begin(engine, lina, checked="another")


def test_a_password_that_was_replaced_while_it_was_checked_begins_nothing(engine: Engine, lina: Row) -> None:
    users.set_password(engine, ADA, "li.na", "another", must_change=True)
    with pytest.raises(Unauthenticated):
        begin(engine, lina)
    with pytest.raises(Conflict):
        users.set_password(engine, ADA, "li.na", "a third", must_change=False, instead_of=STORED)


@pytest.mark.clause("7.2a")
def test_five_failures_lock_a_user_for_a_while_and_unlocking_ends_it(engine: Engine, lina: Row) -> None:
    def fail(times: int, at_us: int) -> None:
        for _ in range(times):
            users.note_failure(engine, lina["id"], LOCK, now_us=at_us)

    fail(4, NOW_US)
    begin(engine, lina)  # which was right: counted anew
    fail(4, NOW_US)
    fail(4, NOW_US + LOCK.lock_us)  # those before are long ago
    begin(engine, lina)
    fail(5, NOW_US)
    for at_us in (NOW_US, NOW_US + LOCK.lock_us - 1):
        with pytest.raises(Unauthenticated):
            begin(engine, lina, at_us)
    fail(9, NOW_US + 1)  # while locked: does not put off the end
    assert begin(engine, lina, NOW_US + LOCK.lock_us)
    fail(5, NOW_US)
    assert users.get_user(engine, "li.na", now_us=NOW_US)["locked_until_us"] == NOW_US + LOCK.lock_us
    users.unlock_user(engine, ADA, "li.na")
    assert begin(engine, lina)
    locks = [row for row in access.list_writes(engine, limit=99).rows if row["action"] == "user.lock"]
    assert len(locks) == 2


@pytest.mark.clause("7.2a")
def test_locks_and_the_end_of_a_stolen_session_need_no_key(engine: Engine, lina: Row, tmp_path: Path) -> None:
    first = begin(engine, lina)
    second = sessions.refresh_session(engine, first.refresh_token, now_us=NOW_US, rules=RULES)
    without = open_engine(engine.url.render_as_string(hide_password=False), Sealer.over(SoftKeys(tmp_path), tmp_path))
    with pytest.raises(SessionEnded):
        sessions.refresh_session(without, first.refresh_token, now_us=NOW_US, rules=RULES)
    assert why(without, second.access_token) == "session-refresh-reused"
    for _ in range(LOCK.failures):
        users.note_failure(without, lina["id"], LOCK, now_us=NOW_US)
    assert users.get_user(without, "li.na", now_us=NOW_US)["locked_until_us"] == NOW_US + LOCK.lock_us
    told = {row["action"]: row["reason"] for row in access.list_writes(without, limit=99).rows}
    assert told["user.lock"] == "5 sign-ins failed"
    assert told["session.end"].startswith("a refresh token was used twice")
    without.dispose()


@pytest.mark.clause("9.3b")
def test_the_last_administrator_stays(engine: Engine, lina: Row) -> None:
    users.create_user(engine, ADA, "nobody", STORED)
    with pytest.raises(Conflict, match="last administrator"):
        users.disable_user(engine, ADA, "li.na")
    users.disable_user(engine, ADA, "nobody")
    users.create_user(engine, ADA, "second", STORED, REGION)
    users.disable_user(engine, ADA, "li.na")
    with pytest.raises(Conflict, match="last administrator"):
        users.disable_user(engine, ADA, "second")


def test_the_first_user_is_made_once_and_has_to_change_the_password(engine: Engine) -> None:
    assert not users.has_users(engine)
    assert users.create_first_user(engine, STORED, Grant(Role.ADMINISTRATOR, Place("sz")), now_us=NOW_US)
    assert not users.create_first_user(engine, STORED, Grant(Role.ADMINISTRATOR, Place("sz")), now_us=NOW_US)
    first = users.get_user(engine, "administrator", now_us=NOW_US)
    assert (first["must_change"], first["roles"], users.has_users(engine)) == (True, ["administrator"], True)


def test_a_name_is_one_principals_for_ever(engine: Engine, lina: Row) -> None:
    access.create_token(engine, ADA, "planner")
    for taken in ("li.na", " Li.Na ", "planner"):
        with pytest.raises(Conflict, match="taken"):
            users.create_user(engine, ADA, taken, STORED)
    with pytest.raises(Conflict, match="taken"):
        access.create_token(engine, ADA, "li.na")
    for wrong in ("", "x", "li na", "李娜", "-a", "x" * 65, "a\0b", "a'--"):
        with pytest.raises(InvalidInput, match="user name"):
            users.create_user(engine, ADA, wrong, STORED)
    for others in ("vitalgrid", "Vitalgrid", "u-0123456789ab", "10.0.0.7"):
        with pytest.raises(InvalidInput, match="logs name"):
            users.create_user(engine, ADA, others, STORED)
    for others in ("vitalgrid", "u-0123456789ab", "os:root", "sz.h012/mon-7"):
        with pytest.raises(InvalidInput, match="logs name"):
            access.create_token(engine, ADA, others)
    with pytest.raises(NotFound):
        users.get_user(engine, "planner", now_us=NOW_US)


@pytest.mark.clause("7.2a")
def test_as_many_former_passwords_are_kept_as_must_not_come_back(engine: Engine, lina: Row) -> None:
    for number in range(9):
        users.set_password(engine, ADA, "li.na", f"number {number}", must_change=False)
    assert sorted(users.kept_passwords(engine, lina["id"])) == [f"number {n}" for n in range(9 - KEPT_PASSWORDS, 9)]
    assert count(engine, password_history) == KEPT_PASSWORDS - 1


def test_no_token_and_no_stored_password_is_shown_or_kept(engine: Engine, lina: Row) -> None:
    made = begin(engine, lina)
    begin(engine, lina)
    shown = str(
        [
            lina,
            users.list_users(engine, reach=ALL, region_id="sz", now_us=NOW_US, limit=9).rows,
            access.list_writes(engine, limit=99).rows,
        ]
    )
    assert STORED not in shown
    with reading(engine) as connection:
        kept = str([connection.execute(select(table)).all() for table in (session_table, ended_sessions)])
    assert made.access_token not in kept + shown
    assert made.refresh_token not in kept + shown


def test_why_a_session_ended_is_remembered_for_a_day(engine: Engine, lina: Row) -> None:
    first = begin(engine, lina)
    begin(engine, lina, NOW_US + 1)
    begin(engine, lina, NOW_US + 86_400_000_000)
    assert why(engine, first.access_token, NOW_US + 86_400_000_000) == "session-superseded"
    begin(engine, lina, NOW_US + 86_400_000_002)
    assert why(engine, first.access_token, NOW_US + 86_400_000_002) == "unauthenticated"


@pytest.mark.clause("5.4a")
def test_a_service_gets_an_hour_for_its_token_and_loses_it_with_that(engine: Engine) -> None:
    token = access.create_token(engine, ADA, "planner", Role.CAPACITY_PLANNER)
    for name, given in (("planner", "wrong"), ("other", token)):
        with pytest.raises(Unauthenticated):
            access.begin_service_access(engine, name, given, now_us=NOW_US)
    got = access.begin_service_access(engine, "planner", token, now_us=NOW_US)
    ends_us = NOW_US + access.SERVICE_ACCESS_US
    assert access.service_of(engine, got, now_us=ends_us - 1) == {
        "name": "planner", "role": "capacity-planner", "place": None, "ends_us": ends_us,
    }  # fmt: skip
    with pytest.raises(Unauthenticated):
        access.service_of(engine, got, now_us=ends_us)
    access.revoke_token(engine, replace(ADA, now_us=NOW_US + 1), "planner")
    with pytest.raises(Unauthenticated):
        access.service_of(engine, got, now_us=NOW_US + 2)


@pytest.mark.clause("9.1b")
def test_a_token_that_opens_nothing_never_waits_for_the_writer(
    engine: Engine, lina: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = begin(engine, lina)
    sessions.refresh_session(engine, first.refresh_token, now_us=NOW_US, rules=RULES)
    begin(engine, lina)  # whose own tokens nobody here has

    def written(_engine: Engine) -> NoReturn:
        pytest.fail("a write transaction was opened")

    monkeypatch.setattr(sessions, "writing", written)
    for token in ("vgr_nobodys", first.refresh_token, first.access_token, ""):
        with pytest.raises(Unauthenticated):
            sessions.refresh_session(engine, token, now_us=NOW_US, rules=RULES)
        assert sessions.sign_out(engine, token, now_us=NOW_US) is None


def test_the_end_of_a_session_is_news_once(engine: Engine, lina: Row) -> None:
    first = begin(engine, lina)
    second = sessions.refresh_session(engine, first.refresh_token, now_us=NOW_US, rules=RULES)
    news = []
    for token in (first.refresh_token, first.refresh_token, second.refresh_token):
        with pytest.raises(SessionEnded) as refused:
            sessions.refresh_session(engine, token, now_us=NOW_US, rules=RULES)
        news.append(refused.value.is_new)
    assert news == [True, False, False]


@pytest.mark.clause("7.2a")
def test_a_refresh_token_that_comes_twice_is_known_for_as_long_as_its_session_lasts(engine: Engine, lina: Row) -> None:
    day_us = 86_400_000_000
    long = SessionRules(idle_us=7 * day_us, lifetime_us=7 * day_us)

    def begin_long(user: Row, now_us: int) -> NewSession:
        return sessions.begin_session(engine, user["id"], checked=STORED, address="10.0.0.7", now_us=now_us, rules=long)

    first = begin_long(lina, NOW_US)
    sessions.refresh_session(engine, first.refresh_token, now_us=NOW_US, rules=long)
    begin_long(users.create_user(engine, ADA, "wang.wei", STORED), NOW_US + 2 * day_us)  # with which old ones are forgotten
    with pytest.raises(SessionEnded) as refused:
        sessions.refresh_session(engine, first.refresh_token, now_us=NOW_US + 2 * day_us, rules=long)
    assert refused.value.code == "session-refresh-reused"


@pytest.mark.clause("7.2a")
def test_who_was_locked_or_disabled_meanwhile_changes_no_password(engine: Engine, lina: Row) -> None:
    users.create_user(engine, ADA, "second", STORED, REGION)
    for _ in range(LOCK.failures):
        users.note_failure(engine, lina["id"], LOCK, now_us=NOW_US)
    with pytest.raises(Forbidden):
        users.set_password(engine, ADA, "li.na", "another", must_change=False, instead_of=STORED)
    users.unlock_user(engine, ADA, "li.na")
    users.disable_user(engine, ADA, "li.na")
    with pytest.raises(Forbidden):
        users.set_password(engine, ADA, "li.na", "another", must_change=False, instead_of=STORED)
    users.set_password(engine, ADA, "li.na", "another", must_change=True)  # an administrator may


@pytest.mark.clause("7.2a")
def test_a_password_has_to_be_changed_for_its_age_also_in_a_session_that_is_there(engine: Engine, lina: Row) -> None:
    day_us = 86_400_000_000
    users.set_password(engine, ADA, "li.na", "another", must_change=False)
    rules = SessionRules(idle_us=2 * day_us, lifetime_us=2 * day_us, password_us=90 * day_us)
    old_at_us = NOW_US + 90 * day_us

    def begin_then(now_us: int) -> NewSession:
        given = {"checked": "another", "address": "10.0.0.7", "now_us": now_us, "rules": rules}
        return sessions.begin_session(engine, lina["id"], **given)

    begun = begin_then(old_at_us - 1)
    live = [sessions.session_of(engine, begun.access_token, now_us=at_us, rules=rules) for at_us in (old_at_us - 1, old_at_us)]
    assert [(each.must_change, each.changes_us) for each in live] == [(False, old_at_us), (True, None)]
    assert (begun.must_change, begin_then(old_at_us).must_change) == (False, True)


@pytest.mark.clause("7.2a")
def test_what_somebody_else_gave_opens_nothing_once_it_was_not_changed_in_time(engine: Engine, lina: Row) -> None:
    assert begin(engine, lina, NOW_US + RULES.given_us - 1)
    with pytest.raises(FirstPasswordExpired):
        begin(engine, lina, NOW_US + RULES.given_us)
    users.set_password(engine, ADA, "li.na", "another", must_change=False)
    assert begin(engine, lina, NOW_US + RULES.given_us, checked="another")
