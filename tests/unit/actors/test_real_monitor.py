"""Six real hours of a bedside monitor: an arterial line that reads 0 while the heart lives is not in use, no arrest."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from domain.ids import Address
from domain.messages import LatestQuery
from domain.metrics import metric_of
from domain.quality import is_usable
from domain.readings import ReadingBatch
from tests.cell_streams import HOSPITAL, Desk, admitted, associated, at, registered

SLICE = Path(__file__).parents[2] / "data" / "vitals" / "mimic_s00001_slice.csv"
METRIC_OF = {
    "HR_bpm": "heart_rate", "ABPSys_mmHg": "abp_sys", "ABPDias_mmHg": "abp_dia", "ABPMean_mmHg": "abp_mean",
    "PULSE_bpm": "pulse_rate", "RESP_pm": "resp_rate", "SpO2_%": "spo2", "NBPSys_mmHg": "nibp_sys",
    "NBPDias_mmHg": "nibp_dia", "NBPMean_mmHg": "nibp_mean",
}  # fmt: skip
ARTERIAL = {metric_of(code).id for code in ("abp_sys", "abp_dia", "abp_mean")}


def numerics() -> pl.DataFrame:
    wide = pl.read_csv(SLICE).rename(METRIC_OF)
    return wide.unpivot(index="t_s", variable_name="metric").drop_nulls().sort("t_s", maintain_order=True)


@pytest.fixture(scope="module")
def replayed() -> Desk:
    """Minute by minute as it happened: the recorder's zeros reach the cell as a gateway sends them."""
    desk = Desk()
    desk.tell(registered({1: "monitor-mimic2@1"}), admitted(100), associated(1, (100, -3600, None)))
    rows = numerics()
    ids = {code: metric_of(code).id for code in METRIC_OF.values()}
    for (t_s,), minute in rows.group_by("t_s", maintain_order=True):
        batch = ReadingBatch.of(
            handle=1, metric=minute["metric"].replace_strict(ids).to_numpy(), time_us=at(float(str(t_s))),
            value=minute["value"].to_numpy(),
        )  # fmt: skip
        desk.read(batch)
        for second in range(5, 60, 5):
            desk.tick(float(str(t_s)) + second)
    return desk


@pytest.mark.clause("6.3f")
def test_the_arterial_line_is_not_in_use_and_alarms_nothing(replayed: Desk) -> None:
    about_it = [event for event in replayed.heard.alarms if (event.subject.metric or "").startswith("abp")]
    assert about_it == []
    table = replayed.cell.answer(LatestQuery(metrics=sorted(ARTERIAL)))
    assert table["state"].to_pylist() == ["not-in-use"] * 3
    described = replayed.cell.describe(Address.parse(f"device:{HOSPITAL}/dev-1"))
    states = {channel["metric"]: channel["state"] for channel in described["channels"]}
    assert states["abp_mean"] == "not-in-use"
    assert states["heart_rate"] == "live"


def test_no_clinical_alarm_comes_from_a_zero(replayed: Desk) -> None:
    clinical = [event for event in replayed.heard.alarms if event.rule.startswith(("limit", "change", "news2"))]
    assert all(event.value != 0 for event in clinical if event.rule.startswith("limit"))
    assert all(known.value != 0 for event in clinical for known in event.inputs)


def test_signals_that_were_there_and_went_are_one_technical_alarm_that_ends_when_they_are_back(replayed: Desk) -> None:
    starts = [event for event in replayed.heard.of_rule("technical.signal-lost") if event.phase == "start"]
    named = {known.metric for event in replayed.heard.of_rule("technical.signal-lost") for known in event.inputs}
    assert len(starts) >= 1
    assert named == {"pulse_rate", "spo2"}


def test_every_reading_is_kept_the_zeros_as_raw_values(replayed: Desk) -> None:
    stored = ReadingBatch.concat(replayed.heard.stored)
    assert len(stored) == len(numerics())
    arterial = stored.take(pl.Series(stored.metric).is_in(list(ARTERIAL)).to_numpy())
    assert (arterial.raw_value == 0).all()
    assert not is_usable(arterial.quality).any()
