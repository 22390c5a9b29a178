"""Who comes, moves and goes: all movements of a run, planned ahead on SimPy from the fleet's plan and the seed.

Movements hang on no reading, so the world that acts them out and whoever tells the platform of them plan the same ones
each for itself. `pace` is how many times faster than in life everybody comes, stays and goes, the cleaning of beds
included: a run at pace 30 has in one minute what happens in half an hour. Patients arrive by a Poisson process for each
ward, at the rate that keeps the ward as full as its tier says; they wait when no bed is free.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import numpy as np
import simpy

from domain.errors import InvalidInput
from sim.fleet import NOBODY, NOWHERE, FleetPlan, draw_ages
from sim.mix import CLEANING_S, LEAST_STAY_S, MOVES_ON, STAY_SHARE, TIERS, TierProfile, WardKind
from sim.rng import Streams

MAX_PACE: Final = 1000.0  # beyond, a stay could end within the tick in which it began
_DAY_S: Final = 86_400


class Adt(StrEnum):
    """What happens to a patient, as HL7 v2 names its trigger events."""

    ADMIT = "A01"
    TRANSFER = "A02"
    DISCHARGE = "A03"


@dataclass(frozen=True, slots=True)
class Movement:
    """At `due_s`, which begins a tick, `patient` leaves `from_bed` and lies in `to_bed` (indices, NOWHERE for none).

    The devices of the bed come off and go on with it. Patients beyond those of the plan are the newcomers, in order.
    """

    due_s: float
    kind: Adt
    patient: int
    from_bed: int
    to_bed: int


@dataclass(frozen=True, slots=True)
class Newcomer:
    """A patient who is not there when the run begins. `ref`: the hospital's reference, as in a manifest."""

    hospital: int
    ref: str
    age_years: float
    is_icu: bool


@dataclass(frozen=True)
class Movements:
    """Movements of a run by due time, and those who come in it, by admission."""

    rows: tuple[Movement, ...]
    newcomers: tuple[Newcomer, ...]

    def occupants(self, plan: FleetPlan, bed: int) -> list[tuple[float, int]]:
        """(from when, who, or NOBODY) of a bed; the first has always been there."""
        changes = [(-math.inf, plan.beds[bed].patient)]
        changes += [(row.due_s, NOBODY if row.from_bed == bed else row.patient) for row in self.rows
                    if bed in (row.from_bed, row.to_bed)]  # fmt: skip
        return changes


def plan_movements(plan: FleetPlan, seed: int, pace: float, duration_s: float, tick_s: float = 1.0) -> Movements:
    """The same plan, seed and pace give the same movements; a longer run begins with those of a shorter one."""
    if not 0 <= pace <= MAX_PACE:
        raise InvalidInput(f"the pace of movement is {pace:g}, expected 0 (nobody moves) to {MAX_PACE:g}")
    if pace == 0:
        return Movements((), ())
    district = _District(plan, Streams(seed), duration_s * pace)
    rows, admitted = [], 0
    for at_s, kind, patient, from_bed, to_bed in district.run():
        due_s = math.ceil(at_s / pace / tick_s - 1e-9) * tick_s
        if due_s < duration_s:
            rows.append(Movement(due_s, kind, patient, from_bed, to_bed))
            admitted += kind is Adt.ADMIT
    return Movements(tuple(rows), tuple(district.newcomers[:admitted]))


def arrivals_per_s(profile: TierProfile, beds: Mapping[WardKind, int], occupancy: float | None = None) -> dict[WardKind, float]:
    """How often somebody comes to each kind of ward from outside: as many as leave it, less those who come from inside."""
    leave = {
        kind: count * (profile.occupancy[kind] if occupancy is None else occupancy) / mean_stay_s(profile, kind)
        for kind, count in beds.items()
    }
    from_inside = sum(MOVES_ON[kind] * rate for kind, rate in leave.items())
    return {kind: max(0.0, rate - from_inside) if kind is WardKind.GENERAL else rate for kind, rate in leave.items()}


def mean_stay_s(profile: TierProfile, kind: WardKind) -> float:
    """Of a patient in one ward."""
    return profile.stay_days * STAY_SHARE[kind] * _DAY_S


_Step = Generator[Any, Any, None]
_Row = tuple[float, Adt, int, int, int]  # as `Movement`, its time in seconds of life


class _District:
    """All beds of a plan over `horizon_s` seconds of life."""

    def __init__(self, plan: FleetPlan, streams: Streams, horizon_s: float) -> None:
        self._plan = plan
        self._streams = streams
        self._horizon_s = horizon_s
        self._profiles = [TIERS[hospital.tier] for hospital in plan.manifest.hospitals]
        self._env = simpy.Environment()
        self._free = {(hospital, kind): simpy.Store(self._env) for hospital in range(len(self._profiles)) for kind in WardKind}
        self._rows: list[_Row] = []
        self.newcomers: list[Newcomer] = []

    def run(self) -> list[_Row]:
        """What happens, in its order."""
        self._fill_beds()
        for hospital, profile in enumerate(self._profiles):
            counts = Counter(bed.kind for bed in self._plan.beds if bed.hospital == hospital)
            for kind, rate in arrivals_per_s(profile, counts, self._plan.spec.occupancy).items():
                if rate > 0:
                    self._env.process(self._arrive(hospital, kind, rate))
        self._env.run(until=self._horizon_s)
        return self._rows

    def _fill_beds(self) -> None:
        """Those of the plan have been there for some time: what is left of their stay is distributed like a whole one."""
        shuffled = self._streams.stream("movement", "beds").permutation(len(self._plan.beds)).tolist()
        left = self._streams.stream("movement", "stays").exponential(1.0, len(self._plan.patient_hospital))
        for number in shuffled:
            bed = self._plan.beds[number]
            if bed.patient == NOBODY:
                self._free[bed.hospital, bed.kind].put(number)
                continue
            stay_s = float(left[bed.patient]) * self._mean_stay_s(number)
            if stay_s < self._horizon_s:
                rng = self._streams.stream("movement", "patient", bed.patient)
                self._env.process(self._stay(bed.patient, number, stay_s, rng))

    def _arrive(self, hospital: int, kind: WardKind, rate_per_s: float) -> _Step:
        rng = self._streams.stream("movement", "arrivals", hospital, kind)
        while True:
            yield self._env.timeout(rng.exponential(1 / rate_per_s))
            self._env.process(self._come(hospital, kind))

    def _come(self, hospital: int, kind: WardKind) -> _Step:
        bed = yield self._free[hospital, kind].get()
        number = len(self.newcomers)
        rng = self._streams.stream("movement", "newcomer", number)
        age_years = float(draw_ages(1, rng)[0])
        self.newcomers.append(Newcomer(hospital, f"m{number + 1:06}", age_years, kind is WardKind.ICU))
        patient = len(self._plan.patient_hospital) + number
        self._note(Adt.ADMIT, patient, NOWHERE, bed)
        yield from self._stay(patient, bed, self._stay_s(bed, rng), rng)

    def _stay(self, patient: int, bed: int, stay_s: float, rng: np.random.Generator) -> _Step:
        """To the end of the stay, by way of a general ward for some: they keep their bed until one is free there."""
        yield self._env.timeout(stay_s)
        if rng.random() < MOVES_ON[self._plan.beds[bed].kind]:
            before, bed = bed, (yield self._free[self._plan.beds[bed].hospital, WardKind.GENERAL].get())
            self._note(Adt.TRANSFER, patient, before, bed)
            self._env.process(self._clean(before))
            yield self._env.timeout(self._stay_s(bed, rng))
        self._note(Adt.DISCHARGE, patient, bed, NOWHERE)
        self._env.process(self._clean(bed))

    def _clean(self, number: int) -> _Step:
        yield self._env.timeout(CLEANING_S)
        bed = self._plan.beds[number]
        self._free[bed.hospital, bed.kind].put(number)

    def _stay_s(self, bed: int, rng: np.random.Generator) -> float:
        return LEAST_STAY_S + float(rng.exponential(self._mean_stay_s(bed) - LEAST_STAY_S))

    def _mean_stay_s(self, bed: int) -> float:
        return mean_stay_s(self._profiles[self._plan.beds[bed].hospital], self._plan.beds[bed].kind)

    def _note(self, kind: Adt, patient: int, from_bed: int, to_bed: int) -> None:
        self._rows.append((self._env.now, kind, patient, from_bed, to_bed))
