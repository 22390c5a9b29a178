"""Every smallest change of a policy: what is left out, turned round or counted differently. On Cedar's JSON of policies.

A change that no test notices is a line that nobody needs, or one that nobody tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

Json = dict[str, Any]

_FLIPPED: Final = {"==": ["!="], "!=": ["=="], "<=": ["<", ">"], "<": ["<=", ">="], ">=": [">", "<"], ">": [">=", "<="]}


class Mutant(NamedTuple):
    """`policy` None: it is left out."""

    name: str
    policy: Json | None


def mutants(policy: Json) -> Iterator[Mutant]:
    """Each differs from `policy` (one of `staticPolicies`) in one place."""
    yield Mutant("left out", None)
    for part in ("principal", "action"):
        yield from (Mutant(f"{part} {name}", {**policy, part: scope}) for name, scope in _scopes(policy[part]))
    conditions = policy["conditions"]
    for number, condition in enumerate(conditions):
        before, after = conditions[:number], conditions[number + 1 :]
        yield Mutant(f"{condition['kind']} left out", {**policy, "conditions": [*before, *after]})
        for name, body in _expressions(condition["body"]):
            changed = {**condition, "body": body}
            yield Mutant(f"{condition['kind']} {name}", {**policy, "conditions": [*before, changed, *after]})


def _scopes(scope: Json) -> Iterator[tuple[str, Json]]:
    if scope["op"] == "All":
        return
    yield "unrestricted", {"op": "All"}
    entities = scope.get("entities", [])
    for entity in entities:
        yield f"without {entity['id']}", {**scope, "entities": [other for other in entities if other != entity]}


def _expressions(body: Json) -> Iterator[tuple[str, Json]]:
    """Changes anywhere in an expression."""
    ((operator, operands),) = body.items()
    if operator in ("&&", "||"):
        yield f"right of {operator} left out", operands["left"]
        yield f"left of {operator} left out", operands["right"]
    if operator == "!":
        yield "not turned round", operands["arg"]
    yield from ((f"{operator} is {other}", {other: operands}) for other in _FLIPPED.get(operator, ()))
    if operator == "Set":
        for number, member in enumerate(operands):
            yield f"without {_text(member)}", {"Set": [*operands[:number], *operands[number + 1 :]]}
        return
    if operator == "Value":
        if isinstance(operands, int) and not isinstance(operands, bool):
            yield from ((f"{operands} is {other}", {"Value": other}) for other in (operands - 1, operands + 1))
        return
    if isinstance(operands, dict):
        for side, inner in operands.items():
            if isinstance(inner, dict):
                yield from ((name, {operator: {**operands, side: other}}) for name, other in _expressions(inner))


def _text(member: Json) -> str:
    return str(member["Value"]["__entity"]["id"])
