"""Permissions: how long the policies take to judge a request, and where a caller may do something at all.

    python benchmarks/bench_permission.py            two seconds a figure
    python benchmarks/bench_permission.py --quick    a smoke run, as in CI

Every request pays one decision, every list one reach. Clauses 7.2b, 9.3c.
"""

from __future__ import annotations

from itertools import count

from benchmarks.measure import Bench, seconds_each
from domain.permissions import Action, Level, Located
from domain.principals import Caller, Factor, Grant, Kind, Place, Principal, Relation, Role
from runtime.authorisation import CedarAuthoriser
from runtime.clock import SystemClock

WARD = Place("sz", "futian", "sz.h001", "icu")
TREATED = frozenset(f"p-{number}" for number in range(40))  # the patients of a ward
RECORD = Located(WARD, Level.IDENTIFYING, "p-7")


def caller(*grants: Grant) -> Caller:
    return Caller(Principal(Kind.USER, "u-1", "li.na"), grants, factors=frozenset({Factor.PASSWORD}), treats=TREATED)


def main() -> None:
    bench = Bench("permission")
    judge = CedarAuthoriser.of_package(SystemClock())
    nurse = caller(Grant(Role.NURSE, Place.parse("sz.h001/icu")))
    head = caller(
        Grant(Role.DEPARTMENT_HEAD, Place.parse("sz.h001/icu")),
        Grant(Role.DOCTOR, Place.parse("sz.h001"), Relation.CARE_TEAM),
        Grant(Role.PRIVACY_OFFICER, Place.parse("sz.h001")),
    )
    keys = count()  # no record is asked about twice: nothing is remembered of it

    def new() -> Located:
        return Located(WARD, Level.IDENTIFYING, f"new-{next(keys)}")

    def us(work) -> float:
        return 1e6 * seconds_each(work, bench.seconds)

    bench.note("decision, of a nurse, allowed", us(lambda: judge.decide(nurse, Action.PATIENT_READ, new())), "µs")
    bench.note("decision, of a nurse, refused", us(lambda: judge.decide(nurse, Action.HOST_READ, new())), "µs")
    bench.note("decision, three grants", us(lambda: judge.decide(head, Action.PATIENT_READ, new())), "µs")
    bench.note("decision, remembered", us(lambda: judge.decide(nurse, Action.PATIENT_READ, RECORD)), "µs")

    def reach(of: Caller) -> object:
        return CedarAuthoriser.of_package(SystemClock()).reach(of, Action.PATIENT_READ)

    loading_us = us(lambda: CedarAuthoriser.of_package(SystemClock()))
    bench.note("policies read and parsed", loading_us, "µs")
    bench.note("reach, of a nurse with 40 patients", us(lambda: reach(nurse)) - loading_us, "µs")
    bench.note("reach, three grants", us(lambda: reach(head)) - loading_us, "µs")
    bench.note("reach, remembered", us(lambda: judge.reach(head, Action.PATIENT_READ)), "µs")
    bench.finish()


if __name__ == "__main__":
    main()
