"""Event-time episodes: no order of arrival changes them, and of a stream in order they are what the cell notified."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.shard import ShardCell
from analytics.episodes import EPISODES, PATIENTS, PRESETS, limit_episodes
from analytics.point_in_time import ASSOCIATIONS
from domain.alarms import Phase
from domain.messages import LatestQuery, LimitsPreset
from domain.metrics import metric_of
from domain.quality import Mark, Mode, Validity, pack
from domain.readings import ReadingBatch
from runtime import lake_queries
from runtime.lake_queries import CHANNEL
from runtime.lake_schema import lake_rows
from tests.cell_streams import HOSPITAL, Frame, Heard, S, Tick, Told, admitted, associated, at, play, registered

DEVICES = {11: "monitor@1", 12: "monitor@1", 15: "gateway@1"}
VALUES = {
    "heart_rate": (30, 45, 80, 81, 118, 121, 145), "spo2": (84, 88, 89, 91, 97), "body_temp": (34.9, 36.1, 37, 38.4, 39.5),
    "nibp_sys": (70, 85, 120, 170, 221),
}  # fmt: skip
PRESET = LimitsPreset(HOSPITAL, 21, "heart_rate", (None, 60, 100, None))
SPANS = pl.DataFrame(
    [(11, "p21", at(-100), at(130), 2 * S), (11, "p23", at(135), None, 2 * S), (12, "p22", at(-100), None, 2 * S)],
    schema=ASSOCIATIONS, orient="row",
)  # fmt: skip
AGES = pl.DataFrame([("p21", 60.0), ("p22", 10.0), ("p23", 40.0)], schema=PATIENTS, orient="row")
PRESETS_OF = pl.DataFrame([("p21", metric_of("heart_rate").id, None, 60.0, 100.0, None)], schema=PRESETS, orient="row")
BACKFILL = int(Mark.BACKFILL)  # does not measure the sender's clock
_BAD = (pack(Validity.NOT_AVAILABLE), pack(mode=Mode.TEST), pack(Validity.CALIBRATING))


def a_day(seed: int, count: int = 150) -> ReadingBatch:
    """Readings in order of time, no two of a channel at one time."""
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.choice([0.5, 1, 2, 3, 5], count))
    metrics = rng.choice(list(VALUES), count)
    quality = np.where(rng.random(count) < 0.1, rng.choice(_BAD, count), pack(Validity.VALID)) | BACKFILL
    return ReadingBatch.of(
        handle=rng.choice([11, 11, 12], count), metric=[metric_of(code).id for code in metrics],
        time_us=[at(time) for time in times], value=[float(rng.choice(VALUES[code])) for code in metrics],
        quality=quality, source=15, sequence=np.arange(1, count + 1),
    )  # fmt: skip


def followed(batch: ReadingBatch, arrival_us: np.ndarray) -> tuple[ShardCell, Heard]:
    """A cell that is told who is who, then the readings, then the time."""
    start = at(0)
    people = [registered(DEVICES), admitted(21), admitted(22, 10), admitted(23, 40), PRESET,
              associated(11, (21, -100, 130), (23, 135, None)), associated(12, (22, -100, None))]  # fmt: skip
    cell = ShardCell(0)
    end = Tick(int(arrival_us.max()) + 100 * S)
    return cell, play(cell, [*(Told(one, start) for one in people), Frame(batch, arrival_us), end])


def rows_of(heard: Heard) -> pl.DataFrame:
    """What the lake has of it."""
    batch, arrival_us = ReadingBatch.concat(heard.stored), np.concatenate(heard.stored_arrival_us)
    return pl.DataFrame(lake_rows(batch, arrival_us, np.array([HOSPITAL] * len(batch)), *heard.clocks()))


def episodes_of(heard: Heard) -> pl.DataFrame:
    return limit_episodes(rows_of(heard), SPANS, AGES, PRESETS_OF)


def notified(heard: Heard) -> set[tuple]:
    found = {}
    for event in heard.alarms:
        if event.rule.startswith(("limit", "change")):
            subject = event.subject
            key = (subject.handle, metric_of(str(subject.metric)).id, subject.instance, event.rule, event.onset_us)
            found[key] = event.event_us if event.phase is Phase.END else None
    return {(*key, end_us) for key, end_us in found.items()}


def late(batch: ReadingBatch) -> np.ndarray:
    """Arrivals behind all event times."""
    return np.full(len(batch), at(100_000), dtype=np.int64)


@pytest.mark.clause("6.3f")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 1))
def test_in_order_the_episodes_are_what_the_cell_notified(seed: int) -> None:
    batch = a_day(seed)
    _, heard = followed(batch, batch.time_us)
    found = episodes_of(heard).select("handle", "metric", "instance", "rule", "onset_us", "end_us")
    assert set(found.rows()) == notified(heard)


@pytest.mark.clause("6.3f")
@pytest.mark.clause("7.1b")
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 1), shuffle=st.integers(0, 2**32 - 1))
def test_any_shuffle_gives_the_same_latest_values_aggregates_and_episodes(seed: int, shuffle: int) -> None:
    batch = a_day(seed)
    other = batch.take(np.random.default_rng(shuffle).permutation(len(batch)))
    (mine, heard), (theirs, heard_shuffled) = followed(batch, late(batch)), followed(other, late(other))
    assert episodes_of(heard).equals(episodes_of(heard_shuffled))
    assert latest(mine).equals(latest(theirs))
    mean = pl.col("mean").round_sig_figs(12)  # a sum of floats depends on its order, in the last bits
    assert buckets(heard).with_columns(mean).equals(buckets(heard_shuffled).with_columns(mean))


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 1))
def test_the_past_that_comes_late_changes_nothing_that_was_notified(seed: int) -> None:
    batch = a_day(seed)
    half = len(batch) // 2
    newer, older = batch.take(slice(half, None)), batch.take(slice(0, half))
    cell, heard = followed(newer, newer.time_us)
    before = list(heard.alarms)
    more = cell.step(older, np.full(half, cell.now_us + S))
    heard.add(more)
    assert heard.alarms[: len(before)] == before
    ids = {event.event_id for event in before}
    assert not [event for event in more.alarms if event.event_id in ids]
    assert episodes_of(heard).equals(episodes_of(followed(batch, batch.time_us)[1]))


def latest(cell: ShardCell) -> pl.DataFrame:
    frame = pl.DataFrame(cell.answer(LatestQuery(handles=[11, 12])))
    return frame.select(*CHANNEL, "time_us", "value").drop_nulls().sort(CHANNEL)


def buckets(heard: Heard) -> pl.DataFrame:
    summary = lake_queries.summarise(rows_of(heard).lazy(), CHANNEL, 60 * S).collect()
    return lake_queries.merged([summary], CHANNEL)


def test_these_days_hold_much() -> None:
    found = pl.concat(episodes_of(followed(batch, batch.time_us)[1]) for batch in map(a_day, range(8)))
    assert set(found["rule"]) == {"limit.very-low", "limit.low", "limit.high", "limit.very-high", "change.rate"}
    assert found["end_us"].null_count() > 0
    assert {"p21", "p22", "p23", None} <= set(found["patient_key"])
    assert found.schema == EPISODES


def test_no_readings_have_no_episodes() -> None:
    _, heard = followed(a_day(1), a_day(1).time_us)
    assert limit_episodes(rows_of(heard).clear(), SPANS, AGES, PRESETS_OF).schema == EPISODES
