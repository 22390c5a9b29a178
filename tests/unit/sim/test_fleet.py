"""A plan: a district as large as asked for, furnished by tier, with every device in one place and on one patient at most."""

from __future__ import annotations

from collections import Counter

import msgspec
import numpy as np
import pytest

from domain.errors import InvalidInput
from domain.fleet_manifest import Tier
from domain.ids import parse_hospital_id, parse_token
from domain.thing_catalogue import thing_model
from sim.fleet import NOBODY, FleetSpec, plan_fleet
from sim.mix import MODELS
from tests.unit.sim.worlds import registered, small_plan

DISTRICT = FleetSpec(devices=12_000, tertiary=2, tertiary_beds=1_300, secondary=3, secondary_beds=500, primary=5)
COLUMNS = ("hospital", "model", "gateway", "patient", "position", "is_icu", "patient_hospital", "patient_age_years")


@pytest.fixture(scope="module")
def plan():
    return plan_fleet(DISTRICT, 3)


@pytest.fixture(scope="module")
def hospitals(plan):
    return plan.manifest.hospitals


def test_the_district_has_the_hospitals_and_beds_of_its_tiers(hospitals):
    assert Counter((h.tier, h.beds) for h in hospitals) == {
        (Tier.TERTIARY, 1_300): 2, (Tier.SECONDARY, 500): 3, (Tier.PRIMARY, 80): 5,
    }  # fmt: skip


@pytest.mark.parametrize("devices", [300, 2_000, 8_000, 25_000])
def test_the_target_of_devices_is_met_within_one_per_cent(devices):
    made = plan_fleet(FleetSpec(devices=devices, devices_per_gateway=100), 1).manifest.hospitals
    assert sum(len(h.devices.device_ids) for h in made) == pytest.approx(devices, rel=0.01)


def test_each_hospital_has_devices_by_its_share_of_beds(hospitals):
    beds = sum(h.beds for h in hospitals)
    for hospital in hospitals:
        assert len(hospital.devices.device_ids) == pytest.approx(DISTRICT.devices * hospital.beds / beds, abs=1)


def test_ids_are_legal_and_unique_in_their_hospital(hospitals):
    assert len({parse_hospital_id(h.hospital_id) for h in hospitals}) == len(hospitals)
    for hospital in hospitals:
        devices = [parse_token(text, "device") for text in hospital.devices.device_ids]
        assert len(set(devices)) == len(devices)
        assert len(set(hospital.patients.refs)) == len(hospital.patients.refs)
        for place in {*hospital.devices.ward_ids, *hospital.devices.bed_ids} - {None}:
            parse_token(place, "ward or bed")


def test_the_columns_of_a_hospital_are_of_one_length(hospitals):
    for hospital in hospitals:
        for columns in (hospital.devices, hospital.patients):
            assert len({len(column) for column in msgspec.structs.astuple(columns)}) == 1


def test_the_same_seed_gives_the_same_plan_and_another_seed_another(plan):
    again, other = plan_fleet(DISTRICT, 3), plan_fleet(DISTRICT, 4)
    assert msgspec.json.encode(again.manifest) == msgspec.json.encode(plan.manifest)
    assert again.gateways == plan.gateways
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(again, name), getattr(plan, name))
    assert msgspec.json.encode(other.manifest) != msgspec.json.encode(plan.manifest)


def test_every_patient_bound_device_of_an_occupied_bed_is_on_its_patient_and_no_other_device_is(hospitals):
    for hospital in hospitals:
        devices, patients = hospital.devices, hospital.patients
        lies_in = dict(zip(patients.bed_ids, patients.refs, strict=True))
        expected = {
            device_id: lies_in[bed]
            for device_id, bed, model in zip(devices.device_ids, devices.bed_ids, devices.models, strict=True)
            if bed in lies_in and thing_model(model).patient_bound
        }
        worn = [(device, ref) for ref, own in zip(patients.refs, patients.device_ids, strict=True) for device in own]
        assert expected
        assert len(worn) == len({device for device, _ in worn}), "a device is on two patients"
        assert dict(worn) == expected


def test_no_two_patients_lie_in_one_bed_and_a_bed_belongs_to_its_ward(hospitals):
    for hospital in hospitals:
        patients = hospital.patients
        assert len(set(patients.bed_ids)) == len(patients.bed_ids)
        assert all(bed.startswith(f"{ward}-") for bed, ward in zip(patients.bed_ids, patients.ward_ids, strict=True))


def test_the_columns_of_devices_say_what_the_manifest_says(plan, hospitals):
    refs = [ref for hospital in hospitals for ref in hospital.patients.refs]
    worn = {
        (number, device): ref
        for number, hospital in enumerate(hospitals)
        for ref, own in zip(hospital.patients.refs, hospital.patients.device_ids, strict=True)
        for device in own
    }
    for row in range(0, len(plan.model), 7):
        number = int(plan.hospital[row])
        devices, position = hospitals[number].devices, int(plan.position[row])
        assert devices.models[position] == MODELS[plan.model[row]]
        assert devices.gateway_ids[position] == plan.gateways[plan.gateway[row]].device_id
        patient = int(plan.patient[row])
        found = None if patient == NOBODY else refs[patient]
        assert worn.get((number, devices.device_ids[position])) == found


def test_a_gateway_carries_devices_of_its_own_hospital_and_not_too_many(plan, hospitals):
    carried = np.bincount(plan.gateway, minlength=len(plan.gateways))
    assert carried.min() > 0
    assert carried.max() <= DISTRICT.devices_per_gateway
    assert all(plan.gateways[g].hospital == h for g, h in set(zip(plan.gateway.tolist(), plan.hospital.tolist(), strict=True)))
    for gateway in plan.gateways:
        devices = hospitals[gateway.hospital].devices
        assert devices.device_ids[gateway.position] == gateway.device_id
        assert devices.models[gateway.position] == "gateway"


def test_only_gateways_hold_a_token(hospitals):
    for hospital in hospitals:
        devices = hospital.devices
        assert devices.with_token == [model == "gateway" for model in devices.models]


def test_a_large_hospital_has_intensive_care_and_a_small_one_has_none(hospitals):
    wards = {h.tier: {ward.split("-")[0] for ward in h.devices.ward_ids if ward} for h in hospitals}
    assert wards == {Tier.TERTIARY: {"icu", "ed", "gen"}, Tier.SECONDARY: {"icu", "ed", "gen"}, Tier.PRIMARY: {"gen"}}


def test_a_bed_of_intensive_care_has_a_monitor_and_three_pumps(hospitals):
    devices = hospitals[0].devices
    at_bed = {bed: Counter() for bed, ward in zip(devices.bed_ids, devices.ward_ids, strict=True) if bed and ward[:3] == "icu"}
    for bed, model in zip(devices.bed_ids, devices.models, strict=True):
        if bed in at_bed:
            at_bed[bed][model] += 1
    assert len(at_bed) == round(1_300 * 0.06)
    for models in at_bed.values():
        assert models == {"monitor": 1, "infusion-pump": 3, "patient-chart": 1, "ventilator": 1}


@pytest.mark.parametrize(("occupancy", "share"), [(0.0, 0), (1.0, 1)])
def test_occupancy_decides_how_many_beds_hold_a_patient(occupancy, share):
    spec = FleetSpec(devices=600, tertiary_beds=100, secondary_beds=50, primary_beds=20, occupancy=occupancy)
    plan = plan_fleet(spec, 1)
    assert len(plan.patient_hospital) == share * (100 + 50 + 20 + 20)
    assert (plan.patient >= 0).any() == bool(share)


def test_ages_are_those_of_people(plan):
    assert plan.patient_age_years.min() >= 0.1
    assert plan.patient_age_years.max() <= 99
    assert 40 < np.median(plan.patient_age_years) < 80


def test_handles_are_bound_to_the_devices_they_were_given_to():
    plan = small_plan()
    answer = registered(plan.manifest)
    devices, gateways = plan.bind(answer)
    for row, handle in enumerate(devices.tolist()):
        assert answer.hospitals[plan.hospital[row]].handles[plan.position[row]] == handle
    assert gateways.tolist() == [answer.hospitals[g.hospital].handles[g.position] for g in plan.gateways]
    assert len({*devices.tolist(), *gateways.tolist()}) == len(devices) + len(gateways)


@pytest.mark.parametrize(
    "wrong", [{"devices": 0}, {"tertiary": 0, "secondary": 0, "primary": 0}, {"devices_per_gateway": 0}, {"occupancy": 1.2}]
)
def test_a_fleet_of_nothing_or_of_too_much_is_refused(wrong):
    with pytest.raises(InvalidInput):
        FleetSpec(**wrong)
