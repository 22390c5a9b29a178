"""All stays of PhysioNet 2012 set A through a cell, compared with the Polars oracles, and how long both took.

    python benchmarks/bench_physionet2012.py PATH/set-a-vitals.csv.gz

Rows are RecordID, minute, parameter, value (see tests/data/physionet2012/SOURCES.txt). Without a path: the test slice.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import polars as pl

from actors.shard import ShardCell
from domain.metrics import metric_of
from domain.readings import ReadingBatch
from tests import oracle_limits, oracle_news2
from tests.cell_streams import play
from tests.contracts.test_cell_oracles import episodes
from tests.physionet2012 import FIRST_PATIENT, SLICE, as_stream, handles_of, read_ages, read_rows


def main() -> int:
    paths = [Path(argument) for argument in sys.argv[1:] if not argument.startswith("--")]  # --quick: the slice, too
    path = paths[0] if paths else SLICE
    rows = read_rows(path)
    stream = as_stream(rows, read_ages(path), frame_rows=20_000)
    cell, started = ShardCell(0), time.perf_counter()
    heard = play(cell, stream)
    took_s = time.perf_counter() - started
    print(f"{rows['stay'].n_unique():,} stays, {len(rows):,} readings in {took_s:.1f} s: {len(rows) / took_s:,.0f} readings/s")
    counts = cell.score_counts
    print(f"NEWS2 instants: {counts.complete:,} complete, {counts.partial:,} partial, {counts.not_computable:,} not computable")
    print(f"{len(heard.alarms):,} alarm events; {heard.duplicates} doubles dropped")
    ages = pl.DataFrame(list(read_ages(path).items()), schema=["stay", "age"], orient="row")
    usable = (
        rows.filter("is_recorded").join(ages, on="stay", maintain_order="left").filter(pl.col("age") >= 16)
    )  # as the oracles
    adults = set(usable["stay"].unique().to_list())
    patients = usable.with_columns((pl.col("stay").replace_strict(handles_of(rows)) + FIRST_PATIENT).alias("patient"))
    totals = {(p, t, float(total)) for p, t, total, *_ in oracle_news2.score(patients).drop_nulls("total").rows()}
    found = ReadingBatch.concat(heard.derived)
    scores = found.take(found.metric == metric_of("news2").id)
    mine = set(zip(scores.handle.tolist(), scores.time_us.tolist(), scores.value.tolist(), strict=True))
    channels = usable.with_columns(pl.format("stay-{}#{}", "stay", "metric").alias("channel"))
    expected = set(oracle_limits.alarms(channels).rows())
    alarms = {episode for episode in episodes(heard.alarms) if int(str(episode[0]).split("-")[1].split("#")[0]) in adults}
    print(f"NEWS2 totals: {len(mine):,}, {len(mine ^ totals)} differ from the oracle's")
    print(f"limit alarms: {len(alarms):,}, {len(alarms ^ expected)} differ from the oracle's")
    return 0 if mine == totals and alarms == expected else 1


if __name__ == "__main__":
    sys.exit(main())
