"""Patients: they worsen at the pace they are told, look worse for it, and go back to what they were."""

from __future__ import annotations

import numpy as np
import pytest

from analytics.news2 import Parameter, score
from sim.physiology import SIGNS, Physiology
from sim.rng import Streams

COLUMN = {name: number for number, name in enumerate(SIGNS)}
INPUT = {Parameter.RESP_RATE: "resp_rate", Parameter.SPO2: "spo2", Parameter.SYSTOLIC: "sys", Parameter.PULSE: "heart_rate",
         Parameter.TEMPERATURE: "body_temp"}  # fmt: skip


def patients(ages, seed=1):
    ages = np.asarray(ages, dtype=float)
    return Physiology(ages, np.zeros(len(ages), dtype=bool), Streams(seed).stream("physiology"))


def news2_of(physiology):
    inputs = np.zeros((len(physiology.signs), len(Parameter)))  # on air, alert
    for parameter, sign in INPUT.items():
        inputs[:, parameter] = physiology.signs[:, COLUMN[sign]]
    return score(inputs, np.zeros(len(inputs), dtype=bool)).total


@pytest.fixture
def ward():
    return patients(np.linspace(20, 90, 40))


@pytest.mark.clause("6.3d")
def test_a_patient_who_worsens_has_worse_signs(ward):
    before = ward.signs.copy()
    ward.deteriorate(np.arange(20), 1.0, 60)
    for _ in range(80):
        ward.advance(1)
    change = (ward.signs - before).mean(where=np.arange(40)[:, None] < 20, axis=0)
    rises = {"heart_rate": 40, "resp_rate": 10, "body_temp": 1.5}
    falls = {"spo2": 9, "sys": 30, "dia": 15}
    assert all(change[COLUMN[sign]] > least for sign, least in rises.items())
    assert all(change[COLUMN[sign]] < -least for sign, least in falls.items())


def test_the_early_warning_score_of_those_who_worsen_becomes_an_emergency_and_of_the_others_does_not(ward):
    assert np.median(news2_of(ward)) <= 2
    ward.deteriorate(np.arange(20), 1.0, 60)
    for _ in range(80):
        ward.advance(1)
    assert (news2_of(ward)[:20] >= 7).all()
    assert np.median(news2_of(ward)[20:]) <= 2


def test_severity_reaches_its_target_when_it_was_told_to_and_not_before(ward):
    ward.deteriorate(np.array([3]), 0.9, 100)
    for _ in range(95):
        ward.advance(1)
    assert ward.severity[3] < 0.9
    for _ in range(10):
        ward.advance(1)
    assert ward.severity[3] == pytest.approx(0.9)


def test_who_recovers_goes_back_to_what_was_within_about_an_hour(ward):
    resting = ward.severity.copy()
    ward.deteriorate(np.array([0, 1]), 1.0, 10)
    ward.advance(20)
    assert ward.severity[:2] == pytest.approx(1.0)
    ward.recover(np.array([0, 1]))
    ward.advance(1800)
    assert (ward.severity[:2] > resting[:2]).all()
    ward.advance(1900)
    assert ward.severity == pytest.approx(resting)


def test_signs_stay_those_of_a_living_patient_at_the_worst():
    everyone = patients(np.repeat(np.linspace(0.1, 99, 100), 5))
    everyone.deteriorate(np.arange(500), 1.0, 1)
    for _ in range(50):
        everyone.advance(1)
        assert everyone.signs[:, COLUMN["spo2"]].min() >= 50
        assert everyone.signs[:, COLUMN["spo2"]].max() <= 100
        assert everyone.signs[:, COLUMN["sys"]].min() >= 40
        assert everyone.signs[:, COLUMN["heart_rate"]].max() <= 240


def test_a_childs_heart_and_breath_are_quicker_and_its_pressure_lower():
    signs = patients([1.0] * 200 + [50.0] * 200).signs
    child, adult = signs[:200].mean(axis=0), signs[200:].mean(axis=0)
    assert child[COLUMN["heart_rate"]] > adult[COLUMN["heart_rate"]] + 30
    assert child[COLUMN["resp_rate"]] > adult[COLUMN["resp_rate"]] + 10
    assert child[COLUMN["sys"]] < adult[COLUMN["sys"]] - 20


def test_a_ward_without_patients_is_no_matter():
    nobody = patients([])
    nobody.deteriorate(np.array([], dtype=int), 1.0, 10)
    nobody.advance(1)
    assert nobody.signs.shape == (0, len(SIGNS))
