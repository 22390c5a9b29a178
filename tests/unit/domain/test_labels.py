"""Every kind of record has a level of sensitivity. Clause 9.3a."""

from __future__ import annotations

import pytest

from domain import subjects
from domain.labels import LABELS, label_of, of_readings
from domain.permissions import Level
from runtime.sql.tables import metadata

STREAMS = {value for name, value in vars(subjects).items() if name.endswith("_STREAM")}
UNSTORED = {"catalogue", "statistics", "operation", "scenarios", "log"}


@pytest.mark.clause("9.3a")
def test_every_table_stream_and_the_lake_bears_a_label_and_nothing_else_does() -> None:
    assert set(LABELS) == set(metadata.tables) | STREAMS | {"readings"} | UNSTORED


@pytest.mark.clause("9.3a")
def test_a_record_is_raised_above_its_class_and_never_lowered() -> None:
    assert [label_of("patients", raised) for raised in (None, 3, 4, 5)] == [4, 4, 4, 5]


@pytest.mark.clause("9.3a")
def test_readings_are_as_sensitive_as_whom_they_are_of() -> None:
    assert of_readings(None, has_patient=False) is Level.RESTRICTED
    assert of_readings(None, has_patient=False, device_level=5) is Level.STRICT
    assert of_readings(None, has_patient=True) is Level.IDENTIFYING
    assert of_readings(5, has_patient=True) is Level.STRICT
