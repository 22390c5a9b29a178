"""Batches of readings: columns of one length and of the declared types, whatever they were made from."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from domain.errors import InvalidInput
from domain.readings import DTYPES, SCHEMA, ReadingBatch


@pytest.fixture
def three():
    return ReadingBatch.of(handle=[1, 2, 3], metric=4, time_us=[10, 20, 30], value=[97.0, 98.0, np.nan])


def test_scalars_are_stretched_and_the_rest_has_defaults(three):
    assert len(three) == 3
    assert three.metric.tolist() == [4, 4, 4]
    assert three.source.tolist() == [1, 2, 3]
    assert three.sequence.tolist() == [0, 0, 0]
    assert np.isnan(three.raw_value).all()


def test_columns_have_the_types_of_the_schema(three):
    assert {name: getattr(three, name).dtype for name in DTYPES} == DTYPES
    assert [field.name for field in dataclasses.fields(ReadingBatch)] == SCHEMA.names


def test_one_row_of_scalars_is_a_batch_of_one():
    assert len(ReadingBatch.of(handle=1, metric=1, time_us=1, value=1.0)) == 1


def test_empty_columns_make_an_empty_batch():
    assert len(ReadingBatch.of(handle=[], metric=[], time_us=[], value=[])) == 0
    assert len(ReadingBatch.of(handle=[], metric=1, time_us=1, value=1)) == 0
    assert len(ReadingBatch.empty()) == len(ReadingBatch.concat([])) == 0


@pytest.mark.parametrize("columns", [
    {"handle": [1], "metric": [1], "time_us": [1]},
    {"handle": [1], "metric": [1], "time_us": [1], "value": [1.0], "colour": [3]},
    {"handle": [1, 2], "metric": [1, 2, 3], "time_us": 1, "value": 1.0},
])  # fmt: skip
def test_missing_unknown_and_uneven_columns_are_refused(columns):
    with pytest.raises(InvalidInput):
        ReadingBatch.of(**columns)


def test_arrow_and_back_is_the_same(three):
    back = ReadingBatch.from_arrow(three.to_arrow())
    for name in DTYPES:
        np.testing.assert_array_equal(getattr(back, name), getattr(three, name))
    assert three.to_arrow().schema == SCHEMA


def test_columns_of_a_later_schema_are_ignored(three):
    later = pa.table({**three.to_arrow().to_pydict(), "later": [1, 2, 3]})
    assert len(ReadingBatch.from_arrow(later)) == 3


@pytest.mark.parametrize("rows", [np.array([2, 0]), np.array([True, False, True]), slice(0, 2)])
def test_rows_are_taken_by_index_mask_or_slice(three, rows):
    assert three.take(rows).handle.tolist() == three.handle[rows].tolist()
    assert three.take(rows).value.shape == three.value[rows].shape


def test_batches_are_joined_in_order(three):
    joined = ReadingBatch.concat([three, three.take(slice(0, 1))])
    assert joined.handle.tolist() == [1, 2, 3, 1]


def test_replacing_a_column_leaves_the_batch_as_it_was(three):
    changed = three.with_columns(quality=[1, 2, 3])
    assert changed.quality.tolist() == [1, 2, 3]
    assert changed.quality.dtype == np.uint16
    assert three.quality.tolist() == [0, 0, 0]
