"""Who lies in which bed at this moment of a run, and what a patient is called."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.fleet import NOBODY, NOWHERE, FleetPlan
from sim.movements import Movement, Movements


class People:
    """The patients of the plan and those who come; numbers as in `sim.movements`."""

    def __init__(self, plan: FleetPlan, movements: Movements) -> None:
        self._names = names_of(plan, movements)
        self._in_bed = np.array([bed.patient for bed in plan.beds], dtype=np.int64)
        self._bed_of = np.full(len(self._names), NOWHERE, dtype=np.int64)
        occupied = np.flatnonzero(self._in_bed != NOBODY)
        self._bed_of[self._in_bed[occupied]] = occupied
        self._last_bed = self._bed_of.copy()

    def name(self, patient: int) -> str:
        """`sz.h001/p000012`: the hospital and its reference."""
        return self._names[patient]

    def move(self, row: Movement) -> None:
        if row.from_bed != NOWHERE:
            self._in_bed[row.from_bed] = NOBODY
        if row.to_bed != NOWHERE:
            self._in_bed[row.to_bed] = row.patient
            self._last_bed[row.patient] = row.to_bed
        self._bed_of[row.patient] = row.to_bed

    def in_place_of(self, patients: NDArray[np.intp]) -> NDArray[np.intp]:
        """`patients` as far as they are here; for each who has left, whoever lies in that bed now, if anybody does."""
        here = self._in_bed[self._last_bed[patients]]
        return np.unique(here[here != NOBODY]).astype(np.intp)


def names_of(plan: FleetPlan, movements: Movements) -> list[str]:
    """Hospital and reference of every patient by number: those of the plan, then the newcomers."""
    hospitals = plan.manifest.hospitals
    names = [f"{hospital.hospital_id}/{ref}" for hospital in hospitals for ref in hospital.patients.refs]
    return names + [f"{hospitals[new.hospital].hospital_id}/{new.ref}" for new in movements.newcomers]
