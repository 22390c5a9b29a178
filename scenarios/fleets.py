"""From a scenario's wishes to the simulation's plans: what is registered, and what will speak."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec
import xxhash

from domain.fleet_manifest import FleetManifest
from scenarios.model import Fault, FleetWish
from sim.faults import KINDS, FaultSpec
from sim.fleet import FleetPlan, FleetSpec, plan_fleet
from sim.movements import Movements, plan_movements


def plan_world(wish: FleetWish, seed: int, region_id: str) -> FleetPlan:
    """The same wish and seed give the same plan, in the runner and in the generator. Raises InvalidInput.

    Hospital ids carry a mark of the wish: another fleet is other hospitals, so that any number of them can be
    registered with one platform, and the same one again is the same hospitals.
    """
    plan = plan_fleet(
        FleetSpec(
            devices=wish.devices,
            tertiary=wish.tertiary,
            tertiary_beds=wish.tertiary_beds,
            secondary=wish.secondary,
            secondary_beds=wish.secondary_beds,
            primary=wish.primary,
            primary_beds=wish.primary_beds,
            occupancy=wish.occupancy,
            devices_per_gateway=wish.devices_per_gateway,
            region_id=region_id,
        ),
        seed,
    )
    mark = xxhash.xxh32_hexdigest(msgspec.json.encode([wish, seed]))[:5]
    hospitals = [
        msgspec.structs.replace(hospital, hospital_id=f"{hospital.hospital_id}-{mark}") for hospital in plan.manifest.hospitals
    ]
    return replace(plan, manifest=FleetManifest(hospitals))


def world_faults(faults: Sequence[Fault]) -> list[FaultSpec]:
    """Those that the world acts out; the rest is the runner's."""
    return [
        FaultSpec(fault.kind, fault.at_s, fault.for_s, tuple(fault.hospitals), fault.share, fault.magnitude)
        for fault in faults
        if fault.kind in KINDS
    ]


def world_movements(plan: FleetPlan, wish: FleetWish, seed: int, pace: float, duration_s: float) -> Movements | None:
    """The movements of a run, in the runner and in the generator the same; None where nobody moves."""
    return plan_movements(plan, seed, pace, duration_s, wish.tick_s) if pace else None
