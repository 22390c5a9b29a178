"""The lake: commits with their place in the stream."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from domain.errors import IntegrityViolation, InvalidInput, NotFound
from domain.readings import ReadingBatch
from runtime import lake as lake_module
from runtime.lake import Advance, Fenced, Lake, PositionMoved, ReadingQuery, lake_rows
from runtime.lake_files import ROW_GROUP_ROWS
from runtime.lake_log_checksums import EntryChecksums, damaged_entry
from runtime.lake_schema import POLARS_ROWS
from runtime.lake_upkeep import vacuum
from tests.lake_samples import DAY_US, START_US, as_set, rows_of, sample_batch, sample_rows, table_set

ALL = ReadingQuery()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "readings")


def data_files(lake: Lake) -> list[Path]:
    return list(lake.path.glob("day=*/*.parquet"))


@pytest.mark.clause("7.4a")
def test_rows_come_back_as_they_were_in_the_types_of_the_domain(lake: Lake) -> None:
    batch = ReadingBatch.of(
        handle=[4_000_000_000, 7, 7], metric=[65_535, 1, 1], instance=[255, 0, 0],
        time_us=[START_US, START_US + 1, START_US + 2], value=[-0.0, np.nan, 1e300], quality=[65_535, 4, 0],
        source=[4_294_967_295, 7, 7], sequence=[2**64 - 1, 0, 1], raw_value=[98.6, np.nan, np.nan], raw_unit=[9, 0, 0],
    )  # fmt: skip
    lake.commit(lake_rows(batch, batch.time_us + 5, np.array(["sz.h1"] * 3, dtype=object)), {0: Advance(0, 9, 1)})
    found = lake.read(ALL)
    assert dict(found.schema) == POLARS_ROWS
    assert found["raw_value"].to_list() == [None, None, 98.6]
    returned = ReadingBatch.from_arrow(found.to_arrow())
    expected = batch.take(np.array([1, 2, 0]))
    for name in ("handle", "metric", "instance", "time_us", "value", "quality", "source", "sequence", "raw_value", "raw_unit"):
        np.testing.assert_array_equal(getattr(returned, name), getattr(expected, name), err_msg=name)
    assert found["arrival_us"].to_list() == [START_US + 6, START_US + 7, START_US + 5]


def test_rows_without_a_column_are_refused_by_its_name(lake: Lake) -> None:
    with pytest.raises(InvalidInput, match="arrival_us"):
        lake.commit(sample_rows(3).drop_columns(["arrival_us"]), {0: Advance(0, 1, 1)})


def test_a_commit_carries_position_and_epoch_of_each_shard(lake: Lake) -> None:
    version = lake.commit(sample_rows(10), {3: Advance(0, 17, 2), 5: Advance(0, 18, 4)})
    view = Lake(lake.path).positions()
    assert (view.version, view.positions, view.epochs) == (version, {3: 17, 5: 18}, {3: 2, 5: 4})


@pytest.mark.parametrize("expected", [0, 16, 18])
def test_a_commit_that_expects_another_position_is_refused_and_leaves_nothing(lake: Lake, expected: int) -> None:
    lake.commit(sample_rows(10), {3: Advance(0, 17, 2)})
    files = data_files(lake)
    with pytest.raises(PositionMoved, match=f"up to stream sequence 17, the commit expected {expected}") as refusal:
        lake.commit(sample_rows(10, seed=1), {3: Advance(expected, 20, 2)})
    assert (refusal.value.shard, refusal.value.position) == (3, 17)
    assert data_files(lake) == files
    assert len(lake.read(ALL)) == 10


def test_a_commit_under_an_old_epoch_is_refused(lake: Lake) -> None:
    lake.commit(sample_rows(10), {3: Advance(0, 17, 2)})
    with pytest.raises(Fenced, match="held under epoch 2; a commit under epoch 1") as refusal:
        lake.commit(sample_rows(10), {3: Advance(17, 20, 1)})
    assert (refusal.value.shard, refusal.value.newer_epoch) == (3, 2)


def test_one_refused_shard_refuses_the_whole_commit(lake: Lake) -> None:
    lake.claim(4, 9)
    with pytest.raises(Fenced):
        lake.commit(sample_rows(10), {3: Advance(0, 5, 1), 4: Advance(0, 5, 1)})
    assert lake.positions().positions.get(3, 0) == 0


def test_claiming_a_shard_fences_its_former_host_and_tells_the_position(lake: Lake) -> None:
    former, heir = lake, Lake(lake.path)
    former.commit(sample_rows(5), {1: Advance(0, 40, 1)})
    assert heir.claim(1, 2) == 40
    assert heir.claim(1, 2) == 40
    with pytest.raises(Fenced):
        former.commit(sample_rows(5), {1: Advance(40, 50, 1)})
    with pytest.raises(Fenced):
        former.claim(1, 1)
    heir.commit(sample_rows(5), {1: Advance(40, 50, 2)})


@pytest.mark.parametrize("advance", [(5, 4, 1), (-1, 4, 1), (0, 1, -1)])
def test_an_advance_never_goes_back(advance: tuple[int, int, int]) -> None:
    with pytest.raises(InvalidInput):
        Advance(*advance)


def test_of_two_writers_of_one_shard_exactly_one_makes_each_step(lake: Lake) -> None:
    rivals = [lake, Lake(lake.path)]
    start = threading.Barrier(2)

    def race(step: int, which: int) -> int:
        start.wait()
        try:
            rivals[which].commit(sample_rows(5, seed=2 * step + which), {0: Advance(step, step + 1, 1)})
        except PositionMoved:
            return 0
        return 1

    with ThreadPoolExecutor(2) as pool:
        for step in range(15):
            assert sum(pool.map(race, [step, step], [0, 1])) == 1
    assert len(lake.read(ALL)) == 15 * 5
    assert len(data_files(lake)) == 15


def test_writers_of_different_shards_do_not_disturb_each_other(lake: Lake) -> None:
    def write(shard: int) -> None:
        own = Lake(lake.path)
        for step in range(15):
            own.commit(sample_rows(5, seed=100 * shard + step), {shard: Advance(step, step + 1, 1)})

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(write, range(3)))
    assert lake.positions().positions == {0: 15, 1: 15, 2: 15}
    assert len(lake.read(ALL)) == 3 * 15 * 5


def test_a_commit_reported_as_failed_but_written_counts_once(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    write = DeltaTable.create_write_transaction
    failures = iter([True])

    def write_and_fail(*args: object, **options: object) -> None:
        write(*args, **options)
        if next(failures, False):
            raise CommitFailedError("the connection broke after the entry was written")

    monkeypatch.setattr(DeltaTable, "create_write_transaction", write_and_fail)
    lake.commit(sample_rows(10), {0: Advance(0, 5, 1)})
    assert lake.positions().positions == {0: 5}
    assert len(lake.read(ALL)) == 10


def test_a_disk_error_after_the_commit_deletes_nothing_of_it(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(lake_module.lake_log, "sync_entries", fail)
    with pytest.raises(OSError, match="Input/output"):
        lake.commit(sample_rows(10), {0: Advance(0, 5, 1)})
    monkeypatch.undo()
    assert len(Lake(lake.path).read(ALL)) == 10


def test_rows_of_several_days_are_one_file_a_day(lake: Lake) -> None:
    days = [sample_batch(50, seed=day, start_us=START_US + day * DAY_US) for day in range(3)]
    batch = ReadingBatch.concat(days).take(np.random.default_rng(1).permutation(150))
    lake.commit(rows_of(batch), {0: Advance(0, 5, 1)})
    assert sorted(path.parent.name for path in data_files(lake)) == ["day=2026-09-21", "day=2026-09-22", "day=2026-09-23"]
    assert as_set(lake.read(ALL)) == table_set(rows_of(batch))


def test_a_file_is_sorted_in_sized_row_groups(lake: Lake) -> None:
    lake.commit(sample_rows(ROW_GROUP_ROWS + 1000), {0: Advance(0, 5, 1)})
    (path,) = data_files(lake)
    stored = pl.DataFrame(pq.ParquetFile(path).read())
    order = ["hospital", "handle", "metric", "time_us"]
    assert stored.equals(stored.sort(order, maintain_order=True))
    assert pq.ParquetFile(path).metadata.num_row_groups == 2


@pytest.mark.clause("7.4b")
def test_regular_vital_signs_take_less_than_two_bytes_a_reading(lake: Lake) -> None:
    handle, second = (grid.ravel() for grid in np.meshgrid(np.arange(1, 201), np.arange(600), indexing="ij"))
    value = np.round(80 + 5 * np.sin(second / 60 + handle))
    batch = ReadingBatch.of(handle=handle, metric=1, time_us=START_US + second * 1_000_000, value=value, sequence=second + 1)
    lake.commit(rows_of(batch), {0: Advance(0, 5, 1)})
    (path,) = data_files(lake)
    assert path.stat().st_size / len(batch) < 2


def test_a_version_is_read_as_it_was(lake: Lake) -> None:
    first = lake.commit(sample_rows(10), {0: Advance(0, 5, 1)})
    lake.commit(sample_rows(10, seed=1), {0: Advance(5, 9, 1)})
    assert len(lake.read(ALL, version=first)) == 10
    assert lake.state(first).view.positions == {0: 5}
    assert len(lake.read(ALL)) == 20


def test_a_version_that_never_was_is_not_found(lake: Lake) -> None:
    with pytest.raises(NotFound, match="version 99"):
        lake.read(ALL, version=99)


def test_positions_survive_checkpoints_and_the_loss_of_older_log_entries(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lake_module, "CHECKPOINT_EVERY", 5)
    lake.commit(sample_rows(5), {7: Advance(0, 70, 3)})
    for step in range(12):
        lake.commit(sample_rows(5, seed=step + 1), {1: Advance(step, step + 1, 1)})
    log = lake.path / "_delta_log"
    assert (log / f"{10:020d}.checkpoint.parquet").exists()
    for version in range(10):
        (log / f"{version:020d}.json").unlink()
    reopened = Lake(lake.path)
    assert reopened.positions() == lake.positions()
    assert reopened.positions().positions == {1: 12, 7: 70}
    assert len(reopened.read(ALL)) == 65


def test_log_entries_past_their_retention_are_deleted_behind_a_checkpoint(lake: Lake) -> None:
    for step in range(4):
        lake.commit(sample_rows(5, seed=step), {1: Advance(step, step + 1, 1)})
    log = lake.path / "_delta_log"
    long_ago = lake.path.stat().st_mtime - 10 * 86_400
    for version in range(4):
        os.utime(log / f"{version:020d}.json", (long_ago, long_ago))
    lake.checkpoint()
    assert sorted(path.name for path in log.glob("*.json")) == [f"{4:020d}.json"]
    assert Lake(lake.path).positions() == lake.positions()


@pytest.mark.clause("9.3")
@pytest.mark.parametrize("torn", [b"", b'{"commitInfo":{}}\n{"add":{"path":"day=20', b"\0" * 300, b"\xff\xfe"])
def test_a_log_entry_torn_by_a_power_cut_is_set_aside_and_named(
    lake: Lake, torn: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    lake.commit(sample_rows(10), {0: Advance(0, 5, 1)})
    lake.commit(sample_rows(10, seed=1), {0: Advance(5, 9, 1)})
    (lake.path / "_delta_log" / f"{2:020d}.json").write_bytes(torn)
    with caplog.at_level(logging.WARNING):
        survivor = Lake(lake.path)
    assert [record.file for record in caplog.records] == [f"{2:020d}.json"]
    assert survivor.positions().positions == {0: 5}
    survivor.commit(sample_rows(10, seed=2), {0: Advance(5, 9, 1)})
    assert len(Lake(lake.path).read(ALL)) == 20


@pytest.mark.clause("9.3")
@pytest.mark.parametrize("damage", [lambda entry: entry.write_bytes(b""), Path.unlink], ids=["torn", "missing"])
def test_entries_behind_a_torn_or_missing_one_go_with_it(lake: Lake, damage: Callable[[Path], object]) -> None:
    for step in range(4):
        lake.commit(sample_rows(10, seed=step), {0: Advance(step, step + 1, 1)})
    damage(lake.path / "_delta_log" / f"{3:020d}.json")
    survivor = Lake(lake.path)
    assert survivor.positions().positions == {0: 2}
    assert len(survivor.read(ALL)) == 20


@pytest.mark.clause("9.3")
def test_a_checkpoint_torn_by_a_power_cut_is_set_aside(lake: Lake) -> None:
    lake.commit(sample_rows(10), {0: Advance(0, 5, 1)})
    lake.checkpoint()
    checkpoint = lake.path / "_delta_log" / f"{1:020d}.checkpoint.parquet"
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    assert Lake(lake.path).positions().positions == {0: 5}
    assert not checkpoint.exists()


COMMITTER = """
import sys
from pathlib import Path
from runtime.lake import Advance, Lake
from tests.lake_samples import sample_rows
lake = Lake(Path(sys.argv[1]))
position = lake.claim(0, int(sys.argv[2]))
while True:
    lake.commit(sample_rows(100, seed=position), {0: Advance(position, position + 1, int(sys.argv[2]))})
    position += 1
    print(position, flush=True)
"""


@pytest.mark.clause("9.3")
def test_a_writer_killed_at_any_moment_leaves_whole_commits_and_loses_none_it_acknowledged(lake: Lake) -> None:
    for epoch, steps in enumerate((3, 7), start=1):
        writer = subprocess.Popen(
            [sys.executable, "-c", COMMITTER, str(lake.path), str(epoch)],
            stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3],
        )  # fmt: skip
        assert writer.stdout is not None
        acknowledged = [int(writer.stdout.readline()) for _ in range(steps)][-1]
        writer.kill()
        acknowledged = max([acknowledged, *map(int, writer.stdout.read().split())])
        writer.wait()
        writer.stdout.close()
        survivor = Lake(lake.path)
        position = survivor.positions().positions[0]
        assert position >= acknowledged
        expected = set().union(*(table_set(sample_rows(100, seed=step)) for step in range(position)))
        found = survivor.read(ALL)
        assert len(found) == 100 * position
        assert as_set(found) == expected
    vacuum(survivor, retention_h=0)
    assert len(data_files(lake)) == position


def test_a_commit_of_no_rows_moves_the_position_alone(lake: Lake) -> None:
    lake.commit(sample_rows(0), {0: Advance(0, 12, 1)})
    assert lake.positions().positions == {0: 12}
    assert lake.read(ALL).is_empty()


def test_hospitals_may_come_as_texts_or_dictionary() -> None:
    batch = sample_batch(4)
    texts = pa.array(["sz.h1", "sz.h2", "sz.h1", "sz.h2"])
    for given in (texts, texts.dictionary_encode()):
        assert lake_rows(batch, batch.time_us, given)["hospital"].to_pylist() == texts.to_pylist()


@pytest.mark.clause("9.3")
def test_a_flipped_bit_in_the_log_is_detected_and_named_also_where_the_entry_still_reads(lake: Lake) -> None:
    """One value of each entry but the newest, which the next commit covers."""
    for step in range(6):
        lake.commit(sample_rows(10, seed=step), {0: Advance(step, step + 1, 1)})
    log, flips = lake.path / "_delta_log", 0
    for version in range(1, 6):
        entry = log / f"{version:020d}.json"
        whole = entry.read_bytes()
        for at in range(0, len(whole), 97):
            flipped = bytearray(whole)
            flipped[at] ^= 1
            if not all(map(_is_json, bytes(flipped).splitlines())):
                continue
            flips += 1
            entry.write_bytes(flipped)
            with pytest.raises(IntegrityViolation, match=entry.name):
                Lake(lake.path)
            entry.write_bytes(whole)
    assert flips > 30
    assert Lake(lake.path).positions().positions == {0: 6}


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def test_an_entry_that_contradicts_all_others_is_the_damaged_one(tmp_path: Path) -> None:
    checksums = EntryChecksums(tmp_path)
    folder = tmp_path / "_delta_log"
    folder.mkdir()
    entries = []
    for version in range(5):
        stated = checksums.of_last(version - 1) if version else {}
        path = folder / f"{version:020d}.json"
        path.write_text(json.dumps({"commitInfo": {"timestamp": version, **stated}}))
        entries.append((version, path))
    assert damaged_entry(entries) is None
    liar = entries[3][1]
    liar.write_text(liar.read_text().replace("0:", "0:f"))
    assert damaged_entry(entries) == liar
    assert damaged_entry(entries[4:]) is None  # those of before a checkpoint are gone
