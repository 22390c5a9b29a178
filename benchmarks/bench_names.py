"""Sealed names: a fleet's patients registered, all names read into memory at a start, lists, searches by a part of a name.

    python benchmarks/bench_names.py            100,000 patients, and then 1,000,000
    python benchmarks/bench_names.py --quick    2,000, as in CI

On SQLite, in one process. A search is asked of the store, not over REST. Clauses 7.1b, 7.2c.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
from sqlalchemy import Engine

from benchmarks.measure import Bench
from cluster.first_start import prepare_database, sealer_of
from domain.fleet_manifest import DeviceColumns, FleetManifest, HospitalManifest, PatientColumns, Tier
from domain.permissions import everywhere
from runtime.settings import Settings
from runtime.sql.engine import open_engine
from runtime.sql.fleets import register_fleet
from runtime.sql.patients import list_patients, update_patient, warm_names
from runtime.sql.records import Author

ALL = {"reach": everywhere("sz"), "clear": everywhere("sz")}

A_HOSPITAL = 2_000
AT_ONCE = 50  # hospitals of one manifest
PAGE = 100
SURNAMES = ("王", "李", "张", "刘", "陈", "杨", "黄", "赵", "吴", "周")
ADA = Author("ada", "bench", 1_795_420_800_000_000)


def hospital(number: int, people: int) -> HospitalManifest:
    nothing: list[str | None] = [None] * people
    names: list[str | None] = [f"{SURNAMES[n % 10]}{number:03}{n:05}" for n in range(people)]
    return HospitalManifest(
        f"sz.h{number:03}", "h", Tier.TERTIARY, 800, DeviceColumns([], [], [], [], [], []),
        PatientColumns(
            [f"MRN-{n:06}" for n in range(people)], names, [60.0] * people, [False] * people, [1] * people, nothing, nothing,
            [1] * people, [[] for _ in range(people)],
        ),
    )  # fmt: skip


def register(engine: Engine, people: int) -> float:
    """How long it takes, in parts."""
    numbers = range(max(1, people // A_HOSPITAL))
    began = time.perf_counter()
    for start in numbers[::AT_ONCE]:
        some = [hospital(number, min(people, A_HOSPITAL)) for number in numbers[start : start + AT_ONCE]]
        register_fleet(engine, ADA, FleetManifest(some), shards=16)
    return time.perf_counter() - began


def times_s(ask: Callable[[], object], rounds: int) -> list[float]:
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        ask()
        taken.append(time.perf_counter() - began)
    return taken


def note_times(bench: Bench, what: str, taken_s: list[float], bound: str = "") -> None:
    bench.note(f"{what}, p50", 1000 * float(np.quantile(taken_s, 0.5)), "ms")
    bench.note(f"{what}, p99", 1000 * float(np.quantile(taken_s, 0.99)), "ms", bound)


def measure(bench: Bench, data_dir: Path, people: int) -> None:
    settings = Settings(data_dir=data_dir)
    sealer = sealer_of(settings)
    engine = open_engine(settings.sql_url, sealer)
    prepare_database(engine, settings, sealer)
    bench.note(f"{people:,} patients registered", people / register(engine, people), "patients/s")
    engine.dispose()
    engine = open_engine(settings.sql_url, sealer_of(settings))  # as another process
    began = time.perf_counter()
    assert warm_names(engine) == people
    bench.note(f"{people:,} names read at a start", time.perf_counter() - began, "s")
    rounds, random = 5 if bench.quick else 200, Random(1)
    everybody = times_s(lambda: list_patients(engine, **ALL, limit=PAGE), rounds)
    note_times(bench, f"{people:,}: a page of {PAGE} patients", everybody)
    few = times_s(
        lambda: list_patients(engine, **ALL, limit=PAGE, text=f"{random.randrange(people):06}"),
        rounds,
    )
    note_times(bench, f"{people:,}: search that finds few", few, "≤ 1000")
    many = times_s(lambda: list_patients(engine, **ALL, limit=PAGE, text=random.choice(SURNAMES)), rounds)
    note_times(bench, f"{people:,}: search that finds a tenth", many, "≤ 1000")
    key = list_patients(engine, **ALL, limit=1).rows[0]["patient_key"]

    def changed() -> object:
        update_patient(engine, ADA, key, {"name": f"{random.random()}"}, version=None)
        return list_patients(engine, **ALL, limit=PAGE, text=random.choice(SURNAMES))

    note_times(bench, f"{people:,}: a change and a search behind it", times_s(changed, rounds))
    engine.dispose()


def main() -> None:
    bench = Bench("names")
    for people in [2_000] if bench.quick else [100_000, 1_000_000]:
        with tempfile.TemporaryDirectory() as folder:
            measure(bench, Path(folder), people)
    bench.finish()


if __name__ == "__main__":
    main()
