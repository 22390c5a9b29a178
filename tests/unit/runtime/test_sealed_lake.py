"""A sealed lake: the answers of a plain one, nothing readable on disk, and files of both kinds in one table."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from domain.errors import IntegrityViolation, NotFound, Unavailable
from domain.readings import ReadingBatch
from runtime import lake_checksums, lake_files, lake_folder, lake_queries
from runtime.keys import KeyMissing
from runtime.lake import Advance, Lake, ReadingQuery
from runtime.lake_schema import HOUR_US, PRUNING_COLUMNS
from runtime.lake_upkeep import compact, roll_up, seal, vacuum
from runtime.sealed_file import FileSeal, is_sealed
from runtime.snapshots import SnapshotStore
from runtime.soft_keys import SoftKeys
from tests.lake_samples import DAY_US, START_US, as_set, rows_of, sample_rows, sample_seal

EVERYTHING = ReadingQuery()
TOMORROW_US = START_US + 2 * DAY_US
CANARY = 81.234567890123
QUESTIONS = (
    EVERYTHING,
    ReadingQuery(handles=[7, 8]),
    ReadingQuery(handles=list(range(1, 60)), metrics=[1, 2]),
    ReadingQuery(hospitals=["sz.h001"], limit=20, descending=True),
    ReadingQuery(handles=[7], metrics=[1], limit=3),
    ReadingQuery(from_us=START_US + 20_000_000, until_us=START_US + 30_000_000),
    ReadingQuery(value_above=95.0),
)


@pytest.fixture
def keys_dir(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def lake(tmp_path: Path, keys_dir: Path) -> Lake:
    return Lake(tmp_path / "readings", sample_seal(keys_dir))


def commit(lake: Lake, count: int = 300, *, first: int = 0, commits: int = 4) -> None:
    for n in range(first, first + commits):
        lake.commit(sample_rows(count, seed=n), {0: Advance(n, n + 1, 1)})


def data_files(lake: Lake) -> list[Path]:
    return [lake.path / path for path in lake.state().files["path"]]


def forget_looks() -> None:
    """As another process: nothing was looked at before."""
    lake_checksums._intact.clear()


@pytest.fixture(autouse=True, params=["small files", "large files"])
def every_file_is(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "large files":
        monkeypatch.setattr(lake_folder, "_SMALL_BYTES", 0)


@pytest.mark.clause("7.2c")
@pytest.mark.parametrize("is_merged", [False, True])
def test_answers_are_those_of_a_plain_lake(lake: Lake, tmp_path: Path, *, is_merged: bool) -> None:
    plain = Lake(tmp_path / "plain")
    for each in (lake, plain):
        commit(each)
        if is_merged:
            compact(each, TOMORROW_US)
            roll_up(each, least_rows=1)
    for query in QUESTIONS:
        assert lake.read(query).equals(plain.read(query)), query
        assert lake.buckets(query, HOUR_US).equals(plain.buckets(query, HOUR_US)), query
        assert lake.fleet(query).equals(plain.fleet(query)), query
    bounds = ["rows", "day", *(f"{end}.{name}" for end in ("min", "max") for name in PRUNING_COLUMNS)]
    assert lake.state().files.select(bounds).sort(bounds).equals(plain.state().files.select(bounds).sort(bounds))


@pytest.mark.clause("7.2c")
def test_no_file_says_a_value_a_hospital_or_a_time(lake: Lake) -> None:
    time_us = START_US + np.arange(40) * 1_000_003
    batch = ReadingBatch.of(handle=[170] * 40, metric=1, time_us=time_us, value=CANARY, sequence=np.arange(1, 41))
    lake.commit(rows_of(batch), {0: Advance(0, 1, 1)})
    lake.commit(rows_of(batch), {0: Advance(1, 2, 1)})
    compact(lake, TOMORROW_US)
    roll_up(lake, least_rows=1)
    lake.checkpoint()
    canaries = (struct.pack("<d", CANARY), b"sz.h001", struct.pack("<q", START_US), str(START_US).encode(), b"2026-09-21T14")
    files = [path for path in lake.path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} >= {".json", ".parquet"}
    for path in files:
        content = path.read_bytes()
        assert [canary for canary in canaries if canary in content] == [], path
    actions = [json.loads(line) for path in lake.path.rglob("*.json") for line in path.read_text().splitlines()]
    assert {tuple(json.loads(action["add"]["stats"])) for action in actions if "add" in action} == {("numRecords",)}


def test_the_log_of_a_plain_lake_says_what_its_files_hold(tmp_path: Path) -> None:
    """So that the test above looks for what would be there."""
    plain = Lake(tmp_path / "plain")
    commit(plain, commits=1)
    assert any(b"sz.h000" in path.read_bytes() for path in plain.path.rglob("*.json"))
    assert any(b"sz.h000" in path.read_bytes() for path in plain.path.rglob("day=*/*.parquet"))


def test_a_lake_in_clear_is_read_on_and_sealed_by_upkeep(tmp_path: Path, keys_dir: Path) -> None:
    plain = Lake(tmp_path / "readings")
    commit(plain)
    before = plain.read(EVERYTHING)
    lake = Lake(plain.path, sample_seal(keys_dir))
    assert lake.read(EVERYTHING).equals(before)
    commit(lake, first=4, commits=1)
    assert sorted(map(is_sealed, data_files(lake))) == [False] * 4 + [True]
    both = lake.read(EVERYTHING)
    assert (seal(lake, most=3), seal(lake, most=3), seal(lake, most=3)) == (3, 1, 0)
    assert all(map(is_sealed, data_files(lake)))
    assert lake.read(EVERYTHING).equals(both)
    assert vacuum(lake, retention_h=0) == 4
    assert all(map(is_sealed, lake.path.glob("day=*/*.parquet")))
    assert Lake(plain.path, sample_seal(keys_dir)).read(EVERYTHING).equals(both)


def test_a_version_whose_files_were_deleted_is_said_to_be_gone(lake: Lake) -> None:
    commit(lake)
    version = lake.positions().version
    compact(lake, TOMORROW_US)
    lake.state(version)
    vacuum(lake, retention_h=0)
    for query in (EVERYTHING, ReadingQuery(handles=[7], metrics=[1], limit=3)):
        with pytest.raises(NotFound, match="not kept any more"):
            lake.read(query, version)


def test_merging_seals_what_was_in_clear(tmp_path: Path, keys_dir: Path) -> None:
    plain = Lake(tmp_path / "readings")
    commit(plain)
    lake = Lake(plain.path, sample_seal(keys_dir))
    commit(lake, first=4, commits=2)
    before = lake.read(EVERYTHING)
    assert compact(lake, TOMORROW_US) == 6
    assert all(map(is_sealed, data_files(lake)))
    assert lake.read(EVERYTHING).equals(before)


def test_sealing_switched_off_again_leaves_what_is_sealed_readable(lake: Lake, keys_dir: Path) -> None:
    commit(lake, commits=2)
    off = Lake(lake.path, sample_seal(keys_dir, writes=False))
    commit(off, first=2, commits=1)
    assert sorted(map(is_sealed, data_files(off))) == [False, True, True]
    assert len(off.read(EVERYTHING)) == 900
    assert seal(off) == 0


def test_without_the_keys_a_sealed_lake_says_so(lake: Lake) -> None:
    commit(lake, commits=1)
    with pytest.raises(KeyMissing, match="is sealed"):
        Lake(lake.path).read(EVERYTHING)


def test_a_commit_without_the_key_leaves_nothing_behind(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "readings", FileSeal(SoftKeys(tmp_path / "none")))
    with pytest.raises(Unavailable):
        commit(lake, commits=1)
    assert list(lake.path.glob("day=*/*")) == []


@pytest.mark.clause("9.3")
@pytest.mark.parametrize("at", [0.01, 0.5, 0.999])
def test_a_damaged_sealed_file_is_named_and_the_others_are_read(lake: Lake, keys_dir: Path, at: float) -> None:
    commit(lake, commits=2)
    later = sample_rows(300, seed=9, start_us=START_US + DAY_US)
    lake.commit(later, {0: Advance(2, 3, 1)})
    damaged = sorted(lake.path.glob("day=*/*.parquet"))[0]
    content = bytearray(damaged.read_bytes())
    content[int(at * len(content))] ^= 1
    damaged.write_bytes(content)
    forget_looks()
    lake_folder.is_sealed.cache_clear()
    other = Lake(lake.path, sample_seal(keys_dir))
    with pytest.raises(IntegrityViolation, match=damaged.name):
        other.read(EVERYTHING)
    assert len(other.read(ReadingQuery(from_us=START_US + DAY_US))) == 300  # what day a file is of, the log says
    assert other.commit(sample_rows(10, seed=10), {0: Advance(3, 4, 1)}) > 0


@pytest.mark.clause("9.3")
def test_a_sealed_file_with_a_true_checksum_does_not_stand_for_another(lake: Lake, keys_dir: Path) -> None:
    """Whoever can write files can name them by their checksums too; the seal is bound to a file's place."""
    commit(lake, commits=2)
    one, other = data_files(lake)
    one.write_bytes(other.read_bytes())
    fake = one.rename(one.with_name(f"{one.stem.partition('-')[0]}-{other.stem.partition('-')[2]}.parquet"))
    forget_looks()
    with pytest.raises(IntegrityViolation, match="does not open as"):
        Lake(lake.path, sample_seal(keys_dir)).scan([str(fake.relative_to(lake.path))]).collect()


def test_a_scan_of_a_sealed_file_skips_row_groups_as_a_plain_one_does(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """What tells them is no promise of Polars: should it go, this says so, and scans would read everything."""
    monkeypatch.setattr(lake_files, "ROW_GROUP_ROWS", 100)
    monkeypatch.setattr(lake_folder, "_SMALL_BYTES", 0)
    commit(lake, 2000, commits=1)
    read: list[int] = []
    batches = lake_folder._batches

    def watched(metadata: object, groups: list[int]) -> object:
        read.extend(groups)
        return batches(metadata, groups)  # type: ignore[arg-type]

    monkeypatch.setattr(lake_folder, "_batches", watched)
    files = lake.state().files
    for query, most in (
        (ReadingQuery(handles=[7]), 2), (ReadingQuery(hospitals=["sz.h003"]), 2), (ReadingQuery(handles=[7, 290]), 4),
    ):  # fmt: skip
        read.clear()
        found = lake_queries.read(lake.folder, files, query)
        assert as_set(found) == as_set(lake_queries.matching(lake.read(EVERYTHING).lazy(), query).collect())
        assert 0 < len(read) <= 20 + most  # the second reading is of everything
        assert len(read) - 20 <= most
    assert len(lake_queries.read(lake.folder, files, replace(EVERYTHING, limit=5))) == 5


def test_small_files_are_opened_in_memory_as_long_as_there_is_room(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(lake, commits=4)
    sizes = [path.stat().st_size for path in data_files(lake)]
    monkeypatch.setattr(lake_folder, "_OPENED_BYTES", sum(sizes[:2]) + 1)
    hows = [how.name for how in lake_folder._hows([str(path) for path in data_files(lake)])]
    assert sorted(hows) in (["BY_US", "BY_US", "OPENED", "OPENED"], ["BY_US"] * 4)
    assert len(lake.scan(lake.state().files["path"]).collect()) == 1200


def test_a_scan_counts_heads_and_picks_columns(lake: Lake) -> None:
    commit(lake, commits=2)
    rows = lake.scan(lake.state().files["path"])
    assert rows.select(pl.len()).collect().item() == 600
    assert len(rows.head(7).collect()) == 7
    assert rows.select("value").collect().columns == ["value"]
    assert rows.filter(pl.col("handle") < 0).collect().is_empty()


@pytest.mark.clause("7.2c")
def test_snapshots_are_sealed_and_older_ones_in_clear_still_load(tmp_path: Path, keys_dir: Path) -> None:
    table = pl.DataFrame({"value": [CANARY]}).to_arrow()
    folder = tmp_path / "snapshots"
    SnapshotStore(folder).save(0, 1, 5, {"channels": table})
    store = SnapshotStore(folder, seal=sample_seal(keys_dir))
    before = store.load(0)
    assert before is not None
    assert before.sequence == 5
    path = store.save(0, 1, 6, {"channels": table})
    assert is_sealed(path)
    after = store.load(0)
    assert after is not None
    assert after.tables["channels"].equals(table)
    store.give(1, 0, 7, {"channels": table})
    assert store.given(1) == {"channels": table}
    moved = path.with_name(path.name.replace("0006", "0009"))
    path.rename(moved)  # an older state, said to be newer
    loaded = store.load(0)
    assert loaded is not None
    assert loaded.sequence == 5
    with pytest.raises(KeyMissing):
        SnapshotStore(folder).load(0)
