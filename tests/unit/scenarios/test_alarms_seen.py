"""Alarms on the live stream: counted once, and timed from when the reading that caused them was due."""

from __future__ import annotations

import numpy as np
import pytest

from domain.alarms import AlarmEvent, AlarmSubject, AlertType, Phase, Priority
from scenarios.alarms_seen import AlarmWatch, alarm_latencies, noticed_share
from scenarios.books import Books, ClosedBooks
from scenarios.ledger import keys_of

START_US = 1_000_000_000
GATEWAY, MONITOR, PATIENT = 3, 40, 77


def event(event_us, *, number=1, rule="limit.high", phase=Phase.START, handle=MONITOR, live=True, **fields):
    facts = {"alert_type": AlertType.PHYSIOLOGICAL, "arrival_us": event_us, **fields}
    return AlarmEvent(
        event_id=f"e{number}", alarm_id=f"a{number}", phase=phase, priority=Priority.HIGH, rule=rule, rule_version=1,
        subject=AlarmSubject("sz.h001", handle=handle, patient_key="pk-1"), onset_us=event_us, event_us=event_us, text="t",
        live=live, **facts,
    )  # fmt: skip


@pytest.fixture
def watch():
    return AlarmWatch(lambda: 0)


@pytest.fixture
def books(tmp_path):
    """The monitor's gateway sent one message a second; each was due half a second after its reading."""
    kept = Books()
    for second in range(60):
        time_us = START_US + second * 1_000_000
        kept.sent(
            GATEWAY, keys_of(np.array([GATEWAY]), np.array([second + 1])), due_us=time_us + 500_000, times_us=(time_us,) * 2
        )
    kept.save(tmp_path / "books.arrow")
    return ClosedBooks.load(tmp_path / "books.arrow")


def latencies(watch, books, warmup_s=0.0):
    senders = {MONITOR: GATEWAY, PATIENT: GATEWAY}
    return alarm_latencies(watch, books, senders, start_us=START_US, warmup_s=warmup_s)


@pytest.mark.clause("6.3f")
def test_latency_runs_from_when_the_causing_reading_was_due(watch, books):
    watch.take(event(START_US + 20_000_000), seen_us=START_US + 20_750_000)
    limits, scores = latencies(watch, books)
    assert limits.max_ms == pytest.approx(250, rel=1e-2)
    assert scores.count == 0


def test_score_alarms_are_timed_apart(watch, books):
    watch.take(event(START_US + 20_000_000, rule="news2.urgent", handle=PATIENT), seen_us=START_US + 22_500_000)
    limits, scores = latencies(watch, books)
    assert limits.count == 0
    assert scores.max_ms == pytest.approx(2000, rel=1e-2)


@pytest.mark.parametrize(
    "fields",
    [
        {"live": False},
        {"phase": Phase.END},
        {"alert_type": AlertType.TECHNICAL},
        {"handle": 999},
    ],
)
def test_what_is_not_live_new_clinical_and_ours_is_not_timed(watch, books, fields):
    watch.take(event(START_US + 20_000_000, **fields), seen_us=START_US + 21_000_000)
    assert [latency.count for latency in latencies(watch, books)] == [0, 0]


def test_an_alarm_on_a_reading_nobody_sent_is_not_timed(watch, books):
    watch.take(event(START_US + 20_300_000), seen_us=START_US + 21_000_000)
    assert latencies(watch, books)[0].count == 0


def test_alarms_of_the_warmup_enter_no_figure(watch, books):
    watch.take(event(START_US + 5_000_000), seen_us=START_US + 9_000_000)
    limits, _ = latencies(watch, books, warmup_s=10)
    assert (limits.count, limits.warmup_count) == (0, 1)


def test_one_event_told_twice_is_counted_as_doubled(watch):
    for _ in range(2):
        watch.take(event(START_US), seen_us=START_US)
    figures = watch.figures()
    assert (figures["alarms_live"], figures["alarms_doubled"]) == (1, 1)


def test_live_alarms_are_counted_by_kind(watch):
    watch.take(event(START_US, number=1), START_US)
    watch.take(event(START_US, number=2, rule="news2.urgent"), START_US)
    watch.take(event(START_US, number=3, rule="technical.signal-lost", alert_type=AlertType.TECHNICAL), START_US)
    watch.take(event(START_US, number=4, live=False), START_US)
    figures = watch.figures()
    assert [figures[f"alarms_{kind}"] for kind in ("live", "clinical", "technical", "score")] == [3, 2, 1, 1]
    assert sum(row["count"] for row in watch.by_rule()) == 4


def test_a_live_alarm_on_an_old_reading_is_a_late_page(watch):
    watch.take(event(START_US, number=1, arrival_us=START_US + 59_000_000), START_US)
    watch.take(event(START_US, number=2, arrival_us=START_US + 61_000_000), START_US)
    watch.take(event(START_US, number=3, arrival_us=START_US + 61_000_000, live=False), START_US)
    assert watch.figures()["late_pages"] == 1


def test_a_patient_is_noticed_by_a_clinical_alarm_after_they_worsened(watch):
    watch.take(event(START_US, number=1), seen_us=START_US + 10_000_000)
    worsened = {"sz.h001/p1": 5.0, "sz.h001/p2": 5.0}
    keys = {"sz.h001/p1": "pk-1", "sz.h001/p2": "pk-2"}
    assert noticed_share(watch, worsened, keys, START_US) == 0.5
    assert noticed_share(watch, {"sz.h001/p1": 15.0}, keys, START_US) == 0.0
    assert noticed_share(watch, {}, keys, START_US) is None
