"""Proofs of a log as large as years make it."""

from __future__ import annotations

import time

import pytest

from domain.merkle import check_consistency, check_inclusion, consistency_proof, inclusion_proof, leaf_hash, root_of
from domain.tiles import Tile, TiledTree, grown

AT_ONCE = 2**16


def tiled(size: int) -> dict[Tile, bytes]:
    """The tiles of a log whose entries are their numbers."""
    tiles: dict[Tile, bytes] = {}
    for start in range(0, size, AT_ONCE):
        leaves = [leaf_hash(b"%d" % number) for number in range(start, min(start + AT_ONCE, size))]
        tiles.update(grown(start, leaves, tiles.__getitem__))
    return tiles


@pytest.mark.clause("6.1b")
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "size", [10**5, pytest.param(10**6, marks=pytest.mark.long), pytest.param(10**7, marks=pytest.mark.long)]
)
def test_proofs_take_milliseconds(size: int) -> None:
    """Each from tiles that nobody has read before, as the API makes them."""
    tiles = tiled(size)
    root = root_of(size, TiledTree(size, tiles.__getitem__).node)
    took_s = []
    for index in range(7, size, size // 50):
        began = time.perf_counter()
        proof = inclusion_proof(index, size, TiledTree(size, tiles.__getitem__).node)
        consistency = consistency_proof(index, size, TiledTree(size, tiles.__getitem__).node)
        took_s.append(time.perf_counter() - began)
        assert len(proof) <= 24
        check_inclusion(leaf_hash(b"%d" % index), index, size, proof, root)
        check_consistency(index, size, consistency, root_of(index, TiledTree(size, tiles.__getitem__).node), root)
    assert sorted(took_s)[len(took_s) // 2] < 0.1, "the median; some milliseconds on a quiet machine"
