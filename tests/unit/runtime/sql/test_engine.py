"""The database itself: schema, transactions, errors in our words."""

from __future__ import annotations

import hashlib
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, delete, func, insert, select, text, update

from domain.errors import Conflict, InvalidInput, Unavailable
from runtime.sealing import Sealer
from runtime.sql import access, devices, tables
from runtime.sql.engine import migrate, open_engine, reading, writing
from runtime.sql.records import log_write
from tests.sql_fixtures import ADA, NOW_US, SQLITE, NewDatabase, add_hospital, count

HOSPITAL_ROW = {"id": "sz.h1", "name": "n", "tier": "primary", "beds": 1, "shard": 0, "created_us": 1}


@pytest.fixture
def empty(new_database: NewDatabase, sealer: Sealer) -> Iterator[Engine]:
    """A database without a schema."""
    opened = open_engine(new_database(), sealer)
    yield opened
    opened.dispose()


def test_migrations_make_the_schema_that_the_code_expects(engine: Engine) -> None:
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), tables.metadata) == []


def test_migrating_again_changes_nothing(engine: Engine) -> None:
    add_hospital(engine)
    migrate(engine)
    assert count(engine, tables.hospitals) == 1


def test_a_database_of_an_earlier_version_keeps_its_rows(empty: Engine) -> None:
    migrate(empty, "0001")
    with writing(empty) as connection:
        connection.execute(text("INSERT INTO write_log (at_us, who, action, target) VALUES (1, 'ada', 'a', 'b')"))
    migrate(empty)
    with reading(empty) as connection:
        row = connection.execute(select(tables.write_log)).mappings().one()
    assert (row["who"], row["detail"]) == ("ada", None)


OLD_DEVICE = (
    "INSERT INTO devices (handle, device_id, hospital_id, model, token_sha256, status, attributes, created_us) "
    "VALUES (1, 'mon-7', 'sz.h1', 'monitor', :digest, 'in-use', '{}', 1)"
)


@pytest.mark.clause("7.2c")
def test_tokens_of_an_earlier_version_stay_good_until_they_are_rotated(empty: Engine) -> None:
    migrate(empty, "0004")
    digest = {"digest": hashlib.sha256(b"old token").hexdigest()}
    with writing(empty) as connection:
        connection.execute(insert(tables.hospitals).values(HOSPITAL_ROW))
        connection.execute(text("INSERT INTO handles (handle, kind) VALUES (1, 'device')"))
        connection.execute(text(OLD_DEVICE), digest)
        connection.execute(text("INSERT INTO tokens (name, sha256, role, created_us) VALUES ('eve', :digest, 'r', 1)"), digest)
    migrate(empty)
    assert access.authenticate(empty, "old token") == {"name": "eve", "role": "r", "place": None}
    found = devices.device_of_token(empty, "old token")
    assert found is not None
    assert found["device_id"] == "mon-7"
    new = devices.rotate_token(empty, ADA, 1)
    assert devices.device_of_token(empty, "old token") is None
    assert devices.device_of_token(empty, new) is not None


def test_a_migration_that_fails_leaves_nothing_half_done(empty: Engine) -> None:
    with writing(empty) as connection:
        connection.execute(text("CREATE TABLE wards (id INTEGER)"))  # in the way of the first migration, late in it
    with pytest.raises(sqlalchemy.exc.DBAPIError):
        migrate(empty)
    assert sqlalchemy.inspect(empty).get_table_names() == ["wards"]


def test_two_processes_may_migrate_at_the_same_time(empty: Engine) -> None:
    others = [open_engine(empty.url.render_as_string(hide_password=False)) for _ in range(2)]
    threads = [threading.Thread(target=migrate, args=(other,)) for other in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for other in others:
        other.dispose()
    with empty.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), tables.metadata) == []


def test_sqlite_keeps_what_it_acknowledged_through_a_power_cut(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'new' / 'x.db'}")
    with engine.connect() as connection:
        found = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in ("journal_mode", "synchronous")}
        assert found == {"journal_mode": "wal", "synchronous": 2}  # 2 is FULL
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar_one() == 1
    engine.dispose()


def test_a_plain_postgresql_url_uses_the_driver_that_is_installed() -> None:
    assert open_engine("postgresql://u@localhost/x").url.drivername == "postgresql+psycopg"


def test_a_write_that_raises_leaves_nothing(engine: Engine) -> None:
    def add_and_fail() -> None:
        with writing(engine) as connection:
            connection.execute(insert(tables.hospitals).values(HOSPITAL_ROW))
            raise KeyError("after the insert")

    with pytest.raises(KeyError):
        add_and_fail()
    assert count(engine, tables.hospitals) == 0


def test_writers_come_one_after_the_other_and_see_what_was_before(engine: Engine) -> None:
    with writing(engine) as connection:
        connection.execute(insert(tables.positions).values(name="n", sequence=0))

    def add_many() -> None:
        for _ in range(20):
            with writing(engine) as connection:  # read, then write: lost updates if another writer came between
                before = connection.execute(select(tables.positions.c.sequence)).scalar_one()
                connection.execute(update(tables.positions).values(sequence=before + 1))

    threads = [threading.Thread(target=add_many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with reading(engine) as connection:
        assert connection.execute(select(tables.positions.c.sequence)).scalar_one() == 80


def test_readers_do_not_wait_for_a_writer(engine: Engine) -> None:
    with writing(engine) as connection:
        connection.execute(insert(tables.hospitals).values(HOSPITAL_ROW))
        assert count(engine, tables.hospitals) == 0
    assert count(engine, tables.hospitals) == 1


def test_a_row_that_exists_or_lacks_what_it_needs_is_a_conflict_and_quotes_no_values(engine: Engine) -> None:
    add_hospital(engine, "sz.h1")
    patient = {
        "patient_key": "k", "handle": 77, "hospital_id": "sz.h1", "ref_index": "MRN-SECRET", "name": "王小明",
        "pregnant": False, "spo2_scale": 1, "admitted_us": 1,
    }  # fmt: skip
    for table, row in ((tables.hospitals, HOSPITAL_ROW), (tables.patients, patient)):
        with pytest.raises(Conflict) as caught, writing(engine) as connection:
            connection.execute(insert(table).values(row))
        assert "MRN" not in str(caught.value)
        assert caught.value.__suppress_context__


def test_a_mistake_of_ours_is_not_called_a_conflict_and_quotes_no_values(engine: Engine) -> None:
    secret = "".join(("Z", "hang", " San"))  # put together, because the traceback shows this line too
    with pytest.raises(RuntimeError, match=r"(?i)not.null") as caught, writing(engine) as connection:
        connection.execute(insert(tables.hospitals).values({**HOSPITAL_ROW, "tier": None, "name": secret}))
    assert secret not in "".join(traceback.format_exception(caught.value))


def test_a_value_that_does_not_fit_is_invalid_input(engine: Engine) -> None:
    with pytest.raises(InvalidInput), writing(engine) as connection:
        connection.execute(insert(tables.hospitals).values({**HOSPITAL_ROW, "created_us": 2**70}))


def test_a_database_that_is_away_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    nowhere = open_engine(f"sqlite:///{tmp_path}")  # a folder is no database
    with pytest.raises(Unavailable), reading(nowhere) as connection:
        connection.execute(select(func.count()))
    nobody = open_engine("postgresql://u@127.0.0.1:1/x")
    with pytest.raises(Unavailable), writing(nobody):
        pass


def test_a_database_that_writes_nothing_for_now_is_unavailable(new_database: NewDatabase) -> None:
    url = sqlalchemy.make_url(new_database())
    if url.get_backend_name() == SQLITE:
        pytest.skip("of SQLite it is the file that cannot be written")
    engine = open_engine(str(url.render_as_string(hide_password=False)))
    with engine.begin() as connection:
        connection.exec_driver_sql(f'ALTER DATABASE "{url.database}" SET default_transaction_read_only = on')
    engine.dispose()
    with pytest.raises(Unavailable, match="25006"), writing(engine) as connection:
        connection.exec_driver_sql("CREATE TABLE t (a int)")
    engine.dispose()


def test_a_pool_whose_connections_are_all_in_use_is_unavailable() -> None:
    engine = sqlalchemy.create_engine("sqlite://", poolclass=sqlalchemy.QueuePool, pool_size=1, max_overflow=0, pool_timeout=0)
    with reading(engine), pytest.raises(Unavailable, match="no connection free"), reading(engine):
        pass
    engine.dispose()


@pytest.mark.clause("9.3e")
@pytest.mark.parametrize("change", [update(tables.write_log).values(who="eve"), delete(tables.write_log)])
def test_the_write_log_cannot_be_changed_even_by_sql(engine: Engine, change: sqlalchemy.sql.Executable) -> None:
    with writing(engine) as connection:
        log_write(connection, ADA, "a.b", "c", {"outcome": "x"})
    with pytest.raises((sqlalchemy.exc.DBAPIError, RuntimeError), match="write_log refuses"), writing(engine) as connection:
        connection.execute(change)
    (row,) = access.list_writes(engine, limit=9).rows
    assert (row["who"], row["at_us"], row["detail"]) == ("ada", NOW_US, {"outcome": "x"})
