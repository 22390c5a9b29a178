"""The packaged policies: valid, as the table of decisions says, and no word more than it needs. Clauses 7.2b, 9.3c, 9.4."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from cedarpy import PolicySet, Schema, policies_from_json_str, policies_to_json_str, validate_policies

from domain.permissions import Action, Purpose
from domain.principals import Factor, Grant, Relation, Role
from runtime.authorisation import POLICIES, CedarAuthoriser, policy_text, schema_text
from runtime.clock import ManualClock
from runtime.policy_requests import ANYBODYS, IDENTIFY, UNMASK, Asked, Requests, Standing
from tests.permission_requests import NOW_US, REGION, random_request
from tests.permission_table import table
from tests.policy_mutants import mutants
from tests.policy_trial import Trial

Json = dict[str, Any]


@pytest.fixture(scope="module")
def policies() -> dict[str, Json]:
    """Cedar's JSON of each policy, by the name it gives it."""
    return json.loads(policies_to_json_str(policy_text()))["staticPolicies"]


@pytest.fixture(scope="module")
def schema() -> Schema:
    return Schema.from_str(schema_text())


@pytest.fixture(scope="module")
def trial(policies) -> Trial:
    return Trial(policies, table())


def document(policies: dict[str, Json]) -> str:
    return json.dumps({"staticPolicies": policies, "templates": {}, "templateLinks": []})


def is_valid(policy: str, schema: Schema) -> bool:
    return validate_policies(policy, schema).validation_passed


@pytest.mark.clause("9.4")
def test_policies_are_valid_by_the_schema(schema):
    assert [str(error) for error in validate_policies(policy_text(), schema).errors] == []


def test_each_policy_says_in_words_of_its_own_what_it_is_for(policies):
    ids = [policy["annotations"].get("id", "") for policy in policies.values()]
    assert all(" " in id_ for id_ in ids)
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(("name", "words"), [("Role", Role), ("Relation", Relation), ("Purpose", Purpose), ("Factor", Factor)])
def test_the_schema_knows_the_words_of_the_domain(schema, name, words):
    (listed,) = [block for block in schema_text().split("entity ") if block.startswith(f"{name} enum")]
    assert listed.split(";")[0].count('"') == 2 * len(words)
    for word in words:
        assert is_valid(f'permit (principal, action, resource) when {{ {name}::"{word}" == {name}::"{word}" }};', schema)


def test_each_action_is_asked_as_the_schema_says(schema):
    """Cedar judges requests of any types: that ours are of the right ones is shown here."""
    standing = Standing((Grant(Role.NURSE, REGION),))
    requests = Requests(standing, None)
    for action in (*Action, IDENTIFY, UNMASK):
        as_such = action in ANYBODYS
        request, other = (
            requests.of(Asked(None if as_such else 0, action, 0)),
            requests.of(Asked(0 if as_such else None, action, 0)),
        )
        assert is_valid(policy_of(request), schema), action
        assert not is_valid(policy_of(other), schema), action
        assert not is_valid(policy_of({**request, "resource": {"type": "Place", "id": "sz"}}), schema), action


def policy_of(request: Json) -> str:
    """A policy that permits this request, and speaks of each word of its context."""
    named = [f'{part} == {request[part]["type"]}::"{request[part]["id"]}"' for part in ("principal", "action", "resource")]
    words = " && ".join(f"context.{word} == context.{word}" for word in json.loads(request["context"]))
    return f"permit ({', '.join(named)}) when {{ {words} }};"


@pytest.mark.clause("7.2b")
@pytest.mark.clause("9.3c")
def test_every_decision_of_the_table_comes_out(trial):
    assert [(row.role, row.action, row.situation, row.expected, outcome) for row, outcome in trial.wrong()] == []


def test_the_table_asks_every_role_for_every_action():
    assert {(row.role, row.action) for row in table()} == {(role, action) for role in Role for action in Action}


@pytest.mark.slow
@pytest.mark.clause("9.4")
def test_every_line_of_every_policy_is_needed(trial, policies, schema):
    """Left out, turned round or counted differently, anywhere: some decision differs, or the schema refuses it."""
    unnoticed = []
    for name, policy in policies.items():
        changes = list(mutants(policy))
        living = [
            (change, other)
            for change, other in changes
            if other is None or is_valid(policies_from_json_str(document({name: other})), schema)
        ]
        assert len(changes) - len(living) <= 4  # what the schema refuses tests nothing: only guards of optional attributes
        unnoticed += [f"{policy['annotations']['id']}: {change}" for change in trial.unnoticed(name, living)]
    assert unnoticed == []


def allowed(policies: dict[str, Json], requests: list[Any]) -> list[bool]:
    judge = CedarAuthoriser(PolicySet.from_json_str(document(policies)), ManualClock(NOW_US))
    return [judge.decide(*request).is_allowed for request in requests]


@pytest.mark.clause("9.3c")
def test_without_any_permit_nothing_is_allowed_and_one_more_never_takes_away(policies):
    chance = Random(4)
    requests = [random_request(chance) for _ in range(150)]
    present = {name: policy for name, policy in policies.items() if policy["effect"] == "forbid"}
    before = allowed(present, requests)
    assert not any(before)
    permits = [name for name, policy in policies.items() if policy["effect"] == "permit"]
    for name in chance.sample(permits, len(permits)):
        present[name] = policies[name]
        after = allowed(present, requests)
        assert all(now for was, now in zip(before, after, strict=True) if was)
        before = after
    assert any(before)


@pytest.mark.clause("9.3c")
def test_one_more_forbid_never_gives(policies):
    chance = Random(5)
    requests = [random_request(chance) for _ in range(400)]
    present = {name: policy for name, policy in policies.items() if policy["effect"] == "permit"}
    before = allowed(present, requests)
    for name in (name for name, policy in policies.items() if policy["effect"] == "forbid"):
        present[name] = policies[name]
        after = allowed(present, requests)
        assert all(was for was, now in zip(before, after, strict=True) if now)
        before = after


def test_policies_are_files_of_a_package_that_is_shipped():
    assert {path.name for path in POLICIES.iterdir()} == {
        "administrator.cedar", "forbids.cedar", "masking.cedar", "roles.cedar", "schema.cedarschema",
    }  # fmt: skip
