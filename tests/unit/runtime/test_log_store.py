"""The log's files: whole after a power cut before any step, and any change of them is noticed."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pytest

from domain.errors import Conflict, IntegrityViolation, InvalidInput, NotFound
from domain.merkle import leaf_hash, root_of
from domain.signed_notes import Checkpoint, Note, Signature
from domain.tiles import ENTRIES, Tile, TiledTree, bundle, bundles_of, entries_of, grown, tiles_of
from runtime.log_store import LogReader, LogStore
from tests.crash_disk import POLICIES, CrashDisk, PowerCut

FOLDER = Path("/data/audit")
LOG = [f'{{"id":"{number}","commitment":"{number * 7919}"}}'.encode() for number in range(560)]
BATCHES = [1, 2, 250, 3, 1, 300, 3]  # up to a full tile, beyond one, and some that stay partial
TILES = dict(grown(0, [leaf_hash(entry) for entry in LOG], {}.__getitem__))


def signed(size, root):
    """A checkpoint as a note; what stands for its signature is of no interest here."""
    return Note(Checkpoint("test/log", size, root).text, (Signature("test/log", b"four", b"signature"),)).to_bytes()


def take(store, batches):
    for count in batches:
        size, root = store.append(LOG[store.size : store.size + count])
        store.publish(size, signed(size, root))


def expected_root(size):
    return root_of(size, TiledTree(size, dict(grown(0, [leaf_hash(e) for e in LOG[:size]], {}.__getitem__)).__getitem__).node)


ROOTS = {size: expected_root(size) for size in {0, *(sum(BATCHES[: count + 1]) for count in range(len(BATCHES)))}}


def check_whole(reader):
    """Everything that the checkpoint stands for is there, and right; the size of the log."""
    checkpoint = reader.checkpoint()
    if checkpoint is None:
        return 0
    assert checkpoint.root == ROOTS[checkpoint.size]
    entries = [entry for tile in bundles_of(checkpoint.size) for entry in entries_of(tile, reader.read(tile))]
    assert entries == LOG[: checkpoint.size]
    for tile in tiles_of(checkpoint.size):
        full = TILES.get(tile) or TILES[max(other for other in TILES if other[:2] == tile[:2])]
        assert reader.read(tile) == full[: tile.width * 32]
    return checkpoint.size


def test_what_was_taken_is_read_by_anybody(tmp_path):
    store = LogStore.open(tmp_path / "audit")
    take(store, BATCHES)
    assert check_whole(LogReader(tmp_path / "audit")) == 560
    reader = LogReader(tmp_path / "audit")
    assert [reader.entry(index, 560) for index in (0, 255, 256, 559)] == [LOG[index] for index in (0, 255, 256, 559)]
    store.close()
    again = LogStore.open(tmp_path / "audit")
    assert (again.size, again.root(560)) == (560, ROOTS[560])
    again.close()


def test_a_partial_tile_is_deleted_once_it_is_full_and_given_from_the_full_one(tmp_path):
    store = LogStore.open(tmp_path / "audit")
    take(store, BATCHES)
    store.close()
    partial = sorted(str(path.relative_to(tmp_path / "audit")) for path in (tmp_path / "audit").rglob("*.p/*"))
    assert partial == [f"tile/{name}" for name in ("0/002.p/45", "0/002.p/48", "1/000.p/1", "1/000.p/2", "entries/002.p/45",
                                                   "entries/002.p/48")]  # fmt: skip
    assert store.read(Tile(0, 0, 3)) == TILES[Tile(0, 0)][:96]
    assert store.read(Tile(ENTRIES, 0, 3)) == bundle(LOG[:3])
    with pytest.raises(NotFound):
        store.read(Tile(0, 3, 1))


def cut_everywhere(policy, make_disk=CrashDisk):
    """Cut the power before each step; each time what is left is whole, and the log goes on from there."""
    whole = make_disk(FOLDER.parent)
    take(LogStore.open(FOLDER, whole), BATCHES)
    for step in range(1, whole.steps + 1):
        disk, published = make_disk(FOLDER.parent), 0
        disk.cut_before = step
        try:
            store = LogStore.open(FOLDER, disk)
            for count in BATCHES:
                take(store, [count])
                published = store.size
            raise AssertionError("the power did not go")
        except PowerCut:
            pass
        kept = disk.after_cut(policy, random.Random(step))
        assert check_whole(LogReader(FOLDER, kept)) >= published, "what was published is kept"
        store = LogStore.open(FOLDER, kept)
        ahead = [store.size, *(size for size in sorted(ROOTS) if size > store.size)]
        take(store, [end - start for start, end in pairwise(ahead)])
        assert check_whole(LogReader(FOLDER, kept)) == len(LOG)
    return whole.steps


@pytest.mark.clause("9.3e")
@pytest.mark.parametrize("policy", POLICIES)
def test_the_power_may_go_before_any_step_and_the_checkpoint_names_nothing_that_is_missing(policy):
    assert cut_everywhere(policy) > 120


@pytest.mark.parametrize("skipped", ["sync", "sync_folder"])
def test_a_store_that_does_not_sync_loses_something(skipped):
    class Forgetful(CrashDisk):
        pass

    setattr(Forgetful, skipped, lambda self, path: None)
    with pytest.raises((AssertionError, NotFound, IntegrityViolation, InvalidInput)):
        cut_everywhere("nothing", Forgetful)


@pytest.mark.clause("9.3e")
def test_a_disk_that_fails_at_any_step_leaves_a_log_that_goes_on():
    whole = CrashDisk(FOLDER.parent)
    take(LogStore.open(FOLDER, whole), BATCHES)
    opening = CrashDisk(FOLDER.parent)
    LogStore.open(FOLDER, opening)
    for step in range(opening.steps + 1, whole.steps + 1):
        disk = CrashDisk(FOLDER.parent)
        store = LogStore.open(FOLDER, disk)
        disk.fail_at = step
        failures, wanted = 0, 0
        for count in BATCHES:
            wanted += count
            try:
                take(store, [wanted - store.size])
            except OSError:
                failures += 1
        take(store, [wanted - store.size])
        assert failures == 1
        assert check_whole(LogReader(FOLDER, disk)) == len(LOG)


def test_two_writers_are_refused(tmp_path):
    store = LogStore.open(tmp_path / "audit")
    with pytest.raises(Conflict, match=r"only one may"):
        LogStore.open(tmp_path / "audit")
    store.close()
    LogStore.open(tmp_path / "audit").close()


def test_what_was_once_in_the_log_cannot_become_something_else(tmp_path):
    store = LogStore.open(tmp_path / "audit")
    store.append(LOG[:3])
    with pytest.raises(IntegrityViolation, match=r"there already, with other bytes"):
        store.append([*LOG[:2], b"another"])
    store.close()


@pytest.mark.parametrize("path", ["tile/0/000.p/3", "checkpoint"])
def test_a_log_whose_tiles_are_not_those_of_its_checkpoint_is_not_written_to(tmp_path, path):
    store = LogStore.open(tmp_path / "audit")
    take(store, [1, 2])
    store.close()
    file = tmp_path / "audit" / path
    if path == "checkpoint":
        file.write_bytes(signed(3, bytes(32)))
    else:
        file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])
    with pytest.raises(IntegrityViolation, match=r"another root"):
        LogStore.open(tmp_path / "audit")
    file.unlink()
    if path != "checkpoint":
        with pytest.raises(IntegrityViolation, match=r"has no tile/0"):
            LogStore.open(tmp_path / "audit")
