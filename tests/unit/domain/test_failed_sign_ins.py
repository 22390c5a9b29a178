"""Failed sign-ins as FHIR AuditEvents: valid, and found by address and account."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fhir.resources.R4B.auditevent import AuditEvent

from domain.accesses import Outcome
from domain.audit_reading import Concerned, Said, answered, asked, concerned, said
from domain.failed_sign_ins import SEVERAL, FailedSignIns, Failure, Means, Why, failed_sign_ins_event

WRONG = Failure(Means.PASSWORD, Why.WRONG_PASSWORD)
ONE = FailedSignIns("s-1", 1_700_000_000_000_001, 1_700_000_000_000_001, "10.0.0.7", {WRONG: 1}, {"u-1": 1})
CASES = {
    "one": ONE,
    "of nobody": replace(ONE, counts={Failure(Means.SERVICE, Why.WRONG_TOKEN): 1}, accounts={}),
    "a sum": replace(ONE, counts={WRONG: 7, Failure(Means.PASSWORD, "too-many-attempts"): 40}, accounts={"u-1": 3, "u-2": 4}),
    "of several addresses": replace(ONE, address=None, counts={WRONG: 7}),
}


@pytest.mark.clause("6.1b", "9.3e")
@pytest.mark.parametrize("failed", CASES.values(), ids=CASES)
def test_a_failed_sign_in_is_a_valid_audit_event(failed: FailedSignIns) -> None:
    event = failed_sign_ins_event(failed, "sz")
    AuditEvent.model_validate_json(event)
    assert event == failed_sign_ins_event(failed, "sz")
    assert answered(event) is None
    assert asked(event) is None


def test_it_is_found_by_the_address_and_by_the_accounts_id() -> None:
    event = failed_sign_ins_event(CASES["a sum"], "sz")
    assert concerned(event) == Concerned(frozenset({"10.0.0.7", "u-1", "u-2"}), frozenset())
    says = "40 password too-many-attempts, 7 password wrong-password"
    assert said(event) == Said("10.0.0.7", "sign-in.fail", "47 times by password", "", says)
    assert said(failed_sign_ins_event(CASES["of several addresses"], "sz")).who == SEVERAL  # type: ignore[union-attr]


@pytest.mark.parametrize(("why", "outcome"), [(Why.LOCKED, Outcome.REFUSED), ("unavailable", Outcome.FAILED)])
def test_a_fault_of_the_platform_is_told_from_one_of_who_tried(why: str, outcome: Outcome) -> None:
    assert replace(ONE, counts={Failure(Means.PASSWORD, why): 1}).outcome is outcome
