"""Kept answers: given again as long as the same files can have the rows, and never longer."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from domain.readings import ReadingBatch
from runtime import lake_pages, lake_summaries
from runtime.lake import Advance, Lake, ReadingQuery
from runtime.lake_answers import KeptAnswers
from runtime.lake_schema import HOUR_US
from runtime.lake_upkeep import compact
from tests.lake_samples import DAY_US, START_US, rows_of


def reading(handle: int, time_us: int, value: float) -> ReadingBatch:
    return ReadingBatch.of(handle=handle, metric=1, time_us=time_us, value=value, sequence=time_us)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(tmp_path)
    lake.commit(rows_of(reading(7, START_US, 70.0)), {0: Advance(0, 1, 1)})
    return lake


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was found out in files."""
    found_out: list[str] = []
    for module, name in ((lake_pages, "read"), (lake_summaries, "summary")):
        ask = getattr(module, name)

        def watched(*asked: object, _name: str = name, _ask: object = ask, **more: object) -> pl.DataFrame:
            found_out.append(_name)
            return _ask(*asked, **more)  # type: ignore[operator]

        monkeypatch.setattr(module, name, watched)
    return found_out


def test_what_other_devices_and_times_bring_leaves_an_answer_as_it_is(lake: Lake, looked: list[str]) -> None:
    query = ReadingQuery(handles=[7], until_us=START_US + HOUR_US)
    first = lake.read(query), lake.buckets(query, HOUR_US)
    lake.commit(rows_of(reading(8, START_US, 80.0)), {0: Advance(1, 2, 1)})
    lake.commit(rows_of(reading(7, START_US + DAY_US, 71.0)), {0: Advance(2, 3, 1)})
    assert lake.read(query).equals(first[0])
    assert lake.buckets(query, HOUR_US).equals(first[1])
    assert looked == ["read", "summary"]


def test_a_late_reading_is_in_the_next_answer(lake: Lake, looked: list[str]) -> None:
    query = ReadingQuery(handles=[7], until_us=START_US + HOUR_US)
    assert len(lake.read(query)) == 1
    lake.commit(rows_of(reading(7, START_US - 1, 60.0)), {0: Advance(1, 2, 1)})
    assert lake.read(query)["value"].to_list() == [60.0, 70.0]
    assert lake.buckets(query, HOUR_US)["count"].sum() == 2
    compact(lake, START_US + 2 * DAY_US)
    assert lake.read(query)["value"].to_list() == [60.0, 70.0]
    assert looked.count("read") == 3


def test_an_older_version_keeps_its_answer(lake: Lake) -> None:
    query, version = ReadingQuery(handles=[7]), lake.positions().version
    before = lake.read(query)
    lake.commit(rows_of(reading(7, START_US + 1, 71.0)), {0: Advance(1, 2, 1)})
    assert len(lake.read(query)) == 2
    assert lake.read(query, version).equals(before)


def test_other_pages_buckets_and_keys_are_other_questions(lake: Lake) -> None:
    lake.commit(rows_of(reading(7, START_US + HOUR_US, 75.0)), {0: Advance(1, 2, 1)})
    assert [len(lake.read(ReadingQuery(handles=[7], limit=limit))) for limit in (None, 1)] == [2, 1]
    assert lake.read(ReadingQuery(limit=1, descending=True))["value"].item() == 75.0
    assert [len(lake.buckets(ReadingQuery(handles=[7]), bucket_us)) for bucket_us in (HOUR_US, 24 * HOUR_US)] == [2, 1]
    assert "hospital" in lake.fleet(ReadingQuery(handles=[7])).columns


def test_answers_are_kept_within_their_bound() -> None:
    kept = KeptAnswers(most_bytes=8 * 800)
    frame = pl.DataFrame({"value": [0.0] * 100})  # 800 bytes
    for number in range(20):
        assert kept.get(number, lambda: frame) is frame
    assert len(kept) == 8
    kept.get("large", lambda: pl.DataFrame({"value": [0.0] * 200}))
    assert len(kept) == 8
    assert kept.get(19, lambda: pytest.fail("it is here")) is frame
