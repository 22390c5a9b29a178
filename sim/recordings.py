"""Recordings played back: real patients and recorded fleets as senders with new identities, at any speed.

A recording is columns: who (device), when (offset from its start), what. Played at `speed`, a reading is due at
offset / speed; its event time keeps the original spacing and the recording ends at the start of the run, so history
arrives late, as it would from a gateway that catches up. All readings of one device at one time stay in one message.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import polars as pl

from domain.errors import IntegrityViolation, InvalidInput, NotFound
from domain.fleet_manifest import (
    DeviceColumns,
    FleetManifest,
    FleetRegistered,
    HospitalManifest,
    PatientColumns,
    Tier,
)  # fmt: skip
from domain.metrics import metric_of
from domain.quality import Mark
from domain.readings import SCHEMA, ReadingBatch
from sim.emission import Emission
from sim.fleet import Gateway

_STAYS_A_GATEWAY: Final = 64
_FROM_THE_BEGINNING_US: Final = 1  # a recorded patient wears its devices for as long as anybody knows
_LEAST_TICK_S: Final = 0.05
_NOT_RECORDED: Final = -1.0  # PhysioNet 2012, of every parameter

MIMIC_METRICS: Final = {
    "HR_bpm": "heart_rate", "ABPSys_mmHg": "abp_sys", "ABPDias_mmHg": "abp_dia", "ABPMean_mmHg": "abp_mean",
    "PULSE_bpm": "pulse_rate", "RESP_pm": "resp_rate", "SpO2_%": "spo2", "NBPSys_mmHg": "nibp_sys",
    "NBPDias_mmHg": "nibp_dia", "NBPMean_mmHg": "nibp_mean",
}  # fmt: skip
PHYSIONET_METRICS: Final = {
    "HR": "heart_rate", "RespRate": "resp_rate", "SaO2": "sao2", "Temp": "body_temp", "NISysABP": "nibp_sys",
    "NIDiasABP": "nibp_dia", "NIMAP": "nibp_mean", "SysABP": "abp_sys", "DiasABP": "abp_dia", "MAP": "abp_mean",
    "GCS": "gcs_total", "FiO2": "fio2", "MechVent": "mechanical_ventilation", "Urine": "urine_output",
    "Lactate": "lactate", "Weight": "body_weight", "Height": "body_height",
}  # fmt: skip


@dataclass(frozen=True)
class Recording:
    """`rows`: device (index into the manifest's devices), offset_us, metric, instance, value, in order of offset.

    `gateways`: who sends, with tokens; `sender_of`: for each device the index of its sender. `as_json`: the sender is
    the device itself and speaks JSON.
    """

    name: str
    manifest: FleetManifest
    gateways: tuple[Gateway, ...]
    sender_of: np.ndarray
    rows: pl.DataFrame
    as_json: bool = False

    @property
    def span_s(self) -> float:
        """Time from the first reading to the last, at original speed."""
        return float(self.rows["offset_us"].max() or 0) / 1e6  # type: ignore[arg-type]

    def emissions(
        self, start_us: int, registered: FleetRegistered, *, speed: float = 1.0, tick_s: float = 0.25
    ) -> Iterator[Emission]:
        """Play: `start_us` is the wall time of the run's start. Raises InvalidInput for a speed that is not positive."""
        if speed <= 0:
            raise InvalidInput(f"speed is {speed}, expected more than 0")
        handles = np.array(registered.hospitals[0].handles, dtype=np.uint32)
        senders = handles[[gateway.position for gateway in self.gateways]]
        sequences = np.zeros(len(senders), dtype=np.uint64)
        first_event_us = start_us - round(self.span_s * 1e6) - 1
        tick_us = max(tick_s, _LEAST_TICK_S) * speed * 1e6
        due = self.rows.with_columns(
            tick=(pl.col("offset_us") / tick_us).floor().cast(pl.Int64),
            sender=pl.Series(self.sender_of[self.rows["device"].to_numpy()]),
        )
        for part in due.partition_by(["tick", "sender"], maintain_order=True):
            sender = int(part["sender"][0])
            first = sequences[sender]
            sequences[sender] += np.uint64(len(part))
            readings = ReadingBatch.of(
                handle=handles[part["device"].to_numpy()], metric=part["metric"].to_numpy(),
                instance=part["instance"].to_numpy(), time_us=first_event_us + part["offset_us"].to_numpy(),
                value=part["value"].to_numpy(), quality=int(Mark.BACKFILL), source=senders[sender],
                sequence=first + np.arange(1, len(part) + 1, dtype=np.uint64),
            )  # fmt: skip
            yield Emission((int(part["tick"][0]) + 1) * tick_us / 1e6 / speed, sender, readings)


def open_recording(path: Path, *, times: int = 1, limit: int | None = None, region_id: str = "sz") -> Recording:
    """The recording at `path`: our own folder, a MIMIC numerics CSV, or a PhysioNet 2012 folder or CSV.

    Raises NotFound or InvalidInput saying what was expected there.
    """
    if times < 1:
        raise InvalidInput(f"a recording is played at least once, not {times} times")
    if (path / "manifest.json").exists():
        return read_recording(path)
    if path.is_dir():
        found = sorted(path.glob("*vitals.csv.gz")) or sorted(path.glob("*.csv*"))
        if not found:
            raise NotFound(f"{path} holds no recording: expected manifest.json or a PhysioNet 2012 CSV")
        path = found[0]
    if not path.exists():
        raise NotFound(f"{path} does not exist")
    try:
        header = pl.read_csv(path, n_rows=0).columns
    except pl.exceptions.PolarsError as error:
        raise InvalidInput(f"{path} is no recording: no CSV that can be read ({error})") from None
    if "RecordID" in header:
        return read_physionet2012(path, times=times, limit=limit, region_id=region_id)
    if "t_s" in header:
        return read_mimic_numerics(path, times=times, region_id=region_id)
    raise InvalidInput(f"{path} is no recording: its columns are {header}")


def read_mimic_numerics(path: Path, *, times: int = 1, region_id: str = "sz") -> Recording:
    """One bedside monitor's numerics, a row a minute. Zeros go out as the monitor wrote them; empty cells do not."""
    wide = pl.read_csv(path, infer_schema_length=None)
    rows = (
        wide.unpivot(index="t_s", on=[c for c in MIMIC_METRICS if c in wide.columns])
        .drop_nulls("value")
        .select(
            device=pl.lit(0, pl.Int64), offset_us=(pl.col("t_s").cast(pl.Float64) * 1e6).round().cast(pl.Int64),
            metric=_metric_ids("variable", MIMIC_METRICS), instance=pl.lit(0, pl.UInt8), value=pl.col("value").cast(pl.Float64),
        )
    )  # fmt: skip
    ids = [f"s00001-{n + 1}" if times > 1 else "s00001" for n in range(times)]
    devices = DeviceColumns(ids, ["monitor-mimic2"] * times, ["icu-01"] * times, [f"bed-{n + 1}" for n in range(times)],
                            [None] * times, [True] * times)  # fmt: skip
    manifest = _manifest(f"{region_id}.mimic2", "MIMIC-II, one ICU patient", devices, ids, [None] * times, [[i] for i in ids])
    gateways = tuple(Gateway(0, device_id, number) for number, device_id in enumerate(ids))
    return Recording(path.stem, manifest, gateways, np.arange(times), _cloned(rows, 1, times), as_json=True)


def read_physionet2012(path: Path, *, times: int = 1, limit: int | None = None, region_id: str = "sz") -> Recording:
    """ICU stays of the PhysioNet/CinC Challenge 2012: irregular, sparse, sometimes absurd. -1 goes out as recorded."""
    table = pl.read_csv(path, schema_overrides={"RecordID": pl.Int64, "minute": pl.Int64, "value": pl.Float64})
    stays = table["RecordID"].unique().sort().head(limit) if limit else table["RecordID"].unique().sort()
    table = table.filter(pl.col("RecordID").is_in(stays.implode()))
    ages = dict(table.filter(pl.col("parameter") == "Age").select("RecordID", "value").iter_rows())
    number = pl.col("RecordID").replace_strict(stays, pl.Series(range(len(stays))), return_dtype=pl.Int64)
    is_share = (pl.col("parameter") == "FiO2") & (pl.col("value") != _NOT_RECORDED)
    per_cent = pl.when(is_share).then(pl.col("value") * 100).otherwise(pl.col("value"))
    rows = table.filter(pl.col("parameter").is_in(list(PHYSIONET_METRICS))).select(
        device=number, offset_us=pl.col("minute") * 60_000_000, metric=_metric_ids("parameter", PHYSIONET_METRICS),
        instance=pl.lit(0, pl.UInt8), value=per_cent,
    )  # fmt: skip
    count = len(stays) * times
    gateways = -(-count // _STAYS_A_GATEWAY)
    refs = [f"{stay}" if clone == 0 else f"{stay}-{clone + 1}" for clone in range(times) for stay in stays.to_list()]
    ids = [f"chart-{ref}" for ref in refs]
    carrier = np.arange(count) // _STAYS_A_GATEWAY
    names = [f"gw-{n + 1:03}" for n in range(gateways)]
    nowhere: list[str | None] = [None] * gateways
    devices = DeviceColumns(
        names + ids, ["gateway"] * gateways + ["icu-chart"] * count, nowhere + ["icu-01"] * count,
        nowhere + [f"bed-{ref}" for ref in refs], nowhere + [names[n] for n in carrier], [True] * gateways + [False] * count,
    )  # fmt: skip
    ages_years = [float(ages[stay]) if stay in ages else None for _ in range(times) for stay in stays.to_list()]
    manifest = _manifest(f"{region_id}.icu2012", "PhysioNet 2012 ICU stays", devices, refs, ages_years, [[i] for i in ids])
    senders = tuple(Gateway(0, name, position) for position, name in enumerate(names))
    cloned = _cloned(rows, len(stays), times).with_columns(pl.col("device") + gateways)
    return Recording(path.stem, manifest, senders, np.r_[np.zeros(gateways, np.int64), carrier], cloned)


def write_recording(folder: Path, manifest: FleetManifest, rows: pl.DataFrame, gateways: tuple[Gateway, ...]) -> None:
    """Write a recording of ours: readings as Parquet and a manifest that seals them. `rows` as in `Recording`."""
    folder.mkdir(parents=True, exist_ok=True)
    parquet = folder / "readings.parquet"
    rows.sort("offset_us", maintain_order=True).write_parquet(parquet, compression="zstd")
    facts = {
        "format": 1,
        "sha256": hashlib.sha256(parquet.read_bytes()).hexdigest(),
        "readings": len(rows),
        "span_us": int(rows["offset_us"].max() or 0),  # type: ignore[arg-type]
        "gateways": [[g.hospital, g.device_id, g.position] for g in gateways],
        "fleet": json.loads(msgspec.json.encode(manifest)),
    }
    (folder / "manifest.json").write_text(json.dumps(facts, ensure_ascii=False))


def read_recording(folder: Path) -> Recording:
    """A recording of ours. Raises IntegrityViolation when the readings are not those that were sealed."""
    facts = json.loads((folder / "manifest.json").read_text())
    parquet = folder / "readings.parquet"
    if hashlib.sha256(parquet.read_bytes()).hexdigest() != facts["sha256"]:
        raise IntegrityViolation(f"{parquet} is not what its manifest sealed: it was changed or damaged")
    manifest = msgspec.convert(facts["fleet"], FleetManifest)
    gateways = tuple(Gateway(*row) for row in facts["gateways"])
    number = {gateway.device_id: n for n, gateway in enumerate(gateways)}
    devices = manifest.hospitals[0].devices
    carriers = [number.get(carrier or own, 0) for own, carrier in zip(devices.device_ids, devices.gateway_ids, strict=True)]
    return Recording(folder.name, manifest, gateways, np.array(carriers), pl.read_parquet(parquet))


def recorded_rows(readings: ReadingBatch, device_of_handle: dict[int, int], origin_us: int) -> pl.DataFrame:
    """Readings as rows of a recording; those of devices that are not in `device_of_handle` are left out."""
    table = pl.DataFrame({name: getattr(readings, name) for name in SCHEMA.names})
    known = pl.Series(list(device_of_handle), dtype=pl.UInt32)
    return table.filter(pl.col("handle").is_in(known.implode())).select(
        device=pl.col("handle").replace_strict(known, pl.Series(list(device_of_handle.values())), return_dtype=pl.Int64),
        offset_us=pl.col("time_us") - origin_us, metric="metric", instance="instance", value="value",
    )  # fmt: skip


def _manifest(
    hospital_id: str, name: str, devices: DeviceColumns, refs: list[str], ages_years: list[float | None], worn: list[list[str]]
) -> FleetManifest:
    count = len(refs)
    patients = PatientColumns(
        refs, [None] * count, ages_years, [False] * count, [1] * count, ["icu-01"] * count,
        [bed for bed in devices.bed_ids if bed is not None], [_FROM_THE_BEGINNING_US] * count, worn,
    )  # fmt: skip
    return FleetManifest([HospitalManifest(hospital_id, name, Tier.TERTIARY, count, devices, patients)])


def _metric_ids(column: str, names: dict[str, str]) -> pl.Expr:
    ids = [metric_of(code).id for code in names.values()]
    return pl.col(column).replace_strict(list(names), ids, return_dtype=pl.UInt16)


def _cloned(rows: pl.DataFrame, devices: int, times: int) -> pl.DataFrame:
    clones = [rows.with_columns(pl.col("device") + devices * clone) for clone in range(times)]
    return pl.concat(clones).sort("offset_us", "device", maintain_order=True)
