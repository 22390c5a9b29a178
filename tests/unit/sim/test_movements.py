"""Who comes, moves and goes: one bed for one patient, as many as the wards' figures say, the same again for a seed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from domain.errors import InvalidInput
from domain.fleet_manifest import Tier
from domain.metrics import BY_ID
from domain.quality import Validity, validity_of
from domain.readings import ReadingBatch
from sim.fleet import NOBODY, NOWHERE, FleetSpec, plan_fleet
from sim.mix import TIERS, WardKind
from sim.movements import Adt, Movements, arrivals_per_s, mean_stay_s, plan_movements
from tests.unit.sim.worlds import SEED, START_US, fingerprint, registered, small_plan, world_of

PACE, RUN_S = 1000.0, 300.0  # three and a half days
DEVICES, _ = small_plan().bind(registered(small_plan().manifest))


@pytest.fixture(scope="module")
def moved():
    return plan_movements(small_plan(), SEED, PACE, RUN_S)


@pytest.fixture(scope="module")
def readings(moved):
    return ReadingBatch.concat(e.readings for e in world_of(movements=moved).emissions(RUN_S))


def lying(moved):
    """After each movement: bed -> patient."""
    beds = {number: bed.patient for number, bed in enumerate(small_plan().beds) if bed.patient != NOBODY}
    yield beds
    for row in moved.rows:
        if row.from_bed != NOWHERE:
            assert beds.pop(row.from_bed) == row.patient, "who leaves a bed lay in it"
        if row.to_bed != NOWHERE:
            assert row.to_bed not in beds, "a bed is free before somebody comes"
            beds[row.to_bed] = row.patient
        yield beds


def test_nobody_is_in_two_beds_and_no_bed_holds_two(moved):
    states = [dict(beds) for beds in lying(moved)]
    assert len(states) > 50
    assert all(len(set(beds.values())) == len(beds) <= len(small_plan().beds) for beds in states)


def test_each_stay_is_admitted_before_it_moves_at_most_once_and_ends(moved):
    steps: dict[int, str] = {}
    for row in moved.rows:
        steps[row.patient] = steps.get(row.patient, "") + row.kind[-1]
    planned = len(small_plan().patient_hospital)
    assert set(steps.values()) <= {"1", "12", "13", "123", "2", "23", "3"}
    assert {patient for patient, step in steps.items() if step[0] == "1"} == set(range(planned, planned + len(moved.newcomers)))
    assert all(small_plan().beds[row.to_bed].kind is WardKind.GENERAL for row in moved.rows if row.kind is Adt.TRANSFER)
    assert len({row.kind for row in moved.rows}) == 3


def test_everybody_stays_in_one_hospital(moved):
    beds, planned = small_plan().beds, small_plan().patient_hospital
    for row in moved.rows:
        home = moved.newcomers[row.patient - len(planned)].hospital if row.patient >= len(planned) else planned[row.patient]
        assert {beds[bed].hospital for bed in (row.from_bed, row.to_bed) if bed != NOWHERE} == {home}


def test_a_bed_is_made_ready_before_the_next_comes(moved):
    left: dict[int, float] = {}
    for row in moved.rows:
        assert row.to_bed == NOWHERE or row.to_bed not in left or row.due_s - left[row.to_bed] >= 2, (
            "45 minutes at this pace, in whole ticks"
        )
        left[row.from_bed] = row.due_s


def test_the_same_seed_moves_the_same_and_another_does_not(moved):
    assert plan_movements(small_plan(), SEED, PACE, RUN_S) == moved
    assert plan_movements(small_plan(), SEED + 1, PACE, RUN_S) != moved


def test_a_shorter_run_is_the_beginning_of_a_longer_one(moved):
    short = plan_movements(small_plan(), SEED, PACE, 100.0)
    assert short.rows == tuple(row for row in moved.rows if row.due_s < 100)
    assert short.newcomers == moved.newcomers[: len(short.newcomers)]


def test_pace_is_how_quickly_life_passes(moved):
    half = plan_movements(small_plan(), SEED, PACE / 2, RUN_S)
    assert 0 < len(half.rows) < len(moved.rows)
    twice = plan_movements(small_plan(), SEED, PACE / 2, 2 * RUN_S, tick_s=2.0)
    assert [(2 * row.due_s, row.kind, row.patient) for row in moved.rows] == [
        (row.due_s, row.kind, row.patient) for row in twice.rows
    ]
    assert plan_movements(small_plan(), SEED, 0.0, RUN_S) == Movements((), ())


@pytest.mark.parametrize("pace", [-1.0, 1001.0])
def test_a_pace_that_is_none_is_refused(pace):
    with pytest.raises(InvalidInput, match="expected 0"):
        plan_movements(small_plan(), SEED, pace, RUN_S)


def test_wards_stay_as_full_as_their_tier_says():
    """Ten days of a large hospital, from the occupancy of the plan on; the mean of what each movement finds."""
    plan = plan_fleet(FleetSpec(devices=1500, tertiary_beds=2000, secondary=0, primary=0), 3)
    moved = plan_movements(plan, SEED, 1000.0, 864.0)
    kinds = [bed.kind for bed in plan.beds]
    occupied, found = Counter(bed.kind for bed in plan.beds if bed.patient != NOBODY), Counter()
    for row in moved.rows:
        found += occupied
        for bed, change in ((row.from_bed, -1), (row.to_bed, 1)):
            if bed != NOWHERE:
                occupied[kinds[bed]] += change
    for kind, share in TIERS[Tier.TERTIARY].occupancy.items():
        assert found[kind] / len(moved.rows) / kinds.count(kind) == pytest.approx(share, abs=0.1), kind


def test_as_many_come_as_leave():
    profile = TIERS[Tier.TERTIARY]
    beds = {WardKind.ICU: 60, WardKind.EMERGENCY: 40, WardKind.GENERAL: 900}
    come = arrivals_per_s(profile, beds)
    leave = {kind: beds[kind] * profile.occupancy[kind] / mean_stay_s(profile, kind) for kind in beds}
    home = leave[WardKind.GENERAL] + 0.2 * leave[WardKind.ICU] + 0.5 * leave[WardKind.EMERGENCY]
    assert sum(come.values()) == pytest.approx(home)
    assert sum(arrivals_per_s(profile, beds, occupancy=0.0).values()) == 0


def test_the_world_tells_of_each_movement(moved):
    world = world_of(movements=moved)
    list(world.emissions(RUN_S))
    told = [row for row in world.truth if row.kind in ("admitted", "transferred", "discharged")]
    assert [row.at_s for row in told] == [row.due_s for row in moved.rows]
    assert [row.kind[0] for row in told] == [{"A01": "a", "A02": "t", "A03": "d"}[row.kind] for row in moved.rows]
    assert len({row.subject for row in told if row.kind == "admitted"}) == len(moved.newcomers)


@pytest.mark.clause("8.1")
def test_a_device_measures_whoever_lies_in_its_bed_and_says_so_when_nobody_does(moved, readings):
    plan, checked = small_plan(), 0
    hearts = readings.take(np.array([BY_ID[metric].code == "heart_rate" for metric in readings.metric.tolist()]))
    for device in np.flatnonzero((plan.bed != NOWHERE) & np.isin(DEVICES, hearts.handle)).tolist():
        own = hearts.take(hearts.handle == DEVICES[device])
        changes = moved.occupants(plan, int(plan.bed[device]))
        who = np.array([patient for _, patient in changes])
        at = np.searchsorted([at_s for at_s, _ in changes], (own.time_us - START_US) / 1e6, side="right") - 1
        assert ((who[at] == NOBODY) == np.isnan(own.value)).all()
        assert (np.isnan(own.value) == (validity_of(own.quality) == Validity.NOT_AVAILABLE)).all()
        checked += len(changes) > 1
    assert checked >= 5


def test_devices_measure_everything_as_soon_as_they_are_on_somebody(moved, readings):
    plan, checked = small_plan(), 0
    at_s = (readings.time_us - START_US) / 1e6
    for row in moved.rows:
        handles = DEVICES[plan.worn_at(row.to_bed)]
        first = readings.take(np.isin(readings.handle, handles) & (at_s >= row.due_s) & (at_s < row.due_s + 1))
        spoken = set(zip(first.handle.tolist(), first.metric.tolist(), strict=True))
        ever = readings.take(np.isin(readings.handle, handles))
        assert spoken == set(zip(ever.handle.tolist(), ever.metric.tolist(), strict=True))
        assert not np.isnan(first.value).any()
        checked += len(spoken)
    assert checked > 50


def test_what_is_no_metric_of_a_patient_is_said_of_an_empty_bed_too(readings):
    none = {BY_ID[metric].code for metric in set(readings.metric[np.isnan(readings.value)].tolist())}
    assert "heart_rate" in none
    assert "infusion_rate" in none
    assert not none & {"battery", "infusion_status", "running_state", "room_temp", "fridge_temp"}


def test_who_stays_reads_as_if_nobody_else_moved(moved, readings):
    plan = small_plan()
    still = ReadingBatch.concat(e.readings for e in world_of(movements=Movements((), ())).emissions(RUN_S))
    touched = [bed for row in moved.rows for bed in (row.from_bed, row.to_bed)]
    stays = DEVICES[(plan.patient >= 0) & ~np.isin(plan.bed, touched)]
    mine, same = (run.take(np.isin(run.handle, stays)) for run in (readings, still))
    assert len(stays) > 20
    assert mine.value.tolist() == same.value.tolist()
    assert mine.time_us.tolist() == same.time_us.tolist()


def test_the_same_movements_say_the_same(moved):
    first, second = (list(world_of(movements=moved).emissions(60)) for _ in range(2))
    assert fingerprint(first) == fingerprint(second)


def test_a_device_is_on_at_most_one_patient_and_only_on_those_of_its_bed(moved):
    plan = small_plan()
    assert all(plan.worn_at(number).size == 0 or (plan.bed[plan.worn_at(number)] == number).all() for number in range(140))
    worn = np.flatnonzero(plan.patient >= 0)
    assert [plan.beds[bed].patient for bed in plan.bed[worn]] == plan.patient[worn].tolist()
