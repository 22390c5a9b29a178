"""What the detector finds unusual is a derived reading of the patient and an advisory alarm that names model@version."""

from __future__ import annotations

import numpy as np
import pytest

from analytics.scorers import SCORER_IDS
from domain.alarms import AlertType, Phase, Priority
from domain.metrics import metric_of
from domain.quality import Origin, origin_of
from domain.readings import ReadingBatch
from tests.cell_streams import TEST_MODE, Desk, admitted, associated, readings, registered

ANOMALY_ID = metric_of("anomaly_score").id
CALM = np.round(36 + np.random.default_rng(1).normal(0, 0.5, 200), 1).tolist()  # end-tidal CO2


@pytest.fixture
def desk() -> Desk:
    desk = Desk()
    desk.tell(registered({1: "monitor@1", 2: "wearable@1"}), admitted(100), associated(1, (100, -100, None)))
    desk.read(readings(1, "etco2", range(200), CALM))
    return desk


def anomalies(desk: Desk) -> ReadingBatch:
    derived = ReadingBatch.concat(desk.heard.derived)
    return derived.take(derived.metric == ANOMALY_ID)


@pytest.mark.clause("9.2d")
def test_a_jump_is_a_derived_reading_of_the_patient_by_the_scorers_id(desk: Desk) -> None:
    assert len(anomalies(desk)) == 0
    desk.read(readings(1, "etco2", [200], [46]))
    found = anomalies(desk)
    assert (found.handle.tolist(), found.source.tolist()) == ([100], [SCORER_IDS["robust-z", 1]])
    assert found.value[0] > 8
    assert found.raw_value[0] == 46
    assert origin_of(found.quality)[0] == Origin.DERIVED


@pytest.mark.clause("9.2d")
def test_it_advises_at_low_priority_and_ends_when_the_channel_is_calm_again(desk: Desk) -> None:
    desk.read(readings(1, "etco2", [200, 201, 202], [46, 46, 36]))
    start, end = desk.heard.of_rule("anomaly.robust-z")
    assert (start.phase, start.priority, start.alert_type) == (Phase.START, Priority.LOW, AlertType.ADVISORY)
    assert "robust-z@1" in start.text
    assert (start.rule_version, start.limit) == (1, 8.0)
    assert start.inputs[0].value == 46
    assert (end.phase, end.alarm_id) == (Phase.END, start.alarm_id)


def test_a_device_without_a_patient_is_advised_about_and_has_no_derived_reading() -> None:
    desk = Desk()
    desk.tell(registered({1: "monitor@1"}))
    desk.read(readings(1, "etco2", range(201), [*CALM, 46]))
    assert len(anomalies(desk)) == 0
    assert desk.heard.rules().count("anomaly.robust-z") == 1


def test_test_data_and_devices_that_are_no_life_sign_are_not_watched(desk: Desk) -> None:
    desk.read(readings(1, "etco2", [200], [46], quality=TEST_MODE))
    desk.read(readings(2, "skin_temp", range(300), [*[33.0] * 299, 44.0]))
    assert desk.heard.of_rule("anomaly.robust-z") == []
