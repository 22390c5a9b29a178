"""Reads `data/decisions.toml`: who may do what, cell by cell. How it is written stands at its head."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from domain.permissions import Action, Level, Located, Purpose
from domain.principals import Caller, Factor, Grant, Must, Place, Relation, Role
from tests.permission_requests import caller_of, place_of

DECISIONS: Final = Path(__file__).parent / "data" / "decisions.toml"
DENIED, MASKED, CLEAR = ".", "m", "c"


class Row(NamedTuple):
    """One decision: `expected` is DENIED, or how patients appear."""

    role: Role
    situation: str
    caller: Caller
    action: Action
    record: Located
    purpose: Purpose | None
    unmask: bool
    expected: str


@cache
def table() -> tuple[Row, ...]:
    """Every role, action and situation, in this order."""
    document = tomllib.loads(DECISIONS.read_text(encoding="utf-8"))
    return tuple(_rows(document))


def _rows(document: dict[str, Any]) -> Iterator[Row]:
    situations = document["situations"]
    everybody = _by_action(document["everybody"], len(situations))
    for role in Role:
        outcomes = _by_action(document[role], len(situations)) | everybody
        for action in Action:
            cells = outcomes.get(action, DENIED * len(situations))
            for situation, expected in zip(situations, cells, strict=True):
                asked = _question(role, action, situation)
                yield Row(role, situation["is"], *asked, situation.get("unmask", False), expected)


def _by_action(entries: list[dict[str, str]], width: int) -> dict[str, str]:
    """Outcomes of each action: an entry holds for all the actions it names."""
    found: dict[str, str] = {}
    for entry in entries:
        cells = "".join(entry["outcomes"].split())
        assert len(cells) == width, f"{entry['actions']}: {len(cells)} outcomes for {width} situations"
        for action in entry["actions"].split():
            assert Action(action) not in found, f"{action} stands in two entries"
            found[action] = cells
    return found


def _question(role: Role, action: Action, situation: dict[str, Any]) -> tuple[Caller, Action, Located, Purpose | None]:
    relation = Relation(situation.get("relation", "any"))
    grants = [Grant(role, Place.parse(situation.get("grant", "sz.h001/icu")), relation)]
    if "others" in situation:
        grants += [Grant(Role(other), Place.parse("sz.h001/icu")) for other in situation["others"] if other != role]
    caller = caller_of(
        *grants,
        patient_key=situation.get("is_patient", "own") or None,
        treats=("treated",),
        factors=frozenset({Factor.PASSWORD, Factor.TOTP} if situation.get("totp") else {Factor.PASSWORD}),
        must=Must.PASSWORD_CHANGE if situation.get("owes") else None,
    )
    hospital_id, _, ward_id = situation.get("at", "sz.h001/icu").partition("/")
    level = Level(situation["level"]) if "level" in situation else None
    record = Located(place_of(hospital_id, ward_id or None), level, situation.get("patient"))
    return caller, action, record, Purpose(situation["purpose"]) if "purpose" in situation else None
