"""What somebody may do in effect, found by asking the one who decides: no table is written here a second time. Clause 7.2b."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    """What each grant of `caller` allows, beside the others that they have. Takes time in proportion to the grants."""
    together = {(action, purpose): authoriser.reach(caller, action, purpose) for action in Action for purpose in Purpose}
    return [(grant, list(_rights(authoriser, replace(caller, grants=(grant,)), together))) for grant in caller.grants]


Rights = list[tuple[Grant, list[Right]]]


def differing(others: Rights, than: Rights) -> Rights:
    """Of `others` what is not the same in `than`, of the same grants; an action that is missing there has no levels."""
    found: Rights = []
    for (grant, rights), (_, known) in zip(others, than, strict=True):
        gone = {right.action for right in known} - {right.action for right in rights}
        other = [right for right in rights if right not in known]
        found.append((grant, other + [Right(action, None, None, ()) for action in sorted(gone)]))
    return [(grant, rights) for grant, rights in found if rights]


def _rights(authoriser: Authoriser, alone: Caller, together: Mapping[tuple[Action, Purpose], Reach]) -> Iterator[Right]:
    """Of one grant. `together`: what all grants of the same caller reach."""
    (place,) = (grant.place for grant in alone.grants)
    for action in Action:
        found = {}
        for purpose in Purpose:
            found[purpose] = _both(authoriser.reach(alone, action, purpose), together[action, purpose], place)
        purposes = tuple(purpose for purpose, levels in found.items() if any(levels))
        if purposes:
            level = max(levels[0] for levels in found.values())
            of_own = max(levels[1] for levels in found.values())
            yield Right(action, Level(level) if level else None, Level(of_own) if of_own else None, purposes)


def _both(alone: Reach, together: Reach, place: Place) -> tuple[int, int]:
    """The highest levels, of everybody and of own patients: what the grant allows by itself and nothing else forbids."""
    reaches = (alone, together)
    of_all = min(reach.levels.get(place, 0) for reach in reaches)
    if not alone.patients:
        return of_all, 0
    return of_all, min(max(_of_own(reach, place), reach.levels.get(place, 0)) for reach in reaches)


def _of_own(reach: Reach, place: Place) -> int:
    return max((level for (where, _), level in reach.patients.items() if where == place), default=0)
