"""What a question about one device costs does not grow with the region."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, event, insert

from api.selection import ReadingFilter, Selection, select_by, spans_of
from domain.permissions import Level, Reach
from domain.principals import Place
from runtime.sql import associations, devices, patients
from runtime.sql.engine import writing
from runtime.sql.handles import take_handles
from runtime.sql.tables import associations as association_table
from runtime.sql.tables import devices as device_table
from runtime.sql.tables import patients as patient_table
from tests.sql_fixtures import ADA, ALL, NOW_US, add_hospital

LEVEL_3 = Reach({Place("sz"): Level.RESTRICTED}, {})
ONE = ReadingFilter(device=["sz.h001/mon-1"])


@pytest.fixture
def handle(engine: Engine) -> int:
    add_hospital(engine, "sz.h001")
    patient = patients.admit_patient(engine, ADA, "sz.h001", patients.NewPatient("MRN-1"))
    row, _ = devices.register_device(engine, ADA, "sz.h001", devices.NewDevice("mon-1", "monitor"))
    associations.associate(engine, ADA, row["handle"], patient["patient_key"], NOW_US)
    return int(row["handle"])


@pytest.mark.clause("9.3c")
def test_whether_one_device_is_in_reach_is_found_without_looking_at_all(engine: Engine, handle: int) -> None:
    def judged() -> Selection:
        return select_by(engine, ONE, reach=LEVEL_3)

    before = steps_of(engine, judged)
    add_worn(engine, 2_000)
    assert judged().judged.partly == {handle}
    assert steps_of(engine, judged) < 2 * before


def test_the_spans_of_one_device_are_found_without_reading_all(engine: Engine, handle: int) -> None:
    selection = select_by(engine, ONE, reach=ALL)
    before = steps_of(engine, lambda: spans_of(engine, selection))
    add_worn(engine, 2_000)
    assert spans_of(engine, selection)["handle"].to_list() == [handle]
    assert steps_of(engine, lambda: spans_of(engine, selection)) < 2 * before


def add_worn(engine: Engine, count: int) -> None:
    """Devices, each on a patient."""
    with writing(engine) as connection:
        first_patient, first_device = (take_handles(connection, count, kind) for kind in ("patient", "device"))
        keys = [f"{number:032x}" for number in range(count)]
        connection.execute(insert(patient_table), [
            {"patient_key": key, "handle": first_patient + n, "hospital_id": "sz.h001", "ref_index": key, "pregnant": False,
             "spo2_scale": 1, "admitted_us": 1, "version": 1} for n, key in enumerate(keys)
        ])  # fmt: skip
        connection.execute(insert(device_table), [
            {"handle": first_device + n, "device_id": f"d{n}", "hospital_id": "sz.h001", "model": "monitor@1",
             "status": "in-use", "attributes": {}, "created_us": 1, "version": 1} for n in range(count)
        ])  # fmt: skip
        connection.execute(insert(association_table), [
            {"device_handle": first_device + n, "patient_key": key, "start_us": 1, "recorded_us": 1, "who": "a"}
            for n, key in enumerate(keys)
        ])  # fmt: skip


def steps_of(engine: Engine, ask: Callable[[], Any]) -> int:
    """How far SQLite's machine ran for a question: what it looked at, whatever else the computer does."""
    steps = 0

    def one_more() -> int:
        nonlocal steps
        steps += 1
        return 0

    def counted(connection: Any, *_: Any) -> None:
        connection.set_progress_handler(one_more, 1)

    def uncounted(connection: Any, *_: Any) -> None:
        connection.set_progress_handler(None, 0)

    event.listen(engine, "checkout", counted)
    event.listen(engine, "checkin", uncounted)
    try:
        ask()
    finally:
        event.remove(engine, "checkout", counted)
        event.remove(engine, "checkin", uncounted)
    assert steps > 0
    return steps
