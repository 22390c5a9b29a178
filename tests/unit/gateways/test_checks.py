"""The checks of frames, as columns; and that they judge as the JSON doors do."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import RejectedInput
from domain.frames import encode_frame
from domain.metrics import metric_of
from domain.quality import Mark, Mode, Origin, Validity, has_mark, pack, validity_of
from domain.readings import ReadingBatch
from domain.units import find_unit
from gateways.checks import check_readings
from gateways.formats import BY_NAME
from gateways.model_rules import rules_of
from tests.doors import GATEWAY, MONITOR, NOW_US, assert_same_rows

HR, TEMP, NEWS2 = (metric_of(code).id for code in ("heart_rate", "body_temp", "news2"))
DAY_US = 86_400_000_000


def rows(**columns):
    return ReadingBatch.of(**{"handle": 7, "metric": HR, "time_us": NOW_US, "value": 72.0, "source": 100, **columns})


def checked(batch, sender=GATEWAY):
    return check_readings(batch, sender, NOW_US)


def test_good_readings_pass_unchanged():
    batch = rows(handle=[7, 8], metric=[HR, TEMP], value=[72.0, 37.0], sequence=[1, 2])
    assert_same_rows(checked(batch), batch)


def test_a_missing_source_is_the_sender():
    assert checked(rows(source=0)).source[0] == 100


@pytest.mark.parametrize(
    ("reason", "columns"),
    [
        ("unknown-metric", {"metric": 9999}),
        ("unknown-metric", {"metric": 0}),
        ("unknown-metric", {"metric": NEWS2}),
        ("malformed-value", {"value": np.inf}),
        ("malformed-value", {"value": np.nan, "raw_value": -np.inf}),
        ("malformed-value", {"quality": 9}),
        ("malformed-value", {"quality": pack(origin=Origin.DERIVED)}),
        ("malformed-value", {"quality": 3 << 4}),
        ("malformed-value", {"raw_value": 1e308, "raw_unit": find_unit("Hz", "/min").code}),
        ("implausible-time", {"time_us": 0}),
        ("implausible-time", {"time_us": -(2**63)}),
        ("implausible-time", {"time_us": NOW_US + DAY_US + 1}),
        ("implausible-time", {"time_us": 2**63 - 1}),
        ("wrong-unit", {"raw_value": 1.0, "raw_unit": find_unit("kPa", "kPa").code}),
        ("wrong-unit", {"raw_value": 1.0, "raw_unit": 60_000}),
        ("wrong-source", {"source": 8}),
    ],
)
@pytest.mark.clause("8.1")
def test_one_bad_row_refuses_the_frame(reason, columns):
    good = rows()
    with pytest.raises(RejectedInput, match="reading 1") as refused:
        checked(ReadingBatch.concat([good, rows(**columns)]))
    assert refused.value.reason == reason


def test_a_devices_own_frame_is_checked_by_its_model():
    with pytest.raises(RejectedInput, match="monitor@1") as refused:
        checked(rows(source=7, metric=metric_of("fridge_temp").id), MONITOR)
    assert refused.value.reason == "unknown-metric"
    with pytest.raises(RejectedInput) as refused:
        checked(rows(source=7, instance=1), MONITOR)
    assert refused.value.reason == "unknown-instance"


def test_nan_is_not_available_and_an_invalid_nan_stays_invalid():
    batch = checked(rows(value=[np.nan, np.nan], quality=[0, Validity.INVALID]))
    assert validity_of(batch.quality).tolist() == [Validity.NOT_AVAILABLE, Validity.INVALID]


def test_value_of_another_unit_is_computed_from_the_raw_value():
    batch = checked(rows(metric=TEMP, value=0.0, raw_value=98.6, raw_unit=find_unit("[degF]", "Cel").code))
    assert batch.value[0] == pytest.approx(37.0)
    assert has_mark(batch.quality, Mark.CONVERTED)[0]


def test_only_the_senders_own_marks_are_taken():
    everything = sum(int(mark) for mark in Mark)
    assert checked(rows(quality=everything)).quality[0] == Mark.BACKFILL | Mark.CLOCK_SKEWED


VALUES = st.one_of(
    st.none(),
    st.sampled_from([-1.0, -999.0, -99.9, 0.0, 300.0, 300.5, 8388607.0]),
    st.floats(-1e6, 1e6, allow_nan=False),
)
UNITS = {"heart_rate": [None, "/min", "Hz"], "body_temp": [None, "Cel", "[degF]", "K"], "etco2": [None, "kPa", "mm[Hg]"]}
READING = st.sampled_from(sorted(UNITS)).flatmap(
    lambda metric: st.tuples(st.just(metric), VALUES, st.sampled_from(UNITS[metric]), st.sampled_from(list(Validity)))
)


@pytest.mark.clause("5.4d")
@given(st.lists(READING, min_size=1, max_size=8), st.sampled_from(list(Mode)))
def test_a_reading_is_the_same_record_by_json_and_by_frame(readings, mode):
    said = [
        {"metric": m, "value": v, "validity": q.name.lower().replace("_", "-"), "mode": mode.name.lower()}
        | ({"unit": u} if u else {})
        for m, v, u, q in readings
    ]
    by_json = BY_NAME["readings"].decode(json.dumps(said).encode(), MONITOR, NOW_US)
    units = [find_unit(u, metric_of(m).unit) if u and u != metric_of(m).unit else None for m, _, u, _ in readings]
    values = [np.nan if v is None else v for _, v, _, _ in readings]
    sent = ReadingBatch.of(
        handle=7, metric=[metric_of(m).id for m, *_ in readings], time_us=NOW_US,
        value=[np.nan if unit else value for unit, value in zip(units, values, strict=True)],
        raw_value=[value if unit else np.nan for unit, value in zip(units, values, strict=True)],
        raw_unit=[unit.code if unit else 0 for unit in units], quality=[pack(q, mode) for *_, q in readings],
    )  # fmt: skip
    frame = encode_frame(sent, source=7, sequence=1, arrival_us=0)
    by_frame = BY_NAME["frame"].decode(frame, MONITOR, NOW_US)
    assert_same_rows(by_json, by_frame)


def test_a_damaged_frame_is_told_from_a_malformed_one():
    frame = bytearray(encode_frame(rows(), source=100, sequence=1, arrival_us=0))
    frame[-3] ^= 1
    for data, reason in ((bytes(frame), "damaged-frame"), (b"VGFR", "malformed-frame")):
        with pytest.raises(RejectedInput) as refused:
            BY_NAME["frame"].decode(data, GATEWAY, NOW_US)
        assert refused.value.reason == reason


def test_a_tick_is_no_message_of_a_device():
    with pytest.raises(RejectedInput, match="no reading"):
        BY_NAME["frame"].decode(encode_frame(ReadingBatch.empty(), source=100, sequence=1, arrival_us=0), GATEWAY, NOW_US)


def test_rules_are_those_of_the_model_at_hand():
    assert rules_of(MONITOR.model) is rules_of(MONITOR.model)
