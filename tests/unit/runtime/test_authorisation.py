"""Who may do what: the packaged policies against a second opinion, and what holds for policies as such. Clauses 7.2b, 9.3c."""

from __future__ import annotations

import logging
from random import Random

import pytest
from cedarpy import PolicySet

from domain.permissions import Action, Decision, Level, Located, Purpose, View
from domain.principals import Factor, Grant, Must, Place, Relation, Role
from runtime.authorisation import CedarAuthoriser, policy_text
from runtime.clock import ManualClock
from runtime.policy_requests import ANYBODYS
from tests import oracle_permissions as oracle
from tests.permission_requests import (
    NOW_US,
    PATIENTS,
    RECORDS,
    REGION,
    Request,
    caller_of,
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


@pytest.mark.clause("9.3c")
def test_the_role_of_one_grant_never_meets_the_place_of_another(judge):
    """A nurse of one ward who keeps the devices of the whole hospital is no nurse of the whole hospital."""
    caller = caller_of(NURSE, Grant(Role.BIOMEDICAL_ENGINEER, Place.parse("sz.h001")))
    elsewhere = Located(place_of("sz.h001", "w01"), Level.IDENTIFYING, "p-1")
    assert judge.decide(caller, Action.PATIENT_READ, Located(ICU, Level.IDENTIFYING, "p-1")).is_allowed
    assert not judge.decide(caller, Action.PATIENT_READ, elsewhere).is_allowed
    assert judge.decide(caller, Action.DEVICE_MANAGE, elsewhere).is_allowed


@pytest.mark.clause("9.3c")
def test_who_reads_by_one_grant_does_not_see_names_by_another(judge):
    """A doctor of one ward who is the privacy officer of the hospital finds patients elsewhere, without their names."""
    doctor = Grant(Role.DOCTOR, Place.parse("sz.h001/icu"))
    caller = caller_of(doctor, Grant(Role.PRIVACY_OFFICER, Place.parse("sz.h001")))
    own, elsewhere = Located(ICU, Level.IDENTIFYING, "p-1"), Located(place_of("sz.h001", "w01"), Level.IDENTIFYING, "p-1")
    assert judge.decide(caller, Action.PATIENT_READ, own).view is View.CLEAR
    assert judge.decide(caller, Action.PATIENT_READ, elsewhere) == Decision(
        True, ("privacy officers read who did what to whose records, and find the records",), View.MASKED
    )
    assert judge.decide(caller, Action.AUDIT_READ, own).view is View.MASKED


def test_a_decision_names_the_policies_it_follows_from(judge):
    refused = judge.decide(caller_of(NURSE), Action.PATIENT_READ, Located(place_of("sz.h002"), Level.IDENTIFYING))
    assert refused == Decision(False, ("a grant holds at its place alone",))
    assert judge.decide(caller_of(NURSE), Action.HOST_READ, Located(ICU, Level.SHARED)) == Decision(False, ())


def test_a_grant_counts_until_it_ends_and_a_standing_caller_is_asked_anew():
    clock = ManualClock(NOW_US)
    judge = CedarAuthoriser.of_package(clock)
    caller = caller_of(Grant(Role.NURSE, Place.parse("sz.h001/icu"), until_us=NOW_US + 1_000_000))
    record = Located(ICU, Level.IDENTIFYING, "p-1")
    assert judge.decide(caller, Action.PATIENT_READ, record).is_allowed
    assert judge.reach(caller, Action.PATIENT_READ).holds(record)
    clock.advance(1)
    assert not judge.decide(caller, Action.PATIENT_READ, record).is_allowed
    assert judge.reach(caller, Action.PATIENT_READ).is_nothing


def test_an_ended_power_no_longer_stands_in_the_way_of_another():
    clock = ManualClock(NOW_US)
    judge = CedarAuthoriser.of_package(clock)
    system = Grant(Role.SYSTEM_ADMINISTRATOR, REGION)
    caller = caller_of(system, Grant(Role.AUDIT_ADMINISTRATOR, REGION, until_us=NOW_US + 1_000_000))
    hosts = Located(REGION, Level.SHARED)
    assert judge.decide(caller, Action.HOST_MANAGE, hosts).policies == ("nobody holds two of the three administrators' powers",)
    clock.advance(1)
    assert judge.decide(caller, Action.HOST_MANAGE, hosts).is_allowed


@pytest.mark.clause("9.4")
def test_a_policy_that_cannot_be_evaluated_refuses_and_is_told_once(caplog):
    """Cedar passes over it: a forbid that failed would be one that is not there."""
    broken = policy_text() + '@id("broken") forbid (principal, action, resource) when { context.nothing };'
    judge = CedarAuthoriser(PolicySet.from_str(broken), ManualClock(NOW_US))
    with caplog.at_level(logging.ERROR):
        for ward in ("icu", "w01"):
            caller = caller_of(Grant(Role.NURSE, Place.parse("sz.h001")))
            decision = judge.decide(caller, Action.PATIENT_READ, Located(place_of("sz.h001", ward), Level.IDENTIFYING, "p-1"))
            assert decision == Decision(False, (), View.MASKED)
        assert judge.reach(caller, Action.PATIENT_READ).is_nothing
    (record,) = caplog.records
    assert "p-1" not in record.getMessage() + str(vars(record))


def test_ids_of_any_signs_are_judged_and_break_nothing(judge):
    """Keys come from rows and paths; none of them is ever read as Cedar's syntax."""
    odd = 'p"1\\\n::{} 张'
    caller = caller_of(NURSE, treats=(odd,), factors=frozenset({Factor.PASSWORD, Factor.TOTP}))
    assert judge.decide(caller, Action.PATIENT_READ, Located(ICU, Level.STRICT, odd)).is_allowed
    assert not judge.decide(caller, Action.PATIENT_READ, Located(ICU, Level.STRICT, odd + "!")).is_allowed
    assert judge.reach(caller, Action.PATIENT_READ).patients == {(NURSE.place, odd): Level.STRICT}


def test_what_is_no_text_at_all_is_refused(judge):
    half_a_pair = "p-\ud83d"
    caller = caller_of(NURSE)
    assert judge.decide(caller, Action.PATIENT_READ, Located(ICU, Level.IDENTIFYING, half_a_pair)) == Decision(False, ())
    assert judge.reach(caller_of(NURSE, treats=(half_a_pair,)), Action.PATIENT_READ).is_nothing


def test_callers_who_stand_alike_are_judged_once(judge):
    first = judge.reach(caller_of(NURSE), Action.ALARM_READ)
    assert judge.reach(caller_of(NURSE), Action.ALARM_READ) is first


def test_who_has_no_grant_manages_the_own_account_and_nothing_else(judge):
    record = Located(REGION, Level.PUBLIC)
    may = {action for action in Action if judge.decide(caller_of(), action, record).is_allowed}
    assert may == {Action.SELF, Action.CATALOGUE_READ}
    must = caller_of(Grant(Role.ADMINISTRATOR, REGION), must=Must.PASSWORD_CHANGE)
    assert {action for action in Action if judge.decide(must, action, record).is_allowed} == {Action.SELF}


def test_what_a_grant_reaches_holds_at_its_place_alone(judge):
    """A care team goes with the grant's place: a doctor's consultation elsewhere is a grant of its own."""
    caller = caller_of(Grant(Role.DOCTOR, Place.parse("sz.h001/icu"), Relation.CARE_TEAM), treats=("p-1",))
    reach = judge.reach(caller, Action.PATIENT_READ)
    assert reach.patients == {(Place.parse("sz.h001/icu"), "p-1"): Level.IDENTIFYING}
    assert reach.levels == {}
    assert not reach.holds(Located(place_of("sz.h001", "w01"), Level.IDENTIFYING, "p-1"))
    assert judge.reach(caller, Action.PATIENT_READ, Purpose.HRESCH).is_nothing
