"""The directory said again brings a cell that knows nobody to what the outbox brought another one to."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine

from actors.shard import ShardCell
from domain.fleet_manifest import Tier
from domain.messages import Control, DeviceAssociated, DevicesRegistered, MaintenanceSet
from runtime.sql import devices, patients, places, presets
from runtime.sql.devices import NewDevice
from runtime.sql.directory import shard_directory
from runtime.sql.patients import NewPatient
from tests.cell_streams import assert_same_tables
from tests.sql_fixtures import ADA, HOSPITAL, HOUR_US, NOW_US, SmallHospital, add_hospital, later, told

OTHER = "sz.h002"


def cell_after(messages: list[Control]) -> ShardCell:
    cell = ShardCell(0)
    for message in messages:
        cell.apply_control(message, NOW_US)
    return cell


@pytest.fixture
def eventful(engine: Engine, hospital: SmallHospital) -> SmallHospital:
    """A day in which everything happened that hosts are told of."""
    monitor, pump, key = hospital.monitor["handle"], hospital.pump["handle"], hospital.patient["patient_key"]
    span = patients.associate(engine, ADA, monitor, key, NOW_US)
    patients.end_association(engine, later(60), span["id"], NOW_US + HOUR_US)
    patients.associate(engine, later(61), pump, key, NOW_US)
    second = patients.admit_patient(engine, later(62), HOSPITAL, NewPatient("MRN-2", age_years=4.0, bed_id="icu-08"))
    patients.associate(engine, later(63), monitor, second["patient_key"], NOW_US + HOUR_US)
    presets.set_preset(engine, later(64), key, "heart_rate", (40.0, 50.0, 140.0, None))
    presets.start_maintenance(engine, later(65), HOSPITAL, from_us=NOW_US, until_us=NOW_US + HOUR_US, handle=monitor)
    presets.start_maintenance(engine, later(66), HOSPITAL, from_us=NOW_US, until_us=NOW_US + 2 * HOUR_US, ward_id="icu")
    devices.move_device(engine, later(67), monitor, ward_id="ward-2", bed_id="b1", version=None)
    patients.discharge_patient(engine, later(68), key, NOW_US + HOUR_US, version=None)
    return hospital


def state_of(cell: ShardCell) -> dict[str, Any]:
    """Everything but when the cell took it, and the order in which presets were given their slots."""
    tables = cell.snapshot()
    tables["devices"] = tables["devices"].drop_columns(["registered_us"]).sort_by("handle")
    tables["spans"] = tables["spans"].sort_by([("handle", "ascending"), ("start_us", "ascending")])
    return {name: tables[name] for name in ("patients", "patient_texts", "spans", "presets", "ward_windows")} | {
        "devices": tables["devices"].select(["handle", "model", "maintenance_from_us", "maintenance_until_us"])
    }


@pytest.mark.usefixtures("eventful")
def test_it_brings_a_cell_to_where_the_outbox_brought_another(engine: Engine) -> None:
    again = cell_after(shard_directory(engine, 0))
    first = cell_after(told(engine))
    mine, other = state_of(again), state_of(first)
    for tables in (mine, other):  # devices were registered in another order, so a chart has another row
        tables["patients"] = tables["patients"].drop_columns(["device"])
    assert_same_tables(mine, other)


@pytest.mark.usefixtures("eventful")
def test_applied_over_what_is_known_it_changes_nothing(engine: Engine) -> None:
    cell = cell_after(told(engine))
    before = state_of(cell)
    for message in shard_directory(engine, 0):
        cell.apply_control(message, 0)
    assert_same_tables(state_of(cell), before)


def test_a_retired_device_is_known_and_alarms_no_more(engine: Engine, hospital: SmallHospital) -> None:
    handle = hospital.pump["handle"]
    devices.retire_device(engine, later(1), handle, version=None)
    said = shard_directory(engine, 0)
    assert any(isinstance(m, DevicesRegistered) and handle in m.handles for m in said)
    assert [(m.handle, m.until_us) for m in said if isinstance(m, MaintenanceSet)] == [(handle, 2**62)]


@pytest.mark.usefixtures("hospital")
def test_each_shard_has_its_own_hospitals(engine: Engine) -> None:
    other = places.create_hospital(
        engine, ADA, hospital_id=OTHER, name="南山", tier=Tier.PRIMARY, bed_count=20, shards=4
    )  # fmt: skip
    devices.register_device(engine, ADA, OTHER, NewDevice("mon-1", "monitor"))
    hospitals = [{m.hospital_id for m in shard_directory(engine, shard)} for shard in (0, other["shard"], 3)]
    assert hospitals == [{HOSPITAL}, {OTHER}, set()]


def test_many_devices_are_said_in_messages_of_a_size_that_a_stream_takes(engine: Engine) -> None:
    add_hospital(engine)
    devices.import_devices(engine, ADA, HOSPITAL, [NewDevice(f"d-{n}", "bp-cuff") for n in range(20_001)])
    said = shard_directory(engine, 0)
    assert [len(m.handles) for m in said if isinstance(m, DevicesRegistered)] == [20_000, 1]
    assert not [m for m in said if isinstance(m, DeviceAssociated)]
