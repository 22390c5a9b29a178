"""State snapshots: whole or skipped, newest first, fenced by epoch."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.errors import IntegrityViolation
from runtime.snapshots import SnapshotStore

TABLES = {
    "channels": pa.table({"handle": pa.array([1, 2, 3], pa.uint32()), "value": [1.5, float("inf"), -0.0]}),
    "patients": pa.table({"key": ["p-1", None]}, metadata={"model": "news2@1"}),
    "empty": pa.table({"at_us": pa.array([], pa.int64())}),
}


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(tmp_path / "snapshots")


def test_tables_come_back_as_they_were(store: SnapshotStore) -> None:
    store.save(3, 2, 700, TABLES)
    snapshot = store.load(3)
    assert snapshot is not None
    assert (snapshot.shard, snapshot.epoch, snapshot.sequence) == (3, 2, 700)
    assert list(snapshot.tables) == list(TABLES)
    for name, table in TABLES.items():
        assert snapshot.tables[name].equals(table, check_metadata=True), name


def test_a_shard_without_a_snapshot_has_none(store: SnapshotStore) -> None:
    store.save(3, 2, 700, TABLES)
    assert store.load(4) is None


def test_the_newest_is_loaded_and_three_are_kept(store: SnapshotStore) -> None:
    for sequence in (9, 10, 11, 100, 1000):
        path = store.save(3, 1, sequence, {"n": pa.table({"n": [sequence]})})
    snapshot = store.load(3)
    assert snapshot is not None
    assert snapshot.tables["n"]["n"].to_pylist() == [1000]
    assert len(list(path.parent.iterdir())) == 3


def test_a_higher_epoch_is_newer_whatever_its_sequence(store: SnapshotStore) -> None:
    store.save(3, 1, 1000, {})
    store.save(3, 2, 900, {})
    snapshot = store.load(3)
    assert snapshot is not None
    assert (snapshot.epoch, snapshot.sequence) == (2, 900)


@pytest.mark.clause("9.3")
def test_a_host_that_lost_its_shard_cannot_save(store: SnapshotStore) -> None:
    store.save(3, 5, 100, TABLES)
    with pytest.raises(IntegrityViolation, match="epoch 5; one of epoch 4 is refused"):
        store.save(3, 4, 200, TABLES)
    store.save(3, 5, 200, TABLES)
    store.save(4, 1, 1, TABLES)


@pytest.mark.clause("9.3")
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_damage_is_noticed_and_the_one_before_is_loaded(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    store = SnapshotStore(tmp_path_factory.mktemp("snapshots"))
    store.save(3, 1, 100, {"n": pa.table({"n": np.arange(50)})})
    path = store.save(3, 1, 200, TABLES)
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    flipped = bytes([whole[at] ^ data.draw(st.integers(1, 255))])
    path.write_bytes(whole[:at] if data.draw(st.booleans()) else whole[:at] + flipped + whole[at + 1 :])
    snapshot = store.load(3)
    assert snapshot is not None
    assert snapshot.sequence == 100


@pytest.mark.clause("9.3")
def test_a_damaged_snapshot_is_named_in_the_log(store: SnapshotStore, caplog: pytest.LogCaptureFixture) -> None:
    path = store.save(3, 1, 200, TABLES)
    path.write_bytes(path.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING):
        assert store.load(3) is None
    (record,) = caplog.records
    assert (record.levelname, record.shard, record.file) == ("WARNING", 3, path.name)
    assert "table 'empty' fails its checksum" in record.reason


def test_a_snapshot_of_another_shard_is_not_taken_for_ours(store: SnapshotStore, tmp_path: Path) -> None:
    path = store.save(3, 1, 200, TABLES)
    store.save(4, 1, 100, TABLES)
    (tmp_path / "snapshots" / "shard-0004" / path.name).write_bytes(path.read_bytes())
    snapshot = store.load(4)
    assert snapshot is not None
    assert snapshot.sequence == 100


SAVER = """
import sys
from pathlib import Path
import numpy as np
import pyarrow as pa
from runtime.snapshots import SnapshotStore
store = SnapshotStore(Path(sys.argv[1]))
for sequence in range(1, 1_000_000):
    store.save(0, 1, sequence, {"n": pa.table({"n": np.full(200_000, sequence)})})
    print(sequence, flush=True)
"""


@pytest.mark.clause("9.3")
def test_a_host_killed_while_saving_leaves_what_it_had_saved(tmp_path: Path) -> None:
    saver = subprocess.Popen(
        [sys.executable, "-c", SAVER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]
    )
    assert saver.stdout is not None
    saved = [int(saver.stdout.readline()) for _ in range(5)]
    saver.kill()
    saved += map(int, saver.stdout.read().split())
    saver.wait()
    saver.stdout.close()
    snapshot = SnapshotStore(tmp_path).load(0)
    assert snapshot is not None
    assert snapshot.sequence >= saved[-1]
    assert set(snapshot.tables["n"]["n"].to_numpy()) == {snapshot.sequence}
    SnapshotStore(tmp_path).save(0, 2, snapshot.sequence, {})
    assert not list(tmp_path.rglob("*.part"))


def test_what_a_shard_gave_away_is_kept_once_and_until_the_stream_has_forgotten_it(store: SnapshotStore) -> None:
    assert store.given(7) is None
    store.give(7, 3, 900, TABLES)
    store.give(7, 3, 900, {"other": TABLES["empty"]})  # a replay gives the same; what is there stays
    found = store.given(7)
    assert found is not None
    assert list(found) == list(TABLES)
    store.forget_given(900)
    assert store.given(7) is not None
    store.forget_given(901)
    assert store.given(7) is None


def test_what_was_given_and_is_damaged_is_not_taken(store: SnapshotStore, tmp_path: Path) -> None:
    store.give(7, 3, 900, TABLES)
    (path,) = (tmp_path / "snapshots").glob("given/*")
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityViolation):
        store.given(7)
