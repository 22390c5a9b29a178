"""What a platform leaves on disk, made of its real parts without its processes: for those who copy and restore it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cluster.connection import Connection, forget_connection
from cluster.first_start import prepare_accounts, prepare_database, sealer_of
from cluster.sealing import file_seal, make_keys
from domain import subjects
from domain.fleet_manifest import Tier
from domain.log_entries import LogRecord
from runtime.bus import Bus
from runtime.bus_access import TokenAccess
from runtime.lake import Advance, Lake
from runtime.log_events import Received
from runtime.log_keeper import LogKeeper
from runtime.log_signing import LogSigner
from runtime.nats_server import NatsServer
from runtime.settings import Settings
from runtime.snapshots import SnapshotStore
from runtime.soft_keys import SoftKeys
from runtime.sql import patients, places
from runtime.sql.engine import open_engine
from runtime.sql.patients import NewPatient
from tests.lake_samples import sample_rows
from tests.sql_fixtures import ADA, HOSPITAL

TOKEN = "a-token-of-an-installation"
SHARDS = 2
IN_LAKE = 6  # messages of the readings' stream that the lake has
BEYOND = 4  # and further ones, acknowledged
ROWS = 500
ENTRIES = 300
NAME = "欧阳不在任何文件"


@dataclass
class Installation:
    settings: Settings

    @property
    def data_dir(self) -> Path:
        return self.settings.data_dir

    def engine(self):
        return open_engine(self.settings.sql_url, sealer_of(self.settings))

    def lake(self) -> Lake:
        return Lake(self.settings.lake_dir, file_seal(self.settings))


async def make_installation(data_dir: Path, **settings) -> Installation:
    """A platform that took readings, has a patient, alarms, rejects and a log, and does not run."""
    installation = Installation(Settings(data_dir=data_dir, shards=SHARDS, **settings))
    data_dir.mkdir(mode=0o700)  # noqa: ASYNC240 (nothing else runs)
    make_keys(installation.settings)
    _fill_database(installation)
    seal = file_seal(installation.settings)
    Lake(installation.settings.lake_dir, seal).commit(
        sample_rows(ROWS), {shard: Advance(0, IN_LAKE, 1) for shard in range(SHARDS)}
    )
    snapshots = SnapshotStore(data_dir / "snapshots", seal=seal)
    for shard in range(SHARDS):
        snapshots.save(shard, 1, IN_LAKE - 1, {})
    make_log(installation, ENTRIES)
    async with running(installation) as bus:
        for number in range(1, IN_LAKE + BEYOND + 1):
            await bus.publish(subjects.reading(number % SHARDS), b"frame %d" % number, f"r-{number}")
        for number in range(3):
            await bus.publish(subjects.alarm(HOSPITAL), b"alarm %d" % number, f"a-{number}")
        await bus.publish(subjects.reject(HOSPITAL), b"reject", "x-1")
        await bus.publish(subjects.audit("writes"), b"a record", "w-later")
    return installation


def _fill_database(installation: Installation) -> None:
    engine = installation.engine()
    prepare_database(engine, installation.settings, sealer_of(installation.settings))
    prepare_accounts(engine, installation.settings)
    places.create_hospital(engine, ADA, hospital_id=HOSPITAL, name="h", tier=Tier.TERTIARY, bed_count=8, shards=SHARDS)
    patients.admit_patient(engine, ADA, HOSPITAL, NewPatient("A-1", NAME))
    engine.dispose()


def make_log(installation: Installation, entries: int) -> None:
    """A signed access log of so many entries."""
    signer = LogSigner(SoftKeys(installation.settings.keys_dir), installation.settings.audit_origin)
    keeper = LogKeeper.open(installation.settings.audit_dir, signer, lambda: os.urandom(32))
    event = msgspec.Raw(b'{"said":"nothing"}')
    keeper.take([Received(0, LogRecord(f"w-{n}", 1_700_000_000_000_000 + n, "writes", n, event)) for n in range(entries)])
    keeper.close()


@asynccontextmanager
async def running(installation: Installation) -> AsyncIterator[Bus]:
    """Its bus runs, and says where, as that of a platform at work."""
    server = NatsServer(installation.data_dir / "nats", access=TokenAccess(TOKEN))
    await server.start()
    Connection(pid=os.getpid(), nats_url=server.url, nats_token=TOKEN).save(installation.data_dir)
    bus = await Bus.connect(server.url, TOKEN, "installation")
    try:
        await bus.ensure_streams(max_stream_bytes=2**30, retention_s=86_400, duplicate_window_s=600)
        yield bus
    finally:
        await bus.close()
        forget_connection(installation.data_dir)
        await server.stop()
