"""Tiles: their names, their contents, and that a log that grew by pieces is the same as one made at once."""

from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import IntegrityViolation, InvalidInput
from domain.merkle import leaf_hash, root_of
from domain.tiles import ENTRIES, Tile, TiledTree, bundle, bundles_of, entries_of, grown, parse_tile, tile_of, tiles_of
from tests.unit.domain.test_merkle import defined

any_tile = st.builds(Tile, st.integers(ENTRIES, 63), st.integers(0, 10**12), st.integers(1, 256))


def test_paths_are_those_of_the_specification():
    assert Tile(0, 1234067).path == "tile/0/x001/x234/067"
    assert Tile(0, 273, 112).path == "tile/0/273.p/112"
    assert Tile(63, 0).path == "tile/63/000"
    assert Tile(ENTRIES, 999_999, 3).path == "tile/entries/x999/999.p/3"


@given(any_tile)
def test_a_path_is_read_as_it_was_written(tile):
    assert parse_tile(tile.path) == tile


@pytest.mark.parametrize("path", [
    "", "0", "0/0", "0/00", "0/0000", "00/000", "64/000", "0/000.p/0", "0/000.p/01", "0/000.p/256", "0/000.p/999", "0/x000/000",
    "0/x001", "0/001/234", "0/000/", "/0/000", "0/../000", "entries/000.p", "Entries/000", "0/000\n", "-1/000", "0/٠٠٠",
    f"0/{'x001/' * 7}000", f"0/{'x001/' * 2000}000",
])  # fmt: skip
def test_another_spelling_is_no_tile(path):
    with pytest.raises(InvalidInput, match=r"no tile"):
        parse_tile(path)


@given(st.text(max_size=40))
def test_any_text_is_a_tile_or_invalid(text):
    with contextlib.suppress(InvalidInput):
        assert parse_tile(text).path.removeprefix("tile/") == text.removeprefix("tile/")


def test_a_tree_of_70000_has_the_tiles_of_the_specification():
    tiles = list(tiles_of(70_000))
    assert [tile for tile in tiles if tile.width < 256] == [Tile(0, 273, 112), Tile(1, 1, 17), Tile(2, 0, 1)]
    assert [tile.level for tile in tiles if tile.width == 256] == [0] * 273 + [1]
    assert list(tiles_of(256)) == [Tile(0, 0), Tile(1, 0, 1)]
    assert list(tiles_of(0)) == list(bundles_of(0)) == []
    assert list(bundles_of(257)) == [Tile(ENTRIES, 0), Tile(ENTRIES, 1, 1)]
    with pytest.raises(InvalidInput):
        tile_of(1, 0, 255)


def test_a_log_grown_in_pieces_has_the_tiles_and_roots_of_one_made_at_once():
    chance = random.Random(7)
    leaves = [leaf_hash(str(number).encode()) for number in range(70_000)]
    whole = dict(grown(0, leaves, {}.__getitem__))
    assert set(whole) == set(tiles_of(70_000))
    pieces, size = {}, 0
    while size < len(leaves):
        more = chance.choice([1, 2, 255, 256, 257, 1000, 7000])
        for tile, content in grown(size, leaves[size : size + more], pieces.__getitem__):
            assert pieces.setdefault(tile, content) == content, "a tile never changes"
        size = min(size + more, len(leaves))
        assert set(tiles_of(size)) <= set(pieces)
    assert {tile: pieces[tile] for tile in whole} == whole


@pytest.mark.clause("6.1b")
def test_the_root_of_tiles_is_the_root_as_defined():
    tiles = {}
    for size in range(1, 600):
        tiles |= grown(size - 1, [leaf_hash(f"entry {size - 1}".encode())], tiles.__getitem__)
        assert root_of(size, TiledTree(size, tiles.__getitem__).node) == defined(0, size)


def test_a_tree_has_no_subtree_beyond_its_leaves():
    tiles = dict(grown(0, [bytes(32)] * 300, {}.__getitem__))
    tree = TiledTree(300, tiles.__getitem__)
    for level, index in ((0, 300), (3, 37), (8, 1), (9, 0), (64, 0)):
        with pytest.raises(InvalidInput):
            tree.node(level, index)


def test_a_bundle_is_read_as_it_was_written():
    entries = [b"", b"one", b"\x00" * 65_535]
    content = bundle(entries)
    assert content[:7] == b"\x00\x00\x00\x03one"
    assert entries_of(Tile(ENTRIES, 0, 3), content) == entries
    for wrong in (content[:-1], content + b"\x00", content + b"\x00\x00", content[:2]):
        with pytest.raises(IntegrityViolation, match=r"no bundle of 3"):
            entries_of(Tile(ENTRIES, 0, 3), wrong)
    with pytest.raises(InvalidInput, match=r"at most 65535"):
        bundle([b"\x00" * 65_536])


def test_a_tile_that_was_cut_is_refused():
    tree = TiledTree(3, lambda _: bytes(95))
    with pytest.raises(IntegrityViolation, match=r"95 bytes: expected 96"):
        tree.node(0, 0)
