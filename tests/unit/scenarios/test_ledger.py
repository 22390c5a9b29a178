"""The ledger sees one lost and one doubled reading, even when they cancel out in the totals."""

from __future__ import annotations

import numpy as np
import pytest

from domain.readings import ReadingBatch
from scenarios.books import Books, ClosedBooks
from scenarios.ledger import close, keys_of, keys_of_readings, split_key

NOTHING = np.empty(0, np.uint64)


def keys(sources=(3, 4), each=100):
    return np.concatenate([keys_of(np.full(each, source), np.arange(1, each + 1)) for source in sources])


@pytest.mark.clause("8.1")
def test_books_that_agree_balance():
    ledger = close(keys(), keys(), keys(), NOTHING)
    assert ledger.balances
    assert (ledger.sent, ledger.acknowledged, ledger.stored, ledger.lost, ledger.doubled) == (200, 200, 200, 0, 0)


@pytest.mark.clause("5.4c")
def test_a_lost_and_a_doubled_reading_do_not_cancel_out():
    stored = np.append(keys()[1:], keys()[-1])
    ledger = close(keys(), keys(), stored, NOTHING)
    assert len(stored) == len(keys())
    assert not ledger.balances
    assert (ledger.lost, ledger.doubled) == (1, 1)
    assert ledger.examples == {"lost": [(3, 1)], "doubled": [(4, 100)]}


@pytest.mark.parametrize("position", [0, 57, 199])
def test_every_single_missing_reading_is_found(position):
    ledger = close(keys(), keys(), np.delete(keys(), position), NOTHING)
    assert ledger.lost == 1
    assert ledger.examples["lost"] == [split_key(int(keys()[position]))]


def test_what_lies_among_the_rejects_is_not_lost():
    ledger = close(keys(), keys(), keys()[10:], keys()[:10])
    assert ledger.balances
    assert ledger.rejected == 10


def test_what_was_never_acknowledged_may_be_stored_or_not():
    ledger = close(keys(), keys()[50:], keys()[25:], NOTHING)
    assert ledger.balances
    assert ledger.unacknowledged == 50


def test_a_retransmission_is_one_reading():
    twice = np.concatenate([keys(), keys()[:20]])
    ledger = close(twice, twice, keys(), NOTHING)
    assert ledger.balances
    assert ledger.sent == 200


def test_a_reading_nobody_sent_is_unexpected():
    ledger = close(keys(), keys(), np.append(keys(), keys_of(np.array([3]), np.array([101]))), NOTHING)
    assert ledger.unexpected == 1
    assert not ledger.balances


def test_keys_leave_out_readings_of_earlier_runs():
    readings = ReadingBatch.of(handle=7, metric=1, time_us=0, value=0.0, source=9, sequence=[4, 5_000_001, 5_000_002])
    assert [split_key(int(key)) for key in keys_of_readings(readings, base=5_000_000)] == [(9, 1), (9, 2)]


def test_numbers_beyond_what_a_key_holds_are_refused():
    with pytest.raises(OverflowError, match="sequences below"):
        keys_of(np.array([1]), np.array([2**36]))


def test_books_come_back_as_they_were_kept(tmp_path):
    books = Books(base=1_000)
    first = books.sent(3, keys((3,), 5), due_us=100, times_us=(90, 100))
    books.sent(4, keys((4,), 2), due_us=200, times_us=(150, 200))
    books.acknowledged(first)
    books.save(tmp_path / "books.arrow")
    closed = ClosedBooks.load(tmp_path / "books.arrow")
    assert closed.base == 1_000
    assert sorted(closed.sent) == sorted(np.concatenate([keys((3,), 5), keys((4,), 2)]))
    assert list(closed.acknowledged) == list(keys((3,), 5))
    assert list(closed.sources) == [3, 4]
    assert closed.span_us() == (90, 200)
    assert closed.due_of(3, 95) == 100
    assert closed.due_of(3, 150) is None
    assert closed.due_of(5, 95) is None
