"""Sepsis: everybody in one hospital worsens; devices show it, the early warning score tells it, and it ends."""

from __future__ import annotations

import numpy as np
import pytest

from analytics.news2 import Parameter, score
from domain.metrics import metric_of
from domain.readings import ReadingBatch
from sim.faults import FaultSpec
from sim.physiology import SIGNS
from tests.unit.sim.worlds import of_hospital, registered, said, small_plan, world_of

RUN_S = 60
FIRST = 0
ADULT_YEARS = 16


def sepsis(at_s=10.0, for_s=0.0, **fields):
    return FaultSpec("sepsis", at_s, for_s, hospitals=(FIRST,), **fields)


@pytest.fixture(scope="module")
def calm():
    return said(RUN_S)


@pytest.fixture(scope="module")
def world():
    """Everybody in the first hospital turns septic at 10 s and is at the worst 15 s later."""
    return world_of(sepsis(for_s=0.0, magnitude=240.0))


@pytest.fixture(scope="module")
def rough(world):
    return list(world.emissions(RUN_S))


def mean_change(emissions, calm, code):
    parts = []
    for run in (emissions, calm):
        late = ReadingBatch.concat(e.readings for e in of_hospital(run, FIRST) if e.due_s >= 40)
        parts.append(late.value[(late.metric == metric_of(code).id) & np.isin(late.handle, devices_on_somebody())].mean())
    return parts[0] - parts[1]


@pytest.mark.parametrize(
    ("code", "least"), [("heart_rate", 35), ("resp_rate", 10), ("body_temp", 1.2), ("spo2", -8), ("abp_sys", -25)]
)
def test_what_devices_say_of_the_patients_becomes_worse(rough, calm, code, least):
    change = mean_change(rough, calm, code)
    assert np.sign(change) == np.sign(least)
    assert abs(change) > abs(least)


def test_the_early_warning_score_rises_to_an_emergency(world, rough):
    assert rough
    plan = small_plan()
    adults = plan.patient_age_years >= ADULT_YEARS
    total = news2_of(world.physiology.signs)
    septic = (plan.patient_hospital == FIRST) & adults
    assert (total[septic] >= 7).all()
    assert np.median(total[~septic & adults]) <= 3


def test_each_of_them_is_remembered_by_name(world, rough):
    assert rough
    refs = small_plan().manifest.hospitals[FIRST].patients.refs
    septic = [t.subject for t in world.truth if t.detail == "sepsis"]
    assert septic == [f"sz.h001/{ref}" for ref in refs]


def test_a_share_of_the_patients_is_that_share():
    world = world_of(sepsis(share=0.25, magnitude=240.0))
    list(world.emissions(12))
    patients = len(small_plan().manifest.hospitals[FIRST].patients.refs)
    assert len([t for t in world.truth if t.detail == "sepsis"]) == round(patients / 4)


def test_without_a_magnitude_it_takes_an_hour_to_the_worst():
    world = world_of(sepsis(at_s=0.0, for_s=0.0))
    first = small_plan().patient_hospital == FIRST
    list(world.emissions(1))
    resting = world.physiology.severity[first].copy()
    world.physiology.advance(1799)
    assert world.physiology.severity[first] == pytest.approx((1 + resting) / 2, abs=0.01)


def test_it_ends_when_the_fault_does():
    world = world_of(sepsis(at_s=1.0, for_s=20.0, magnitude=3600.0))
    list(world.emissions(30))
    first = small_plan().patient_hospital == FIRST
    patients = len(small_plan().manifest.hospitals[FIRST].patients.refs)
    assert [t.at_s for t in world.truth if t.kind == "recovered"] == [21.0] * patients
    assert (world.physiology.severity[first] < 1).all()


def devices_on_somebody():
    """Handles of the first hospital's devices that are on a patient."""
    plan = small_plan()
    devices, _ = plan.bind(registered(plan.manifest))
    return devices[(plan.hospital == FIRST) & (plan.patient >= 0)]


def news2_of(signs):
    columns = {Parameter.RESP_RATE: "resp_rate", Parameter.SPO2: "spo2", Parameter.SYSTOLIC: "sys",
               Parameter.PULSE: "heart_rate", Parameter.TEMPERATURE: "body_temp"}  # fmt: skip
    inputs = np.zeros((len(signs), len(Parameter)))  # on air, alert
    for parameter, sign in columns.items():
        inputs[:, parameter] = signs[:, SIGNS.index(sign)]
    return score(inputs, np.zeros(len(signs), dtype=bool)).total
