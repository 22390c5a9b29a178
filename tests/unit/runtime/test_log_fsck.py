"""fsck names what is damaged, all of it and nothing else."""

from __future__ import annotations

import os
import shutil
import sqlite3

import pytest

from runtime.log_fsck import check_log
from runtime.log_keeper import LogKeeper
from runtime.log_signing import LogSigner
from runtime.soft_keys import SoftKeys
from tests.unit.runtime.test_log_keeper import ORIGIN, received
from tests.unit.runtime.test_log_verifier import flip

pytestmark = pytest.mark.clause("9.3e")

SIZE = 303
BESIDE = ("lock", "events.db", "events.db-shm", "events.db-wal")  # no files of the tree


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A log with full tiles, partial ones, and narrower ones of earlier checkpoints."""
    folder = tmp_path_factory.mktemp("log")
    signer = LogSigner(SoftKeys(folder / "keys"), ORIGIN)
    keeper = LogKeeper.open(folder / "audit", signer, lambda: os.urandom(32))
    for numbers in (range(1, 201), range(201, 281), range(281, SIZE + 1)):
        keeper.take(received(*numbers))
    keeper.close()
    return folder / "audit", signer


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "audit")
    return tmp_path / "audit"


@pytest.fixture
def damages(whole, copy):
    return lambda: check_log(copy, whole[1]).damages


def test_a_whole_log_is_whole(whole):
    found = check_log(*whole)
    assert (found.entries, found.damages) == (SIZE, [])
    named = {str(path.relative_to(whole[0])) for path in whole[0].rglob("*") if path.is_file()}
    assert found.files == len(named.difference(BESIDE)) + 1


def test_each_damaged_file_is_named_alone(copy, damages):
    files = [path for path in copy.rglob("*") if path.is_file() and path.name not in BESIDE]
    assert len(files) >= 8
    for file in files:
        content = flip(file, 9, 3)
        assert {one.partition(":")[0] for one in damages()} == {str(file.relative_to(copy))}
        file.write_bytes(content[:-1])
        assert {one.partition(":")[0] for one in damages()} == {str(file.relative_to(copy))}
        file.write_bytes(content)
    assert damages() == []


def test_each_missing_file_that_is_needed_is_named(copy, damages):
    for name in ("checkpoint", "tile/0/000", f"tile/0/001.p/{SIZE - 256}", "tile/1/000.p/1", "tile/entries/000",
                 f"tile/entries/001.p/{SIZE - 256}"):  # fmt: skip
        content = (copy / name).read_bytes()
        (copy / name).unlink()
        assert damages() == [f"{name}: is missing"]
        (copy / name).write_bytes(content)
    (copy / "events.db").unlink()
    assert damages() == ["events.db: is missing"]


def test_several_damages_are_all_named(copy, damages):
    flip(copy / "tile/0/000", 32 * 7 + 1, 0)
    flip(copy / "tile/entries/001.p/47", 30, 0)
    with sqlite3.connect(copy / "events.db") as connection:
        connection.executescript("DROP TRIGGER events_stay_full; UPDATE events SET event = x'7b7d' WHERE idx = 9")
    connection.close()
    assert sorted(damages()) == [
        "events.db: the event of entry 9 is not the one that was logged",
        "tile/0/000: entry 7 is not the one that was logged",
        "tile/entries/001.p/47: entry 256 is not the one that was logged",
    ]


@pytest.mark.parametrize(("statement", "said"), [
    ("DROP TRIGGER events_are_fixed; UPDATE events SET entry = x'7b7d' WHERE idx = 5",
     "entry 5 is not the one that was logged"),
    ("DROP TRIGGER events_stay; DELETE FROM events WHERE idx = 302", "entry 302 is missing"),
    ("DROP TRIGGER signed_is_fixed; UPDATE signed SET root = zeroblob(32) WHERE size = 280", "another root was signed for 280"),
])  # fmt: skip
def test_rows_of_the_events_are_named(copy, damages, statement, said):
    connection = sqlite3.connect(copy / "events.db")
    connection.executescript(statement)
    connection.close()
    assert any(one.startswith("events.db: ") and said in one for one in damages())
    assert {one.partition(":")[0] for one in damages()} == {"events.db"}


def test_a_database_that_is_none_leaves_the_tree_to_be_checked(copy, damages):
    (copy / "events.db").write_bytes(b"no database at all" * 300)
    flip(copy / "tile/1/000.p/1", 3, 1)
    assert sorted({one.partition(":")[0] for one in damages()}) == ["events.db", "tile/1/000.p/1"]
