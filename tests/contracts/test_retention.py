"""What is past its time leaves the business database, and nothing else; on both databases. Clause 9.3h."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, func, insert, select, update

from domain.erasures import Held
from runtime.retention import Periods, dry_run, run_rules
from runtime.setting_sections import LakeSettings, RetentionSettings
from runtime.sql import access, holds, places, presets, tables
from runtime.sql.devices import NewDevice, register_device
from runtime.sql.engine import writing
from runtime.sql.retention import held_of, next_to_expire
from tests.sql_fixtures import ADA, HOSPITAL, HOUR_US, NOW_US, SmallHospital, add_hospital, count, later

pytestmark = pytest.mark.clause("9.3h")
DAY_US = 86_400_000_000
PERIODS = Periods.of(RetentionSettings(export_days=200, maintenance_days=30, outbox_days=7), LakeSettings())
OTHER = "sz.h002"


@pytest.fixture
def filled(engine: Engine, hospital: SmallHospital) -> None:
    """Two exports, two maintenance windows and what was told to hosts, half of it a hundred days younger."""
    add_hospital(engine, OTHER)
    places.create_ward(engine, later(0), OTHER, "icu", "icu")
    for days, hospital_id in ((0, HOSPITAL), (100, OTHER)):
        author = later(days * 86_400)
        access.record_export(engine, author, lake_version=1, handles=None, from_us=None, until_us=None, query={})
        access.record_resubmission(engine, author, f"r-{days}", "1-1")
        until_us = author.now_us + HOUR_US
        presets.start_maintenance(engine, author, hospital_id, from_us=author.now_us, until_us=until_us, ward_id="icu")
    with writing(engine) as connection:
        half = tables.outbox.c.id <= 2
        connection.execute(update(tables.outbox).where(half).values(published_us=NOW_US))


def left(engine: Engine) -> dict[str, int]:
    kinds = (tables.exports, tables.reject_actions, tables.maintenance_windows, tables.outbox)
    return {table.name: count(engine, table) for table in kinds}


@pytest.mark.usefixtures("filled")
def test_each_row_goes_when_its_time_is_over_and_the_run_is_written(engine: Engine) -> None:
    before = left(engine)
    assert run_rules(engine, NOW_US + 6 * DAY_US, PERIODS) == {}
    assert run_rules(engine, NOW_US + 8 * DAY_US, PERIODS) == {"outbox": 2}
    assert left(engine) == {**before, "outbox": before["outbox"] - 2}  # what was not told yet stays
    wanted = {"exports": 1, "reject_actions": 1, "maintenance_windows": 2, "outbox": 0, "patients": 0}
    assert dry_run(engine, None, NOW_US + 201 * DAY_US, PERIODS) == wanted
    assert run_rules(engine, NOW_US + 201 * DAY_US, PERIODS) == {name: number for name, number in wanted.items() if number}
    assert left(engine) == {"exports": 1, "reject_actions": 1, "maintenance_windows": 0, "outbox": before["outbox"] - 2}
    written = {
        row["target"]: row["detail"] for row in access.list_writes(engine, limit=50).rows if row["action"] == "retention.delete"
    }
    assert written == {
        "outbox": {"rows": 2}, "exports": {"rows": 1}, "reject_actions": {"rows": 1}, "maintenance_windows": {"rows": 2},
    }  # fmt: skip


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("kind", list(Held))
def test_while_something_is_held_nothing_of_its_hospital_goes_but_copies_on_their_way(
    engine: Engine, hospital: SmallHospital, kind: Held
) -> None:
    held = {Held.PATIENT: hospital.patient["patient_key"], Held.DEVICE: f"{HOSPITAL}/mon-7", Held.HOSPITAL: HOSPITAL}[kind]
    hold = holds.add_hold(engine, later(0), kind, held, None)
    assert run_rules(engine, NOW_US + 400 * DAY_US, PERIODS) == {"maintenance_windows": 1, "outbox": 2}  # of another hospital
    holds.lift_hold(engine, later(0), hold["id"])
    assert run_rules(engine, NOW_US + 400 * DAY_US, PERIODS) == {
        "exports": 2, "reject_actions": 2, "maintenance_windows": 1,
    }  # fmt: skip


def test_what_is_noted_of_exports_stays_where_readings_of_a_held_hospital_may_be_in_them(
    engine: Engine, hospital: SmallHospital
) -> None:
    add_hospital(engine, OTHER)
    mine, mine_too = hospital.monitor["handle"], hospital.patient["handle"]
    other = int(register_device(engine, ADA, OTHER, NewDevice("mon-7", "monitor"))[0]["handle"])
    query = {"url": "/r", "rows": 1}
    for handles in (None, [], [mine], [other, mine_too], [other]):
        access.record_export(engine, ADA, lake_version=1, handles=handles, from_us=None, until_us=None, query=query)
    hold = holds.add_hold(engine, later(0), Held.DEVICE, f"{HOSPITAL}/mon-7", None)
    assert dry_run(engine, None, NOW_US + 400 * DAY_US, PERIODS)["exports"] == 1
    assert run_rules(engine, NOW_US + 400 * DAY_US, PERIODS) == {"exports": 1}
    left = [row["handles"] for row in access.list_exports(engine, limit=9).rows]
    assert left == [[other, mine_too], [mine], [], None]
    holds.lift_hold(engine, later(0), hold["id"])
    assert run_rules(engine, NOW_US + 400 * DAY_US, PERIODS) == {"exports": 4}


@pytest.mark.usefixtures("filled")
def test_what_is_held_and_what_goes_next_is_told(engine: Engine) -> None:
    held = held_of(engine)
    assert (held["exports"], held["handles"]["oldest_us"]) == ({"rows": 2, "oldest_us": NOW_US}, None)
    following = next_to_expire(engine, PERIODS.days, PERIODS.inpatient_us)
    assert following == {
        "exports": NOW_US + 200 * DAY_US, "reject_actions": NOW_US + 200 * DAY_US, "outbox": NOW_US + 7 * DAY_US,
        "maintenance_windows": NOW_US + HOUR_US + 30 * DAY_US,
    }  # fmt: skip


def test_what_says_that_a_hand_over_was_told_stays_until_it_is_settled(engine: Engine, hospital: SmallHospital) -> None:
    with writing(engine) as connection:
        connection.execute(update(tables.outbox).values(published_us=NOW_US))
        last = connection.execute(select(func.max(tables.outbox.c.id))).scalar_one()
        hand_over = {"hospital_id": HOSPITAL, "from_shard": 0, "to_shard": 1, "outbox_id": last, "begun_us": NOW_US}
        connection.execute(insert(tables.hand_overs).values(hand_over))
    run_rules(engine, NOW_US + 8 * DAY_US, PERIODS)
    assert count(engine, tables.outbox) == 1
