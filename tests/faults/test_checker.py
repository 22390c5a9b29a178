"""The history checker is red for every way a history can be wrong, and only then."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from msgspec.structs import replace

from domain.alarms import AlarmEvent, AlarmSubject, AlertType, Phase, Priority, alarm_id_of, event_id_of
from domain.readings import ReadingBatch
from tests.faults.checker import Invariant, Observed, Told, check
from tests.faults.history import READINGS, Crossing, History

BASE = 1_700_000_000_000_000
BY_US = BASE + 60_000_000


def message(first: int, values: list[float], source: int = 7) -> ReadingBatch:
    sequence = BASE + first + np.arange(len(values))
    return ReadingBatch.of(handle=11, metric=4, time_us=sequence, value=values, source=source, sequence=sequence)


@pytest.fixture
def history() -> History:
    """Five readings in two messages, the first one acknowledged and sent twice, and a limit crossed."""
    history = History(BASE)
    first = history.sent(message(0, [1.0, 2.0, 3.0]), BASE)
    history.sent(message(3, [4.0, 5.0]), BASE)
    history.sent_again(first)
    history.acknowledged(first, BASE + 5)
    history.crossings.append(Crossing(11, "nibp_sys", "limit.very-low", BASE + 10))
    return history


def event(*, live: bool = True, value: float = 70.0, onset_us: int = BASE + 12) -> AlarmEvent:
    alarm_id = alarm_id_of("channel:11", "limit.very-low", 1, BASE + 12)
    return AlarmEvent(
        event_id_of(alarm_id, Phase.START, BASE + 12), alarm_id, Phase.START, AlertType.PHYSIOLOGICAL, Priority.HIGH,
        "limit.very-low", 1, AlarmSubject("sz.a", handle=11), onset_us, onset_us, onset_us, "low", live=live, value=value,
    )  # fmt: skip


def observe(history: History, stored=None, answered=None, told=None, shown=None, rejected=()) -> Observed:
    sent = history.frame().select(READINGS.names())
    stored = sent if stored is None else stored
    told = [Told(event(), BASE + 20)] if told is None else told
    shown = frozenset(t.event.alarm_id for t in told) if shown is None else shown
    return Observed(stored, stored if answered is None else answered, np.array(rejected, np.uint64), told, shown)


def broken(history: History, **seen) -> dict[str, int]:
    verdict = check(history, observe(history, **seen), tell_by_us=BY_US)
    return {violation.invariant.name: violation.count for violation in verdict.violations}


def rows(history: History) -> pl.DataFrame:
    return history.frame().select(READINGS.names())


def test_a_history_without_faults_holds(history):
    assert broken(history) == {}
    assert history.frame()["attempts"].to_list() == [2, 2, 2, 1, 1]
    assert history.waiting == 1


def test_what_was_not_acknowledged_may_be_missing(history):
    assert broken(history, stored=rows(history).head(3)) == {}


def test_an_acknowledged_reading_that_is_nowhere_is_lost(history):
    assert broken(history, stored=rows(history).tail(4)) == {"LOST": 1}


def test_an_acknowledged_reading_among_the_rejects_is_not_lost(history):
    assert broken(history, stored=rows(history).tail(4), rejected=[7 << 36]) == {}


def test_a_row_that_lies_twice_in_the_files_is_doubled(history):
    twice = pl.concat([rows(history), rows(history).head(2)])
    assert broken(history, stored=twice, answered=rows(history)) == {"DOUBLED": 2}


def test_a_stored_reading_that_nobody_sent_is_named(history):
    foreign = rows(history).tail(1).with_columns(sequence=pl.lit(BASE + 99, pl.UInt64))
    assert broken(history, stored=pl.concat([rows(history), foreign])) == {"NEVER_SENT": 1}


@pytest.mark.parametrize(("column", "value"), [("value", 1.5), ("handle", 12), ("metric", 5), ("time_us", BASE)])
def test_a_reading_stored_otherwise_than_sent_is_changed(history, column, value):
    changed = rows(history).with_columns(
        pl.when(pl.col("sequence") == BASE + 2).then(value).otherwise(pl.col(column)).cast(READINGS[column]).alias(column)
    )
    assert broken(history, stored=changed) == {"CHANGED": 1}


def test_rest_has_to_answer_what_is_stored_once_and_as_it_is(history):
    stored = rows(history)
    other = stored.with_columns(value=pl.col("value") + pl.when(pl.col("sequence") == BASE).then(1.0).otherwise(0.0))
    assert broken(history, answered=stored.head(4)) == {"UNANSWERED": 1}
    assert broken(history, answered=pl.concat([stored, stored.head(1)])) == {"ANSWERED_WRONG": 1}
    assert broken(history, answered=other) == {"ANSWERED_WRONG": 1, "UNANSWERED": 1}


def test_a_notification_may_be_told_twice_but_not_otherwise(history):
    same = [Told(event(), BASE + 20), Told(event(), BASE + 30)]
    other = [Told(event(), BASE + 20), Told(event(value=71.0), BASE + 30)]
    assert broken(history, told=same) == {}
    assert broken(history, told=other) == {"CONTRADICTED": 1}


@pytest.mark.parametrize(
    "told", [[], [Told(event(live=False), BASE + 20)], [Told(event(), BY_US + 1)], [Told(event(onset_us=BASE), BASE + 20)]]
)
def test_a_crossed_limit_has_to_be_told_live_in_time_and_of_this_onset(history, told):
    assert broken(history, told=told) == {"UNTOLD": 1}


def test_a_crossing_whose_start_came_too_late_is_told_when_it_goes_on(history):
    late = Told(event(live=False), BASE + 20)
    goes_on = replace(event(), event_id="another", phase=Phase.CONTINUE)
    assert broken(history, told=[late, Told(goes_on, BASE + 30)]) == {}
    assert broken(history, told=[late, Told(replace(goes_on, live=False), BASE + 30)]) == {"UNTOLD": 1}


def test_an_alarm_that_was_told_has_to_be_shown(history):
    assert broken(history, shown=frozenset()) == {"UNSHOWN": 1}


def test_every_invariant_is_shown_to_go_red_here():
    source = Path(__file__).read_text()
    assert [invariant.name for invariant in Invariant if f'"{invariant.name}"' not in source] == []
