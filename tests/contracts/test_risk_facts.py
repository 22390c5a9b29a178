"""What rules of the register of risks are told of devices, of what is overdue and of attacks, on both databases. Clause 6.1."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, insert, update

from domain.erasures import State, Step
from domain.instants import DAY_US
from domain.risks import Devices, Overdue
from runtime.retention import Periods
from runtime.setting_sections import LakeSettings, RetentionSettings
from runtime.sql import isolations, patients
from runtime.sql.engine import writing
from runtime.sql.life_tables import erasures
from runtime.sql.risk_facts import Known, known
from runtime.sql.security_tables import security_events
from runtime.sql.sighting_tables import sightings
from runtime.sql.tables import devices, exports
from tests.sql_fixtures import ADA, HOSPITAL, NOW_US, SmallHospital

pytestmark = pytest.mark.clause("6.1")

PERIODS = Periods.of(RetentionSettings(), LakeSettings())


def facts(engine: Engine, days_later: float = 0) -> Known:
    now_us = NOW_US + round(days_later * DAY_US)
    return known(engine, now_us=now_us, since_us=now_us - 7 * DAY_US, days=PERIODS.days)


def seen(handle: int, *, over_tls: bool) -> dict[str, object]:
    return {
        "device_handle": handle, "door": "mqtt", "address": "10.0.0.7", "over_tls": over_tls, "credential": "token",
        "client": "", "fingerprint": "f", "parts": {}, "changes": 0, "first_us": NOW_US, "last_us": NOW_US,
    }  # fmt: skip


def test_a_platform_where_nothing_happened_has_nothing_overdue(engine: Engine, hospital: SmallHospital) -> None:
    found = facts(engine)
    assert found.overdue == Overdue()
    assert found.notices == {}
    assert (found.devices.plain, found.devices.isolated) == (0, 0)
    assert found.devices.known == 3


def test_devices_over_plain_links_and_with_a_gateways_credential_alone_are_counted(
    engine: Engine, hospital: SmallHospital
) -> None:
    before = facts(engine).devices
    monitor, pump = hospital.monitor["handle"], hospital.pump["handle"]
    with writing(engine) as connection:
        connection.execute(insert(sightings), [seen(monitor, over_tls=False), seen(pump, over_tls=True)])
        carried = {"gateway_handle": hospital.gateway["handle"], "token_digest": None}
        connection.execute(update(devices).where(devices.c.handle.in_([monitor, pump])).values(carried))
    assert facts(engine).devices == Devices(before.known, plain=1, without_credential=2)
    with writing(engine) as connection:
        connection.execute(update(devices).where(devices.c.handle == monitor).values(status="retired"))
    assert facts(engine).devices == Devices(before.known - 1, plain=0, without_credential=1)


def test_a_device_is_isolated_for_long_until_it_is_released(engine: Engine, hospital: SmallHospital) -> None:
    isolations.isolate(engine, ADA, hospital.pump["handle"])
    assert facts(engine, 6.9).devices.isolated == 0
    found = facts(engine, 9.5).devices
    assert (found.isolated, found.isolated_days) == (1, 9)
    isolations.release(engine, ADA, hospital.pump["handle"])
    assert facts(engine, 9.5).devices.isolated == 0


def test_erasures_that_nothing_holds_up_and_rows_past_their_time_are_overdue(engine: Engine, hospital: SmallHospital) -> None:
    key = hospital.patient["patient_key"]
    patients.discharge_patient(engine, ADA, key, NOW_US, version=None)
    row = {
        "patient_key": key, "who": "ada", "reason": None, "requested_us": NOW_US, "due_us": NOW_US, "counts": {},
        "retained_until_us": NOW_US, "state": State.RESTRICTED.value,
    }  # fmt: skip
    with writing(engine) as connection:
        connection.execute(insert(erasures), [row])
        connection.execute(insert(exports).values(at_us=NOW_US - 1200 * DAY_US, who="ada", lake_version=1, query={}))
    assert facts(engine, 5).overdue == Overdue(rows=1)  # a hold or the law: late for nobody
    with writing(engine) as connection:
        connection.execute(update(erasures).values(state=State.REQUESTED.value))
    assert facts(engine, 1.9).overdue.erasures == 0
    assert facts(engine, 5).overdue == Overdue(rows=1, erasures=1, erasure_days=5)
    with writing(engine) as connection:
        running = {"state": State.RUNNING.value, "step": Step.LOG.value, "begun_us": NOW_US + DAY_US}
        connection.execute(update(erasures).values(running))
    assert facts(engine, 5).overdue == Overdue(rows=1, erasures=1, erasure_days=4)


def test_security_events_of_the_window_are_summed_by_kind(engine: Engine, hospital: SmallHospital) -> None:
    row = {
        "hospital_id": HOSPITAL, "handle": hospital.monitor["handle"], "door": "mqtt", "address": "10.0.0.7", "detail": "",
    }  # fmt: skip
    made = [("replay", 3, 1), ("replay", 4, 6), ("spoofing", 1, 2), ("replay", 100, 8)]
    rows = [row | {"kind": kind, "count": count, "at_us": NOW_US - days * DAY_US} for kind, count, days in made]
    with writing(engine) as connection:
        connection.execute(insert(security_events), rows)
    assert facts(engine).notices == {"replay": 7, "spoofing": 1}
