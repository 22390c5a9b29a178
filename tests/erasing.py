"""Jobs of erasure with the real parts around them, for tests of what becomes of a person."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
from sqlalchemy import Engine

from domain.log_entries import read_record
from domain.merkle import inclusion_proof
from domain.signed_notes import Proof
from runtime.clock import ManualClock
from runtime.erasure_certificates import certificate_signer, digest_of, own_vkeys, verify_bundle
from runtime.erasure_job import ErasureJob
from runtime.lake import Advance, Lake, lake_rows
from runtime.log_events import Received, certified_by, taken_of_stream
from runtime.log_keeper import LogKeeper
from runtime.log_signing import LogSigner
from runtime.sealing import Sealer
from runtime.soft_keys import SoftKeys
from runtime.sql import access, erasures, patients
from runtime.sql.outbox import mark_published, unpublished
from runtime.sql.records import Row
from runtime.sql.write_log import mark_told, untold_writes
from runtime.write_relay import record_of
from tests.contracts.test_sealed import CANARY
from tests.lake_samples import sample_batch
from tests.sql_fixtures import ADA, HOSPITAL, NOW_US, later

HOSTS_WRITE_S = 15.0
LAKE_DAYS = 30
LEFT_US = NOW_US + 60_000_000  # the discharge
WHY = f"as {CANARY} asked"


def ask(engine: Engine, key: str, seconds: float = 70, *, retention_us: int = 0, grace_us: int = 0) -> Row:
    return erasures.request_erasure(engine, later(seconds, reason=WHY), key, retention_us=retention_us, grace_us=grace_us)


class Rig:
    """A job with a lake and an access log, where a platform in `folder` has them. `log` takes in what was written."""

    def __init__(
        self, engine: Engine, sealer: Sealer, folder: Path, now_us: int = NOW_US + 3600 * 1_000_000
    ) -> None:  # fmt: skip
        self.engine, self.folder = engine, folder
        self.lake = Lake(folder / "lake" / "readings")
        self.keys = SoftKeys(folder / "keys")
        self.clock = ManualClock(now_us)
        self.signer = certificate_signer(self.keys, "vitalgrid/sz")
        self.log_signer = LogSigner(self.keys, "vitalgrid/sz")
        self.keeper = LogKeeper.open(folder / "audit", self.log_signer, lambda: b"s" * 32)
        self.job = ErasureJob(
            engine, self.lake, folder / "audit", sealer.data_keys, self.signer, self.clock, 48.0, HOSTS_WRITE_S, LAKE_DAYS
        )
        self.sequence = taken_of_stream(folder / "audit")

    def log(self) -> None:
        rows = untold_writes(self.engine, 500)
        records = []
        for row in rows:
            self.sequence += 1
            records.append(Received(self.sequence, read_record(record_of(row, "sz"), self.sequence, NOW_US)))
        self.keeper.take(records)
        if rows:
            mark_told(self.engine, rows[-1]["id"])

    def tell_hosts(self) -> None:
        """What the outbox has is in the stream."""
        mark_published(self.engine, [row["id"] for row in unpublished(self.engine, 10_000)], self.clock.now_us())

    def pass_on(self) -> None:
        """The log and hosts hear of what was done, and hosts write what they have in hand."""
        self.log()
        self.tell_hosts()
        self.clock.advance(seconds=HOSTS_WRITE_S)

    def run(self) -> Row:
        """Until the request has ended."""
        for _ in range(20):
            row = self.job.once()
            assert row is not None
            if row["step"] is None:
                return row
            self.pass_on()
        raise AssertionError(f"the job stays at {row['step']}")

    def bundle(self, key: str) -> bytes:
        self.log()
        certificate = erasures.get_erasure(self.engine, key, NOW_US)["certificate"]
        event = certified_by(self.folder / "audit", key, digest_of(certificate))
        assert event is not None
        assert event.event is not None
        store = self.keeper._store
        proof = Proof(event.at, tuple(inclusion_proof(event.at, store.size, store.tree(store.size).node)), store.note() or b"")
        parts = {"event": event.event, "salt": event.salt, "entry": event.entry, "proof": proof.to_bytes().decode()}
        return msgspec.json.encode({"certificate": certificate, **parts})

    def verify(self, bundle: bytes) -> str:
        log_vkeys = [key.vkey for key in self.log_signer.public_keys()]
        return verify_bundle(bundle, own_vkeys(self.signer), log_vkeys)


def plant(engine: Engine, rig: Rig, key: str) -> int:
    """Readings of the patient's own in the lake, two exports, a preset, and events of the log; returns the handle."""
    handle = int(patients.get_patient(engine, key)["handle"])
    rig.lake.commit(rows_of_one(handle + 1), {1: Advance(0, 1, 1)})
    rig.lake.commit(rows_of_one(handle), {1: Advance(1, 2, 1)})
    for handles in ([handle], [handle, handle + 1]):
        query = {"url": f"/readings?patient={key}"}
        access.record_export(engine, ADA, lake_version=1, handles=handles, from_us=None, until_us=None, query=query)
    rig.log()
    return handle


def rows_of_one(handle: int) -> pa.Table:
    """60 readings that bear one number, at the hospital of these tests."""
    batch = replace(sample_batch(60, start_us=NOW_US), handle=np.full(60, handle, np.uint32))
    hospital = pa.DictionaryArray.from_arrays(pa.array(np.zeros(60, np.int32)), pa.array([HOSPITAL]))
    return lake_rows(batch, batch.time_us + 500, hospital)
