"""The order in which rows are stored, whatever order they came in."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from domain.readings import ReadingBatch
from runtime.lake import lake_rows
from runtime.lake_stored import to_stored
from tests.lake_samples import DAY_US, START_US


@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.sampled_from([1, 3, 9]), st.integers(0, 5), st.integers(0, 2)), min_size=1, max_size=60
    ),
    st.sampled_from([1, 2**29]),
)
def test_rows_are_stored_by_day_hospital_handle_metric_and_time_and_equal_ones_as_they_came(rows: list, factor: int) -> None:
    handle, metric, second, day = (np.array(column) for column in zip(*rows, strict=True))
    batch = ReadingBatch.of(
        handle=handle * factor, metric=metric, time_us=START_US + second * 1_000_000 + day * DAY_US, value=1.0,
        sequence=np.arange(len(rows)) + 1,
    )  # fmt: skip
    hospitals = pa.DictionaryArray.from_arrays(pa.array(handle % 2, pa.int32()), ["sz.h9", "sz.h1"])
    stored = to_stored(lake_rows(batch, batch.time_us, hospitals)).with_columns(pl.col("hospital").cast(pl.String))
    keys = ["day", "hospital", "handle", "metric", "time_us", "sequence"]
    assert stored.select(keys).equals(stored.select(keys).sort(keys))
    told = dict(zip((handle * factor).tolist(), np.where(handle % 2, "sz.h1", "sz.h9").tolist(), strict=True))
    assert stored["hospital"].to_list() == [told[key] for key in stored["handle"].to_list()]
    assert stored["sequence"].sort().to_list() == list(range(1, len(rows) + 1))
