"""What is known of people is sealed in the database, on both databases: nothing of it is readable there, it opens where it
was written and nowhere else, and a destroyed key takes it out of every copy. Clauses 7.2c, 9.3, 9.3h.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, event, insert, inspect, select, text, update

from domain.alarms import AlarmEvent, AlarmSubject, AlertType, Outcome, Phase, Priority
from domain.errors import Conflict, SessionEnded
from domain.fleet_manifest import DeviceColumns, FleetManifest, HospitalManifest, PatientColumns, Tier
from domain.permissions import everywhere
from runtime.keys import KeyMissing
from runtime.sealing import Sealer
from runtime.soft_keys import SoftKeys
from runtime.sql import access, alarms, patients, presets, sessions, tables, users
from runtime.sql.engine import has_sealed, migrate, open_engine, reading, writing
from runtime.sql.fleets import register_fleet
from runtime.sql.patients import NewPatient
from runtime.sql.sealed import DAMAGED, ERASED
from runtime.sql.sessions import SessionRules
from tests.sql_fixtures import ADA, HOSPITAL, HOUR_US, NOW_US, SHARDS, SQLITE, NewDatabase, SmallHospital, add_hospital, later

EVERYWHERE = everywhere("sz")
ALL = {"reach": EVERYWHERE, "clear": EVERYWHERE}
CANARY = "Canary"
NAME, REF, NOTE, REASON = (f"{CANARY}{what}" for what in ("Name", "Ref", "Note", "Reason"))
URL = f"http://h/api/v1/readings/search?q={NAME}&limit=5"


def alarm_of(patient_key: str | None, alarm_id: str = "a1") -> AlarmEvent:
    return AlarmEvent(
        event_id=f"e-{alarm_id}", alarm_id=alarm_id, phase=Phase.START, alert_type=AlertType.PHYSIOLOGICAL,
        priority=Priority.HIGH, rule="r", rule_version=1, latching=True,
        subject=AlarmSubject(HOSPITAL, "icu", None, "mon-7", 1, patient_key=patient_key), onset_us=NOW_US, event_us=NOW_US,
        arrival_us=NOW_US, text="a rule's own words",
    )  # fmt: skip


def fill(engine: Engine, hospital: SmallHospital) -> str:
    """Text about a patient in every place that takes any; returns the patient's key."""
    author = later(1, reason=REASON)
    key = str(patients.admit_patient(engine, author, HOSPITAL, NewPatient(REF, NAME))["patient_key"])
    patients.update_patient(engine, author, key, {"name": f"{NAME} 2", "bed_id": "icu-03", "ward_id": "icu"}, version=1)
    span = patients.associate(engine, author, hospital.monitor["handle"], key, NOW_US)
    patients.end_association(engine, later(9, reason=REASON), span["id"], NOW_US + HOUR_US)
    alarms.apply_alarm_events(engine, [(1, alarm_of(key)), (2, alarm_of(None, "a2"))])
    for alarm_id in ("a1", "a2"):
        alarms.acknowledge(engine, author, alarm_id, Outcome.ACTIONABLE, note=NOTE)
    presets.start_maintenance(engine, author, HOSPITAL, from_us=NOW_US, until_us=NOW_US + HOUR_US, ward_id="icu")
    query = {"url": access.without_search(URL)}
    access.record_export(engine, author, lake_version=1, handles=None, from_us=None, until_us=None, query=query)
    worn = [[], [], ["mon-9"]]
    register_fleet(engine, author, FleetManifest([HospitalManifest(
        HOSPITAL, "h", Tier.TERTIARY, 800,
        DeviceColumns(["mon-9"], ["monitor"], [None], [None], [None], [False]),
        PatientColumns([REF, f"{REF}2", f"{REF}3"], [NAME] * 3, [60.0] * 3, [False] * 3, [1] * 3, [None] * 3, [None] * 3,
                       [0] * 3, worn),
    )]), shards=SHARDS)  # fmt: skip
    return key


def dump(engine: Engine) -> str:
    """Every value of every table, as text."""
    with reading(engine) as connection:
        names = inspect(connection).get_table_names()
        assert len(names) > 20
        return "\n".join(repr(tuple(row)) for name in names for row in connection.execute(text(f"SELECT * FROM {name}")))


def files_of(engine: Engine) -> list[bytes]:
    database = str(engine.url.database)
    return [file.read_bytes() for suffix in ("", "-wal") if (file := Path(f"{database}{suffix}")).exists()]


@pytest.mark.clause("7.2c")
@pytest.mark.clause("9.3")
def test_nothing_about_a_person_is_readable_in_the_database(engine: Engine, hospital: SmallHospital) -> None:
    key = fill(engine, hospital)
    assert CANARY not in dump(engine)
    if engine.dialect.name == SQLITE:
        assert not any(CANARY.encode() in content for content in files_of(engine))
    row = patients.get_patient(engine, key)
    assert (row["name"], row["ref"], row["erased"]) == (f"{NAME} 2", REF, False)
    assert [alarms.get_alarm(engine, alarm)["note"] for alarm in ("a1", "a2")] == [NOTE, NOTE]
    assert {row["reason"] for row in patients.list_associations(engine, **ALL, patient_key=key)} == {REASON}
    assert presets.list_maintenance(engine, HOSPITAL, reach=EVERYWHERE)[0]["reason"] == REASON
    written = access.list_writes(engine, limit=100).rows
    assert {row["reason"] for row in written if row["at_us"] > NOW_US} == {REASON}
    assert {row["detail"]["note"] for row in written if row["action"] == "alarm.acknowledge"} == {NOTE}
    assert access.list_exports(engine, limit=1).rows[0]["query"]["url"].endswith("?q=***&limit=5")


def test_a_reference_stays_unique_and_is_found_again(engine: Engine, hospital: SmallHospital) -> None:
    key = fill(engine, hospital)
    with pytest.raises(Conflict, match="that reference"):
        patients.admit_patient(engine, ADA, HOSPITAL, NewPatient(REF))
    patients.discharge_patient(engine, later(60), key, NOW_US + 60_000_000, version=None)
    assert patients.admit_patient(engine, later(99), HOSPITAL, NewPatient(REF, "again"))["patient_key"] == key
    add_hospital(engine, "sz.h002")
    other = patients.admit_patient(engine, ADA, "sz.h002", NewPatient(REF))
    with reading(engine) as connection:
        indexes = list(connection.execute(select(tables.patients.c.ref_index)).scalars())
    assert len(set(indexes)) == len(indexes)  # the same reference elsewhere looks like another one
    assert other["patient_key"] != key


@pytest.mark.clause("7.2c")
def test_a_sealed_text_opens_in_its_own_row_column_and_table_only(
    engine: Engine, hospital: SmallHospital, caplog: pytest.LogCaptureFixture
) -> None:
    key, other = fill(engine, hospital), str(hospital.patient["patient_key"])
    people, alarm = tables.patients, tables.alarms
    with writing(engine) as connection:
        mine = dict(connection.execute(select(people).where(people.c.patient_key == key)).mappings().one())
        note = connection.execute(select(alarm.c.note).where(alarm.c.alarm_id == "a1")).scalar_one()

    def put(table: Any, where: Any, **values: str) -> None:
        with writing(engine) as connection:
            connection.execute(update(table).where(where).values(**values))

    put(people, people.c.patient_key == other, name=mine["name"])  # another row
    assert (patients.get_patient(engine, other)["name"], patients.get_patient(engine, other)["ref"]) == (DAMAGED, "MRN-1")
    put(people, people.c.patient_key == key, name=mine["ref"])  # another column
    assert patients.get_patient(engine, key)["name"] == DAMAGED
    put(people, people.c.patient_key == key, name=note)  # another table, though the key is the same patient's
    assert patients.get_patient(engine, key)["name"] == DAMAGED
    put(alarm, alarm.c.alarm_id == "a2", note=note)
    assert alarms.get_alarm(engine, "a2")["note"] == DAMAGED
    for cut in (f"{mine['name'][:-8]}AAAAAAA=", mine["name"][:30], "v1|0000000000000001|AAAA", "no sealed text"):
        put(people, people.c.patient_key == key, name=cut)
        assert patients.get_patient(engine, key)["name"] == DAMAGED
    assert f"patients, name, {key}" in caplog.text
    assert CANARY not in caplog.text
    put(people, people.c.patient_key == key, name=mine["name"])
    assert patients.get_patient(engine, key)["name"] == f"{NAME} 2"


@pytest.mark.clause("9.3h")
def test_an_erased_patient_is_unreadable_in_every_copy_of_the_database_and_lists_go_on(
    engine: Engine, hospital: SmallHospital, sealer: Sealer
) -> None:
    key = fill(engine, hospital)
    others = {row["patient_key"] for row in patients.list_patients(engine, **ALL, limit=99).rows} - {key}
    before, copy = stored(engine, key), copy_of(engine)
    with pytest.raises(Conflict, match="discharge"):
        patients.erase_patient(engine, ADA, key)
    patients.discharge_patient(engine, later(60), key, NOW_US + 60_000_000, version=None)
    assert patients.list_patients(engine, **ALL, limit=9, text=f"{NAME} 2").rows[0]["patient_key"] == key
    erased = patients.erase_patient(engine, later(70, reason="as he asked"), key)
    assert patients.erase_patient(engine, later(71), key) == erased
    assert (erased["name"], erased["ref"], erased["erased"], erased["handle"] > 0) == (None, ERASED, True, True)
    listed = {row["patient_key"]: row["ref"] for row in patients.list_patients(engine, **ALL, limit=99).rows}
    assert listed[key] == ERASED
    assert listed.keys() == others | {key}
    assert patients.list_patients(engine, **ALL, limit=9, text=f"{NAME} 2").rows == []
    assert alarms.get_alarm(engine, "a1")["note"] is None
    assert alarms.get_alarm(engine, "a2")["note"] == NOTE  # of no patient
    assert {row["reason"] for row in patients.list_associations(engine, **ALL, patient_key=key)} == {None}
    written = access.list_writes(engine, limit=100).rows
    assert {row["reason"] for row in written if row["target"] == key} == {None, "as he asked"}
    with pytest.raises(Conflict, match="erased"):
        patients.update_patient(engine, ADA, key, {"name": "again"}, version=None)
    alarms.apply_alarm_events(engine, [(3, alarm_of(key, "a3"))])
    assert alarms.acknowledge(engine, ADA, "a3", Outcome.ARTEFACT, note="a late alarm")["note"] == "a late alarm"
    assert patients.admit_patient(engine, ADA, HOSPITAL, NewPatient(REF, NAME))["patient_key"] != key
    with writing(engine) as connection:  # as a backup brings it back
        connection.execute(update(tables.patients).where(tables.patients.c.patient_key == key).values(before))
    restorations = [engine] if copy is None else [engine, open_engine(copy, sealer)]
    for restored in restorations:
        row = patients.get_patient(restored, key)
        assert (row["name"], row["ref"], row["erased"]) == (None, ERASED, True)
        assert alarms.get_alarm(restored, "a1")["note"] is None
        assert len(patients.list_patients(restored, **ALL, limit=99).rows) > len(others)
    restorations[-1].dispose()


def stored(engine: Engine, key: str) -> dict[str, Any]:
    """Name and reference as they lie in the database."""
    with reading(engine) as connection:
        row = connection.execute(select(tables.patients).where(tables.patients.c.patient_key == key)).mappings().one()
        return {name: row[name] for name in ("name", "ref")}


def copy_of(engine: Engine) -> str | None:
    """The URL of a copy of the database's file, where it is one."""
    if engine.dialect.name != SQLITE:
        return None
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copyfile(str(engine.url.database), f"{engine.url.database}.copy")
    return f"sqlite:///{engine.url.database}.copy"


@pytest.mark.clause("9.3h")
def test_keys_that_a_restored_folder_brought_back_are_destroyed_again(
    engine: Engine, hospital: SmallHospital, sealer: Sealer
) -> None:
    key = fill(engine, hospital)
    patients.discharge_patient(engine, later(60), key, NOW_US + 60_000_000, version=None)
    with writing(engine) as connection:  # erased, and the process ended before the key was destroyed
        gone = {"name": None, "ref": None, "ref_index": f"{ERASED}/{key}"}
        connection.execute(update(tables.patients).where(tables.patients.c.patient_key == key).values(gone))
    assert patients.destroy_erased_again(engine) == 1
    assert patients.destroy_erased_again(engine) == 0
    assert sealer.data_keys.is_destroyed(f"patient/{key}")


# --- databases of an earlier version ---


@pytest.fixture
def clear(new_database: NewDatabase, sealer: Sealer) -> Iterator[Engine]:
    """A database of the version before there was sealing, with text in clear."""
    opened = open_engine(new_database(), sealer)
    migrate(opened, "0007")
    people = [
        {"patient_key": f"{n:032x}", "handle": n, "hospital_id": "sz.h1", "ref": f"{REF}{n}",
         "name": f"{NAME}{n}" if n % 2 else None}
        for n in range(1, 31)
    ]  # fmt: skip
    statements: list[tuple[str, Any]] = [
        ("INSERT INTO hospitals (id, name, tier, beds, shard, created_us) VALUES ('sz.h1', 'n', 'primary', 1, 0, 1)", None),
        ("INSERT INTO handles (handle, kind) VALUES (:handle, 'patient')", [*people, {"handle": 99}]),
        ("INSERT INTO patients (patient_key, handle, hospital_id, ref, name, pregnant, spo2_scale, admitted_us) "
         "VALUES (:patient_key, :handle, :hospital_id, :ref, :name, :no, 1, 1)", [{**row, "no": False} for row in people]),
        ("INSERT INTO devices (handle, device_id, hospital_id, model, status, attributes, created_us) "
         "VALUES (99, 'mon-7', 'sz.h1', 'monitor', 'in-use', '{}', 1)", None),
        ("INSERT INTO associations (device_handle, patient_key, start_us, recorded_us, who, reason) "
         "VALUES (99, :key, 1, 2, 'ada', :reason)", {"key": people[0]["patient_key"], "reason": REASON}),
        ("INSERT INTO maintenance_windows (hospital_id, ward_id, from_us, until_us, who, reason) "
         "VALUES ('sz.h1', 'icu', 1, 2, 'ada', :reason)", {"reason": REASON}),
        ("INSERT INTO exports (at_us, who, lake_version, query) VALUES (1, 'ada', 1, :query)",
         {"query": json.dumps({"url": URL})}),
        ("INSERT INTO write_log (at_us, who, action, target, reason) VALUES (1, 'ada', 'a', 'b', 'from before')", None),
    ]  # fmt: skip
    with writing(opened) as connection:
        for statement, values in statements:
            connection.execute(text(statement), values)
        old = dict.fromkeys(("patient_key", "note"), "") | {"patient_key": people[0]["patient_key"], "note": NOTE}
        connection.execute(insert(tables.alarms).values(_alarm_row() | old))
    yield opened
    opened.dispose()


def _alarm_row() -> dict[str, Any]:
    kind = str(AlertType.PHYSIOLOGICAL)
    return {
        "alarm_id": "a1", "hospital_id": "sz.h1", "handle": 1, "rule": "r", "rule_version": 1, "alert_type": kind,
        "priority": 1, "state": "closed", "phase": "end", "latching": True, "live": True, "text": "t", "onset_us": 1,
        "last_event_us": 1, "raised_us": 1, "stream_sequence": 1,
    }  # fmt: skip


def check_sealed(engine: Engine) -> None:
    assert CANARY not in dump(engine)
    if engine.dialect.name == SQLITE:
        assert not any(CANARY.encode() in content for content in files_of(engine))
    found = patients.list_patients(engine, **ALL, limit=99).rows
    assert [(row["ref"], row["name"]) for row in found] == [
        (f"{REF}{n}", f"{NAME}{n}" if n % 2 else None) for n in range(1, 31)
    ]
    assert patients.list_associations(engine, **ALL, handle=99)[0]["reason"] == REASON
    assert presets.list_maintenance(engine, "sz.h1", reach=EVERYWHERE)[0]["reason"] == REASON
    assert alarms.get_alarm(engine, "a1")["note"] == NOTE
    assert access.list_exports(engine, limit=1).rows[0]["query"] == {"url": access.without_search(URL)}
    assert access.list_writes(engine, limit=1).rows[0]["reason"] == "from before"


@pytest.mark.clause("7.2c")
def test_a_database_in_clear_is_sealed_and_no_page_still_has_it(clear: Engine) -> None:
    assert CANARY in dump(clear)
    assert not has_sealed(clear)
    migrate(clear)
    assert has_sealed(clear)
    check_sealed(clear)
    migrate(clear)
    check_sealed(clear)
    with pytest.raises(Conflict):
        patients.admit_patient(clear, ADA, "sz.h1", NewPatient(f"{REF}1"))
    migrate_back(clear)
    with reading(clear) as connection:
        back = connection.execute(text("SELECT ref, name FROM patients ORDER BY patient_key")).all()
        assert [tuple(row) for row in back[:2]] == [(f"{REF}1", f"{NAME}1"), (f"{REF}2", None)]
        assert connection.execute(text("SELECT note FROM alarms")).scalar_one() == NOTE


@pytest.mark.clause("7.2c")
def test_pages_that_somebody_still_reads_are_rewritten_at_the_next_start(
    clear: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    if clear.dialect.name != SQLITE:
        pytest.skip("VACUUM FULL waits for its readers, or fails")
    clear.dispose()
    event.listen(clear, "connect", lambda connection, _: connection.execute("PRAGMA busy_timeout=50"))
    with contextlib.closing(sqlite3.connect(str(clear.url.database), isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM patients").fetchone()
        migrate(clear)
        assert any(CANARY.encode() in content for content in files_of(clear))
        assert "still in the log" in caplog.text
    migrate(clear)
    check_sealed(clear)


def migrate_back(engine: Engine) -> None:
    config = Config()
    config.set_main_option("script_location", "runtime/sql/migrations")
    with writing(engine) as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0007")


_MIGRATE_AND_DIE = """
import os, signal, sys
from pathlib import Path
from runtime.sealing import Sealer
from runtime.soft_keys import SoftKeys
from runtime.sql.engine import migrate, open_engine

folder, url, left = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
sealer = Sealer.over(SoftKeys(folder), folder)
whole = sealer.seal_many
def sealing(texts, **how):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(texts, **how)
sealer.seal_many = sealing
migrate(open_engine(url, sealer))
"""


@pytest.mark.parametrize("left", [0, 3])
def test_a_migration_that_is_killed_is_done_whole_by_the_next_start(clear: Engine, sealer: Sealer, left: int) -> None:
    url = clear.url.render_as_string(hide_password=False)
    folder = sealer.data_keys.folder
    killed = subprocess.run([sys.executable, "-c", _MIGRATE_AND_DIE, str(folder), url, str(left)], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert not has_sealed(clear)
    migrate(clear)
    check_sealed(clear)


def test_without_keys_nothing_is_read_written_or_migrated(clear: Engine, engine: Engine, hospital: SmallHospital) -> None:
    bare = open_engine(clear.url.render_as_string(hide_password=False))
    with pytest.raises(RuntimeError, match="without keys"):
        migrate(bare)
    bare.dispose()
    bare = open_engine(engine.url.render_as_string(hide_password=False))
    with pytest.raises(RuntimeError, match="without keys"):
        patients.get_patient(bare, hospital.patient["patient_key"])
    with pytest.raises(RuntimeError, match="without keys"):
        patients.admit_patient(bare, ADA, HOSPITAL, NewPatient("x"))
    bare.dispose()


def test_a_lost_store_of_data_keys_is_an_error_and_not_an_erasure(
    engine: Engine, hospital: SmallHospital, tmp_path: Path
) -> None:
    lost = open_engine(engine.url.render_as_string(hide_password=False), Sealer.over(SoftKeys(tmp_path), tmp_path))
    with pytest.raises(KeyMissing):
        patients.get_patient(lost, hospital.patient["patient_key"])
    lost.dispose()


@pytest.mark.clause("7.2c")
def test_an_older_store_of_data_keys_gives_no_patient_another_key(
    engine: Engine, hospital: SmallHospital, sealer: Sealer, tmp_path: Path
) -> None:
    folder = tmp_path / "older"
    shutil.copytree(sealer.data_keys.folder, folder)
    key = fill(engine, hospital)
    older = Sealer.over(SoftKeys(folder), folder)
    restored = open_engine(engine.url.render_as_string(hide_password=False), older)
    for refused in (
        lambda: patients.update_patient(restored, ADA, key, {"name": "anew"}, version=None),
        lambda: alarms.acknowledge(restored, ADA, "a1", Outcome.ARTEFACT, note="anew"),
        lambda: patients.discharge_patient(restored, later(60), key, NOW_US + 60_000_000, version=None),
    ):  # fmt: skip
        with pytest.raises(KeyMissing, match="newest copy"):
            refused()
    fresh = patients.admit_patient(restored, ADA, HOSPITAL, NewPatient("fresh", "of today"))["patient_key"]
    assert patients.get_patient(restored, fresh)["name"] == "of today"
    restored.dispose()
    assert patients.get_patient(engine, key)["name"] == f"{NAME} 2"


@pytest.mark.clause("9.3h")
def test_an_erased_patients_own_account_ends_and_its_name_is_in_no_log(engine: Engine, hospital: SmallHospital) -> None:
    key, name = str(hospital.patient["patient_key"]), "wang.xiaoming"
    user = users.create_user(engine, ADA, name, "stored", patient_key=key)
    rules = SessionRules(idle_us=HOUR_US, lifetime_us=HOUR_US)
    session = sessions.begin_session(engine, user["id"], checked="stored", address="::1", now_us=NOW_US, rules=rules)
    users.set_password(engine, ADA, name, "another", must_change=True)
    session = sessions.begin_session(engine, user["id"], checked="another", address="::1", now_us=NOW_US, rules=rules)
    patients.discharge_patient(engine, later(60), key, NOW_US + 60_000_000, version=None)
    patients.erase_patient(engine, later(70), key)
    with pytest.raises(SessionEnded, match="disabled"):
        sessions.session_of(engine, session.access_token, now_us=NOW_US, rules=rules)
    assert users.get_user(engine, name, now_us=NOW_US)["status"] == "disabled"
    for refused in (
        lambda: users.enable_user(engine, ADA, name),
        lambda: users.create_user(engine, ADA, "wang.again", "stored", patient_key=key),
    ):
        with pytest.raises(Conflict, match="erased"):
            refused()
    written = access.list_writes(engine, limit=100).rows
    assert not any(name in repr(row) for row in written)
    assert {row["action"] for row in written if row["target"] == user["id"]} >= {"user.create", "user.disable"}
