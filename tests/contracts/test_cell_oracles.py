"""Real ICU stays: what the cell says equals what Polars computes from the same table, to the last score and alarm."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl
import pytest

from actors.shard import ShardCell
from domain.alarms import AlarmEvent, Phase
from domain.metrics import metric_of
from domain.readings import ReadingBatch
from tests import oracle_limits, oracle_news2
from tests.cell_streams import Heard, play, recut
from tests.physionet2012 import FIRST_PATIENT, as_stream, handles_of, read_ages, read_rows

Episode = tuple[str, str, str, int, int | None]


class Replayed:
    """The slice through a cell, and its usable rows for the oracles."""

    def __init__(self) -> None:
        self.rows = read_rows()
        self.stream = as_stream(self.rows, read_ages())
        self.cell = ShardCell(0)
        self.heard: Heard = play(self.cell, self.stream)
        usable = self.rows.filter("is_recorded")
        handle = pl.col("stay").replace_strict(handles_of(self.rows))
        self.of_patients = usable.with_columns((handle + FIRST_PATIENT).alias("patient"))
        channel = pl.format("stay-{}#{}", "stay", "metric")
        self.of_channels = usable.with_columns(channel.alias("channel"))


@pytest.fixture(scope="module")
def replayed() -> Replayed:
    return Replayed()


@pytest.mark.clause("6.3f")
def test_each_news2_total_is_the_oracles(replayed: Replayed) -> None:
    expected = oracle_news2.score(replayed.of_patients).drop_nulls("total")
    found = ReadingBatch.concat(replayed.heard.derived)
    scores = found.metric == metric_of("news2").id
    mine = set(zip(found.handle[scores].tolist(), found.time_us[scores].tolist(), found.value[scores].tolist(), strict=True))
    assert mine == {(patient, time_us, float(total)) for patient, time_us, total, *_ in expected.rows()}
    assert len(mine) > 100


@pytest.mark.clause("6.3f")
def test_complete_and_partial_instants_are_counted_as_the_oracle_counts(replayed: Replayed) -> None:
    expected = oracle_news2.score(replayed.of_patients)
    counts = replayed.cell.score_counts
    assert counts.complete == expected["total"].count()
    assert counts.partial == expected["total"].null_count()
    assert counts.not_computable == 0  # all of them are adults
    assert counts.partial > counts.complete > 0


@pytest.mark.clause("6.3f")
def test_a_patient_is_alarmed_first_when_the_oracle_first_sees_a_band(replayed: Replayed) -> None:
    bands = oracle_news2.score(replayed.of_patients).filter((pl.col("total") >= 5) | pl.col("has_three"))
    first = bands.group_by("patient").agg(pl.col("time_us").min()).rows()
    starts: dict[int, int] = {}
    for event in replayed.heard.alarms:
        if event.rule.startswith("news2") and event.phase is Phase.START:
            starts.setdefault(event.subject.handle, event.onset_us)
    assert starts == dict(first)


@pytest.mark.clause("6.3f")
def test_each_limit_alarm_has_the_oracles_onset_and_end(replayed: Replayed) -> None:
    expected = set(oracle_limits.alarms(replayed.of_channels).rows())
    names = {metric_of(code).id: code for code in ("heart_rate", "lactate")}
    mine = episodes(replayed.heard.alarms)
    assert mine == {(channel, metric, rule, onset, end) for channel, metric, rule, onset, end in expected}
    assert len(mine) > 500
    assert set(names) <= {metric for _, metric, *_ in mine}


def test_no_clinical_alarm_comes_from_what_was_not_recorded(replayed: Replayed) -> None:
    assert (~replayed.rows["is_recorded"]).any()
    assert all(event.value != -1 for event in replayed.heard.alarms)


def test_everything_is_stored_once_and_history_never_pages(replayed: Replayed) -> None:
    stored = ReadingBatch.concat(replayed.heard.stored)
    assert len(stored) == len(replayed.rows)
    assert replayed.heard.duplicates == 0
    clinical = [event for event in replayed.heard.alarms if event.rule.startswith(("limit", "news2", "change"))]
    assert not any(event.live for event in clinical)


def test_another_cut_of_the_replay_says_the_same(replayed: Replayed) -> None:
    again = play(ShardCell(0), recut(replayed.stream, range(0, 20_000, 997)))
    assert again.alarms == replayed.heard.alarms


def episodes(events: Iterable[AlarmEvent]) -> set[tuple[str | None, int, str, int, int | None]]:
    """(channel, metric, rule, onset, end) of limit and change alarms."""
    found: dict[str, tuple[str, int, str, int, int | None]] = {}
    for event in events:
        if event.rule.startswith(("limit", "change")):
            metric = metric_of(str(event.subject.metric)).id
            end_us = event.event_us if event.phase is Phase.END else None
            channel = f"{event.subject.device_id}#{metric}"
            found[event.alarm_id] = (channel, metric, event.rule, event.onset_us, end_us)
    return set(found.values())
