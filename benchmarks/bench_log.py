"""The access log: how long a record takes into the signed tree, how many a second, proofs, verification of everything.

    python benchmarks/bench_log.py            100,000 records
    python benchmarks/bench_log.py --quick    600, as in CI

A write over REST does not wait for any of it: it is answered when its row is in the business database. Clause 9.3e.
"""

from __future__ import annotations

import secrets
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.measure import Bench, seconds_each
from domain.log_entries import LogRecord
from domain.merkle import inclusion_proof
from runtime.key_provider import provider_in
from runtime.log_events import Received
from runtime.log_keeper import LogKeeper
from runtime.log_signing import LogSigner
from runtime.log_store import LogReader
from runtime.log_verifier import Source, verify_log

AT_ONCE = 256
ALONE = 50
SALT_BYTES = 32


def record(number: int) -> Received:
    """One as the write log makes it."""
    event = {"kind": "write", "id": number, "who": "ada", "action": "device.update", "target": f"sz.h001/mon-{number}"}
    return Received(number, LogRecord(f"w-{number}", 1_795_420_800_000_000 + number, "writes", number,
                                      msgspec.Raw(msgspec.json.encode(event))))  # fmt: skip


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def fill(bench: Bench, keeper: LogKeeper, records: int) -> None:
    """A few records alone, as writes come by day, and the rest in groups, as a backlog comes."""
    alone_s = []
    for number in range(1, ALONE + 1):
        began = time.perf_counter()
        keeper.take([record(number)])
        alone_s.append(time.perf_counter() - began)
    bench.note("a record alone, into the signed tree, p50", 1000 * float(np.quantile(alone_s, 0.5)), "ms")
    bench.note("a record alone, into the signed tree, p99", 1000 * float(np.quantile(alone_s, 0.99)), "ms")
    began = time.perf_counter()
    for start in range(ALONE + 1, records + 1, AT_ONCE):
        keeper.take([record(number) for number in range(start, min(start + AT_ONCE, records + 1))])
    bench.note(f"records in groups of {AT_ONCE}", (records - ALONE) / (time.perf_counter() - began), "records/s")


def main() -> None:
    bench = Bench("log")
    records = 600 if bench.quick else 100_000
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "audit"
        signer = LogSigner(provider_in(Path(made) / "keys"), "vitalgrid/sz")
        keeper = LogKeeper.open(folder, signer, lambda: secrets.token_bytes(SALT_BYTES))
        fill(bench, keeper, records)
        keeper.close()
        log = LogReader(folder)
        proof_s = seconds_each(lambda: inclusion_proof(records // 3, records, log.tree(records).node), bench.seconds)
        bench.note(f"a proof from a log of {records:,} records", 1000 * proof_s, "ms")
        began = time.perf_counter()
        verify_log(Source(str(folder)), [key.vkey for key in signer.public_keys()])
        bench.note(f"verification of all {records:,}", time.perf_counter() - began, "s")
        tree = size_of(folder / "tile")
        bench.note("the tree", tree / records, "bytes a record")
        bench.note("its events beside it", (size_of(folder) - tree) / records, "bytes a record")
    bench.finish()


if __name__ == "__main__":
    main()
