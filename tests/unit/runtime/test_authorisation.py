"""Who may do what: the packaged policies against a second opinion, and what holds for policies as such. Clauses 7.2b, 9.3c."""

from __future__ import annotations

from random import Random

import pytest

from domain.permissions import Action, Level, Located, Purpose, View
from domain.principals import Grant, Place, Role
from runtime.authorisation import CedarAuthoriser
from runtime.clock import ManualClock
from runtime.policy_requests import ANYBODYS
from tests import oracle_permissions as oracle
from tests.permission_requests import (
    NOW_US,
    PATIENTS,
    RECORDS,
    Request,
    place_of,
    random_caller,
    random_request,
)  # fmt: skip

ICU = place_of("sz.h001", "icu")
NURSE = Grant(Role.NURSE, Place.parse("sz.h001/icu"))


@pytest.fixture(scope="module")
def judge() -> CedarAuthoriser:
    return CedarAuthoriser.of_package(ManualClock(NOW_US))


def decisions_differ(judge: CedarAuthoriser, count: int, seed: int) -> list[Request]:
    chance = Random(seed)
    wrong = []
    for request in (random_request(chance) for _ in range(count)):
        unmask = chance.random() < 0.3
        expected = oracle.is_allowed(*request, NOW_US), oracle.view(*request, NOW_US, unmask=unmask)
        decision = judge.decide(*request, unmask=unmask)
        if (decision.is_allowed, decision.view) != expected:
            wrong.append(request)
    return wrong


@pytest.mark.clause("7.2b")
@pytest.mark.clause("9.3c")
def test_a_second_opinion_agrees_on_random_requests(judge):
    assert decisions_differ(judge, 20_000, seed=1) == []


@pytest.mark.long
@pytest.mark.clause("7.2b")
def test_a_second_opinion_agrees_on_many_random_requests(judge):
    assert decisions_differ(judge, 100_000, seed=2) == []


@pytest.mark.clause("9.3c")
def test_a_reach_holds_exactly_what_is_allowed_record_by_record(judge):
    chance = Random(3)
    places = [*RECORDS[:4], ICU]
    records = [Located(place, level, key) for place in places for level in (None, *Level) for key in (None, *PATIENTS)]
    for _ in range(500):
        caller, action = random_caller(chance), chance.choice([action for action in Action if action not in ANYBODYS])
        purpose = chance.choice((None, *Purpose))
        reach = judge.reach(caller, action, purpose)
        allowed = [oracle.is_allowed(caller, action, record, purpose, NOW_US) for record in records]
        assert [reach.holds(record) for record in records] == allowed, (caller, action, purpose)
        unmask = chance.random() < 0.3
        clear = judge.reach(caller, action, purpose, View.CLEAR, unmask=unmask)
        named = [oracle.view(caller, action, record, purpose, NOW_US, unmask=unmask) is View.CLEAR for record in records]
        assert [clear.holds(record) for record in records] == named, (caller, action, purpose, unmask)
