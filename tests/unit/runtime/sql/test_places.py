"""Hospitals, wards and beds."""

from __future__ import annotations

from collections import Counter

import pytest
from sqlalchemy import Engine

from domain.errors import Conflict, InvalidInput, NotFound, StaleVersion
from runtime.sql import devices, patients, places
from runtime.sql.devices import NewDevice
from runtime.sql.engine import reading
from runtime.sql.shard_loads import ShardLoads
from tests.sql_fixtures import ADA, ALL, HOSPITAL, NOW_US, add_hospital


@pytest.fixture(autouse=True)
def icu(engine: Engine) -> None:
    """A hospital with a ward and a bed."""
    add_hospital(engine)
    places.create_ward(engine, ADA, HOSPITAL, "icu", "ICU")
    places.create_bed(engine, ADA, HOSPITAL, "icu-07", "icu")


@pytest.mark.clause("5.1")
def test_hospitals_are_found_by_part_of_their_name_and_by_tier(engine: Engine) -> None:
    add_hospital(engine, "sz.h002")
    places.update_hospital(engine, ADA, "sz.h002", {"name": "Nanshan 100% Clinic", "tier": "primary"}, version=1)
    assert [row["id"] for row in places.list_hospitals(engine, reach=ALL, limit=9, text="人民").rows] == [HOSPITAL]
    assert [row["id"] for row in places.list_hospitals(engine, reach=ALL, limit=9, text="NANSHAN 100%").rows] == ["sz.h002"]
    assert [row["id"] for row in places.list_hospitals(engine, reach=ALL, limit=9, tier="tertiary").rows] == [HOSPITAL]
    assert places.list_hospitals(engine, reach=ALL, limit=9, text="%").rows[0]["id"] == "sz.h002"  # no wildcard


@pytest.mark.parametrize(
    "values", [{"name": ""}, {"name": "n" * 201}, {"beds": -1}, {"tier": "huge"}, {"shard": 3}, {"id": "sz.h9"}]
)
def test_a_hospital_cannot_be_changed_into_what_it_cannot_be(engine: Engine, values: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        places.update_hospital(engine, ADA, HOSPITAL, values, version=1)
    assert places.get_hospital(engine, HOSPITAL)["version"] == 1


def test_lists_of_an_unknown_hospital_are_not_found_rather_than_empty(engine: Engine) -> None:
    for listed in (places.list_wards, places.list_beds):
        with pytest.raises(NotFound, match=r"sz\.h999"):
            listed(engine, "sz.h999", reach=ALL, limit=9)


def test_a_bed_stands_in_a_ward_that_exists(engine: Engine) -> None:
    with pytest.raises(NotFound, match="ward 'attic'"):
        places.create_bed(engine, ADA, HOSPITAL, "b-1", "attic")
    with pytest.raises(NotFound, match="ward 'attic'"):
        places.update_bed(engine, ADA, HOSPITAL, "icu-07", "attic", version=1)
    places.create_ward(engine, ADA, HOSPITAL, "west", "West")
    assert places.update_bed(engine, ADA, HOSPITAL, "icu-07", "west", version=1)["ward_id"] == "west"
    with pytest.raises(StaleVersion):
        places.update_bed(engine, ADA, HOSPITAL, "icu-07", "icu", version=1)


def test_a_place_is_removed_once_it_is_empty(engine: Engine) -> None:
    device, _ = devices.register_device(engine, ADA, HOSPITAL, NewDevice("mon-1", "monitor", "icu", "icu-07"))
    with pytest.raises(Conflict, match="bed 'icu-07' holds 1 devices"):
        places.remove_bed(engine, ADA, HOSPITAL, "icu-07", version=1)
    devices.retire_device(engine, ADA, device["handle"], version=1)
    with pytest.raises(Conflict, match="ward 'icu' holds 1 beds"):
        places.remove_ward(engine, ADA, HOSPITAL, "icu", version=1)
    patient = patients.admit_patient(engine, ADA, HOSPITAL, patients.NewPatient("MRN-1", bed_id="icu-07"))
    with pytest.raises(Conflict, match="holds 1 patients"):
        places.remove_bed(engine, ADA, HOSPITAL, "icu-07", version=1)
    patients.discharge_patient(engine, ADA, patient["patient_key"], NOW_US, version=1)
    with pytest.raises(StaleVersion):
        places.remove_bed(engine, ADA, HOSPITAL, "icu-07", version=2)
    places.remove_bed(engine, ADA, HOSPITAL, "icu-07", version=1)
    places.remove_ward(engine, ADA, HOSPITAL, "icu", version=1)
    assert (
        places.list_beds(engine, HOSPITAL, reach=ALL, limit=9).rows
        == places.list_wards(engine, HOSPITAL, reach=ALL, limit=9).rows
        == []
    )
    with pytest.raises(NotFound):
        places.remove_ward(engine, ADA, HOSPITAL, "icu", version=1)


def test_new_hospitals_go_where_the_fewest_devices_are(engine: Engine) -> None:
    devices.import_devices(engine, ADA, HOSPITAL, [NewDevice(f"d-{n}", "wearable") for n in range(30)])
    with reading(engine) as connection:
        loads = ShardLoads(connection, shards=3)
    assert places.get_hospital(engine, HOSPITAL)["shard"] == 0
    assert [loads.place(count) for count in (20, 5, 5, 5, 5)] == [1, 2, 2, 2, 2]
    with reading(engine) as connection:
        empty = ShardLoads(connection, shards=3)
    assert Counter(empty.place(0) for _ in range(8)) == {1: 4, 2: 4}
