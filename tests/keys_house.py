"""A platform's stores on disk with something under every key, for tests of orders about keys."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import select

from cluster.first_start import prepare_accounts, prepare_database, sealer_of
from cluster.key_orders import SETTLED_S, destroy_key, opened
from cluster.sealing import file_seal, make_keys
from domain.errors import Conflict
from domain.fleet_manifest import Tier
from domain.principals import Grant, Place, Role
from runtime.clock import ManualClock, SystemClock
from runtime.key_provider import provider_of
from runtime.keys import KEYS, make_missing
from runtime.lake import Advance, Lake
from runtime.lake_queries import ReadingQuery
from runtime.password_hashes import PasswordHashes
from runtime.second_factors import SecondFactors
from runtime.settings import Settings
from runtime.snapshots import SnapshotStore
from runtime.sql import patients, places, second_factors, users
from runtime.sql.engine import open_engine, reading
from runtime.sql.locating import patient_of_ref
from runtime.sql.patients import NewPatient
from runtime.sql.tables import write_log
from runtime.write_relay import record_of
from tests.lake_samples import sample_rows
from tests.sql_fixtures import ADA, HOSPITAL

EVERYTHING = ReadingQuery()
PASSWORD = "a password of somebody"
LATER_S = SETTLED_S + 600  # keys say when they were made by the machine's clock, which goes on beside the test's


@dataclass
class House:
    """A platform's stores with something under every key, and nobody at work."""

    settings: Settings
    clock: ManualClock
    patient_key: str = ""
    user_id: str = ""

    @property
    def keys(self):
        return provider_of(self.settings)

    def do(self, order: Callable, *arguments, **named):
        with opened(self.settings, self.clock) as stores:
            return order(stores, *arguments, **named)

    def engine(self):
        return open_engine(self.settings.sql_url, sealer_of(self.settings))

    def hashes(self) -> PasswordHashes:
        return PasswordHashes(self.keys, iterations=1_000)

    def lake(self) -> Lake:
        return Lake(self.settings.lake_dir, file_seal(self.settings))

    def snapshots(self) -> SnapshotStore:
        return SnapshotStore(self.settings.data_dir / "snapshots", seal=file_seal(self.settings))

    def start(self) -> None:
        """What of a start looks after keys."""
        sealer = sealer_of(self.settings)
        engine = open_engine(self.settings.sql_url, sealer)
        prepare_database(engine, self.settings, sealer)
        prepare_accounts(engine, self.settings)
        engine.dispose()

    def destroy_later(self, name: str, version: int = 1, **named) -> None:
        self.clock.advance(LATER_S)
        self.do(destroy_key, name, version, **named)

    def writes(self) -> list[tuple[str, str, str, object]]:
        engine = self.engine()
        with reading(engine) as connection:
            query = select(write_log).where(write_log.c.action.like("key.%")).order_by(write_log.c.id)
            rows = [dict(row) for row in connection.execute(query).mappings()]
        engine.dispose()
        assert all(json.loads(record_of(row, "sz"))["event"]["resourceType"] == "AuditEvent" for row in rows)
        return [(row["who"], row["action"], row["target"], row["detail"]) for row in rows]


def make_house(folder: Path) -> House:
    settings = Settings(
        data_dir=folder, security={"profile": "dev", "password_iterations": 1_000, "seal_files": True}, region_id="sz"
    )
    house = House(settings, ManualClock(SystemClock().now_us()))
    make_keys(settings)
    house.start()
    make_missing(house.keys, [name for name in KEYS if not name.startswith("witness")])
    engine = house.engine()
    places.create_hospital(engine, ADA, hospital_id=HOSPITAL, name="h", tier=Tier.PRIMARY, bed_count=9, shards=1)
    house.patient_key = patients.admit_patient(engine, ADA, HOSPITAL, NewPatient("MRN-1", "王小明"))["patient_key"]
    users.create_user(engine, ADA, "li.na", house.hashes().make(PASSWORD), Grant(Role.NURSE, Place("sz")))
    house.user_id = users.find_for_sign_in(engine, "li.na")["id"]
    second_factors.propose(engine, ADA, house.user_id, SecondFactors(house.keys).make(house.user_id)[1])
    engine.dispose()
    house.lake().commit(sample_rows(50), {0: Advance(0, 1, 1)})
    house.snapshots().save(0, 1, 1, {})
    return house


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> House:
    return make_house(tmp_path_factory.mktemp("house") / "var")


@pytest.fixture
def house(made: House, tmp_path: Path) -> House:
    shutil.copytree(made.settings.data_dir, tmp_path / "var")
    settings = made.settings.model_copy(update={"data_dir": tmp_path / "var"})
    return House(settings, ManualClock(SystemClock().now_us()), made.patient_key, made.user_id)


def check_opens(house: House) -> None:
    """That all that was sealed is there, whatever happened to keys."""
    engine = house.engine()
    assert patients.get_patient(engine, house.patient_key)["name"] == "王小明"
    assert patient_of_ref(engine, HOSPITAL, "MRN-1") is not None
    with pytest.raises(Conflict, match="is admitted"):
        patients.admit_patient(engine, ADA, HOSPITAL, NewPatient("MRN-1"))
    assert house.hashes().check(PASSWORD, users.find_for_sign_in(engine, "li.na")["password"])
    seed = second_factors.find(engine, house.user_id)["seed"]
    assert SecondFactors(house.keys).shown(house.user_id, seed, "000000", 1) is not None
    engine.dispose()
    assert len(house.lake().read(EVERYTHING)) == 50
    assert house.snapshots().load(0).sequence == 1
