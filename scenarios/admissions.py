"""Tells the platform who comes, moves and goes, when it happens, as the hospitals' information systems do in life.

Open loop like the generator: each movement is due by the plan, whatever was answered before. Those of one hospital go
one after the other, as over one HL7 connection, so that nobody is discharged before being admitted. Times are stated:
what the platform is told late it is told with the time at which it was so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from domain.errors import NotFound, VitalgridError
from domain.fleet_manifest import FleetManifest, HospitalManifest
from scenarios.rest import Rest
from scenarios.roster import Roster
from sim.fleet import FleetPlan
from sim.mix import MODELS
from sim.movements import Adt, Movement, Movements
from sim.people import names_of


class AdmissionDesk:
    """Of all hospitals of a world. `roster` learns who comes: keys, and whose readings show on whom."""

    def __init__(self, rest: Rest, plan: FleetPlan, movements: Movements, roster: Roster) -> None:
        self.plan = plan
        self.movements = movements
        self._rest = rest
        self._roster = roster
        self._names = names_of(plan, movements)
        self._start_us = 0
        self.performed: dict[Adt, int] = dict.fromkeys(Adt, 0)
        self.failures: dict[str, int] = {}

    def figures(self) -> dict[str, float | None]:
        """What was performed, and what was not for whatever reason; "not measured" where nobody was to move."""
        done = self.performed
        return {
            "patients_admitted": done[Adt.ADMIT], "patients_transferred": done[Adt.TRANSFER],
            "patients_discharged": done[Adt.DISCHARGE], "movement_errors": len(self.movements.rows) - sum(done.values()),
        }  # fmt: skip

    async def run(self, start_us: int, zero: float) -> None:
        """Perform each movement when it is due: `zero` is the start of the run, `start_us`, as perf_counter has it."""
        self._start_us = start_us
        hospitals: dict[str, list[Movement]] = {}
        for row in self.movements.rows:
            hospitals.setdefault(self._hospital_id(row), []).append(row)
        await asyncio.gather(*(self._work_off(rows, zero) for rows in hospitals.values()))

    def key_of(self, patient: int) -> str | None:
        """The platform's name of a patient; None for one of whom it was never told."""
        return self._roster.patient_keys.get(self._names[patient])

    async def _work_off(self, rows: list[Movement], zero: float) -> None:
        for row in rows:
            await asyncio.sleep(max(0.0, zero + row.due_s - time.perf_counter()))
            try:
                await self._perform(row)
            except VitalgridError as error:
                sentence = f"{row.kind} {row.kind.name.lower()}: {error}"[:300]
                self.failures[sentence] = self.failures.get(sentence, 0) + 1
            else:
                self.performed[row.kind] += 1

    async def _perform(self, row: Movement) -> None:
        at_us = self._start_us + round(row.due_s * 1e6)
        if row.kind is Adt.ADMIT:
            await self._admit(row, at_us)
            await self._put_on(row, at_us)
            return
        key = self.key_of(row.patient)
        if key is None:
            raise NotFound("the platform was never told of the patient")
        if row.kind is Adt.TRANSFER:
            bed = self.plan.beds[row.to_bed]
            await self._rest.end_associations(key, at_us)
            await self._rest.move_patient(key, bed.ward_id, bed.bed_id)
            await self._put_on(row, at_us)
        else:
            await self._rest.discharge_patient(key, at_us)

    async def _admit(self, row: Movement, at_us: int) -> None:
        new = self.movements.newcomers[row.patient - len(self.plan.patient_hospital)]
        bed, name = self.plan.beds[row.to_bed], self._names[row.patient]
        answer = await self._rest.admit_patient(
            self._hospital_id(row), new.ref, new.age_years, ward_id=bed.ward_id, bed_id=bed.bed_id, admitted_us=at_us
        )
        self._roster.patient_keys[name] = answer["patient_key"]
        devices = self.plan.worn_at(row.to_bed)
        if len(devices):
            hospital_id, device_id = self._hospital_id(row), self.plan.device_id(int(devices[0]))
            self._roster.sender_of[answer["handle"]] = self._roster.sender_of[self._roster.handle_of[hospital_id, device_id]]
        if any(MODELS[model] == "monitor" for model in self.plan.model[devices].tolist()):
            self._roster.monitored.add(name)

    async def _put_on(self, row: Movement, at_us: int) -> None:
        key = self.key_of(row.patient)
        assert key is not None
        for device in self.plan.worn_at(row.to_bed).tolist():
            await self._rest.associate(self._hospital_id(row), self.plan.device_id(device), key, at_us)

    def _hospital_id(self, row: Movement) -> str:
        bed = self.plan.beds[max(row.from_bed, row.to_bed)]
        return self.plan.manifest.hospitals[bed.hospital].hospital_id


async def as_planned(rest: Rest, manifest: FleetManifest, now_us: Callable[[], int]) -> int:
    """Put patients back into the beds of the plan where a run before this one moved them; returns how many.

    A fleet that is registered again is the same fleet, and stays as it was left.
    """
    return sum(await asyncio.gather(*(_hospital_as_planned(rest, hospital, now_us()) for hospital in manifest.hospitals)))


async def _hospital_as_planned(rest: Rest, hospital: HospitalManifest, now_us: int) -> int:
    wanted = hospital.patients
    numbers = {ref: number for number, ref in enumerate(wanted.refs)}
    here = {row["ref"]: row for row in await rest.patients_present(hospital.hospital_id)}
    strangers = [row["patient_key"] for ref, row in here.items() if ref not in numbers]
    elsewhere = [row for ref, row in here.items() if ref in numbers and row["bed_id"] != wanted.bed_ids[numbers[ref]]]
    gone = [number for ref, number in numbers.items() if ref not in here]
    for key in strangers:
        await rest.discharge_patient(key, now_us)
    for row in elsewhere:
        await rest.end_associations(row["patient_key"], now_us)
    back: list[tuple[int, str]] = []
    for row in elsewhere:
        number = numbers[row["ref"]]
        await rest.move_patient(row["patient_key"], wanted.ward_ids[number], wanted.bed_ids[number])
        back.append((number, row["patient_key"]))
    for number in gone:
        answer = await rest.admit_patient(
            hospital.hospital_id, wanted.refs[number], wanted.ages_years[number], ward_id=wanted.ward_ids[number],
            bed_id=wanted.bed_ids[number], admitted_us=now_us,
        )  # fmt: skip
        back.append((number, answer["patient_key"]))
    for number, key in back:
        for device_id in wanted.device_ids[number]:
            await rest.associate(hospital.hospital_id, device_id, key, now_us)
    return len(strangers) + len(back)
