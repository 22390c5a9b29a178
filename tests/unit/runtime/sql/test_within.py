"""SQL cuts a list exactly where a reach holds: compared record by record on random reaches. Clauses 7.2b, 9.3c."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from sqlalchemy import Engine, insert, select

from domain.labels import LABELS, label_of, of_readings
from domain.permissions import Level, Located, Reach
from domain.principals import Place
from runtime.sql import devices, patients, places
from runtime.sql.engine import reading, writing
from runtime.sql.reading_reach import broad, judge, judge_each
from runtime.sql.tables import alarms
from runtime.sql.tables import devices as device_table
from runtime.sql.tables import hospitals as hospital_table
from runtime.sql.tables import patients as patient_table
from runtime.sql.within import ALARMS, DEVICES, HOSPITALS, PATIENTS, within
from tests.sql_fixtures import ADA, NOW_US, add_hospital

DISTRICTS = {"sz.h001": "futian", "sz.h002": "futian", "sz.h003": "nanshan"}
GRANTED = ("sz", "sz:futian", "sz:nanshan", "sz.h001", "sz.h001/icu", "sz.h002/w01", "gz", "gz.h001")


@pytest.fixture
def region(engine: Engine) -> dict[str, Located]:
    """Hospitals with patients, devices and alarms in two wards and in none; some above their class. Records by id."""
    chance, records = Random(1), dict[str, Located]()
    for hospital_id, district in DISTRICTS.items():
        add_hospital(engine, hospital_id)
        places.update_hospital(engine, ADA, hospital_id, {"district": district}, version=None)
        records[hospital_id] = Located(Place("sz", district, hospital_id), LABELS["hospitals"])
        for ward_id in ("icu", "w01", None):
            for number in range(2):
                raised = chance.choice((None, 5))
                at = Place("sz", district, hospital_id, ward_id)
                _add(engine, records, at, f"{ward_id}-{number}", raised)
    return records


def _add(engine: Engine, records: dict[str, Located], at: Place, name: str, raised: int | None) -> None:
    assert at.hospital_id is not None
    patient = patients.admit_patient(engine, ADA, at.hospital_id, patients.NewPatient(name, ward_id=at.ward_id))
    patients.update_patient(engine, ADA, patient["patient_key"], {"level": raised}, version=None)
    records[patient["patient_key"]] = Located(at, label_of("patients", raised), patient["patient_key"])
    row, _ = devices.register_device(engine, ADA, at.hospital_id, devices.NewDevice(name, "monitor", at.ward_id))
    devices.update_device(engine, ADA, row["handle"], {"level": raised}, version=None)
    records[str(row["handle"])] = Located(at, label_of("devices", raised))
    for key in (patient["patient_key"], None):
        alarm_id = f"{at}-{name}-{key is None}"
        level = of_readings(raised if key else None, has_patient=key is not None)
        records[alarm_id] = Located(at, level, key)
        _raise(engine, alarm_id, at, key)
    patients.associate(engine, ADA, row["handle"], patient["patient_key"], NOW_US)


def _raise(engine: Engine, alarm_id: str, at: Place, key: str | None) -> None:
    facts: dict[str, Any] = dict.fromkeys(("onset_us", "last_event_us", "raised_us"), NOW_US) | {
        "alarm_id": alarm_id, "hospital_id": at.hospital_id, "ward_id": at.ward_id, "handle": 1, "patient_key": key,
        "rule": "r", "rule_version": 1, "alert_type": "SP", "priority": 1, "state": "active", "phase": "start",
        "latching": False, "live": True, "text": "t", "stream_sequence": 1, "version": 1,
    }  # fmt: skip
    with writing(engine) as connection:
        connection.execute(insert(alarms).values(facts))


def random_reach(chance: Random, keys: list[str]) -> Reach:
    some = [Place.parse(text) for text in chance.sample(GRANTED, chance.choice((0, 1, 1, 2, 3)))]
    levels = {place: chance.choice(list(Level)) for place in some}
    own = [(Place.parse(chance.choice(GRANTED)), key) for key in chance.sample(keys, chance.choice((0, 0, 1, 3)))]
    return Reach(levels, {one: chance.choice((Level.IDENTIFYING, Level.STRICT)) for one in own})


@pytest.mark.clause("9.3c")
def test_sql_holds_what_the_reach_holds(engine: Engine, region: dict[str, Located]) -> None:
    chance = Random(2)
    keys = [one.patient_key for one in region.values() if one.patient_key]
    kinds = [
        (HOSPITALS, hospital_table.c.id), (DEVICES, device_table.c.handle), (PATIENTS, patient_table.c.patient_key),
        (ALARMS, alarms.c.alarm_id),
    ]  # fmt: skip
    with reading(engine) as connection:
        everything = [{str(found) for found in connection.execute(select(column)).scalars()} for _, column in kinds]
        for _ in range(150):
            reach = random_reach(chance, keys)
            for (kind, column), ids in zip(kinds, everything, strict=True):
                found = {str(one) for one in connection.execute(select(column).where(within(reach, kind))).scalars()}
                assert found == {one for one in ids if reach.holds(region[one])}, reach


@pytest.mark.clause("9.3c")
def test_what_is_not_looked_at_in_a_broad_reach_is_within(engine: Engine, region: dict[str, Located]) -> None:
    """Looking at each handle, and only at those that are in doubt, comes to the same."""
    chance, broad_ones = Random(3), 0
    with reading(engine) as connection:
        handles = {
            int(one) for table in (device_table, patient_table) for one in connection.execute(select(table.c.handle)).scalars()
        }
        for _ in range(150):
            reach = random_reach(chance, [one.patient_key for one in region.values() if one.patient_key])
            each, quick = judge_each(connection, reach, handles), judge(connection, reach, handles)
            assert (each.closed, each.partly, each.allowed) == (quick.closed, quick.partly, quick.allowed), reach
            broad_ones += broad(reach) is not None
    assert broad_ones
