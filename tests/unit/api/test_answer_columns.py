"""What the lake keeps as codes is shown as words, for no rows as for many."""

from __future__ import annotations

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from sqlalchemy import Engine

from api.answers.columns import with_metric_names, with_quality_words, with_unit_words
from api.directory import Directory
from runtime.lake_schema import POLARS_ROWS
from tests.sql_fixtures import HOSPITAL, SmallHospital

HEART_RATE = 1
OF_A_LATER_VERSION = 60_000


def in_words(frame: pl.DataFrame) -> pl.DataFrame:
    return with_unit_words(with_quality_words(with_metric_names(frame)), "raw_unit")


def test_codes_become_words_in_their_rows_and_what_is_not_known_stays_a_number() -> None:
    frame = pl.DataFrame(
        {"metric": [HEART_RATE, OF_A_LATER_VERSION, HEART_RATE], "quality": [0, 1, 0], "raw_unit": [None, 0, 1]},
        schema={name: POLARS_ROWS[name] for name in ("metric", "quality", "raw_unit")},
    )
    shown = in_words(frame)
    assert shown["metric"].to_list() == ["heart_rate", "60000", "heart_rate"]
    assert shown["unit"].to_list() == ["/min", None, "/min"]
    assert shown["validity"].to_list() == ["valid", "questionable", "valid"]
    assert shown["raw_unit"].to_list() == [None, None, "/min"]
    assert shown["quality"].to_list() == [0, 1, 0]


def test_a_table_without_rows_has_the_same_columns() -> None:
    full = pl.DataFrame({"metric": [HEART_RATE], "quality": [0], "raw_unit": [1]}, schema_overrides=POLARS_ROWS)
    assert_frame_equal(in_words(full.clear()), in_words(full).clear())


@pytest.mark.parametrize("rows", [0, 1, 3])
async def test_handles_get_their_names_and_unknown_ones_none(engine: Engine, hospital: SmallHospital, rows: int) -> None:
    directory = Directory(engine)
    monitor = hospital.monitor["handle"]
    handles = [monitor, 999, 0][:rows]
    frame = pl.DataFrame({"handle": handles, "hospital": ["?"] * rows}, schema={"handle": pl.UInt32, "hospital": pl.String})
    await directory.refreshed_for(frame)
    named = directory.named(frame)
    assert named.columns == ["handle", "hospital", "device_id", "patient_key"]
    assert named.rows() == [(monitor, HOSPITAL, "mon-7", None), (999, None, None, None), (0, None, None, None)][:rows]
