"""Each process's account on PostgreSQL: it does what its process does, and is refused everything else. Clause 9.1a."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import ProgrammingError

from runtime.sealing import Sealer
from runtime.sql import access, devices, isolations, patients, presets, second_factors, users
from runtime.sql.accounts import ACCOUNTS, statements
from runtime.sql.credentials import holders_of, standing
from runtime.sql.devices import device_of_token
from runtime.sql.engine import open_engine, reading, writing
from runtime.sql.hand_overs import shards_ever_of
from runtime.sql.places import create_ward, remove_ward
from runtime.sql.security_events import forget_events
from runtime.sql.sessions import SessionRules, begin_session
from runtime.sql.tables import metadata
from tests.contracts.test_sealed import fill
from tests.sql_fixtures import ADA, HOSPITAL, NOW_US, POSTGRESQL, SmallHospital, later

Opened = Callable[[str], Engine]
DELETES = {
    "beds", "credential_uses", "ended_sessions", "limit_presets", "password_history", "recovery_codes", "second_factors",
    "security_events", "service_access", "sessions", "wards",
}  # fmt: skip


@pytest.fixture
def account(engine: Engine, sealer: Sealer) -> Iterator[Opened]:
    """Opens the test's database as a process does."""
    if engine.dialect.name != POSTGRESQL:
        pytest.skip("SQLite has no accounts: whoever reads the file reads it whole")
    prefix = f"t{uuid.uuid4().hex[:8]}"
    with engine.begin() as connection:
        as_before = f'GRANT ALL ON ALL TABLES IN SCHEMA public TO "{prefix}_api", "{prefix}_doors"'
        for statement in [*statements(prefix), as_before, *statements(prefix)]:  # a second time takes back what is not here
            connection.exec_driver_sql(statement)
    opened: list[Engine] = []

    def open_as(process: str) -> Engine:
        url = engine.url.set(username=f"{prefix}_{process}").render_as_string(hide_password=False)
        opened.append(open_engine(url, sealer))
        return opened[-1]

    yield open_as
    for each in opened:
        each.dispose()
    with engine.begin() as connection:
        connection.exec_driver_sql("GRANT USAGE ON SCHEMA public TO PUBLIC")
        for process in ACCOUNTS:
            connection.exec_driver_sql(f'DROP OWNED BY "{prefix}_{process}"')
            connection.exec_driver_sql(f'DROP ROLE "{prefix}_{process}"')


def is_refused(engine: Engine, statement: str) -> bool:
    """Whether the database does not permit it; what it permits is rolled back."""
    with engine.connect() as connection:
        try:
            connection.execute(text(statement))
        except ProgrammingError as error:
            return getattr(error.orig, "sqlstate", "") == "42501"
        return False


@pytest.mark.clause("9.1a")
def test_the_api_does_all_its_work_and_changes_neither_schema_nor_log(
    engine: Engine, hospital: SmallHospital, account: Opened
) -> None:
    api = account("api")
    key = fill(api, hospital)
    create_ward(api, ADA, HOSPITAL, "w9", "w9")
    token = access.create_token(api, ADA, "bob")
    lina = users.create_user(api, ADA, "li.na", "a stored password")
    users.set_password(api, ADA, "li.na", "another", must_change=False)
    rules = SessionRules(10**9, 10**10)
    assert begin_session(api, lina["id"], checked="another", address="::1", now_us=ADA.now_us, rules=rules)
    patients.discharge_patient(api, later(9), key, later(9).now_us, version=None)
    presets.set_preset(api, later(10), key, "heart_rate", (None, 40.0, 150.0, None))
    presets.remove_preset(api, later(10), key, "heart_rate")
    remove_ward(api, ADA, HOSPITAL, "w9", version=None)
    second_factors.propose(api, ADA, lina["id"], b"a sealed seed")
    second_factors.reset(api, ADA, "li.na")
    devices.rotate_token(api, later(10), hospital.monitor["handle"])
    assert access.begin_service_access(api, "bob", token, now_us=ADA.now_us)
    assert forget_events(api, NOW_US, kept_us=1, most=1) == 0
    for statement in (
        "CREATE TABLE mine (id int)", "ALTER TABLE patients ADD COLUMN x int", "DROP TABLE beds", "TRUNCATE write_log",
        "UPDATE write_log SET who = 'eve'", "DELETE FROM write_log", "UPDATE alarm_events SET event_us = 1",
        "DELETE FROM exports", "UPDATE alembic_version SET version_num = '0001'", "SELECT * FROM alembic_version",
        "DROP TRIGGER write_log_refuses_update ON write_log", "CREATE ROLE eve", "SELECT * FROM pg_authid",
        "SET session_replication_role = replica",
    ):  # fmt: skip
        assert is_refused(api, statement), statement
    assert patients.erase_patient(engine, later(10), key)["erased"]  # as upkeep does, by the platform's own account


@pytest.mark.clause("9.1a")
def test_the_api_deletes_where_its_work_does_and_nowhere_else(engine: Engine, account: Opened) -> None:
    api = account("api")
    for table in metadata.tables:
        assert is_refused(api, f"DELETE FROM {table}") == (table not in DELETES), table


@pytest.mark.clause("9.1a")
def test_doors_know_devices_and_numbers_and_nothing_of_people(engine: Engine, hospital: SmallHospital, account: Opened) -> None:
    doors = account("doors")
    found = device_of_token(doors, hospital.pump_token)
    assert found is not None
    assert standing(doors, [found["handle"]], NOW_US)[found["handle"]].credentials
    assert holders_of(doors, ["sha256:none"]) == {}
    assert isolations.isolated_handles(doors) == frozenset()
    assert devices.find_device(doors, HOSPITAL, "mon-7")["handle"] == hospital.monitor["handle"]
    with reading(doors) as connection:
        assert connection.execute(text("SELECT count(handle) FROM patients")).scalar_one() == 1
        shards_ever_of(connection, [HOSPITAL])
    allowed = {"hospitals", "hand_overs", "devices"}
    for table in metadata.tables:
        assert is_refused(doors, f"SELECT * FROM {table}") == (table not in allowed), table
        assert is_refused(doors, f"DELETE FROM {table}"), table
    for column in ("name", "ref", "ref_index", "patient_key", "age_years"):
        assert is_refused(doors, f"SELECT {column} FROM patients"), column
    with pytest.raises(ProgrammingError), writing(doors) as connection:
        connection.execute(text("UPDATE devices SET status = 'x'"))
