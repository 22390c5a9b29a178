"""A district, stated in beds by hospital tier, planned down to each device: who stands where, on whom, behind which gateway."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from domain.errors import InvalidInput
from domain.fleet_manifest import (
    DeviceColumns,
    FleetManifest,
    FleetRegistered,
    HospitalManifest,
    PatientColumns,
    Tier,
)  # fmt: skip
from domain.thing_catalogue import thing_model
from sim.mix import FILL, ID_PREFIX, MODELS, PER_BED, PER_WARD_BED, TIERS, WARD_BEDS, WardKind
from sim.rng import Streams

NOBODY: Final = -1
NOWHERE: Final = -1
_MODEL_NUMBER: Final = {name: number for number, name in enumerate(MODELS)}
IS_BOUND: Final = np.array([thing_model(name).patient_bound for name in MODELS])


@dataclass(frozen=True, slots=True)
class FleetSpec:
    """How large. `devices`: target over all hospitals, gateways included; it is reached by each hospital's share of beds.

    `occupancy`: share of beds in use, None for the tier's own; `devices_per_gateway`: how many speak through one.
    """

    devices: int = 2_000
    tertiary: int = 1
    tertiary_beds: int = 1_500
    secondary: int = 1
    secondary_beds: int = 600
    primary: int = 2
    primary_beds: int = 80
    occupancy: float | None = None
    devices_per_gateway: int = 500
    region_id: str = "sz"

    def __post_init__(self) -> None:
        if self.devices < 1 or self.hospitals < 1 or self.devices_per_gateway < 1:
            raise InvalidInput(f"a fleet has hospitals, devices and gateways: {self}")
        if self.occupancy is not None and not 0 <= self.occupancy <= 1:
            raise InvalidInput(f"occupancy is {self.occupancy}, expected 0 to 1")

    @property
    def hospitals(self) -> int:
        return self.tertiary + self.secondary + self.primary

    def tiers(self) -> list[tuple[Tier, int]]:
        """(tier, beds) of each hospital, the largest first."""
        return [
            *[(Tier.TERTIARY, self.tertiary_beds)] * self.tertiary,
            *[(Tier.SECONDARY, self.secondary_beds)] * self.secondary,
            *[(Tier.PRIMARY, self.primary_beds)] * self.primary,
        ]


@dataclass(frozen=True, slots=True)
class Gateway:
    """A sender of frames. `hospital` indexes the manifest's hospitals, `position` its devices."""

    hospital: int
    device_id: str
    position: int


@dataclass(frozen=True, slots=True)
class Bed:
    """A bed of a hospital (index), and the patient (index over all) who lies in it when a run begins, or NOBODY."""

    hospital: int
    kind: WardKind
    ward_id: str
    bed_id: str
    patient: int


@dataclass(frozen=True)
class FleetPlan:
    """The plan as a manifest and as columns of devices, all hospitals together (gateways are not among the columns).

    hospital, model (index into `sim.mix.MODELS`), gateway (index into `gateways`), patient (index over all patients,
    NOBODY for none), position (index into the manifest's device columns of the hospital), is_icu, bed (index into
    `beds`, NOWHERE for none).
    """

    spec: FleetSpec
    manifest: FleetManifest
    gateways: tuple[Gateway, ...]
    hospital: NDArray[np.int32]
    model: NDArray[np.int16]
    gateway: NDArray[np.int32]
    patient: NDArray[np.int32]
    position: NDArray[np.int32]
    is_icu: NDArray[np.bool_]
    bed: NDArray[np.int32]
    beds: tuple[Bed, ...]
    patient_hospital: NDArray[np.int32]
    patient_age_years: NDArray[np.float64]
    patient_is_icu: NDArray[np.bool_]

    def worn_at(self, bed: int) -> NDArray[np.intp]:
        """The devices that are put on whoever lies in the bed; none for NOWHERE."""
        return np.flatnonzero((self.bed == bed) & (self.bed != NOWHERE) & IS_BOUND[self.model])

    def device_id(self, device: int) -> str:
        hospital = self.manifest.hospitals[int(self.hospital[device])]
        return hospital.devices.device_ids[int(self.position[device])]

    def bind(self, registered: FleetRegistered) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """Handles of (devices, gateways), from the answer to registering `manifest`."""
        handles = [np.array(answer.handles, dtype=np.uint32) for answer in registered.hospitals]
        devices = np.empty(len(self.hospital), dtype=np.uint32)
        for number, own in enumerate(handles):
            mine = self.hospital == number
            devices[mine] = own[self.position[mine]]
        return devices, np.array([handles[g.hospital][g.position] for g in self.gateways], dtype=np.uint32)


class _HospitalPlan:
    """One hospital while it is planned: lists that become columns."""

    def __init__(self, number: int, hospital_id: str, tier: Tier, beds: int) -> None:
        self.number, self.hospital_id, self.tier, self.beds = number, hospital_id, tier, beds
        self.models: list[int] = []
        self.wards: list[str | None] = []
        self.bed_ids: list[str | None] = []
        self.patients_of: list[int] = []  # local patient of each device
        self.icu: list[bool] = []
        self.people: list[tuple[str, str, bool]] = []  # (ward, bed, icu) of each patient
        self.made_beds: list[Bed] = []  # with local patients

    def add(self, model: str, count: int, ward: str | None, bed: str | None, patient: int, *, icu: bool = False) -> None:
        self.models += [_MODEL_NUMBER[model]] * count
        self.wards += [ward] * count
        self.bed_ids += [bed] * count
        self.patients_of += [patient] * count
        self.icu += [icu] * count


def plan_fleet(spec: FleetSpec, seed: int) -> FleetPlan:
    """The same spec and seed give the same plan, id by id."""
    streams = Streams(seed)
    tiers = spec.tiers()
    all_beds = sum(beds for _, beds in tiers)
    plans = []
    for number, (tier, beds) in enumerate(tiers):
        plan = _HospitalPlan(number, f"{spec.region_id}.h{number + 1:03}", tier, beds)
        _furnish(plan, spec, streams.stream("furnish", number))
        wanted = round(spec.devices * beds / all_beds)
        gateways = max(1, -(-wanted // (spec.devices_per_gateway + 1)))
        _fit(plan, max(1, wanted - gateways), streams.stream("fill", number))
        plans.append(plan)
    return _assemble(spec, plans, streams)


def _furnish(plan: _HospitalPlan, spec: FleetSpec, rng: np.random.Generator) -> None:
    """Wards, beds, the patients in them, and what stands at each bed."""
    profile = TIERS[plan.tier]
    shares = dict(profile.shares)
    shares[WardKind.GENERAL] = 1 - sum(shares.values())
    for kind, share in sorted(shares.items()):
        beds = round(plan.beds * share)
        occupancy = profile.occupancy[kind] if spec.occupancy is None else spec.occupancy
        for number in range(beds):
            ward = f"{kind}-{number // WARD_BEDS[kind] + 1:02}"
            bed = f"{ward}-{number % WARD_BEDS[kind] + 1:02}"
            patient = NOBODY
            if rng.random() < occupancy:
                patient = len(plan.people)
                plan.people.append((ward, bed, kind is WardKind.ICU))
            plan.made_beds.append(Bed(plan.number, kind, ward, bed, patient))
            for model, per_bed in PER_BED[kind].items():
                whole = int(per_bed) + int(rng.random() < per_bed % 1)
                plan.add(model, whole, ward, bed, patient, icu=kind is WardKind.ICU)
            if kind is WardKind.ICU and rng.random() < profile.ventilators_per_icu_bed:
                plan.add("ventilator", 1, ward, bed, patient, icu=True)
        for model, per_bed in PER_WARD_BED.items():
            plan.add(model, round(beds * per_bed), f"{kind}-01" if beds else None, None, NOBODY)
    if profile.beds_per_ct:
        plan.add("ct", max(1, plan.beds // profile.beds_per_ct), None, None, NOBODY)


def _fit(plan: _HospitalPlan, wanted: int, rng: np.random.Generator) -> None:
    """Fill up to `wanted` devices by the shares of FILL, or leave out at random what is too many."""
    missing = wanted - len(plan.models)
    if missing > 0:
        names = list(FILL)
        counts = np.floor(np.array([FILL[name] for name in names]) * missing).astype(int)
        counts[0] += missing - counts.sum()
        for name, count in zip(names, counts, strict=True):
            plan.add(name, int(count), None, None, NOBODY)
        return
    kept = np.sort(rng.permutation(len(plan.models))[:wanted])
    for name in ("models", "wards", "bed_ids", "patients_of", "icu"):
        values = getattr(plan, name)
        setattr(plan, name, [values[row] for row in kept])


def _assemble(spec: FleetSpec, plans: list[_HospitalPlan], streams: Streams) -> FleetPlan:
    hospitals: list[HospitalManifest] = []
    gateways: list[Gateway] = []
    beds: list[Bed] = []
    names = ("hospital", "model", "gateway", "patient", "position", "icu", "bed")
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    people_hospital, people_icu, ages = [], [], []
    patients_before = 0
    for plan in plans:
        devices = len(plan.models)
        own = -(-devices // spec.devices_per_gateway)
        first = len(gateways)
        gateways += [Gateway(plan.number, f"gw-{n + 1:03}", n) for n in range(own)]
        local = np.arange(devices) // spec.devices_per_gateway
        patient = np.array(plan.patients_of)
        patient[~IS_BOUND[np.array(plan.models, dtype=np.intp)]] = NOBODY
        columns["hospital"].append(np.full(devices, plan.number))
        columns["model"].append(np.array(plan.models))
        columns["gateway"].append(first + local)
        columns["patient"].append(np.where(patient >= 0, patient + patients_before, NOBODY))
        columns["position"].append(own + np.arange(devices))
        columns["icu"].append(np.array(plan.icu, dtype=np.bool_))
        columns["bed"].append(_bed_numbers(plan, len(beds)))
        beds += [replace(bed, patient=bed.patient + patients_before if bed.patient >= 0 else NOBODY) for bed in plan.made_beds]
        age = draw_ages(len(plan.people), streams.stream("ages", plan.number))
        hospitals.append(_manifest(plan, own, local, patient, age))
        people_hospital.append(np.full(len(plan.people), plan.number))
        people_icu.append(np.array([icu for *_, icu in plan.people], dtype=np.bool_))
        ages.append(age)
        patients_before += len(plan.people)
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    return FleetPlan(
        spec=spec, manifest=FleetManifest(hospitals), gateways=tuple(gateways),
        hospital=joined["hospital"].astype(np.int32), model=joined["model"].astype(np.int16),
        gateway=joined["gateway"].astype(np.int32), patient=joined["patient"].astype(np.int32),
        position=joined["position"].astype(np.int32), is_icu=joined["icu"].astype(np.bool_),
        bed=joined["bed"].astype(np.int32), beds=tuple(beds),
        patient_hospital=np.concatenate(people_hospital).astype(np.int32),
        patient_age_years=np.concatenate(ages), patient_is_icu=np.concatenate(people_icu),
    )  # fmt: skip


def _bed_numbers(plan: _HospitalPlan, first: int) -> NDArray[np.int32]:
    """The bed at which each device stands, its beds counted from `first` on."""
    numbers = {bed.bed_id: first + number for number, bed in enumerate(plan.made_beds)}
    return np.array([NOWHERE if bed_id is None else numbers[bed_id] for bed_id in plan.bed_ids], dtype=np.int32)


def _manifest(
    plan: _HospitalPlan, gateways: int, gateway_of: NDArray[np.intp], patient: NDArray[np.intp], ages: NDArray[np.float64]
) -> HospitalManifest:
    counts = dict.fromkeys(MODELS, 0)
    ids = []
    for model in plan.models:
        name = MODELS[model]
        counts[name] += 1
        ids.append(f"{ID_PREFIX[name]}-{counts[name]:05}")
    worn: list[list[str]] = [[] for _ in plan.people]
    for device_id, person in zip(ids, patient, strict=True):
        if person >= 0:
            worn[person].append(device_id)
    people = len(plan.people)
    nowhere: list[str | None] = [None] * gateways
    return HospitalManifest(
        plan.hospital_id, f"Hospital {plan.number + 1}", plan.tier, plan.beds,
        DeviceColumns(
            device_ids=[*(f"gw-{n + 1:03}" for n in range(gateways)), *ids],
            models=["gateway"] * gateways + [MODELS[model] for model in plan.models],
            ward_ids=nowhere + plan.wards, bed_ids=nowhere + plan.bed_ids,
            gateway_ids=nowhere + [f"gw-{n + 1:03}" for n in gateway_of],
            with_token=[True] * gateways + [False] * len(ids),
        ),
        PatientColumns(
            refs=[f"p{n + 1:06}" for n in range(people)], names=[None] * people, ages_years=[float(a) for a in ages],
            pregnant=[False] * people, spo2_scales=[1] * people, ward_ids=[ward for ward, _, _ in plan.people],
            bed_ids=[bed for _, bed, _ in plan.people], admitted_us=[0] * people, device_ids=worn,
        ),
    )  # fmt: skip


def draw_ages(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Inpatients of a district: mostly old, some young, a few children [assumption]."""
    old = rng.normal(66, 14, count)
    young = rng.uniform(0.1, 60, count)
    ages: NDArray[np.float64] = np.round(np.clip(np.where(rng.random(count) < 0.78, old, young), 0.1, 99), 1)
    return ages
