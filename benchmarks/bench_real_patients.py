"""Real ICU stays through the whole platform: MQTT door, stream, hosts, lake, live alarms; compared with the oracles.

    python benchmarks/bench_real_patients.py PATH/set-a-vitals.csv.gz     # all 3,996 stays
    python benchmarks/bench_real_patients.py                              # the slice of tests/data

Starts a platform of its own, plays the stays as bedside gateways, time-compressed, and checks: every reading comes back
value by value; NEWS2 totals (from the lake) and limit alarms (from the live stream) are those that independent Polars
expressions find over the same rows. `bench_physionet2012.py` does the same with a cell alone. `--quick`: four stays.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

import polars as pl

from analytics.news2 import MIN_AGE_YEARS
from cluster.run_target import local_target
from runtime.clock import SystemClock
from runtime.lake import Lake
from runtime.lake_upkeep import compact, stats
from runtime.settings import Settings
from scenarios.recorded import find_recording
from scenarios.replay import Replay, ReplayResult, ReplayWish
from sim.recordings import Recording
from tests import oracle_limits, oracle_news2
from tests.contracts.test_cell_oracles import episodes
from tests.running_platform import start_platform

SLICE = "tests/data/physionet2012"
NOT_RECORDED = -1.0
SPEED = 2_880.0  # two days in a minute
QUICK = "--quick" in sys.argv


def main() -> int:
    paths = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    path = str(Path(paths[0]).resolve()) if paths else SLICE
    wish = ReplayWish(path, speed=SPEED * (20 if QUICK else 1), limit=4 if QUICK else None)
    with tempfile.TemporaryDirectory() as folder:
        platform = start_platform(Path(folder) / "var")
        try:
            target = local_target(Settings(data_dir=platform.data_dir), platform.token)
            replay = Replay(wish, target, Path(folder) / "replay", clock=SystemClock())
            began = time.perf_counter()
            result = asyncio.run(replay.play())
            tell(result, time.perf_counter() - began)
            recording = find_recording(wish.path, 1, wish.limit, target.region_id)
            verdict = compare(replay, recording, result, target.lake_dir)
        finally:
            platform.stop()
        tell_size(target.lake_dir)
        return verdict


def tell(result: ReplayResult, took_s: float) -> None:
    print(
        f"{result.sent:,} readings of {result.recorded_s / 3600:.0f} h in {result.replay_s:.1f} s, with checks {took_s:.1f} s"
    )
    print(f"reading -> durable p99 {result.durable_p99_ms:,.0f} ms; generator late {100 * result.late_share:.1f} % of sends")
    print(f"ledger: {result.ledger}")
    print(f"values: {result.values}")
    print(f"NEWS2: {result.scores}")


def tell_size(lake_dir: Path) -> None:
    """What a reading takes on disk once files are merged, as upkeep merges them when the day is over."""
    lake = Lake(lake_dir)
    compact(lake, SystemClock().now_us(), min_files=2)
    held = stats(lake)
    rollups = sum(file.stat().st_size for file in lake_dir.glob("_rollups/*/*"))
    print(
        f"on disk: {held.size_bytes / held.rows:.2f} bytes/reading, {(held.size_bytes + rollups) / held.rows:.2f} with rollups"
    )


def compare(replay: Replay, recording: Recording, result: ReplayResult, lake_dir: Path) -> int:
    """0 when everything is as the oracles say."""
    assert replay.registered is not None
    hospital, answer = recording.manifest.hospitals[0], replay.registered.hospitals[0]
    ages = dict(zip((ids[0] for ids in hospital.patients.device_ids), hospital.patients.ages_years, strict=True))
    patient_of = dict(zip((ids[0] for ids in hospital.patients.device_ids), answer.patient_handles, strict=True))
    names = hospital.devices.device_ids
    first_event_us = replay.start_us - round(recording.span_s * 1e6) - 1  # as the recording dates its rows
    rows = (
        recording.rows.filter(pl.col("value") != NOT_RECORDED)
        .with_columns(
            device_id=pl.col("device").replace_strict(range(len(names)), names),
            time_us=pl.col("offset_us") + first_event_us,
            metric=pl.col("metric").cast(pl.Int64),
        )
        .with_columns(age=pl.col("device_id").replace_strict(ages, return_dtype=pl.Float64))
        .filter(pl.col("age").is_null() | (pl.col("age") >= MIN_AGE_YEARS))  # the oracles know adults
    )
    patients = rows.with_columns(patient=pl.col("device_id").replace_strict(patient_of, return_dtype=pl.Int64))
    totals = {(p, t, float(total)) for p, t, total, *_ in oracle_news2.score(patients).drop_nulls("total").rows()}
    mine = set(replay.scores(lake_dir, replay.registered).select("handle", "time_us", "value").rows())
    channels = rows.with_columns(channel=pl.format("{}#{}", "device_id", "metric"))
    expected = set(oracle_limits.alarms(channels).rows())
    adults = set(rows["device_id"].unique().to_list())
    heard = {e for e in episodes(alarm.event for alarm in replay.watch.seen) if str(e[0]).partition("#")[0] in adults}
    print(f"NEWS2 totals: {len(mine):,}, {len(mine ^ totals)} differ from the oracle's")
    print(f"limit alarms: {len(heard):,}, {len(heard ^ expected)} differ from the oracle's")
    live = sum(alarm.event.live and not alarm.event.rule.startswith("technical") for alarm in replay.watch.seen)
    print(f"clinical alarms of this history told as live: {live}")
    return 0 if result.is_right and mine == totals and heard == expected and live == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
