"""The hot tail: what is applied and not yet, or only just, in the lake."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import InvalidInput, NotFound
from domain.messages import TailQuery
from runtime import tail as tails
from runtime.lake_schema import TAIL_ROWS, tail_rows
from runtime.tail import HotTail, TailExtent
from tests.lake_samples import DAY_US, START_US, hospitals_of, rows_of, sample_batch, sample_rows

ALL = TailQuery(after_sequence=0)
S = 1_000_000


def sequences(table: pa.Table) -> list[int]:
    return table["stream_sequence"].to_pylist()


def holding(position: int = 0) -> HotTail:
    tail = HotTail()
    tail.hold(3, position)
    return tail


def one_row(sequence: int) -> pa.Table:
    return rows_of(sample_batch(1, seed=sequence))


def test_rows_beyond_a_sequence_come_in_stream_order_with_their_sequence() -> None:
    tail = holding()
    for sequence in (4, 7, 9):
        tail.append(3, sequence, one_row(sequence))
    answer = tail.query(3, TailQuery(after_sequence=4))
    assert answer.schema.equals(TAIL_ROWS)
    assert sequences(answer) == [7, 9]
    assert TailExtent.of(answer) == TailExtent(complete_from=0, applied=9)


def test_rows_may_bring_their_own_sequences() -> None:
    tail, batch = holding(), sample_batch(3)
    rows = tail_rows(batch, batch.time_us, hospitals_of(batch.handle), np.array([5, 6, 7]))
    tail.append(3, 7, rows)
    assert sequences(tail.query(3, TailQuery(after_sequence=5))) == [6, 7]
    with pytest.raises(InvalidInput, match="stream sequence 7 were appended as if they came by 6"):
        holding().append(3, 6, rows)


@pytest.mark.clause("7.1a")
@given(
    handles=st.lists(st.integers(1, 300), max_size=100), metrics=st.lists(st.integers(1, 9), max_size=3),
    span=st.none() | st.tuples(st.integers(0, 60 * S), st.integers(0, 60 * S)).map(sorted),
    above=st.none() | st.integers(60, 100), below=st.none() | st.integers(60, 100),
)  # fmt: skip
def test_a_question_is_answered_as_the_plain_way_would(
    handles: list[int], metrics: list[int], span: list[int] | None, above: int | None, below: int | None
) -> None:
    tail, rows = holding(), rows_of(sample_batch(200))
    tail.append(3, 5, rows)
    query = TailQuery(
        after_sequence=0, handles=handles, metrics=metrics,
        from_us=START_US + span[0] if span else None, until_us=START_US + span[1] if span else None,
        value_above=above, value_below=below,
    )  # fmt: skip
    plain = [
        row for row in rows.to_pylist()
        if (not handles or row["handle"] in handles) and (not metrics or row["metric"] in metrics)
        and (query.from_us is None or row["time_us"] >= query.from_us)
        and (query.until_us is None or row["time_us"] < query.until_us)
        and (above is None or row["value"] > above) and (below is None or row["value"] < below)
    ]  # fmt: skip
    found = tail.query(3, query)
    assert found["sequence"].to_pylist() == [row["sequence"] for row in plain]


def test_committed_rows_stay_for_a_while_then_leave_and_the_answer_says_so() -> None:
    tail = HotTail(keep_committed_us=60 * S)
    tail.hold(3, 0)
    tail.append(3, 5, one_row(5))
    tail.committed(3, 5, now_us=100 * S)
    tail.append(3, 8, one_row(8))
    tail.committed(3, 8, now_us=130 * S)
    assert sequences(tail.query(3, ALL)) == [5, 8]
    tail.committed(3, 8, now_us=160 * S)
    answer = tail.query(3, ALL)
    assert sequences(answer) == [8]
    assert TailExtent.of(answer) == TailExtent(complete_from=5, applied=8)


def test_many_committed_rows_leave_sooner() -> None:
    tail = HotTail(keep_committed_us=60 * S, many_rows=3)
    tail.hold(3, 0)
    for sequence in (1, 2, 3):
        tail.append(3, sequence, one_row(sequence))
        tail.committed(3, sequence, sequence * S)
    assert tail.rows() == 3
    tail.append(3, 4, one_row(4))
    tail.committed(3, 4, 7 * S)
    answer = tail.query(3, ALL)
    assert (sequences(answer), TailExtent.of(answer).complete_from) == ([3, 4], 2)
    assert tail.rows() == 2
    tail.committed(3, 4, 30 * S)  # few again: they stay their time
    assert sequences(tail.query(3, ALL)) == [3, 4]
    tail.forget(3)
    assert tail.rows() == 0


def test_rows_that_are_not_committed_never_leave() -> None:
    tail = HotTail(keep_committed_us=0)
    tail.hold(3, 0)
    tail.append(3, 5, one_row(5))
    tail.append(3, 6, one_row(6))
    tail.committed(3, 5, now_us=S)
    tail.committed(3, 5, now_us=1000 * S)
    assert 6 in sequences(tail.query(3, ALL))


def test_several_appends_by_one_sequence_are_all_kept() -> None:
    tail = holding()
    tail.append(3, 5, one_row(1))
    tail.append(3, 5, one_row(2))
    assert sequences(tail.query(3, ALL)) == [5, 5]


def test_a_tick_moves_the_extent_on() -> None:
    tail = holding()
    tail.append(3, 5, TAIL_ROWS.empty_table())
    assert TailExtent.of(tail.query(3, ALL)) == TailExtent(0, 5)


def test_a_replay_may_start_before_what_the_lake_held_when_the_shard_was_taken_over() -> None:
    tail = holding(position=10)
    for sequence in (8, 10, 12):
        tail.append(3, sequence, one_row(sequence))
    answer = tail.query(3, ALL)
    assert sequences(answer) == [12]
    assert TailExtent.of(answer).complete_from == 10


def test_rows_out_of_stream_order_are_refused() -> None:
    tail = holding()
    tail.append(3, 5, one_row(5))
    with pytest.raises(InvalidInput, match="at stream sequence 5: rows of 4"):
        tail.append(3, 4, one_row(4))


def test_a_shard_that_is_not_held_is_not_found() -> None:
    tail = holding()
    with pytest.raises(NotFound, match="shard 4 is not held"):
        tail.query(4, ALL)
    with pytest.raises(NotFound):
        tail.append(4, 1, one_row(1))
    tail.forget(3)
    tail.committed(3, 5, now_us=0)  # a commit that was under way
    with pytest.raises(NotFound):
        tail.query(3, ALL)


def test_taking_a_shard_over_again_forgets_what_was_held() -> None:
    tail = holding()
    tail.append(3, 5, one_row(5))
    tail.hold(3, 4)
    assert tail.query(3, ALL).num_rows == 0
    assert tail.rows() == 0


def test_many_small_appends_are_kept_whole() -> None:
    tail = holding()
    for sequence in range(1, 1001):
        tail.append(3, sequence, one_row(sequence))
        if sequence % 100 == 0:
            tail.committed(3, sequence, now_us=sequence * S // 10)
    assert sequences(tail.query(3, TailQuery(after_sequence=400))) == list(range(401, 1001))
    assert tail.rows() <= 700


def test_readers_beside_an_appender_see_a_prefix_of_the_stream() -> None:
    tail, finished, seen = holding(), threading.Event(), []

    def read() -> None:
        while not finished.is_set():
            answer = tail.query(3, ALL)
            seen.append((sequences(answer), TailExtent.of(answer).applied))

    reader = threading.Thread(target=read)
    reader.start()
    for sequence in range(1, 200):
        tail.append(3, sequence, one_row(sequence))
    finished.set()
    reader.join()
    assert seen
    assert all(found == list(range(1, applied + 1)) for found, applied in seen)


def test_a_table_that_is_no_answer_is_told_apart() -> None:
    with pytest.raises(InvalidInput, match="no answer of a hot tail"):
        TailExtent.of(TAIL_ROWS.empty_table())


def test_a_question_about_another_time_looks_at_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    held = holding()
    held.append(3, 1, sample_rows(100, seed=1))
    looked_at: list[int] = []
    filtered = tails._beyond

    def watched(tables: list[pa.Table], *others: Any) -> pa.Table:
        looked_at.append(sum(map(len, tables)))
        return filtered(tables, *others)

    monkeypatch.setattr(tails, "_beyond", watched)
    before, behind, during = (
        TailQuery(after_sequence=0, **span)
        for span in ({"until_us": START_US}, {"from_us": START_US + DAY_US}, {"until_us": START_US + DAY_US})
    )
    looked_at.clear()  # what appending looked at
    answers = [held.query(3, query) for query in (before, behind, during)]
    assert [len(answer) for answer in answers] == looked_at == [0, 0, 100]
    assert all(TailExtent.of(answer).applied == 1 for answer in answers)
