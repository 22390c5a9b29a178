"""Cutting devices off in the business database, on both databases: whole or not at all, never from a patient unsaid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import Engine, select

from actors.shard import ShardCell
from domain.alarms import AlarmEvent, Phase, Priority
from domain.errors import Conflict, InvalidInput, NotFound, PatientAttached
from domain.messages import DeviceIsolated
from domain.metrics import metric_of
from domain.readings import ReadingBatch
from runtime.sql import isolations, patients
from runtime.sql.credentials import standing
from runtime.sql.devices import device_of_token, retire_device, rotate_token
from runtime.sql.directory import shard_directory
from runtime.sql.engine import reading
from runtime.sql.isolation_tables import isolations as table
from runtime.sql.patients import associate, end_association
from tests.sql_fixtures import ADA, ALL, HOSPITAL, NOW_US, SmallHospital, later, told

pytestmark = [pytest.mark.clause("8.4d"), pytest.mark.clause("9.4")]


def put_on(engine: Engine, hospital: SmallHospital, handle: int) -> int:
    return int(associate(engine, ADA, handle, hospital.patient["patient_key"], NOW_US)["id"])


def test_credentials_of_an_isolated_device_open_nothing_until_it_is_released(engine: Engine, hospital: SmallHospital) -> None:
    pump = hospital.pump["handle"]
    isolations.isolate(engine, later(1), pump)
    assert device_of_token(engine, hospital.pump_token) is None
    assert standing(engine, [pump, hospital.gateway["handle"]], NOW_US).keys() == {hospital.gateway["handle"]}
    assert isolations.isolated_handles(engine) == {pump}
    row = isolations.release(engine, later(2, reason="it was a false alarm"), pump)
    assert (row["released_by"], row["reason"], row["release_reason"]) == ("ada", "for a test", "it was a false alarm")
    assert device_of_token(engine, hospital.pump_token) is not None
    assert isolations.isolated_handles(engine) == frozenset()


def test_a_stolen_credential_stays_dead_and_a_new_one_works_after_the_release(engine: Engine, hospital: SmallHospital) -> None:
    pump = hospital.pump["handle"]
    assert isolations.isolate(engine, later(1), pump, revoke=True)["credentials_revoked"]
    new = rotate_token(engine, later(2), pump)
    assert device_of_token(engine, new) is None
    isolations.release(engine, later(3), pump)
    assert device_of_token(engine, hospital.pump_token) is None
    assert device_of_token(engine, new) is not None


def test_a_device_is_not_cut_off_from_a_patient_of_whom_nobody_named_knows(engine: Engine, hospital: SmallHospital) -> None:
    monitor, key = hospital.monitor["handle"], hospital.patient["patient_key"]
    put_on(engine, hospital, monitor)
    for more in ({}, {"known": [key]}, {"confirmed_by": "li.na"}, {"confirmed_by": "li.na", "known": ["another"]}):
        with pytest.raises(PatientAttached, match=key):
            isolations.isolate(engine, later(1), monitor, **more)
    assert isolations.isolated_handles(engine) == frozenset()
    assert told(engine, DeviceIsolated) == []
    row = isolations.isolate(engine, later(1), monitor, confirmed_by="li.na", known=[key])
    assert (row["patients"], row["confirmed_by"]) == (1, "li.na")


def test_a_patient_who_is_protected_above_others_is_counted_and_not_named(engine: Engine, hospital: SmallHospital) -> None:
    key = hospital.patient["patient_key"]
    put_on(engine, hospital, hospital.monitor["handle"])
    patients.update_patient(engine, ADA, key, {"level": 5}, version=None)
    with pytest.raises(PatientAttached, match="on 1 patient") as refused:
        isolations.isolate(engine, later(1), hospital.monitor["handle"])
    assert key not in str(refused.value)


def test_a_gateway_is_on_the_patients_of_all_that_it_carries(engine: Engine, hospital: SmallHospital) -> None:
    gateway, monitor, key = hospital.gateway["handle"], hospital.monitor["handle"], hospital.patient["patient_key"]
    put_on(engine, hospital, monitor)
    with pytest.raises(PatientAttached, match=key):
        isolations.isolate(engine, later(1), gateway)
    isolations.isolate(engine, later(1), gateway, confirmed_by="li.na", known=[key])
    (message,) = told(engine, DeviceIsolated)
    assert isinstance(message, DeviceIsolated)
    assert (message.handle, message.carried, message.by, message.confirmed_by) == (gateway, [monitor], "ada", "li.na")


def test_whoever_left_the_device_is_not_on_it_any_more(engine: Engine, hospital: SmallHospital) -> None:
    span = put_on(engine, hospital, hospital.monitor["handle"])
    end_association(engine, later(5), span, NOW_US + 5_000_000)
    assert isolations.isolate(engine, later(6), hospital.monitor["handle"])["patients"] == 0


def test_an_isolated_device_is_put_on_nobody_nor_is_what_it_carries(engine: Engine, hospital: SmallHospital) -> None:
    isolations.isolate(engine, later(1), hospital.gateway["handle"])
    isolations.isolate(engine, later(1), hospital.pump["handle"])
    key = hospital.patient["patient_key"]
    for handle, who in ((hospital.pump["handle"], "it is isolated"), (hospital.monitor["handle"], "its gateway is isolated")):
        with pytest.raises(Conflict, match=who):
            associate(engine, later(2), handle, key, NOW_US)
    associate(engine, later(2), hospital.pump["handle"], key, NOW_US, NOW_US + 1_000_000)  # it was on them, before
    isolations.release(engine, later(3), hospital.pump["handle"])
    associate(engine, later(4), hospital.pump["handle"], key, later(4).now_us)


def test_it_is_cut_off_once_and_for_a_reason(engine: Engine, hospital: SmallHospital) -> None:
    pump = hospital.pump["handle"]
    with pytest.raises(InvalidInput, match="X-Reason"):
        isolations.isolate(engine, replace(ADA, reason=None), pump)
    with pytest.raises(Conflict, match="not isolated"):
        isolations.release(engine, ADA, pump)
    isolations.isolate(engine, later(1), pump)
    with pytest.raises(Conflict, match="isolated already"):
        isolations.isolate(engine, later(2), pump)
    with pytest.raises(InvalidInput, match="X-Reason"):
        isolations.release(engine, replace(ADA, reason=None), pump)
    with pytest.raises(NotFound):
        isolations.isolate(engine, later(5), 999_999)


def test_a_retired_device_stays_isolated_and_hosts_go_on_refusing_what_its_gateway_brings(
    engine: Engine, hospital: SmallHospital
) -> None:
    monitor, gateway = hospital.monitor["handle"], hospital.gateway["handle"]
    isolations.isolate(engine, later(1), monitor)
    retire_device(engine, later(2), monitor, version=None)
    assert isolations.isolated_handles(engine) == {monitor}
    batch = ReadingBatch.of(handle=[monitor], metric=metric_of("heart_rate").id, time_us=NOW_US, value=199.0, source=gateway)
    told_by_stream, told_by_directory = ShardCell(0), ShardCell(0)
    for cell, messages in ((told_by_stream, told(engine)), (told_by_directory, list(shard_directory(engine, 0)))):
        for message in messages:
            cell.apply_control(message, later(3).now_us)
        refused = cell.step(batch, np.array([later(4).now_us])).rejected
        assert [(len(readings), reason) for readings, reason, _ in refused] == [(1, "isolated")]
    isolations.release(engine, later(5), monitor)
    assert isolations.isolated_handles(engine) == frozenset()
    isolations.isolate(engine, later(6), monitor)  # a gateway may go on speaking for it
    assert isolations.isolated_handles(engine) == {monitor}


def test_the_history_is_kept_and_its_reasons_are_sealed(engine: Engine, hospital: SmallHospital) -> None:
    pump = hospital.pump["handle"]
    for second in (1, 3):
        isolations.isolate(engine, later(second, reason="Frau Meier rief an"), pump)
        isolations.release(engine, later(second + 1, reason="Frau Meier irrte"), pump)
    isolations.isolate(engine, later(9), hospital.monitor["handle"])
    found = isolations.list_isolations(engine, reach=ALL, limit=10, handle=pump).rows
    assert [(row["isolated_us"], row["reason"], row["release_reason"]) for row in found] == [
        (later(second).now_us, "Frau Meier rief an", "Frau Meier irrte") for second in (3, 1)
    ]  # fmt: skip
    (present,) = isolations.list_isolations(engine, reach=ALL, limit=10, in_force=True, hospital_id=HOSPITAL).rows
    assert present["device_id"] == "mon-7"
    assert isolations.list_isolations(engine, reach=ALL, limit=10, ward_id="elsewhere").rows == []
    with reading(engine) as connection:
        assert "Meier" not in str(connection.execute(select(table)).all())


def test_the_directory_says_who_is_isolated_to_a_host_that_knows_nothing(engine: Engine, hospital: SmallHospital) -> None:
    put_on(engine, hospital, hospital.monitor["handle"])
    key = hospital.patient["patient_key"]
    isolations.isolate(engine, later(1), hospital.gateway["handle"], confirmed_by="li.na", known=[key])
    isolations.isolate(engine, later(2), hospital.pump["handle"])
    isolations.release(engine, later(3), hospital.pump["handle"])
    first, again, said, known = ShardCell(0), ShardCell(0), [], []
    for message in told(engine):
        said += first.apply_control(message, later(4).now_us).alarms
    for message in shard_directory(engine, 0):
        known += again.apply_control(message, 0).alarms  # as `actors.restoration`: no time is known by then
    assert [(event.subject.device_id, event.rule, event.phase, event.priority) for event in sorted(known, key=_device)] == [
        ("gw-1", "technical.device-isolated", Phase.START, Priority.LOW),
        ("mon-7", "technical.gateway-isolated", Phase.START, Priority.HIGH),
    ]  # fmt: skip
    assert {event.alarm_id for event in known} == {event.alarm_id for event in said if event.subject.device_id != "pump-3"}
    isolated = ("technical.device-isolated", "technical.gateway-isolated")
    assert [event for event in again.tick(later(5).now_us).alarms if event.rule in isolated] == []
    isolations.release(engine, later(6), hospital.gateway["handle"])
    ended = again.apply_control(told(engine)[-1], later(6).now_us).alarms
    assert {(event.alarm_id, event.phase) for event in ended} == {(event.alarm_id, Phase.END) for event in known}
    assert patients.list_associations(engine, reach=ALL, handle=hospital.monitor["handle"])


def test_the_directory_tells_of_a_device_itself_as_its_ward_was_told(engine: Engine, hospital: SmallHospital) -> None:
    put_on(engine, hospital, hospital.monitor["handle"])
    key = hospital.patient["patient_key"]
    isolations.isolate(engine, later(60), hospital.monitor["handle"], confirmed_by="li.na", known=[key])
    first, again, said, known = ShardCell(0), ShardCell(0), [], []
    for message in told(engine):
        said += first.apply_control(message, later(61).now_us).alarms
    for message in shard_directory(engine, 0):
        known += again.apply_control(message, 0).alarms
    assert [(event.alarm_id, event.priority, event.text) for event in known] == [
        (event.alarm_id, event.priority, event.text) for event in said
    ]  # fmt: skip
    assert [event for event in again.tick(later(62).now_us).alarms if event.rule == "technical.device-isolated"] == []


def _device(event: AlarmEvent) -> str:
    return event.subject.device_id or ""
