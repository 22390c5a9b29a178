"""Devices: what an import says of each row, and what else happens when one is changed or retired."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from domain.errors import Conflict, InvalidInput, StaleVersion
from domain.messages import DevicesRegistered, MaintenanceSet
from runtime.sql import devices, handles
from runtime.sql.access import list_writes
from runtime.sql.associations import associate
from runtime.sql.devices import MAINTENANCE, NewDevice
from runtime.sql.engine import writing
from runtime.sql.handles import take_handles
from runtime.sql.tables import devices as device_table
from runtime.sql.tables import handles as handle_table
from tests.sql_fixtures import ADA, HOSPITAL, NOW_US, SmallHospital, add_hospital, count, later, told


def errors_of(engine: Engine, *rows: NewDevice) -> list[str | None]:
    return [report.error for report in devices.import_devices(engine, ADA, HOSPITAL, rows)]


@pytest.mark.clause("8.1")
def test_each_wrong_row_of_an_import_has_its_own_sentence(engine: Engine, hospital: SmallHospital) -> None:
    errors = errors_of(
        engine,
        NewDevice("mon-7", "monitor"),
        NewDevice("a b", "monitor"),
        NewDevice("x-1", "toaster"),
        NewDevice("x-2", "monitor", ward_id="w/1"),
        NewDevice("x-3", "monitor", bed_id="*"),
        NewDevice("x-4", "monitor", gateway_id="gw-9"),
        NewDevice("x-5", "monitor", gateway_id="mon-7"),
        NewDevice("x-6", "monitor", gateway_id="x-6"),
        NewDevice("x-7", "monitor", gateway_id="gw-1"),
        NewDevice("x-7", "monitor"),
    )
    expected = [
        "exists already", "device id 'a b'", "'toaster' is unknown", "ward id 'w/1'", "bed id '*'", "'gw-9' .* is unknown",
        "is a monitor@1, not a gateway", "'x-6' .* is unknown", None, "stands twice",
    ]  # fmt: skip
    for error, part in zip(errors, expected, strict=True):
        if part is None:
            assert error is None
        else:
            with pytest.raises(InvalidInput, match=part):
                raise InvalidInput(error)


def test_a_dry_run_says_what_an_import_would_and_keeps_nothing(engine: Engine) -> None:
    add_hospital(engine)
    rows = [NewDevice("gw-1", "gateway"), NewDevice("d-1", "wearable", gateway_id="gw-1"), NewDevice("d-1", "wearable")]
    tried = devices.import_devices(engine, ADA, HOSPITAL, rows, dry_run=True)
    assert (count(engine, device_table), count(engine, handle_table), told(engine)) == (0, 0, [])
    done = devices.import_devices(engine, ADA, HOSPITAL, rows)
    assert [report.error for report in tried] == [report.error for report in done]
    assert [(report.row, report.handle) for report in done] == [(1, 1), (2, 2), (3, None)]


def test_hosts_are_told_of_many_devices_in_parts(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_PER_MESSAGE", 3)
    add_hospital(engine)
    devices.import_devices(engine, ADA, HOSPITAL, [NewDevice(f"d-{n}", "wearable", "w", f"b-{n}") for n in range(7)])
    parts = [message for message in told(engine) if isinstance(message, DevicesRegistered)]
    assert [part.handles for part in parts] == [[1, 2, 3], [4, 5, 6], [7]]
    assert parts[2] == DevicesRegistered(HOSPITAL, [7], ["d-6"], ["wearable@1"], ["w"], ["b-6"])


def test_an_import_into_a_large_hospital_finds_what_is_there(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    add_hospital(engine)
    rows = [NewDevice(f"d-{n}", "wearable") for n in range(50)]
    devices.import_devices(engine, ADA, HOSPITAL, rows)
    for chunk in (1, 2, 500):  # looked for among all, or part by part
        monkeypatch.setattr(devices, "_LOOKUP_CHUNK", chunk)
        reports = devices.import_devices(engine, ADA, HOSPITAL, [*rows, NewDevice("new", "wearable")], dry_run=True)
        assert [report.row for report in reports if report.error is None] == [51]


def test_handles_of_many_run_on_after_single_ones(engine: Engine) -> None:
    with writing(engine) as connection:
        taken = [take_handles(connection, n, "device") for n in (1, 1_000, 1, 2)]
    assert taken == [1, 2, 1_002, 1_003]
    assert count(engine, handle_table) == 1_004


def test_no_handle_is_beyond_what_a_frame_can_carry(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handles, "HIGHEST", 10)
    with pytest.raises(Conflict, match="the region is full"), writing(engine) as connection:
        take_handles(connection, 11, "device")


def test_attributes_and_status_change_without_a_word_to_hosts(engine: Engine, hospital: SmallHospital) -> None:
    before = told(engine)
    values = {"attributes": {"firmware": "2.1", "udi": "(01)06901234000013"}, "status": MAINTENANCE}
    row = devices.update_device(engine, ADA, hospital.monitor["handle"], values, version=1)
    assert (row["attributes"]["firmware"], row["status"], row["version"]) == ("2.1", "maintenance", 2)
    assert told(engine) == before
    assert list_writes(engine, limit=1).rows[0]["detail"] == values


@pytest.mark.parametrize("values", [{"status": "retired"}, {"status": "lost"}, {"model": "ct"}, {"token_digest": "x"}])
def test_what_else_a_device_is_cannot_be_changed(engine: Engine, hospital: SmallHospital, values: dict[str, str]) -> None:
    with pytest.raises(InvalidInput):
        devices.update_device(engine, ADA, hospital.monitor["handle"], values, version=1)


@pytest.mark.clause("5.4a")
def test_a_retired_device_is_on_nobody_and_alarms_no_more(engine: Engine, hospital: SmallHospital) -> None:
    handle = hospital.monitor["handle"]
    retired = later(60)
    with pytest.raises(StaleVersion):
        devices.retire_device(engine, retired, handle, version=9)
    devices.retire_device(engine, retired, handle, version=1)
    last = told(engine)[-1]
    assert isinstance(last, MaintenanceSet)
    assert (last.handle, last.from_us) == (handle, retired.now_us)
    assert last.until_us > NOW_US * 1000
    for change in (
        lambda: devices.retire_device(engine, retired, handle, version=2),
        lambda: devices.rotate_token(engine, retired, handle),
        lambda: devices.move_device(engine, retired, handle, ward_id=None, bed_id=None, version=2),
        lambda: associate(engine, retired, handle, hospital.patient["patient_key"], retired.now_us),
    ):
        with pytest.raises(Conflict, match="is retired"):
            change()
