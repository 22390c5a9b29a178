"""Roots and proofs against those of pymerkle, which is somebody else's reading of RFC 9162 (a tool of the tests alone)."""

from __future__ import annotations

import pytest
from pymerkle import InmemoryTree

from domain.merkle import check_consistency, check_inclusion, consistency_proof, inclusion_proof, leaf_hash, root_of
from domain.tiles import TiledTree, grown

SIZE = 300


@pytest.mark.clause("6.1b")
def test_roots_and_proofs_are_those_of_pymerkle():
    entries = [f"entry {number}".encode() for number in range(SIZE)]
    peer = InmemoryTree.init_from_entries(entries, algorithm="sha256")
    tiles = {}
    for size in range(1, SIZE + 1):
        tiles |= grown(size - 1, [leaf_hash(entries[size - 1])], tiles.__getitem__)
        assert root_of(size, TiledTree(size, tiles.__getitem__).node) == peer.get_root(size)
    node = TiledTree(SIZE, tiles.__getitem__).node
    root = peer.get_root(SIZE)
    for index in range(SIZE):
        ours, theirs = inclusion_proof(index, SIZE, node), peer.prove_inclusion(index + 1, SIZE).path[1:]
        assert ours == theirs
        check_inclusion(leaf_hash(entries[index]), index, SIZE, theirs, root)
        check_consistency(index, SIZE, consistency_proof(index, SIZE, node), peer.get_root(index), root)
