"""Whose reading was it: by device and time, and never guessed."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics.point_in_time import ASSOCIATIONS, join_patients
from domain.errors import InvalidInput

Span = tuple[int, str, int, int | None, int]


def associations(*spans: Span) -> pl.DataFrame:
    return pl.DataFrame(list(spans), schema=ASSOCIATIONS, orient="row")


def readings(*rows: tuple[int, int]) -> pl.DataFrame:
    frame = pl.DataFrame(list(rows), schema={"handle": pl.UInt32, "time_us": pl.Int64}, orient="row")
    return frame.with_columns(value=pl.int_range(pl.len()).cast(pl.Float64))


def told(frame: pl.DataFrame) -> list[tuple[str | None, bool]]:
    return list(frame.select("patient_key", "ambiguous").iter_rows())


def test_a_reading_belongs_to_the_patient_at_its_time() -> None:
    spans = associations((1, "p-a", 100, 200, 0), (1, "p-b", 200, None, 0), (2, "p-c", 0, 150, 0))
    found = join_patients(readings((1, 200), (1, 99), (1, 100), (2, 199), (1, 199), (3, 100), (2, 0)), spans)
    assert [patient for patient, _ in told(found)] == ["p-b", None, "p-a", None, "p-a", None, "p-c"]
    assert not found["ambiguous"].any()
    assert found["value"].to_list() == [0, 1, 2, 3, 4, 5, 6]


def test_within_the_clocks_uncertainty_of_a_change_nobody_is_named() -> None:
    spans = associations((1, "p-a", 100, 200, 10), (1, "p-b", 200, None, 10))
    found = join_patients(readings((1, 189), (1, 190), (1, 200), (1, 209), (1, 210), (1, 89), (1, 90)), spans)
    assert told(found) == [
        ("p-a", False), (None, True), (None, True), (None, True), ("p-b", False), (None, False), (None, True),
    ]  # fmt: skip


def test_spans_of_one_patient_that_meet_are_no_change() -> None:
    spans = associations((1, "p-a", 100, 200, 10), (1, "p-a", 200, 300, 10))
    assert told(join_patients(readings((1, 200), (1, 300)), spans)) == [("p-a", False), (None, True)]


def test_the_time_looked_up_may_be_a_corrected_one() -> None:
    rows = readings((1, 250)).with_columns(corrected_us=pl.col("time_us") - 100)
    spans = associations((1, "p-a", 100, 200, 0), (1, "p-b", 200, None, 0))
    assert told(join_patients(rows, spans, at="corrected_us")) == [("p-a", False)]
    assert told(join_patients(rows, spans)) == [("p-b", False)]


@pytest.mark.parametrize("second", [(1, "p-b", 150, None, 0), (1, "p-b", 199, 201, 0), (1, "p-a", 100, 120, 0)])
def test_two_patients_at_once_on_one_device_are_refused(second: Span) -> None:
    with pytest.raises(InvalidInput, match="device 1 has two patients at once"):
        join_patients(readings((1, 160)), associations((1, "p-a", 100, 200, 0), second))


def test_a_span_behind_an_open_one_is_refused() -> None:
    with pytest.raises(InvalidInput):
        join_patients(readings((1, 160)), associations((1, "p-a", 100, None, 0), (1, "p-b", 300, None, 0)))


def test_empty_frames_join_to_empty_or_nobody() -> None:
    assert join_patients(readings(), associations((1, "p-a", 0, None, 0))).is_empty()
    assert told(join_patients(readings((1, 5)), associations())) == [(None, False)]


def test_joining_again_replaces_what_was_told_before() -> None:
    first = join_patients(readings((1, 5)), associations())
    assert told(join_patients(first, associations((1, "p-a", 0, None, 0)))) == [("p-a", False)]


def _laid_out(steps: list[tuple[int, int, str]]) -> list[Span]:
    spans: list[Span] = []
    now = 0
    for gap, length, patient in steps:
        spans.append((1, patient, now + gap, now + gap + length, 3))
        now += gap + length
    return spans


spans_of_one_device = st.lists(
    st.tuples(st.integers(0, 20), st.integers(1, 20), st.sampled_from(["p-a", "p-b"])), max_size=6
).map(_laid_out)


@given(spans=spans_of_one_device, times=st.lists(st.integers(-10, 150), max_size=30))
def test_told_is_what_holds_at_every_time_the_reading_can_have_been_taken(spans: list[Span], times: list[int]) -> None:
    def patient_at(time: int) -> str | None:
        return next((patient for _, patient, start, end, _ in spans if start <= time < (end or 0)), None)

    expected = []
    for time in times:
        possible = {patient_at(time + off) for off in range(-3, 4)} if spans else {None}
        expected.append((None, True) if len(possible) > 1 else (possible.pop(), False))
    assert told(join_patients(readings(*((1, time) for time in times)), associations(*spans))) == expected
