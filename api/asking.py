"""Who asks, for what, and what they may: what a handler gets of a request once its permission is known. Clause 7.2b.

A record that is out of reach and has an opaque key is answered as one that does not exist: `Target.unknown` is the
sentence. Where the caller named the place itself, the refusal says what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from api.access_audit import Asked
from domain.errors import Forbidden, NotFound
from domain.permissions import Action, Authoriser, Level, Located, Purpose, Reach, View
from domain.principals import Caller, Place


@dataclass(frozen=True, slots=True)
class Target:
    """What a request is about: the records as far as permission goes, each of which has to be permitted. Not none.

    `unknown`: what is said to whom they are out of reach, as if they did not exist. None: the caller named them by a place,
    and is refused at `named`, in their own words: where something lies is not told.
    """

    records: tuple[Located, ...]
    unknown: str | None = None
    named: str | None = None

    @classmethod
    def at(cls, place: Place, level: Level) -> Target:
        """One record at a place that the caller named."""
        return cls((Located(place, level),))


@dataclass(frozen=True, slots=True)
class Judge:
    """Who asks for which action and why, and who decides; `asked` is told of it, for the access log.

    In an emergency `caller` has what counts then alone (`api.emergency`): what they may see at other times is refused as
    AuditUnavailable wherever Forbidden or NotFound is said here.
    """

    authoriser: Authoriser
    caller: Caller
    action: Action
    asked: Asked
    purpose: Purpose | None = None
    reason: str | None = None
    unmask: bool = False  # they ask to see patients by name, and have said why

    @property
    def reach(self) -> Reach:
        """Where the caller may do it."""
        return self.authoriser.reach(self.caller, self.action, self.purpose)

    @property
    def clear(self) -> Reach:
        """Where patients appear by name in the answer."""
        return self.authoriser.reach(self.caller, self.action, self.purpose, View.CLEAR, unmask=self.unmask)

    def somewhere(self) -> Reach:
        """The same. Raises Forbidden when it is nowhere."""
        reach = self.reach
        if reach.is_nothing:
            self.check_shut(lambda usual: not usual.reach.is_nothing)
            raise Forbidden(f"{self.caller.principal.name} may not {self.action}: {self._why_nowhere()}")
        return reach

    def _why_nowhere(self) -> str:
        """It may be the purpose alone that does not fit."""
        reaches = {purpose: self.authoriser.reach(self.caller, self.action, purpose) for purpose in Purpose}
        fit = [purpose for purpose, reach in reaches.items() if not reach.is_nothing]
        if not fit or self.purpose is None:
            return "no role of theirs allows it anywhere"
        return f"their roles do not allow it for {self.purpose}, but for {', '.join(fit)} (X-Purpose)"

    def permit(self, target: Target) -> View:
        """How patients appear in the answer. Raises Forbidden, or NotFound where that is told of nothing."""
        if not target.records:
            raise Forbidden(f"{self.caller.principal.name} may not {self.action}: nothing was named")
        views = set[View]()
        for record in dict.fromkeys(target.records):
            decision = self.authoriser.decide(self.caller, self.action, record, self.purpose, unmask=self.unmask)
            self.asked.judged(self.action, record, decision, is_one=(target.unknown or target.named) is not None)
            if not decision.is_allowed:
                self.check_shut(partial(_allows, record))
                raise self._refusal(target, record)
            views.add(decision.view)
        view = View.CLEAR if views == {View.CLEAR} else View.MASKED
        self.asked.appear(view)
        return view

    def near(self, named: Iterable[Place]) -> None:
        """Raises Forbidden for a place that has nothing within reach: an empty list of it would say that nothing is there."""
        reach = self.reach
        for place in named:
            if not _is_near(reach, place):
                self.check_shut(partial(_reaches, place))
                raise Forbidden(f"{self.caller.principal.name} may not {self.action} at {place}")

    @property
    def usual(self) -> Judge | None:
        """In an emergency in which not all counts that the caller was given: as at other times. Else None."""
        return None if self.asked.shut is None else replace(self, caller=self.asked.shut.caller)

    def check_shut(self, would_be_shown: Callable[[Judge], bool]) -> None:
        """Raises AuditUnavailable in an emergency for what would be shown at other times."""
        usual = self.usual
        if usual is not None and self.asked.shut is not None and would_be_shown(usual):
            raise self.asked.shut.refusal()

    def _refusal(self, target: Target, record: Located) -> Forbidden | NotFound:
        if target.unknown is not None:
            return NotFound(target.unknown)
        name, where = self.caller.principal.name, f"at {target.named or record.place}"
        if record.place.chain() == (Place(record.place.region_id),):
            within = sorted({str(place) for place in self.reach.levels})
            if within:
                where += f" as a whole, but at {', '.join(within[:5])}: name one of these"
        return Forbidden(f"{name} may not {self.action} {where}")


@dataclass(frozen=True, slots=True)
class Asking:
    """A caller who may do what is asked for. `view`: how patients appear in the answer."""

    judge: Judge
    view: View = View.MASKED

    @property
    def caller(self) -> Caller:
        return self.judge.caller

    @property
    def reason(self) -> str | None:
        """Why, in the caller's words: recorded with each write."""
        return self.judge.reason

    @property
    def reach(self) -> Reach:
        """Where the caller may do this: what a list may hold."""
        return self.judge.reach

    @property
    def clear(self) -> Reach:
        """Where patients appear by name in it; elsewhere they are masked. The access log is told."""
        clear = self.judge.clear
        self.judge.asked.appear(View.MASKED if clear.is_nothing else View.CLEAR)
        return clear

    def shows(self, patients: Iterable[str | None]) -> None:
        """The answer shows something of these patients (their keys): it is noted in the access log."""
        self.judge.asked.patients.update(key for key in patients if key is not None)

    def shows_of(self, wards: Iterable[tuple[str, str | None]]) -> None:
        """The answer shows records of these wards (hospital, ward): it is noted too."""
        self.judge.asked.wards.update(f"{hospital_id}/{ward_id}" for hospital_id, ward_id in wards if ward_id is not None)

    def shows_rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """The answer shows these rows of a list, each of a patient or of none, in a ward or in none."""
        for row in rows:
            self.shows([row["patient_key"]])
            self.shows_of([(row["hospital_id"], row["ward_id"])])

    def also(self, target: Target, action: Action | None = None) -> None:
        """Permit more than what was asked for first, or raise as that does."""
        other = self.judge if action is None else _of(self.judge, action)
        other.permit(target)

    def may(self, action: Action, record: Located) -> bool:
        """Whether the caller may do something else to a record: for parts of an answer that are left out otherwise."""
        judge = self.judge
        return judge.authoriser.decide(judge.caller, action, record, judge.purpose).is_allowed

    def reach_of(self, action: Action) -> Reach:
        """Where the caller may do something else."""
        return _of(self.judge, action).reach

    def clear_of(self, action: Action) -> Reach:
        """Where patients would appear by name in another answer: a search may go by no name that is not shown."""
        return _of(self.judge, action).clear


@dataclass(frozen=True, slots=True)
class Unplaced:
    """A caller who may do what is asked for somewhere; where it is to be done stands in the body.

    No `Asking`: nothing is written for it before the handler has said where (`at`).
    """

    judge: Judge

    @property
    def caller(self) -> Caller:
        return self.judge.caller

    def at(self, target: Target) -> Asking:
        """The same caller, permitted at these places. Raises Forbidden, or NotFound where that is told of nothing."""
        return Asking(self.judge, self.judge.permit(target))


def _of(judge: Judge, action: Action) -> Judge:
    return replace(judge, action=action)


def _allows(record: Located, judge: Judge) -> bool:
    return judge.authoriser.decide(judge.caller, judge.action, record, judge.purpose).is_allowed


def _reaches(place: Place, judge: Judge) -> bool:
    return _is_near(judge.reach, place)


def _is_near(reach: Reach, place: Place) -> bool:
    held = (*reach.levels, *(place for place, _ in reach.patients))
    return any(_overlap(place, other) for other in held)


def _overlap(one: Place, other: Place) -> bool:
    """Whether one lies in the other. Places of grants do not say their hospital's district, so texts are compared."""
    return str(one) in map(str, other.chain()) or str(other) in map(str, one.chain())


def of_places(places: Sequence[Place], level: Level, named: str | None = None) -> Target:
    """Records of one level at places that the caller named."""
    return Target(tuple(Located(place, level) for place in places), named=named)
