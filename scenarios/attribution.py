"""Whose readings are they? Those of beds in which somebody came or went, asked back and compared with who lay there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from domain.instants import parse_rfc3339
from scenarios.admissions import AdmissionDesk
from scenarios.rest import Rest
from scenarios.roster import first_continuous
from sim.fleet import NOBODY
from sim.mix import MODELS

_MOST_BEDS: Final = 12


@dataclass
class Attribution:
    """Readings joined to the patient on whom they were taken, or to nobody where nobody was; and all others.

    What the platform calls ambiguous, being taken within the clocks' uncertainty of a boundary, is neither.
    """

    right: int = 0
    wrong: int = 0

    def figures(self) -> dict[str, float | None]:
        return {"readings_attributed": self.right, "readings_misattributed": self.wrong}


async def check_attribution(rest: Rest, desk: AdmissionDesk, start_us: int, total_s: float) -> Attribution:
    """Look at a device of some beds with a movement, monitors first. Raises Unavailable or InvalidInput."""
    found = Attribution()
    for bed, device, metric in _chosen(desk):
        hospital_id = desk.plan.manifest.hospitals[desk.plan.beds[bed].hospital].hospital_id
        name = f"{hospital_id}/{desk.plan.device_id(device)}"
        rows = await rest.readings_by_patient(name, metric, start_us, start_us + round(total_s * 1e6))
        _compare(rows, desk, bed, start_us, found)
    return found


def _chosen(desk: AdmissionDesk) -> list[tuple[int, int, str]]:
    """(bed, device, metric): the device that says most clearly who lies there."""
    chosen = []
    touched = {bed for row in desk.movements.rows for bed in (row.from_bed, row.to_bed) if bed >= 0}
    for bed in sorted(touched):
        worn = sorted(desk.plan.worn_at(bed).tolist(), key=lambda device: MODELS[desk.plan.model[device]] != "monitor")
        speaking = [(device, metric) for device in worn if (metric := first_continuous(MODELS[desk.plan.model[device]]))]
        if speaking:
            chosen.append((bed, *speaking[0]))
    chosen.sort(key=lambda row: MODELS[desk.plan.model[row[1]]] != "monitor")
    return chosen[:_MOST_BEDS]


def _compare(rows: list[dict[str, Any]], desk: AdmissionDesk, bed: int, start_us: int, found: Attribution) -> None:
    since_s, who = zip(*desk.movements.occupants(desk.plan, bed), strict=True)
    for row in rows:
        if row["ambiguous"]:
            continue
        at_s = (parse_rfc3339(row["time"]) - start_us) / 1e6
        patient = who[int(np.searchsorted(since_s, at_s, side="right")) - 1]
        expected = None if patient == NOBODY else desk.key_of(patient)
        if row["patient_key"] == expected:
            found.right += 1
        else:
            found.wrong += 1
