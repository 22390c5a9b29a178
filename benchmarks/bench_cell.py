"""Readings a second that one core takes through a shard's cell: placement, duplicates, limits, NEWS2, anomalies.

    python benchmarks/bench_cell.py [--quick]

A shard of 20,000 monitors (368,000 channels; every tenth monitor on a patient) gets batches of 20,000 readings: each
monitor's heart rate, saturation, … in turn, one in five hundred beyond a limit. Batches are made before the clock
starts; time is that of the processor, so that neighbours on the machine do not count.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from actors.shard import ShardCell
from benchmarks.measure import Bench
from domain.messages import AssociationSpan, DeviceAssociated, DevicesRegistered, PatientAdmitted
from domain.metrics import metric_of
from domain.readings import ReadingBatch

HOSPITAL = "sz.h001"
T0_US = 1_790_000_000_000_000
BATCH_ROWS = 20_000
NORMAL = {"heart_rate": 75.0, "resp_rate": 16.0, "spo2": 97.0, "abp_sys": 120.0, "abp_dia": 75.0, "etco2": 36.0}
ABNORMAL_SHARE = 0.002


def a_shard(monitors: int) -> ShardCell:
    """A cell with monitors on handles 1…, and patients on every tenth."""
    cell = ShardCell(0)
    handles = list(range(1, monitors + 1))
    names = [f"mon-{handle}" for handle in handles]
    blank: list[str | None] = [None] * monitors
    cell.apply_control(DevicesRegistered(HOSPITAL, handles, names, ["monitor@1"] * monitors, blank, blank), T0_US)
    for number, device in enumerate(handles[::10]):
        patient = monitors + 1 + number
        cell.apply_control(PatientAdmitted(HOSPITAL, f"p{patient}", patient, age_years=60), T0_US)
        cell.apply_control(DeviceAssociated(HOSPITAL, device, [AssociationSpan(patient, 0)]), T0_US)
    return cell


def batches(monitors: int, count: int) -> list[tuple[ReadingBatch, NDArray[np.int64]]]:
    """Batches in which all metrics of a stretch of monitors come at their second, sequence after sequence."""
    rng = np.random.default_rng(7)
    metrics = np.array([metric_of(code).id for code in NORMAL], dtype=np.uint16)
    values = np.array(list(NORMAL.values()))
    made = []
    for number in range(count):
        row = np.arange(number * BATCH_ROWS, (number + 1) * BATCH_ROWS)
        metric = row % len(metrics)
        device = (row // len(metrics)) % monitors
        time_us = T0_US + (row // (len(metrics) * monitors)) * 1_000_000 + device  # each at its own moment of the second
        value = values[metric] + rng.normal(0, 1, BATCH_ROWS)
        value = np.where(rng.random(BATCH_ROWS) < ABNORMAL_SHARE, value * 1.9, value)
        batch = ReadingBatch.of(
            handle=device + 1, metric=metrics[metric], time_us=time_us, value=np.round(value, 1), source=1, sequence=row + 1
        )
        made.append((batch, np.full(BATCH_ROWS, int(time_us.max()) + 50_000)))
    return made


def main() -> None:
    bench = Bench("cell")
    monitors, count = (2_000, 20) if bench.quick else (20_000, 60)
    cell, made = a_shard(monitors), batches(monitors, count)
    warm_up = count // 4
    for batch, arrival_us in made[:warm_up]:
        cell.step(batch, arrival_us)
    alarms, started = 0, time.process_time()
    for batch, arrival_us in made[warm_up:]:
        alarms += len(cell.step(batch, arrival_us).alarms)
    took_s = time.process_time() - started
    rows = (count - warm_up) * BATCH_ROWS
    tick_started = time.process_time()
    cell.tick(cell.now_us + 1_000_000)
    tick_s = time.process_time() - tick_started
    snapshot_started = time.process_time()
    cell.snapshot()
    snapshot_s = time.process_time() - snapshot_started
    bench.note(f"{cell.channel_count:,} channels, batches of {BATCH_ROWS:,}", rows / took_s, "readings/s of one core")
    bench.note("alarm events among them", alarms, "")
    bench.note("tick", tick_s * 1e3, "ms")
    bench.note("snapshot", snapshot_s * 1e3, "ms")
    bench.finish()


if __name__ == "__main__":
    main()
