"""Small districts and what their worlds say, for the tests of the simulation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import xxhash

from domain.fleet_manifest import FleetManifest, FleetRegistered, HospitalRegistered
from domain.readings import DTYPES, ReadingBatch
from sim.emission import Emission
from sim.faults import FaultSpec
from sim.fleet import FleetPlan, FleetSpec, plan_fleet
from sim.movements import Movements
from sim.world import World

START_US = 1_795_420_800_000_000
SEED = 5
TRUE_COLUMNS = ("handle", "instance", "metric", "time_us", "value", "source", "sequence")


@cache
def small_plan() -> FleetPlan:
    """Four hospitals, some three hundred devices, several gateways in the largest."""
    return plan_fleet(FleetSpec(devices=300, tertiary_beds=60, secondary_beds=40, primary_beds=20, devices_per_gateway=50), 7)


def registered(manifest: FleetManifest) -> FleetRegistered:
    """Handles as a platform might give them: one after the other, but for each hospital from the last device to the first."""
    answers, next_handle = [], 1
    for shard, hospital in enumerate(manifest.hospitals):
        count = len(hospital.devices.device_ids)
        handles = list(range(next_handle + count - 1, next_handle - 1, -1))
        answers.append(HospitalRegistered(hospital.hospital_id, shard, handles, {}, [], []))
        next_handle += count
    return FleetRegistered(answers)


def world_of(
    *faults: FaultSpec, plan: FleetPlan | None = None, seed: int = SEED, tick_s: float = 1.0, birth_s: float = 0.0,
    movements: Movements | None = None,
) -> World:  # fmt: skip
    plan = plan or small_plan()
    world = World(plan, seed, START_US, faults, tick_s=tick_s, birth_s=birth_s, movements=movements)
    world.bind(registered(plan.manifest))
    return world


def said(duration_s: float, *faults: FaultSpec, seed: int = SEED) -> list[Emission]:
    return list(world_of(*faults, seed=seed).emissions(duration_s))


def hospital_of(emission: Emission) -> int:
    return small_plan().gateways[emission.gateway].hospital


def of_hospital(emissions: Sequence[Emission], *hospitals: int) -> list[Emission]:
    return [emission for emission in emissions if hospital_of(emission) in hospitals]


def by_gateway(emissions: Sequence[Emission]) -> dict[int, ReadingBatch]:
    """Readings of each gateway, in the order in which they were handed over."""
    parts: dict[int, list[ReadingBatch]] = {}
    for emission in emissions:
        parts.setdefault(emission.gateway, []).append(emission.readings)
    return {gateway: ReadingBatch.concat(batches) for gateway, batches in parts.items()}


def rows_of(readings: ReadingBatch) -> list[tuple[float, ...]]:
    """What was measured and sent, row by row; quality is left out."""
    return list(zip(*(getattr(readings, name).tolist() for name in TRUE_COLUMNS), strict=True))


def all_rows(emissions: Sequence[Emission]) -> list[tuple[float, ...]]:
    return rows_of(ReadingBatch.concat(emission.readings for emission in emissions))


def fingerprint(emissions: Sequence[Emission]) -> str:
    """A digest of everything that is handed over; short, because pytest explains how two things differ at any length."""
    digest = xxhash.xxh3_64()
    for emission in emissions:
        digest.update(repr((emission.due_s, emission.gateway, emission.retransmission)).encode())
        for name in DTYPES:
            digest.update(getattr(emission.readings, name).tobytes())
    return digest.hexdigest()


def as_bag(emissions: Sequence[Emission]) -> str:
    """A digest of the rows, in whatever order they came; two of a kind count twice."""
    return xxhash.xxh3_64_hexdigest(repr(sorted(all_rows(emissions))).encode())
