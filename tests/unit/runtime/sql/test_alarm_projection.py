"""An alarm's row: the same whatever the order of its events, and what answers mean when things get worse."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, insert, update

from domain.alarms import AlarmEvent, AlarmSubject, AlertType, Outcome, Phase, Priority
from domain.errors import Conflict, InvalidInput
from runtime.sql.alarms import acknowledge, apply_alarm_events, events_of, expire_pauses, get_alarm, pause_audio, position_of
from runtime.sql.engine import writing
from runtime.sql.records import Row
from runtime.sql.tables import alarm_events
from tests.sql_fixtures import HOSPITAL, HOUR_US, NOW_US, count, later

_names = itertools.count()


def event(alarm_id: str = "a", phase: Phase = Phase.START, at_s: int = 0, **more: Any) -> AlarmEvent:
    at_us = NOW_US + at_s * 1_000_000
    facts: dict[str, Any] = {
        "event_id": f"{alarm_id}-{phase}-{at_s}", "alarm_id": alarm_id, "phase": phase, "alert_type": AlertType.PHYSIOLOGICAL,
        "priority": Priority.MEDIUM, "rule": "limit.low", "rule_version": 1, "subject": AlarmSubject(HOSPITAL, handle=7),
        "onset_us": NOW_US, "event_us": at_us, "arrival_us": at_us + 5, "text": f"{phase} {at_s}", "latching": True,
    }  # fmt: skip
    return AlarmEvent(**facts | more)


def apply(engine: Engine, *events: AlarmEvent) -> Row:
    """Apply in this order, each with the next place of the stream."""
    first = position_of(engine) + 1
    apply_alarm_events(engine, list(enumerate(events, start=first)))
    return get_alarm(engine, events[-1].alarm_id)


_further = st.lists(
    st.tuples(
        st.sampled_from([Phase.CONTINUE, Phase.UPDATE, Phase.ESCALATE, Phase.DEESCALATE, Phase.END]),
        st.integers(0, 4),
        st.sampled_from(Priority),
        st.booleans(),
    ),
    max_size=4,
    unique_by=(lambda step: step[:2], lambda step: step[0] if step[0] is Phase.END else step[:2]),
)


@given(further=_further, order=st.randoms(use_true_random=False), latching=st.booleans(), cut=st.integers(0, 5))
@example(further=[(Phase.END, 1, Priority.LOW, True), (Phase.UPDATE, 3, Priority.HIGH, True)], order=None, latching=True, cut=1)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_row_does_not_depend_on_the_order_of_events_nor_on_the_cut_of_batches(
    engine: Engine, further: list[tuple[Phase, int, Priority, bool]], order: Any, latching: bool, cut: int
) -> None:
    def told_of(alarm_id: str) -> list[AlarmEvent]:
        return [event(alarm_id, live=False, latching=latching)] + [
            event(alarm_id, phase, at_s, priority=priority, live=live, latching=latching, limit=float(at_s))
            for phase, at_s, priority, live in further
        ]

    straight, shuffled = f"s{next(_names)}", f"t{next(_names)}"
    expected = apply(engine, *told_of(straight))
    events = told_of(shuffled)
    if order is None:
        events.reverse()
    else:
        order.shuffle(events)
    for part in (events[:cut], events[cut:]):
        if part:
            apply(engine, *part)
    found = get_alarm(engine, shuffled)
    unlike = {"alarm_id", "version", "stream_sequence"}
    assert {k: v for k, v in found.items() if k not in unlike} == {k: v for k, v in expected.items() if k not in unlike}


def test_an_end_is_final_even_if_it_is_older_than_what_is_shown(engine: Engine) -> None:
    apply(engine, event(), event(phase=Phase.ESCALATE, at_s=9, priority=Priority.HIGH))
    row = apply(engine, event(phase=Phase.END, at_s=5))
    assert (row["state"], row["ended_us"], row["priority"]) == ("latched", NOW_US + 5_000_000, Priority.HIGH)
    assert apply(engine, event(phase=Phase.UPDATE, at_s=12))["phase"] == "end"


def test_what_is_shown_is_of_the_newest_event_limit_and_unit_too(engine: Engine) -> None:
    apply(engine, event(value=88.0, limit=90.0, unit="%"))
    row = apply(engine, event(phase=Phase.ESCALATE, at_s=3, value=79.0, limit=80.0, unit="1"))
    assert (row["value"], row["limit_value"], row["unit"], row["text"]) == (79.0, 80.0, "1", "escalate 3")


@pytest.mark.clause("6.3f")
def test_worse_news_opens_an_answered_alarm_again_without_the_old_answer(engine: Engine) -> None:
    apply(engine, event())
    answered = acknowledge(engine, later(1, "li"), "a", Outcome.ARTEFACT, note="probe was off")
    assert (answered["state"], answered["note"], answered["acknowledged_by"]) == ("acknowledged", "probe was off", "li")
    row = apply(engine, event(phase=Phase.ESCALATE, at_s=3, priority=Priority.HIGH))
    assert row["state"] == "active"
    assert [row[name] for name in ("outcome", "note", "acknowledged_by", "acknowledged_us")] == [None] * 4


def test_worse_news_that_comes_late_opens_an_answered_alarm_too(engine: Engine) -> None:
    apply(engine, event(), event(phase=Phase.UPDATE, at_s=9))
    acknowledge(engine, later(1), "a", Outcome.ACTIONABLE)
    assert apply(engine, event(phase=Phase.ESCALATE, at_s=5, priority=Priority.HIGH))["state"] == "active"
    assert get_alarm(engine, "a")["text"] == "update 9"


def test_a_replay_does_not_open_what_was_answered(engine: Engine) -> None:
    worse = event(phase=Phase.ESCALATE, at_s=3, priority=Priority.HIGH)
    apply(engine, event(), worse)
    acknowledge(engine, later(1), "a", Outcome.ACTIONABLE)
    assert apply_alarm_events(engine, [(9, worse), (10, event())]) == 0
    assert get_alarm(engine, "a")["state"] == "acknowledged"
    assert position_of(engine) == 10


def test_an_event_twice_in_one_batch_counts_once_at_its_first_place(engine: Engine) -> None:
    assert apply_alarm_events(engine, [(5, event()), (6, event())]) == 1
    assert count(engine, alarm_events) == 1
    assert get_alarm(engine, "a")["stream_sequence"] == 5


def test_a_pause_ends_with_its_time_and_with_the_alarm(engine: Engine) -> None:
    apply(engine, event("a"))
    apply(engine, event("b"))
    for alarm_id in "ab":
        assert pause_audio(engine, later(0), alarm_id, NOW_US + HOUR_US)["state"] == "audio-paused"
    ended = apply(engine, event("b", Phase.END, 4))
    assert (ended["state"], ended["paused_until_us"]) == ("latched", None)
    assert expire_pauses(engine, NOW_US + HOUR_US - 1) == 0
    assert expire_pauses(engine, NOW_US + HOUR_US) == 1
    row = get_alarm(engine, "a")
    assert (row["state"], row["paused_until_us"]) == ("active", None)
    with pytest.raises(InvalidInput, match="3600 s, not 3601 s"):
        pause_audio(engine, later(0), "a", NOW_US + HOUR_US + 1_000_000)
    with pytest.raises(Conflict, match="is latched: 'pause-audio' is not possible"):
        pause_audio(engine, later(0), "b", NOW_US + HOUR_US)


def test_an_alarm_that_does_not_latch_closes_by_itself_and_is_then_done(engine: Engine) -> None:
    row = apply(engine, event(latching=False), event(phase=Phase.END, at_s=2, latching=False))
    assert row["state"] == "closed"
    with pytest.raises(Conflict, match="is closed"):
        acknowledge(engine, later(3), "a", Outcome.ACTIONABLE)


@pytest.mark.clause("9.2c")
def test_what_was_notified_is_kept_word_for_word_and_cannot_be_changed(engine: Engine) -> None:
    said = [event(), event(phase=Phase.END, at_s=2, value=float("inf"))]
    apply(engine, *said)
    assert events_of(engine, "a")[0] == said[0]
    with pytest.raises(Exception, match="alarm_events refuses update"), writing(engine) as connection:
        connection.execute(update(alarm_events).values(content=b"{}"))


def test_an_alarm_that_cannot_be_written_moves_no_position(engine: Engine) -> None:
    with writing(engine) as connection:
        connection.execute(insert(alarm_events).values(event_id="b", alarm_id="b", stream_sequence=1, event_us=0, content=b""))
    with pytest.raises(InvalidInput):
        apply_alarm_events(engine, [(7, event(onset_us=2**70))])
    assert (position_of(engine), count(engine, alarm_events)) == (0, 1)
