"""Rules find risks in facts: each what it is for, with numbers for evidence and nothing else. Clause 6.1."""

from __future__ import annotations

from dataclasses import replace

import pytest

from domain.instants import DAY_US
from domain.labels import LABELS
from domain.principals import Role
from domain.risks import RULES, Accesses, Account, ByToken, Devices, Facts, Overdue, Posture, Token, evaluate

NOW_US = 2_000_000_000_000_000
SAFE = Posture(speaks_plain=False, seals_files=True, keys_lie_beside=False, outside_witnesses=1)
NURSE = Account("li", frozenset({Role.NURSE}), NOW_US, NOW_US, has_second_factor=False)
CALM = Facts(
    NOW_US, SAFE, [NURSE], [Token("his", NOW_US, NOW_US)], {"li": 1}, NOW_US - DAY_US, {"li": Accesses(asked=100, wards=1)},
    by_tokens={"his": ByToken((5000,) * 7)},
)  # fmt: skip
LONG_AGO_US = NOW_US - 400 * DAY_US

pytestmark = pytest.mark.clause("6.1")

WORSE = {
    "plain-links": {"posture": replace(SAFE, speaks_plain=True)},
    "files-in-clear": {"posture": replace(SAFE, seals_files=False)},
    "keys-beside-data": {"posture": replace(SAFE, keys_lie_beside=True)},
    "log-unwitnessed": {"posture": replace(SAFE, outside_witnesses=0)},
    "backup-old": {"last_backup_us": LONG_AGO_US},
    "retention-behind": {"overdue": Overdue(rows=1)},
    "erasure-stuck": {"overdue": Overdue(erasures=1, erasure_days=3)},
    "devices-plain": {"devices": Devices(known=100, plain=40)},
    "devices-without-credential": {"devices": Devices(known=100, without_credential=1)},
    "isolation-long": {"devices": Devices(known=100, isolated=1, isolated_days=8)},
    "devices-attacked": {"notices": {"replay": 19, "spoofing": 1}},
    "account-dormant": {"accounts": [replace(NURSE, last_login_us=LONG_AGO_US)]},
    "power-undivided": {"accounts": [replace(NURSE, roles=frozenset({Role.ADMINISTRATOR}), has_second_factor=True)]},
    "one-factor": {"accounts": [replace(NURSE, roles=frozenset({Role.SECURITY_ADMINISTRATOR}))]},
    "token-without-end": {"tokens": [Token("his", LONG_AGO_US, NOW_US)]},
    "bulk-export": {"exports": {"li": 20}},
    "names-in-bulk": {"accesses": {"li": Accesses(asked=1, by_name=200)}},
    "token-unusual": {"by_tokens": {"his": ByToken((1000, 1100, 900, 0, 1000, 4000, 1000))}},
    "many-wards": {"accesses": {"li": Accesses(asked=900, wards=5)}},
    "many-patients": {"accesses": {"li": Accesses(asked=900, patients=500)}},
    "at-night": {"accesses": {"li": Accesses(asked=60, at_night=50)}},
    "often-refused": {"accesses": {"li": Accesses(refused=50)}},
}


def test_a_calm_platform_has_no_findings_and_every_rule_judged():
    assert evaluate(CALM) == ([], frozenset(RULES))


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_finds_what_it_is_for(rule):
    found, _ = evaluate(replace(CALM, **WORSE[rule]))
    assert [one.rule for one in found] == [rule]
    assert 1 <= found[0].likelihood <= 5
    assert 1 <= found[0].severity <= 5
    assert all(isinstance(value, int) for value in found[0].evidence.values())


def test_every_rule_says_what_is_at_risk_and_what_is_done_about_it_by_whom():
    for rule in RULES.values():
        assert rule.kind in LABELS
        assert rule.measure
        assert isinstance(rule.owner, Role)


def test_what_is_not_known_is_judged_by_no_rule():
    _, judged = evaluate(replace(CALM, posture=Posture(), accesses=None, by_tokens=None))
    of_posture = {"plain-links", "files-in-clear", "keys-beside-data", "log-unwitnessed"}
    of_accesses = {"names-in-bulk", "many-wards", "many-patients", "at-night", "often-refused", "token-unusual"}
    assert judged == set(RULES) - of_posture - of_accesses


def test_of_a_part_of_the_window_what_is_found_is_so_and_nothing_is_over():
    many = {"li": Accesses(asked=300, at_night=300, patients=600)}
    found, judged = evaluate(replace(CALM, accesses=many, accesses_reached_us=NOW_US - DAY_US // 2))
    assert [(one.key, one.evidence) for one in found] == [("many-patients|li", {"count": 600, "hours": 12})]
    assert judged == {rule.id for rule in RULES.values() if not rule.counts_accesses}


@pytest.mark.parametrize(
    ("daily", "count"),
    [
        ((0, 0, 0, 0, 0, 0, 500), 500),  # a token that is new, or was never used so
        ((0, 0, 0, 0, 0, 0, 499), None),
        ((20, 20, 20, 20, 20, 20, 200), None),  # many times its usual, and still few
        ((5000, 5000, 5000, 5000, 5000, 5000, 9000), None),
        ((5000, 5000, 15_000, 5000, 5000, 5000, 5000), 15_000),  # until the day is out of the window
        ((0, 0, 0, 600, 600, 600, 600), None),  # its usual by now
        ((0, 4000), None),  # nothing is usual yet
    ],
)
def test_a_token_is_held_against_its_own_usual_day(daily, count):
    found, _ = evaluate(replace(CALM, by_tokens={"his": ByToken(daily)}))
    assert [(one.key, one.evidence["count"]) for one in found] == ([] if count is None else [("token-unusual|his", count)])


def test_no_backup_at_all_is_likelier_to_hurt_than_an_old_one():
    never, old = evaluate(replace(CALM, last_backup_us=None))[0], evaluate(replace(CALM, last_backup_us=LONG_AGO_US))[0]
    assert never[0].likelihood > old[0].likelihood


def test_who_works_by_day_too_is_not_found_by_night():
    assert evaluate(replace(CALM, accesses={"li": Accesses(asked=500, at_night=50)}))[0] == []


@pytest.mark.parametrize(("exports", "likelihood"), [(20, 3), (40, 4), (80, 5), (10_000, 5)])
def test_the_further_beyond_a_bound_the_likelier(exports, likelihood):
    assert evaluate(replace(CALM, exports={"li": exports}))[0][0].likelihood == likelihood


def test_the_same_finding_has_one_key_for_each_whom_it_is_about():
    found, _ = evaluate(replace(CALM, exports={"li": 20, "wang": 30}))
    assert sorted(one.key for one in found) == ["bulk-export|li", "bulk-export|wang"]
