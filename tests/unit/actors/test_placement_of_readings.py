"""What is new, what repeats, what came too late: nothing but a proven double is dropped, and all else is marked."""

from __future__ import annotations

import numpy as np
import pytest

from domain.messages import LatestQuery
from domain.quality import Mark, Validity, has_mark, pack
from domain.readings import ReadingBatch
from tests.cell_streams import Desk, S, at, readings, registered

NAN = float("nan")


@pytest.fixture
def desk() -> Desk:
    desk = Desk()
    desk.tell(registered({1: "monitor@1", 2: "monitor@1", 9: "gateway@1"}))
    return desk


def marks(batch: ReadingBatch) -> list[list[str]]:
    return [[mark.name or "" for mark in Mark if has_mark(batch.quality[row : row + 1], mark)[0]] for row in range(len(batch))]


def newest(desk: Desk) -> list[tuple[int, float]]:
    table = desk.cell.answer(LatestQuery())
    return list(zip(table["time_us"].to_pylist(), table["value"].to_pylist(), strict=True))


def test_a_retransmission_by_source_and_sequence_is_dropped_and_counted(desk: Desk) -> None:
    batch = readings(1, "heart_rate", [0, 1, 2], [70, 71, 72], source=9, sequence=[5, 6, 7])
    desk.read(batch)
    effects = desk.read(batch, arrival_s=600)
    assert (len(effects.stored), effects.duplicates) == (0, 3)


def test_a_double_within_one_batch_is_dropped(desk: Desk) -> None:
    effects = desk.read(readings(1, "heart_rate", [0, 0], [70, 70], source=9, sequence=[5, 5]))
    assert (len(effects.stored), effects.duplicates) == (1, 1)


def test_without_a_sequence_channel_time_and_value_prove_a_double(desk: Desk) -> None:
    desk.read(readings(1, "heart_rate", [0], [70]))
    effects = desk.read(readings(1, "heart_rate", [0], [70]), arrival_s=1)
    assert (len(effects.stored), effects.duplicates) == (0, 1)
    lost = readings(1, "heart_rate", [5], [NAN], quality=pack(Validity.NOT_AVAILABLE))
    assert [desk.read(lost).duplicates for _ in range(2)] == [0, 1]


def test_a_source_that_starts_its_sequence_anew_loses_nothing(desk: Desk) -> None:
    desk.read(readings(1, "heart_rate", [0, 1], [70, 71], sequence=[1, 2]))
    effects = desk.read(readings(1, "heart_rate", [100, 101], [70, 71], sequence=[1, 2]))
    assert (len(effects.stored), effects.duplicates) == (2, 0)


def test_readings_that_share_the_sequence_of_their_message_are_all_kept(desk: Desk) -> None:
    batch = ReadingBatch.concat([
        readings(1, "heart_rate", [0, 1], [70, 71], sequence=3), readings(1, "resp_rate", [0, 1], [16, 16], sequence=3),
    ])  # fmt: skip
    assert len(desk.read(batch).stored) == 4
    assert desk.read(batch, arrival_s=2).duplicates == 4


def test_two_values_at_one_time_are_both_kept_and_the_later_is_marked(desk: Desk) -> None:
    desk.read(readings(1, "heart_rate", [0], [70]))
    effects = desk.read(readings(1, "heart_rate", [0], [90]), arrival_s=1)
    assert marks(effects.stored) == [["CONFLICT"]]
    assert newest(desk) == [(at(0), 90)]


def test_the_same_reading_by_another_source_is_a_possible_duplicate(desk: Desk) -> None:
    desk.read(readings(1, "heart_rate", [0], [70], source=1))
    effects = desk.read(readings(1, "heart_rate", [0], [70], source=9), arrival_s=1)
    assert marks(effects.stored) == [["POSSIBLE_DUPLICATE"]]


def test_an_older_reading_is_stored_and_marked_and_does_not_overwrite(desk: Desk) -> None:
    desk.read(readings(1, "heart_rate", [10], [70]))
    effects = desk.read(readings(1, "heart_rate", [5, 20, 15], [60, 80, 75]), arrival_s=21)
    assert marks(effects.stored) == [["OUT_OF_ORDER"], [], ["OUT_OF_ORDER"]]
    assert newest(desk) == [(at(20), 80)]


def test_a_reading_that_arrives_long_after_its_time_is_late(desk: Desk) -> None:
    effects = desk.read(readings(1, "heart_rate", [0, 1], [70, 70]), arrival_s=61)
    assert marks(effects.stored) == [["LATE"], []]


def test_a_clock_that_runs_ahead_is_marked_and_does_not_block_its_channel(desk: Desk) -> None:
    year_s = 31_536_000
    effects = desk.read(readings(1, "heart_rate", [year_s], [70]), arrival_s=0)
    assert marks(effects.stored) == [["CLOCK_SKEWED"]]
    assert effects.stored.time_us[0] == at(year_s)  # as the device states it
    assert marks(desk.read(readings(1, "heart_rate", [1], [71])).stored) == [[]]
    assert newest(desk) == [(at(1), 71)]


def test_marks_of_the_door_stay(desk: Desk) -> None:
    effects = desk.read(readings(1, "heart_rate", [0], [299], quality=pack(marks=Mark.IMPLAUSIBLE)))
    assert marks(effects.stored) == [["IMPLAUSIBLE"]]


def test_strangers_and_metrics_that_a_model_lacks_are_refused_with_their_reason(desk: Desk) -> None:
    batch = ReadingBatch.concat([
        readings(1, "heart_rate", [0], [70]), readings(77, "heart_rate", [0], [70]), readings(1, "fridge_temp", [0], [4]),
        readings(1, "heart_rate", [0], [70], instance=1),
    ])  # fmt: skip
    effects = desk.read(batch)
    assert len(effects.stored) == 1
    refused = {reason: (len(rows), detail) for rows, reason, detail in effects.rejected}
    assert refused["unknown-device"] == (1, "1 readings of handles [77] that are not registered in this shard")
    assert refused["unknown-metric"][0] == 2


def test_a_metric_id_beyond_the_table_is_refused(desk: Desk) -> None:
    batch = readings(1, "heart_rate", [0], [70]).with_columns(metric=np.array([65_535]))
    assert [reason for _, reason, _ in desk.read(batch).rejected] == ["unknown-metric"]


def test_the_stored_readings_carry_their_own_arrival(desk: Desk) -> None:
    batch = readings(1, "heart_rate", [0, 1, 1], [70, 71, 71], sequence=[1, 2, 2])
    effects = desk.cell.step(batch, np.array([at(3), at(4), at(5)], dtype=np.int64))
    assert effects.stored_arrival_us.tolist() == [at(3), at(4)]


def test_an_empty_batch_does_nothing(desk: Desk) -> None:
    effects = desk.read(ReadingBatch.empty())
    assert (len(effects.stored), effects.alarms, desk.cell.now_us) == (0, [], at(0))


def test_stream_time_never_goes_back(desk: Desk) -> None:
    desk.read(readings(1, "heart_rate", [0], [70]), arrival_s=10)
    desk.tick(5)
    assert desk.cell.now_us == at(0) + 10 * S


@pytest.mark.clause("6.3d")
def test_what_a_wearable_backfills_is_kept_in_its_own_time_and_never_pages() -> None:
    desk = Desk()
    desk.tell(registered({3: "wearable@1"}))
    desk.read(readings(3, "pulse_rate", [0], [70]))
    effects = desk.read(readings(3, "pulse_rate", [100, 110], [150, 150], quality=pack(marks=Mark.BACKFILL)), arrival_s=111)
    assert marks(effects.stored) == [["BACKFILL"], ["BACKFILL"]]
    assert effects.stored.time_us.tolist() == [at(100), at(110)]
    assert [(event.rule, event.onset_us, event.live) for event in effects.alarms if event.rule.startswith("limit")] == [
        ("limit.high", at(100), False), ("limit.very-high", at(100), False),
    ]  # fmt: skip
