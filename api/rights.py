"""What somebody may do in effect, found by asking the one who decides: no table is written here a second time. Clause 7.2b."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from domain.permissions import Action, Authoriser, Level, Purpose, Reach
from domain.principals import Caller, Grant, Place


@dataclass(frozen=True, slots=True)
class Right:
    """An action that a grant allows at its place, at most at these levels (None: not at all), for these purposes.

    `of_own`: of patients whom the user treats, or is.
    """

    action: Action
    level: Level | None
    of_own: Level | None
    purposes: tuple[Purpose, ...]


def rights_of(authoriser: Authoriser, caller: Caller) -> list[tuple[Grant, list[Right]]]:
    """What each grant of `caller` allows, beside the others that they have."""
    return [(grant, list(_rights(authoriser, caller, grant))) for grant in caller.grants]


Rights = list[tuple[Grant, list[Right]]]


def differing(others: Rights, than: Rights) -> Rights:
    """Of `others` what is not the same in `than`, of the same grants; an action that is missing there has no levels."""
    found: Rights = []
    for (grant, rights), (_, known) in zip(others, than, strict=True):
        gone = {right.action for right in known} - {right.action for right in rights}
        other = [right for right in rights if right not in known]
        found.append((grant, other + [Right(action, None, None, ()) for action in sorted(gone)]))
    return [(grant, rights) for grant, rights in found if rights]


def _rights(authoriser: Authoriser, caller: Caller, grant: Grant) -> Iterator[Right]:
    alone = replace(caller, grants=(grant,))
    for action in Action:
        found = {purpose: _both(authoriser, caller, alone, action, purpose, grant.place) for purpose in Purpose}
        purposes = tuple(purpose for purpose, levels in found.items() if any(levels))
        if purposes:
            level = max(levels[0] for levels in found.values())
            of_own = max(levels[1] for levels in found.values())
            yield Right(action, Level(level) if level else None, Level(of_own) if of_own else None, purposes)


def _both(
    authoriser: Authoriser, caller: Caller, alone: Caller, action: Action, purpose: Purpose, place: Place
) -> tuple[int, int]:
    """The highest levels, of everybody and of own patients: what the grant allows by itself and nothing else forbids."""
    reaches = [authoriser.reach(one, action, purpose) for one in (alone, caller)]
    of_all = min(reach.levels.get(place, 0) for reach in reaches)
    return of_all, min(max(_of_own(reach, place), reach.levels.get(place, 0)) for reach in reaches) if _has_own(reaches) else 0


def _of_own(reach: Reach, place: Place) -> int:
    return max((level for (where, _), level in reach.patients.items() if where == place), default=0)


def _has_own(reaches: list[Reach]) -> bool:
    return bool(reaches[0].patients)
