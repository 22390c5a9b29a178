"""Business databases for tests: SQLite always, PostgreSQL where `make test-postgres` provides a server.

A test that takes `engine` runs once on each. `tests/conftest.py` makes the fixtures known by importing them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, Table, func, make_url, select

from domain.fleet_manifest import Tier
from domain.messages import Control, decode_control
from domain.permissions import everywhere
from runtime.device_authority import Issued
from runtime.keys import make_missing
from runtime.sealing import SEALING_KEYS, Sealer
from runtime.soft_keys import SoftKeys
from runtime.sql import devices, patients, places
from runtime.sql.credentials import add_certificate, revoke
from runtime.sql.devices import NewDevice
from runtime.sql.engine import migrate, open_engine, reading, writing
from runtime.sql.patients import NewPatient
from runtime.sql.records import Author, Row
from runtime.sql.tables import metadata, outbox

SQLITE = "sqlite"
POSTGRESQL = "postgresql"
POSTGRES_URL = "TEST_POSTGRES_URL"
NOW_US = 1_700_000_000_000_000
MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
SHARDS = 4
HOSPITAL = "sz.h001"
ADA = Author("ada", "for a test", NOW_US)
ALL = everywhere("sz")

NewDatabase = Callable[[], str]


def make_sealer(folder: Path) -> Sealer:
    """A sealer with keys of its own in `folder`, made now if they are not there."""
    keys = SoftKeys(folder)
    make_missing(keys, SEALING_KEYS)
    sealer = Sealer.over(keys, folder)
    sealer.data_keys.create()
    return sealer


@pytest.fixture(scope="session")
def sealer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sealer]:
    """One for all databases of a run: keys are drawn at random, so tests do not meet there."""
    made = make_sealer(tmp_path_factory.mktemp("keys"))
    yield made
    made.data_keys.close()


@pytest.fixture(scope="session", params=[SQLITE, pytest.param(POSTGRESQL, marks=pytest.mark.postgres)])
def new_database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewDatabase]:
    """Makes empty databases; returns the URL of a new one. One kind of database after the other."""
    if request.param == SQLITE:
        folder = tmp_path_factory.mktemp("sqlite")
        yield lambda: f"sqlite:///{folder / uuid.uuid4().hex}.db"
        return
    if POSTGRES_URL not in os.environ:
        pytest.skip(f"there is no PostgreSQL: {POSTGRES_URL} is not set (make test-postgres)")
    server = PostgresServer(os.environ[POSTGRES_URL])
    yield server.create
    server.drop_all()


@pytest.fixture(scope="session")
def template_url(new_database: NewDatabase) -> str:
    """A database with the present schema, migrated once for all tests."""
    return _migrated(new_database())


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the present schema and nothing in it, for tests of one kind of database: to be copied."""
    path = tmp_path_factory.mktemp("template") / "vitalgrid.db"
    _migrated(f"sqlite:///{path}")
    return path


def _migrated(url: str) -> str:
    engine = open_engine(url)
    migrate(engine)
    if engine.dialect.name == SQLITE:
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    engine.dispose()
    return url


@contextlib.contextmanager
def copy_of(template: Path, folder: Path, sealer: Sealer) -> Iterator[Engine]:
    """A database of its own in `folder`, with what is in `template`."""
    opened = open_engine(f"sqlite:///{shutil.copyfile(template, folder / 'vitalgrid.db')}", sealer)
    yield opened
    opened.dispose()


@pytest.fixture
def database_url(template_url: str, new_database: NewDatabase) -> Iterator[str]:
    """A database of this test alone, with the present schema and nothing in it: a copy of the file, or emptied."""
    if make_url(template_url).get_backend_name() == POSTGRESQL:
        empty(template_url)
        yield template_url
        return
    url = new_database()
    shutil.copyfile(str(make_url(template_url).database), str(make_url(url).database))
    yield url
    for suffix in ("", "-wal", "-shm"):
        Path(f"{make_url(url).database}{suffix}").unlink(missing_ok=True)


def empty(url: str) -> None:
    """Empty a PostgreSQL database and let its counters start anew: a thousand times quicker than making one.

    Only what holds rows is emptied, by DELETE: TRUNCATE makes files anew for each table and index.
    """
    held = " UNION ALL ".join(f"SELECT '{table}' WHERE EXISTS (SELECT FROM {table})" for table in metadata.tables)
    engine = open_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")  # else the write log refuses
        for (table,) in connection.exec_driver_sql(held).all():
            connection.exec_driver_sql(f"DELETE FROM {table}")
        connection.exec_driver_sql("SELECT setval(seqrelid, seqstart, false) FROM pg_sequence")
    engine.dispose()


@pytest.fixture
def engine(database_url: str, sealer: Sealer) -> Iterator[Engine]:
    """A business database of this test alone, on SQLite and on PostgreSQL."""
    opened = open_engine(database_url, sealer)
    yield opened
    opened.dispose()


class PostgresServer:
    """Creates and drops databases on a server that tests were given."""

    def __init__(self, url: str) -> None:
        self._url = make_url(url)
        self._made: list[str] = []

    def create(self) -> str:
        name = f"test_{uuid.uuid4().hex}"
        self._run(f'CREATE DATABASE "{name}"')
        self._made.append(name)
        return self._url.set(database=name).render_as_string(hide_password=False)

    def drop_all(self) -> None:
        for name in self._made:
            self._run(f'DROP DATABASE "{name}" WITH (FORCE)')
        self._made.clear()

    def _run(self, statement: str) -> None:
        engine = open_engine(self._url.render_as_string(hide_password=False))
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql(statement)
        engine.dispose()


@dataclass(frozen=True)
class SmallHospital:
    """A hospital with a gateway, a monitor behind it, a pump of its own and a patient."""

    gateway: Row
    monitor: Row
    pump: Row
    pump_token: str
    patient: Row


@pytest.fixture
def hospital(engine: Engine) -> SmallHospital:
    """See SmallHospital; the hospital is `HOSPITAL`, made by `ADA` at `NOW_US`."""
    add_hospital(engine)
    gateway, _ = devices.register_device(engine, ADA, HOSPITAL, NewDevice("gw-1", "gateway", with_token=True))
    monitor, _ = devices.register_device(engine, ADA, HOSPITAL, NewDevice("mon-7", "monitor", "icu", "icu-07", "gw-1"))
    pump, token = devices.register_device(
        engine, ADA, HOSPITAL, NewDevice("pump-3", "infusion-pump", "icu", "icu-07", with_token=True)
    )
    assert token is not None
    patient = patients.admit_patient(engine, ADA, HOSPITAL, NewPatient("MRN-1", "王小明", "male", 67.0))
    return SmallHospital(gateway, monitor, pump, token, patient)


def add_hospital(engine: Engine, hospital_id: str = HOSPITAL, bed_count: int = 800) -> Row:
    return places.create_hospital(
        engine, ADA, hospital_id=hospital_id, name="福田区人民医院", tier=Tier.TERTIARY, bed_count=bed_count, shards=SHARDS
    )


def later(seconds: float, who: str = "ada", reason: str | None = "for a test") -> Author:
    """An author who writes some seconds after `NOW_US`."""
    return replace(ADA, who=who, reason=reason, now_us=NOW_US + round(seconds * 1e6))


def count(engine: Engine, table: Table) -> int:
    with reading(engine) as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def told(engine: Engine, *kinds: type[Control]) -> list[Control]:
    """What the outbox tells hosts, in order; only of `kinds` if any are given."""
    with reading(engine) as connection:
        payloads = connection.execute(select(outbox.c.payload).order_by(outbox.c.id)).scalars()
        messages = [decode_control(payload) for payload in payloads]
    return [message for message in messages if not kinds or isinstance(message, kinds)]


def with_certificate(engine: Engine, handle: int, made_us: int, ends_us: int, *, is_revoked: bool = False) -> None:
    """Note that a device was given a certificate that is good in this time."""
    device, issued = devices.get_device(engine, handle), Issued("PEM", f"sha256:{handle}-{made_us}", "1", "key", ends_us)
    with writing(engine) as connection:
        made = add_certificate(connection, replace(ADA, now_us=made_us), device, issued)
    if is_revoked:
        revoke(engine, ADA, handle, f"certificate-{made}")
