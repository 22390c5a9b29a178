"""The stays of PhysioNet 2012 as rows and as a stream: one bedside gateway (model icu-chart) and one patient a stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from domain.messages import AssociationSpan, DeviceAssociated, DevicesRegistered, PatientAdmitted
from domain.metrics import metric_of
from domain.quality import Validity, pack
from domain.readings import ReadingBatch
from tests.cell_streams import HOSPITAL, Frame, Message, Tick, Told, at

SLICE = Path(__file__).parent / "data" / "physionet2012" / "slice.csv.gz"
NOT_RECORDED = -1.0
METRIC_OF = {
    "HR": "heart_rate", "RespRate": "resp_rate", "SaO2": "sao2", "Temp": "body_temp", "NISysABP": "nibp_sys",
    "NIDiasABP": "nibp_dia", "NIMAP": "nibp_mean", "SysABP": "abp_sys", "DiasABP": "abp_dia", "MAP": "abp_mean",
    "GCS": "gcs_total", "FiO2": "fio2", "MechVent": "mechanical_ventilation", "Urine": "urine_output", "Lactate": "lactate",
    "Weight": "body_weight", "Height": "body_height",
}  # fmt: skip
FIRST_PATIENT = 100_000
FIRST_ARRIVAL_S = 10_000_000  # long after the last event time: a replay of history
ROWS_PER_S = 2_000


def read_rows(path: Path = SLICE) -> pl.DataFrame:
    """stay, time_us, metric (id), value, is_recorded, in the order in which a replay sends them."""
    return (
        pl.read_csv(path)
        .with_columns(pl.col("parameter").replace_strict(METRIC_OF, default=None).alias("code"))
        .drop_nulls("code")
        .with_row_index("line")
        .sort("minute", "RecordID", "line")
        .select(
            pl.col("RecordID").alias("stay"),
            (pl.lit(at(0)) + pl.col("minute") * 60_000_000).alias("time_us"),
            pl.col("code").replace_strict({code: metric_of(code).id for code in METRIC_OF.values()}).alias("metric"),
            pl.when(pl.col("code") == "fio2").then(pl.col("value") * 100).otherwise("value").alias("value"),
            (pl.col("value") != NOT_RECORDED).alias("is_recorded"),
        )
    )


def read_ages(path: Path = SLICE) -> dict[int, float]:
    """Age in years by stay."""
    ages = pl.read_csv(path).filter(parameter="Age")
    return dict(zip(ages["RecordID"].to_list(), ages["value"].to_list(), strict=True))


def handles_of(rows: pl.DataFrame) -> dict[int, int]:
    """The gateway's handle of each stay; its patient's is FIRST_PATIENT higher."""
    return {stay: number + 1 for number, stay in enumerate(sorted(rows["stay"].unique().to_list()))}


def as_stream(rows: pl.DataFrame, ages: dict[int, float], frame_rows: int = 3_000) -> list[Message]:
    """Registration, then all rows as a compressed replay in frames, with ticks between them and at the end."""
    handles = handles_of(rows)
    names = [f"stay-{stay}" for stay in handles]
    blank: list[str | None] = [None] * len(names)
    start_us = at(FIRST_ARRIVAL_S)
    devices = DevicesRegistered(HOSPITAL, list(handles.values()), names, ["icu-chart@1"] * len(names), blank, blank)
    messages: list[Message] = [Told(devices, start_us)]
    for stay, handle in handles.items():
        patient = FIRST_PATIENT + handle
        messages.append(Told(PatientAdmitted(HOSPITAL, f"p{stay}", patient, age_years=ages[stay]), start_us))
        messages.append(Told(DeviceAssociated(HOSPITAL, handle, [AssociationSpan(patient, 0)]), start_us))
    batch = _as_batch(rows, handles)
    arrival_us = start_us + np.arange(len(batch), dtype=np.int64) * (1_000_000 // ROWS_PER_S)
    for first in range(0, len(batch), frame_rows):
        part = slice(first, first + frame_rows)
        messages += [Frame(batch.take(part), arrival_us[part]), Tick(int(arrival_us[part][-1]))]
    return [*messages, Tick(int(arrival_us[-1]) + 2_000_000)]


def _as_batch(rows: pl.DataFrame, handles: dict[int, int]) -> ReadingBatch:
    """What the door makes of the rows: a sentinel is no measurement."""
    recorded = rows["is_recorded"].to_numpy()
    return ReadingBatch.of(
        handle=rows["stay"].replace_strict(handles).to_numpy(), metric=rows["metric"].to_numpy(),
        time_us=rows["time_us"].to_numpy(), value=np.where(recorded, rows["value"].to_numpy(), np.nan),
        quality=np.where(recorded, pack(), pack(Validity.NOT_AVAILABLE)), raw_value=rows["value"].to_numpy(),
        sequence=np.arange(1, len(rows) + 1),
    )  # fmt: skip
