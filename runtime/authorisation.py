"""Judges what may be done, by the Cedar policies of `runtime/policies` alone. Clauses 7.2b, 9.3c, 9.4.

Each grant is asked for by itself, so that the role of one never meets the place of another; all are asked in one call.
An answer is a pure function of what of the caller counts, the action, the record and the purpose, and remembered by these.
Where the evaluation of a policy fails the answer is no: Cedar would pass over it, and passing over a forbid opens a door.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple, Self

from cedarpy import AuthzResult, Entities, PolicySet, is_authorized_batch

from domain.permissions import Action, Decision, Level, Located, Purpose, Reach, View
from domain.ports import Clock
from domain.principals import Caller, Place
from runtime.policy_requests import ANYBODYS, IDENTIFY, UNMASK, Asked, Requests, Standing

POLICIES: Final = Path(__file__).with_name("policies")
_REMEMBERED: Final = 8192  # answers, and reaches: a ward's staff ask about the same records again and again
_STRANGER: Final = ""  # no patient's key: stands for everybody whom a caller neither is nor treats
_POLICY_NAME: Final = re.compile(r"policy `(\w+)`")

_log = logging.getLogger(__name__)


def policy_text() -> str:
    """All policies, in the order of their files' names."""
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(POLICIES.glob("*.cedar")))


def schema_text() -> str:
    """The words that policies may use."""
    return (POLICIES / "schema.cedarschema").read_text(encoding="utf-8")


class _Verdict(NamedTuple):
    is_allowed: bool
    policies: tuple[str, ...]


_REFUSED: Final = _Verdict(False, ())


class CedarAuthoriser:
    """`domain.permissions.Authoriser` by policies that are parsed once. May be asked from any thread."""

    def __init__(self, policies: PolicySet, clock: Clock) -> None:
        self._policies = policies
        self._clock = clock
        self._decided = lru_cache(_REMEMBERED)(self._decide)
        self._reached = lru_cache(_REMEMBERED)(self._reach)
        self._told: set[str] = set()  # which errors stand in the log already

    @classmethod
    def of_package(cls, clock: Clock) -> Self:
        """By the policies that come with the platform."""
        return cls(PolicySet.from_str(policy_text()), clock)

    def decide(
        self, caller: Caller, action: Action, record: Located, purpose: Purpose | None = None, *, unmask: bool = False
    ) -> Decision:
        """Whether `caller` may do `action` to `record`: by any one of its grants that has not ended."""
        return self._decided(Standing.of(caller, self._clock.now_us()), action, record, purpose, _naming(unmask=unmask))

    def reach(
        self, caller: Caller, action: Action, purpose: Purpose | None = None, view: View = View.MASKED, *, unmask: bool = False
    ) -> Reach:
        """Where `caller` may do `action`: `reach(…).holds(record)` exactly where `decide` allows, with that view at least."""
        standing = Standing.of(caller, self._clock.now_us())
        if view is View.MASKED:
            return self._reached(standing, (action,), purpose)
        reaches = [self._reached(standing, (action, naming), purpose) for naming in _naming(unmask=unmask)]
        return reaches[0] if len(reaches) == 1 else _both(*reaches)

    def _decide(
        self, standing: Standing, action: Action, record: Located, purpose: Purpose | None, naming: tuple[str, ...]
    ) -> Decision:
        judge = self._judgement(standing, purpose, [record])
        if action in ANYBODYS:
            (verdict,) = judge([Asked(None, action, 0)])
            return Decision(*verdict)
        verdicts = judge([Asked(grant, action, 0) for grant in range(len(standing.grants))])
        allowing = [grant for grant, verdict in enumerate(verdicts) if verdict.is_allowed]
        known = judge([Asked(grant, what, 0) for grant in allowing for what in naming])
        naming_too = [verdict for verdict in known if verdict.is_allowed]
        telling = [verdict for verdict in verdicts if verdict.is_allowed == bool(allowing)] + naming_too
        policies = {policy for verdict in telling for policy in verdict.policies}
        return Decision(bool(allowing), tuple(sorted(policies)), View.CLEAR if naming_too else View.MASKED)

    def _reach(self, standing: Standing, actions: tuple[str, ...], purpose: Purpose | None) -> Reach:
        """Where one grant allows all these actions: asked at its place about each kind of patient at each level.

        Policies tell patients apart by whether the caller treats, or is, them and by nothing else: one stands for all.
        """
        kinds = [(number, kind) for number in range(len(standing.grants)) for kind in _kinds_of_patients(standing)]
        records: list[Located] = []
        asked: list[Asked] = []
        for number, kind in kinds:
            for level in Level:
                asked += [Asked(None if action in ANYBODYS else number, action, len(records)) for action in actions]
                records.append(Located(standing.grants[number].place, level, kind[0]))
        verdicts = iter(self._judgement(standing, purpose, records)(asked))
        levels: dict[Place, Level] = {}
        patients: dict[tuple[Place, str], Level] = {}
        for number, kind in kinds:
            place = standing.grants[number].place
            allowed = [[next(verdicts).is_allowed for _ in actions] for _ in Level]
            for level in (level for level, by_action in zip(Level, allowed, strict=True) if all(by_action)):
                if kind == (_STRANGER,):
                    levels[place] = max(level, levels.get(place, level))
                else:
                    patients |= {(place, key): max(level, patients.get((place, key), level)) for key in kind}
        return Reach(levels, patients)

    def _judgement(
        self, standing: Standing, purpose: Purpose | None, records: Sequence[Located]
    ) -> Callable[[Sequence[Asked]], list[_Verdict]]:
        """What judges requests about these records, in the order asked."""
        requests = Requests(standing, purpose)
        try:
            entities = Entities.from_json_str(requests.entities(records))
        except ValueError:  # its words may hold values
            self._tell("none: an id is no text")
            return lambda asked: [_REFUSED] * len(asked)

        def judge(asked: Sequence[Asked]) -> list[_Verdict]:
            results = is_authorized_batch([requests.of(question) for question in asked], self._policies, entities)
            return [self._verdict(result) for result in results]

        return judge

    def _verdict(self, result: AuthzResult) -> _Verdict:
        found = result.diagnostics
        if not found.errors:
            return _Verdict(result.allowed, tuple(found.id_annotations_by_reason.values()))
        name = _POLICY_NAME.search(found.errors[0])  # the rest of the sentence may hold values
        self._tell(name.group(1) if name else "none: the request itself")
        return _REFUSED

    def _tell(self, policy: str) -> None:
        if policy not in self._told:
            self._told.add(policy)
            _log.error("a policy could not be evaluated; what it is asked for is refused", extra={"policy": policy})


def _naming(*, unmask: bool) -> tuple[str, ...]:
    return (IDENTIFY, UNMASK) if unmask else (IDENTIFY,)


def _both(one: Reach, other: Reach) -> Reach:
    levels, patients = dict(one.levels), dict(one.patients)
    for place, level in other.levels.items():
        levels[place] = max(level, levels.get(place, level))
    for key, level in other.patients.items():
        patients[key] = max(level, patients.get(key, level))
    return Reach(levels, patients)


def _kinds_of_patients(standing: Standing) -> Iterator[tuple[str, ...]]:
    """Keys of patients whom no policy tells apart, kind by kind."""
    yield (_STRANGER,)
    own = frozenset(() if standing.patient_key is None else (standing.patient_key,))
    for kind in (standing.treats - own, standing.treats & own, own - standing.treats):
        if kind:
            yield tuple(kind)
