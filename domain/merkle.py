"""The Merkle tree of RFC 9162: hashes of leaves and nodes, roots, and proofs that they belong together. Pure.

A tree of any size is made of perfect subtrees. `Node` gives the hash of one: the subtree over the leaves
`[index * 2**level, (index + 1) * 2**level)`. Whatever holds a tree (tiles, a list) needs to give no more than that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Final

from domain.errors import IntegrityViolation, InvalidInput

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
Node = Callable[[int, int], bytes]  # (level, index)


def leaf_hash(entry: bytes) -> bytes:
    """The hash of an entry; another prefix than a node's, so that neither can be taken for the other."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def perfect_root(hashes: Sequence[bytes]) -> bytes:
    """The root over hashes whose number is a power of two."""
    while len(hashes) > 1:
        hashes = [node_hash(hashes[at], hashes[at + 1]) for at in range(0, len(hashes), 2)]
    return hashes[0]


def root_of(size: int, node: Node) -> bytes:
    """The root of the first `size` leaves."""
    return _range_root(0, size, node) if size else EMPTY_ROOT


def inclusion_proof(index: int, size: int, node: Node) -> list[bytes]:
    """What with leaf `index` gives the root of the first `size` leaves, from the leaf's sibling up. RFC 9162, 2.1.3.1.

    Raises InvalidInput when the tree has no such leaf.
    """
    if not 0 <= index < size:
        raise InvalidInput(f"there is no entry {index} in a log of {size}: expected 0 to {size - 1}")
    path = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(_range_root(middle, end, node))
            end = middle
        else:
            path.append(_range_root(start, middle, node))
            start = middle
    return path[::-1]


def consistency_proof(old: int, new: int, node: Node) -> list[bytes]:
    """What shows that the tree of `new` leaves begins with the tree of `old`. RFC 9162, 2.1.4.1.

    Raises InvalidInput unless 0 <= old <= new. From an empty tree, and to itself, the proof is empty.
    """
    if not 0 <= old <= new:
        raise InvalidInput(f"a log of {new} entries is not consistent with one of {old}: expected 0 to {new}")
    if old in (0, new):
        return []
    path = []
    start, end, is_whole = 0, new, True  # is_whole: the old tree's own root, which who checks has already
    while old != end:
        middle = start + _split(end - start)
        if old <= middle:
            path.append(_range_root(middle, end, node))
            end = middle
        else:
            path.append(_range_root(start, middle, node))
            start, is_whole = middle, False
    if not is_whole:
        path.append(_range_root(start, end, node))
    return path[::-1]


def check_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Raise IntegrityViolation unless `proof` leads from `leaf` at `index` to `root`. RFC 9162, 2.1.3.2."""
    if not 0 <= index < size:
        raise IntegrityViolation(f"entry {index} is not in a log of {size}")
    at, last, got = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise IntegrityViolation(f"the proof for entry {index} is too long")
        if at & 1 or at == last:
            got = node_hash(sibling, got)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            got = node_hash(got, sibling)
        at, last = at >> 1, last >> 1
    if last or got != root:
        raise IntegrityViolation(f"the proof for entry {index} does not lead to the root of {size} entries")


def check_consistency(old: int, new: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes) -> None:
    """Raise IntegrityViolation unless `proof` shows the old tree to be the new one's beginning. RFC 9162, 2.1.4.2."""
    if old in (0, new):
        is_shown = not proof and old_root == (new_root if old else EMPTY_ROOT)
    else:
        path = list(proof) if old & (old - 1) else [old_root, *proof]  # a perfect old tree is a node of the new one
        is_shown = 0 < old < new and bool(path) and _roots_by(path, old, new) == (old_root, new_root)
    if not is_shown:
        raise IntegrityViolation(f"the log of {new} entries does not begin with the {old} that were signed before")


def _roots_by(path: Sequence[bytes], old: int, new: int) -> tuple[bytes, bytes] | None:
    """The roots of both trees that `path` gives; None when it has not the length for them."""
    at, last = old - 1, new - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    got_old = got_new = path[0]
    for sibling in path[1:]:
        if last == 0:
            return None
        if at & 1 or at == last:
            got_old, got_new = node_hash(sibling, got_old), node_hash(sibling, got_new)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            got_new = node_hash(got_new, sibling)
        at, last = at >> 1, last >> 1
    return None if last else (got_old, got_new)


def _split(count: int) -> int:
    """The largest power of two below `count`."""
    return 1 << ((count - 1).bit_length() - 1)


def _range_root(start: int, end: int, node: Node) -> bytes:
    """The root over leaves [start, end), a range that splitting a tree gives: its left part is perfect and aligned."""
    count = end - start
    if not count & (count - 1):
        level = count.bit_length() - 1
        return node(level, start >> level)
    middle = start + _split(count)
    return node_hash(_range_root(start, middle, node), _range_root(middle, end, node))
