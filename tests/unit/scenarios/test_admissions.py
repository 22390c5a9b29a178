"""The platform is told of every movement once, in order, with its time; a fleet that was left as it was is put back."""

from __future__ import annotations

import asyncio
import time

import pytest

from domain.errors import InvalidInput
from domain.fleet_manifest import FleetRegistered, HospitalRegistered
from domain.instants import from_us
from scenarios.admissions import AdmissionDesk, as_planned
from scenarios.attribution import check_attribution
from scenarios.fleets import plan_world, world_movements
from scenarios.model import FleetWish
from scenarios.roster import Roster
from sim.fleet import NOBODY, FleetSpec, plan_fleet
from sim.movements import Adt, Movements, plan_movements
from tests.waiting import until

START_US = 1_795_420_800_000_000
PLAN = plan_fleet(FleetSpec(devices=300, tertiary_beds=60, secondary_beds=40, primary_beds=20, devices_per_gateway=50), 7)
MOVED = plan_movements(PLAN, 5, 1000.0, 100.0)
NAMES = [f"{hospital.hospital_id}/{ref}" for hospital in PLAN.manifest.hospitals for ref in hospital.patients.refs]


class Ward:
    """Stands in for the REST API: who lies where, what is on whom, and what was asked. `refuses` paths."""

    def __init__(self, refuses=()):
        self.told, self.refuses = [], refuses
        self.beds = {name: bed.bed_id for bed in PLAN.beds if bed.patient != NOBODY for name in [NAMES[bed.patient]]}
        self.on = {}
        for hospital in PLAN.manifest.hospitals:
            for ref, ids in zip(hospital.patients.refs, hospital.patients.device_ids, strict=True):
                self.on |= {f"{hospital.hospital_id}/{device_id}": f"{hospital.hospital_id}/{ref}" for device_id in ids}
        self.rows = {}

    def _tell(self, what, key, at_us):
        self.told.append((what, key, at_us))
        if what in self.refuses:
            raise InvalidInput(f"{what} is refused")

    async def patients_present(self, hospital_id):
        return [
            {"ref": key.split("/")[1], "patient_key": key, "bed_id": bed}
            for key, bed in self.beds.items()
            if key.startswith(f"{hospital_id}/")
        ]

    async def admit_patient(self, hospital_id, ref, age_years, *, ward_id, bed_id, admitted_us):
        key = f"{hospital_id}/{ref}"
        self._tell("admit", key, admitted_us)
        assert key not in self.beds
        assert age_years > 0
        assert ward_id
        self.beds[key] = bed_id
        return {"patient_key": key, "handle": 90_000 + len(self.told)}

    async def move_patient(self, key, ward_id, bed_id):
        self._tell("move", key, ward_id)
        assert key not in self.on.values()
        self.beds[key] = bed_id

    async def discharge_patient(self, key, at_us):
        self._tell("discharge", key, at_us)
        del self.beds[key]
        self._off(key)

    async def associate(self, hospital_id, device_id, key, start_us):
        assert f"{hospital_id}/{device_id}" not in self.on, "a device is on one patient at a time"
        self.on[f"{hospital_id}/{device_id}"] = key

    async def end_associations(self, key, end_us):
        self._tell("end", key, end_us)
        self._off(key)

    def _off(self, key):
        self.on = {device: whose for device, whose in self.on.items() if whose != key}

    async def readings_by_patient(self, device, metric, from_us, until_us):
        return self.rows[device, metric]


def registered():
    answers, next_handle = [], 1
    for shard, hospital in enumerate(PLAN.manifest.hospitals):
        count, refs = len(hospital.devices.device_ids), hospital.patients.refs
        handles = list(range(next_handle, next_handle + count))
        keys = [f"{hospital.hospital_id}/{ref}" for ref in refs]
        answers.append(
            HospitalRegistered(hospital.hospital_id, shard, handles, {}, keys, [50_000 + n for n in range(len(refs))])
        )
        next_handle += count
    return FleetRegistered(answers)


def a_desk(ward, moved=MOVED):
    return AdmissionDesk(ward, PLAN, moved, Roster.of([(PLAN.manifest, registered())]))


async def run_at_once(desk):
    await desk.run(START_US, time.perf_counter() - 1_000)


async def test_each_movement_is_told_with_its_own_time_and_leaves_devices_on_whoever_lies_there():
    ward = Ward()
    desk = a_desk(ward)
    await run_at_once(desk)
    figures = desk.figures()
    kinds = [row.kind for row in MOVED.rows]
    assert figures["patients_admitted"] == kinds.count(Adt.ADMIT) > 5
    assert figures["patients_transferred"] == kinds.count(Adt.TRANSFER) > 0
    assert figures["patients_discharged"] == kinds.count(Adt.DISCHARGE) > 5
    assert figures["movement_errors"] == 0
    admitted = [at_us for what, _, at_us in ward.told if what == "admit"]
    assert sorted(admitted) == [START_US + round(row.due_s * 1e6) for row in MOVED.rows if row.kind is Adt.ADMIT]
    for number, bed in enumerate(PLAN.beds):
        last = MOVED.occupants(PLAN, number)[-1][1]
        key = None if last == NOBODY else desk.key_of(last)
        hospital_id = PLAN.manifest.hospitals[bed.hospital].hospital_id
        assert {ward.on.get(f"{hospital_id}/{PLAN.device_id(d)}") for d in PLAN.worn_at(number).tolist()} <= {key}
        assert key is None or ward.beds[key] == bed.bed_id


async def test_who_comes_is_known_to_the_run():
    desk = a_desk(Ward())
    monitored = set(desk._roster.monitored)
    await run_at_once(desk)
    came = {key for key in desk._roster.patient_keys if "/m" in key}
    assert len(came) == len(MOVED.newcomers)
    assert set(desk._roster.monitored) - monitored <= came
    assert any(handle > 90_000 for handle in desk._roster.sender_of), "alarms of newcomers find their sender"


async def test_movements_wait_until_they_are_due():
    ward = Ward()
    desk = a_desk(ward)
    running = asyncio.create_task(desk.run(START_US, time.perf_counter() - 20.5))
    due = [row for row in MOVED.rows if row.due_s <= 20.5]
    await until(lambda: sum(desk.performed.values()) >= len(due))
    running.cancel()
    assert 0 < len(due) < len(MOVED.rows)
    assert sum(desk.performed.values()) == len(due)
    assert desk.figures()["movement_errors"] == len(MOVED.rows) - len(due), "what was never told is an error in the end"


async def test_what_the_platform_refuses_is_counted_with_its_words_and_the_rest_goes_on():
    desk = a_desk(Ward(refuses=("admit",)))
    await run_at_once(desk)
    assert desk.performed[Adt.ADMIT] == 0
    assert desk.performed[Adt.DISCHARGE] > 0
    assert desk.figures()["movement_errors"] >= len(MOVED.newcomers)
    assert any("admit is refused" in sentence for sentence in desk.failures)


async def test_a_second_run_finds_everybody_in_the_bed_of_the_plan():
    ward, untouched = Ward(), Ward()
    assert await as_planned(ward, PLAN.manifest, lambda: START_US) == 0
    assert ward.told == []
    await run_at_once(a_desk(ward))
    assert (ward.beds, ward.on) != (untouched.beds, untouched.on)
    assert await as_planned(ward, PLAN.manifest, lambda: START_US) > 5
    assert (ward.beds, ward.on) == (untouched.beds, untouched.on)


@pytest.fixture
async def joined():
    """A desk after its run, and a ward that joins every reading to whoever lay there."""
    ward = Ward()
    desk = a_desk(ward)
    await run_at_once(desk)

    async def readings_by_patient(device, _metric, from_us, until_us):
        bed = next(int(PLAN.bed[d]) for d in range(len(PLAN.bed)) if named(d) == device)
        changes = MOVED.occupants(PLAN, bed)
        rows = []
        for at_us in range(from_us, until_us, 2_000_000):
            who = [patient for since_s, patient in changes if since_s <= (at_us - from_us) / 1e6][-1]
            key = None if who == NOBODY else desk.key_of(who)
            rows.append({"time": from_us_text(at_us), "patient_key": key, "ambiguous": False})
        return rows

    ward.readings_by_patient = readings_by_patient
    return desk, ward


def named(device):
    return f"{PLAN.manifest.hospitals[PLAN.hospital[device]].hospital_id}/{PLAN.device_id(device)}"


def from_us_text(at_us):
    return from_us(at_us).isoformat()


@pytest.mark.clause("6.1d")
async def test_readings_of_moved_patients_are_compared_with_who_lay_there(joined):
    desk, ward = joined
    found = await check_attribution(ward, desk, START_US, 100.0)
    assert found.right > 100
    assert found.wrong == 0

    right = ward.readings_by_patient

    async def always_the_first(*asked):
        rows = await right(*asked)
        return [{**row, "patient_key": "somebody else", "ambiguous": number == 0} for number, row in enumerate(rows)]

    ward.readings_by_patient = always_the_first
    wrong = await check_attribution(ward, desk, START_US, 100.0)
    assert wrong.right == 0
    assert 0 < wrong.wrong < found.right, "what is ambiguous is neither right nor wrong"


def test_the_generator_and_the_runner_know_the_same_movements():
    wish = FleetWish(devices=300, tertiary_beds=400, tick_s=0.5)
    one, other = (world_movements(plan_world(wish, 3, "sz"), wish, 3, 500.0, 60.0) for _ in range(2))
    assert one is not None
    assert len(one.rows) > 5
    assert one == other
    assert world_movements(plan_world(wish, 3, "sz"), wish, 3, 0.0, 60.0) is None


async def test_where_nobody_moves_nothing_is_asked():
    desk = a_desk(Ward(), Movements((), ()))
    await run_at_once(desk)
    found = await check_attribution(desk._rest, desk, START_US, 100.0)
    assert (found.right, found.wrong) == (0, 0)
