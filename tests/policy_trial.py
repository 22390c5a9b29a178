"""Plays the decision table against policies, and against one changed policy at a time.

Cedar allows what some permit is satisfied by and no forbid. So which policies each request satisfies is found once; of a
changed policy only what itself satisfies is asked, where that decides, until an outcome differs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from cedarpy import Entities, PolicySet, is_authorized_batch

from domain.permissions import Purpose
from domain.principals import Role
from runtime.policy_requests import ANYBODYS, IDENTIFY, UNMASK, Asked, Requests, Standing
from tests.permission_requests import NOW_US
from tests.permission_table import CLEAR, DENIED, MASKED, Row

Json = dict[str, Any]
_NOTHING: Final = frozenset[str]()


class _Cell(NamedTuple):
    """A row and its requests in a group: for each grant what is asked, and whether patients may be identified."""

    row: Row
    done: list[int]
    known: list[int]

    def outcome(self, is_allowed: Callable[[int], bool]) -> str:
        if any(is_allowed(done) and is_allowed(known) for done, known in zip(self.done, self.known, strict=False)):
            return CLEAR
        return MASKED if any(map(is_allowed, self.done)) else DENIED


class _Group:
    """The rows of one caller and purpose: their requests speak of the same entities.

    `permits` and `forbids`: names of those that each request satisfies.
    """

    def __init__(self, standing: Standing, purpose: Purpose | None, rows: Sequence[Row]) -> None:
        self.roles = {grant.role for grant in standing.grants}
        records = list(dict.fromkeys(row.record for row in rows))
        number_of = {record: number for number, record in enumerate(records)}
        asked: dict[Asked, int] = {}
        self.cells = [_cell(asked, row, number_of[row.record], len(standing.grants)) for row in rows]
        requests = Requests(standing, purpose)
        self._entities = Entities.from_json_str(requests.entities(records))
        self._requests = [requests.of(question) for question in asked]
        self.permits = self.forbids = [_NOTHING] * len(asked)

    def satisfied(self, permits: PolicySet, numbers: Sequence[int] | None = None) -> list[frozenset[str]]:
        """Names of the policies that requests (None: all) satisfy; `permits` permits only."""
        requests = self._requests if numbers is None else [self._requests[number] for number in numbers]
        results = is_authorized_batch(requests, permits, self._entities)
        assert not any(result.diagnostics.errors for result in results)
        return [frozenset(result.diagnostics.reasons) for result in results]

    def is_allowed(self, number: int) -> bool:
        return bool(self.permits[number]) and not self.forbids[number]

    def deciding(self, name: str, *, is_permit: bool, is_satisfied: bool) -> list[int]:
        """Requests that do, or do not, satisfy policy `name`, and of which it alone decides."""
        return [
            number
            for number, (permits, forbids) in enumerate(zip(self.permits, self.forbids, strict=True))
            if (name in permits or name in forbids) == is_satisfied
            and (not (forbids or permits - {name}) if is_permit else permits and not forbids - {name})
        ]


class Trial:
    """Policies, as Cedar's JSON by name, and the rows they are tried on."""

    def __init__(self, policies: dict[str, Json], rows: Iterable[Row]) -> None:
        self._permits, self._forbids = (_of_effect(policies, effect) for effect in ("permit", "forbid"))
        by_caller: dict[tuple[Standing, Purpose | None], list[Row]] = {}
        for row in rows:
            by_caller.setdefault((Standing.of(row.caller, NOW_US), row.purpose), []).append(row)
        self._groups = [_Group(*caller, rows) for caller, rows in by_caller.items()]
        permits, forbids = _as_permits(self._permits), _as_permits(self._forbids)
        for group in self._groups:
            group.permits, group.forbids = group.satisfied(permits), group.satisfied(forbids)

    def wrong(self) -> Iterator[tuple[Row, str]]:
        """Rows of which something else comes out than is expected."""
        for group in self._groups:
            for cell in group.cells:
                if (outcome := cell.outcome(group.is_allowed)) != cell.row.expected:
                    yield cell.row, outcome

    def unnoticed(self, name: str, mutants: Iterable[tuple[str, Json | None]]) -> list[str]:
        """Of changes of policy `name` (None: it is left out) those by which no row's outcome differs."""
        satisfied, others = self._parts(name, is_satisfied=True), self._parts(name, is_satisfied=False)
        roles: set[Role] = set().union(*(group.roles for group, _ in satisfied))
        others.sort(key=lambda part: not part[0].roles <= roles)  # what is wider is so first where it was satisfied
        return [change for change, policy in mutants if not self._is_noticed(name, policy, [*satisfied, *others])]

    def _parts(self, name: str, *, is_satisfied: bool) -> list[tuple[_Group, list[int]]]:
        is_permit = name in self._permits
        parts = [(group, group.deciding(name, is_permit=is_permit, is_satisfied=is_satisfied)) for group in self._groups]
        return [(group, numbers) for group, numbers in parts if numbers]

    def _is_noticed(self, name: str, changed: Json | None, parts: list[tuple[_Group, list[int]]]) -> bool:
        policies = _as_permits({} if changed is None else {name: changed})
        for group, numbers in parts:
            after = group.satisfied(policies, numbers)
            differing = {
                number
                for number, now in zip(numbers, after, strict=True)
                if (name in now) != (name in group.permits[number] or name in group.forbids[number])
            }
            if differing and any(
                self._differs(group, cell, name, policies)
                for cell in group.cells
                if not differing.isdisjoint(cell.done) or not differing.isdisjoint(cell.known)
            ):
                return True
        return False

    def _differs(self, group: _Group, cell: _Cell, name: str, changed: PolicySet) -> bool:
        """Whether something else comes out of a row when policy `name` is `changed`."""
        numbers = [*cell.done, *cell.known]
        now = dict(zip(numbers, group.satisfied(changed, numbers), strict=True))

        def is_allowed(number: int) -> bool:
            permits, forbids = group.permits[number], group.forbids[number]
            if name in self._permits:
                return bool(permits - {name} | now[number]) and not forbids
            return bool(permits) and not (forbids - {name} | now[number])

        return cell.outcome(is_allowed) != cell.row.expected


def _cell(asked: dict[Asked, int], row: Row, record: int, grants: int) -> _Cell:
    """Adds what the row asks to what is `asked` already."""

    def number(grant: int | None, action: str) -> int:
        return asked.setdefault(Asked(grant, action, record), len(asked))

    if row.action in ANYBODYS:
        return _Cell(row, [number(None, row.action)], [])
    naming = (IDENTIFY, UNMASK) if row.unmask else (IDENTIFY,)
    done = [number(grant, row.action) for _ in naming for grant in range(grants)]
    return _Cell(row, done, [number(grant, action) for action in naming for grant in range(grants)])


def _of_effect(policies: dict[str, Json], effect: str) -> dict[str, Json]:
    return {name: policy for name, policy in policies.items() if policy["effect"] == effect}


def _as_permits(policies: dict[str, Json]) -> PolicySet:
    permits = {name: {**policy, "effect": "permit"} for name, policy in policies.items()}
    return PolicySet.from_json_str(json.dumps({"staticPolicies": permits, "templates": {}, "templateLinks": []}))
