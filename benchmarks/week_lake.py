"""A week of a region's readings in the lake, and who is who in its business database: what questions are asked of.

Written straight as upkeep's merges leave it, through the lake's own writer, rollups and log: files of sixteen million rows,
each a stretch of a day. Bedside monitors say six signs a second; ward monitors four a minute; wearables two every five minutes,
without a sequence. Clocks jitter by microseconds, signs wander, oxygen saturation falls for some minutes about once a day,
probes come off, and a few readings are marked as possible repeats. The same for the same number of rows.

Making 10⁹ takes minutes, so it is kept in a folder and made once; what was under way goes on where it stopped.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cluster.first_start import prepare_database, sealer_of
from domain.fleet_manifest import DeviceColumns, FleetManifest, HospitalManifest, PatientColumns, Tier
from domain.metrics import metric_of
from domain.quality import Mark, Validity, pack
from runtime.lake import Lake
from runtime.lake_files import DataFile, write_file
from runtime.lake_folder import LakeFolder
from runtime.lake_rollups import RollupMaker
from runtime.lake_schema import FILE_SCHEMA
from runtime.lake_upkeep import TARGET_ROWS
from runtime.settings import Settings
from runtime.sql.engine import open_engine
from runtime.sql.fleets import register_fleet
from runtime.sql.records import Author

FIRST_DAY = date(2026, 9, 21)
DAYS = 7
START_US = 1_789_948_800_000_000  # FIRST_DAY, midnight UTC
END_US = START_US + DAYS * 86_400_000_000
DAY_S = 86_400
CHUNK_ROWS = 1_000_000
WARDS = 5
SURNAMES = ("Chen", "Deng", "Wang", "Zhang", "Feng", "Huang", "Zheng", "Xiao")
_POOL = 2**22  # seconds of wandering signs that all channels share, each from a place of its own
_JITTER_US = 5_000


@dataclass(frozen=True, slots=True)
class Kind:
    """Devices alike: how often each says which metrics."""

    name: str
    model: str
    period_s: int
    signs: dict[str, tuple[float, float, float]]  # metric -> rest, how far it wanders, noise


@dataclass(frozen=True, slots=True)
class Region:
    """`per_hospital`: how many devices of each kind."""

    rows: int
    hospitals: int
    per_hospital: tuple[tuple[Kind, int], ...]

    def rows_a_day(self) -> int:
        a_day = sum(count * len(kind.signs) * DAY_S // kind.period_s for kind, count in self.per_hospital)
        return a_day * self.hospitals

    def files_a_day(self) -> int:
        """Each as large as upkeep makes them; of a small region one."""
        return max(1, self.rows_a_day() // TARGET_ROWS)


def region_of(rows: int) -> Region:
    """About `rows` in a week: 20 hospitals of 262 devices are 10⁹; of fewer rows fewer hospitals, or slower monitors."""
    hospitals = max(2, round(rows / 5e7))
    per_hospital = rows / DAYS / hospitals
    period_s = max(1, round(12 * 6 * DAY_S / per_hospital))
    share = min(1.0, per_hospital / 7.143e6)
    bedside = Kind("bed", "monitor", period_s, {
        "heart_rate": (78, 9, 1), "resp_rate": (17, 2, 0.7), "spo2": (96.5, 1, 0.3), "abp_sys": (121, 9, 2),
        "abp_dia": (72, 6, 1.5), "abp_mean": (89, 7, 1.5),
    })  # fmt: skip
    ward = Kind("mon", "monitor", 60 * period_s, {
        "heart_rate": (75, 8, 1), "resp_rate": (16, 2, 0.7), "spo2": (97, 1, 0.3), "body_temp": (36.9, 0.4, 0.05),
    })  # fmt: skip
    wearable = Kind("band", "wearable", 300 * period_s, {"pulse_rate": (72, 10, 2), "skin_temp": (33, 0.7, 0.1)})
    counts = ((bedside, 12), (ward, max(WARDS, round(150 * share))), (wearable, max(5, round(100 * share))))
    return Region(rows, hospitals, counts)


@dataclass(frozen=True, slots=True)
class Made:
    """Where it lies, as a platform's data directory, and what to ask for."""

    data_dir: Path
    rows: int
    size_bytes: int
    hospitals: list[str]
    bedside: list[int]  # handles
    patients: list[str]  # keys of those on bedside monitors, in the same order
    worn_by: dict[str, list[int]]  # surname -> handles of what its bearers wear


def make(folder: Path, rows: int) -> Made:
    """The region of about `rows`, made unless it is there. Raises OSError when the disk is full; go on by calling again."""
    region = region_of(rows)
    data_dir = folder / f"week-{rows}"
    data_dir.mkdir(parents=True, exist_ok=True)
    about = data_dir / "about.json"
    if not about.exists():
        fleet = _registered(data_dir, region)
        written = _written(data_dir, region, fleet["handles"])
        lake = Lake(data_dir / "lake" / "readings")
        if lake.state().files.is_empty():
            lake.commit_upkeep(lake.state(), [file.add_action(data_change=True) for file in written])
        fleet |= {"rows": sum(file.rows for file in written), "size_bytes": sum(file.size_bytes for file in written)}
        about.write_text(json.dumps(fleet))
    said = json.loads(about.read_text())
    del said["handles"]
    return Made(data_dir=data_dir, **said)


def _registered(data_dir: Path, region: Region) -> dict[str, Any]:
    """The fleet in the business database, anew: handles and keys by the order of the manifest."""
    for old in data_dir.glob("vitalgrid.db*"):
        old.unlink()
    settings = Settings(data_dir=data_dir)
    sealer = sealer_of(settings)
    engine = open_engine(settings.sql_url, sealer)
    prepare_database(engine, settings, sealer)
    manifest = FleetManifest([_manifest(f"sz.q{number:03}", region) for number in range(region.hospitals)])
    answer = register_fleet(engine, Author("bench", "bench", START_US), manifest, shards=16)
    engine.dispose()
    beds, on_wards, _ = (count for _, count in region.per_hospital)
    worn_by: dict[str, list[int]] = {name: [] for name in SURNAMES}
    for hospital in answer.hospitals:
        for number in range(beds + on_wards):
            worn_by[_surname(number)].append(hospital.handles[number])
    return {
        "hospitals": [hospital.hospital_id for hospital in answer.hospitals],
        "handles": [hospital.handles for hospital in answer.hospitals],
        "bedside": [handle for hospital in answer.hospitals for handle in hospital.handles[:beds]],
        "patients": [key for hospital in answer.hospitals for key in hospital.patient_keys[:beds]],
        "worn_by": worn_by,
    }


def _manifest(hospital_id: str, region: Region) -> HospitalManifest:
    kinds = [(kind, number) for kind, count in region.per_hospital for number in range(count)]
    ids = [f"{kind.name}-{number:04}" for kind, number in kinds]
    wards: list[str | None] = ["icu" if kind.name == "bed" else f"ward-{n % WARDS}" for n, (kind, _) in enumerate(kinds)]
    nothing: list[str | None] = [None] * len(ids)
    worn = [device for device, (kind, _) in zip(ids, kinds, strict=True) if kind.name != "band"]
    people = len(worn)
    names: list[str | None] = [f"Patient {_surname(number)} {hospital_id[-3:]}-{number:03}" for number in range(people)]
    return HospitalManifest(
        hospital_id, f"Hospital {hospital_id}", Tier.TERTIARY, 500,
        DeviceColumns(ids, [kind.model for kind, _ in kinds], wards, nothing, nothing, [False] * len(ids)),
        PatientColumns(
            [f"p{number:04}" for number in range(people)], names, [60.0] * people, [False] * people, [1] * people,
            [None] * people, [None] * people, [START_US - 3_600_000_000] * people, [[device] for device in worn],
        ),
    )  # fmt: skip


def _surname(number: int) -> str:
    return SURNAMES[number * 7 % len(SURNAMES)]


def _written(data_dir: Path, region: Region, handles: list[list[int]]) -> list[DataFile]:
    """All files, several at a time. What an earlier run finished is remembered beside them."""
    parts = [(day, part) for day in range(DAYS) for part in range(region.files_a_day())]
    workers = ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn"))
    with workers:
        jobs = [workers.submit(_part, data_dir, region, handles, *part) for part in parts]
        return [job.result() for job in jobs]


def _part(data_dir: Path, region: Region, handles: list[list[int]], day: int, part: int) -> DataFile:
    """The file of one stretch of a day."""
    done = data_dir / f"part-{day}-{part}.json"
    if done.exists():
        return DataFile(**json.loads(done.read_text()))
    length_s = DAY_S / region.files_a_day()
    from_s, until_s = (round(day * DAY_S + edge * length_s) for edge in (part, part + 1))
    lake = LakeFolder(data_dir / "lake" / "readings")
    rollups = RollupMaker()
    chunks = rollups.watch(_chunks(region, handles, from_s, until_s))
    file = write_file(lake, str(FIRST_DAY + timedelta(days=day)), chunks, is_merged=True)
    rollups.write(lake, file.path)
    done.write_text(json.dumps(asdict(file)))
    return file


def _chunks(region: Region, handles: list[list[int]], from_s: int, until_s: int) -> Iterator[pl.DataFrame]:
    """Rows in order, some devices at a time."""
    hospitals = pl.Enum([f"sz.q{number:03}" for number in range(region.hospitals)])
    for number, of_hospital in enumerate(handles):
        start = 0
        for kind, count in region.per_hospital:
            at_once = max(1, CHUNK_ROWS * kind.period_s // (len(kind.signs) * (until_s - from_s)))
            for first in range(start, start + count, at_once):
                some = np.array(of_hospital[first : min(first + at_once, start + count)])
                yield _rows(kind, some, from_s, until_s, pl.lit(hospitals.categories[number], hospitals))
            start += count


def _rows(kind: Kind, handles: NDArray[np.int64], from_s: int, until_s: int, hospital: pl.Expr) -> pl.DataFrame:
    """What `handles` said in a stretch, in FILE_ORDER: periods are longer than clocks jitter."""
    phase_us = handles * 7919 % 997 * 990  # with the jitter still within its second, and so in its day
    step = np.arange(-(-from_s // kind.period_s), -(-until_s // kind.period_s))
    second = step * kind.period_s
    metrics = sorted(kind.signs, key=lambda code: metric_of(code).id)
    shape = (len(handles), len(metrics), len(step))
    jitter = _pools()["jitter"][(handles[:, None] * 104_729 + step) % _POOL]
    time_us = START_US + phase_us[:, None] + second * 1_000_000 + jitter
    place = (handles[:, None] * 31 + np.arange(len(metrics))) * 65_537
    at = (place[:, :, None] + second) % _POOL
    value = np.stack([_values(code, kind.signs[code], at[:, n]) for n, code in enumerate(metrics)], axis=1)
    quality = _pools()["quality"][(at * 7) % _POOL]
    value[quality == pack(Validity.NOT_AVAILABLE)] = np.nan
    sequence = step * len(metrics) + np.arange(len(metrics))[:, None] + 1
    if kind.name == "band":
        quality = np.where(at % 997 == 0, pack(marks=int(Mark.POSSIBLE_DUPLICATE)), quality)
        sequence = np.zeros_like(sequence)
    columns = {
        "handle": handles[:, None, None], "instance": 0, "metric": np.array([metric_of(c).id for c in metrics])[:, None],
        "time_us": time_us[:, None, :], "value": value, "quality": quality, "source": handles[:, None, None],
        "sequence": sequence, "raw_unit": 0, "arrival_us": (time_us // 4_000 * 4_000 + 12_000)[:, None, :],
        "clock_offset_us": 0, "clock_uncertainty_us": 0,
    }  # fmt: skip
    stored = pl.DataFrame(FILE_SCHEMA.empty_table()).schema
    frame = pl.DataFrame({name: np.broadcast_to(column, shape).reshape(-1) for name, column in columns.items()})
    frame = frame.with_columns(hospital=hospital, raw_value=pl.lit(None, pl.Float64))
    return frame.cast({name: dtype for name, dtype in stored.items() if name != "hospital"}).select(stored.names())


def _values(code: str, sign: tuple[float, float, float], at: NDArray[np.int64]) -> NDArray[np.float64]:
    rest, wander, noise = sign
    pools = _pools()
    value = rest + wander * pools["wander"][at] + noise * pools["noise"][at]
    if code == "spo2":
        value = np.minimum(value - pools["fall"][at], 100)
    return np.round(value, 1 if code.endswith("temp") else 0)


@cache
def _pools() -> dict[str, NDArray[np.generic]]:
    """What channels draw from, from one seed."""
    random = np.random.default_rng(1)
    steps = random.normal(0, 1, _POOL)
    wander = np.fft.irfft(np.fft.rfft(steps) / (1 + np.arange(_POOL // 2 + 1) / 2_000), _POOL)  # slow waves stay
    fall = np.zeros(_POOL)
    for start in random.integers(0, _POOL - 400, _POOL // DAY_S):
        fall[start : start + random.integers(60, 400)] = random.integers(8, 30)
    share = random.random(_POOL)
    quality = np.select([share < 0.002, share < 0.005], [pack(Validity.NOT_AVAILABLE), pack(Validity.QUESTIONABLE)], 0)
    return {
        "wander": (wander / wander.std()).astype(np.float32), "noise": random.normal(0, 1, _POOL).astype(np.float32),
        "fall": fall.astype(np.float32), "quality": quality.astype(np.int32),
        "jitter": random.integers(0, _JITTER_US, _POOL).astype(np.int32),
    }  # fmt: skip
