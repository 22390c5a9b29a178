"""Trees and proofs, against the definition written out recursively and against a library of somebody else."""

from __future__ import annotations

import os
from functools import cache

import pytest

from domain.errors import IntegrityViolation, InvalidInput
from domain.merkle import (
    EMPTY_ROOT,
    check_consistency,
    check_inclusion,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_of,
)

ENTRIES = [f"entry {number}".encode() for number in range(600)]
SIZES = 200
# RFC 9162 has no vectors; these eight leaves and roots are those of Certificate Transparency's own tests
LEAVES = [bytes.fromhex(text) for text in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
)]  # fmt: skip
ROOTS = {
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}


@cache
def defined(start, end):
    """MTH of RFC 9162, 2.1.1, as it is written there."""
    if start == end:
        return EMPTY_ROOT
    if end - start == 1:
        return leaf_hash(ENTRIES[start])
    middle = 1
    while middle * 2 < end - start:
        middle *= 2
    return node_hash(defined(start, start + middle), defined(start + middle, end))


def node(level, index):
    return defined(index << level, (index + 1) << level)


def test_the_roots_are_those_of_certificate_transparency():
    @cache
    def of_vector(level, index):
        if level == 0:
            return leaf_hash(LEAVES[index])
        return node_hash(of_vector(level - 1, 2 * index), of_vector(level - 1, 2 * index + 1))

    assert {size: root_of(size, of_vector).hex() for size in ROOTS} == ROOTS


@pytest.mark.clause("6.1b")
def test_every_root_is_as_defined():
    assert [root_of(size, node) for size in range(SIZES + 1)] == [defined(0, size) for size in range(SIZES + 1)]


@pytest.mark.clause("6.1b")
def test_every_entry_of_every_log_has_a_proof_that_holds_for_it_alone():
    for size in range(1, SIZES + 1):
        for index in range(size):
            proof = inclusion_proof(index, size, node)
            check_inclusion(leaf_hash(ENTRIES[index]), index, size, proof, defined(0, size))
    with pytest.raises(IntegrityViolation):
        check_inclusion(leaf_hash(ENTRIES[3]), 4, SIZES, inclusion_proof(4, SIZES, node), defined(0, SIZES))


@pytest.mark.clause("6.1b")
def test_every_log_is_shown_to_begin_with_every_shorter_one():
    for new in range(SIZES + 1):
        for old in range(new + 1):
            check_consistency(old, new, consistency_proof(old, new, node), defined(0, old), defined(0, new))


@pytest.mark.long
def test_the_proofs_of_a_longer_log_hold():
    for new in range(SIZES, len(ENTRIES) + 1):
        for old in range(new):
            check_consistency(old, new, consistency_proof(old, new, node), defined(0, old), defined(0, new))
            check_inclusion(leaf_hash(ENTRIES[old]), old, new, inclusion_proof(old, new, node), defined(0, new))


@pytest.mark.parametrize("size", [2, 3, 7, 8, 100, 129])
def test_a_proof_that_was_tampered_with_does_not_hold(size):
    leaf, root, index = leaf_hash(ENTRIES[1]), defined(0, size), 1
    proof = inclusion_proof(index, size, node)
    wrong = [
        (leaf_hash(b"another"), index, size, proof, root), (leaf, 0, size, proof, root), (leaf, index, size, proof[:-1], root),
        (leaf, index, size, [*proof, os.urandom(32)], root), (leaf, index, size, proof, os.urandom(32)),
        (leaf, size, size, proof, root), (leaf, -1, size, proof, root),
        *((leaf, index, size, [*proof[:at], os.urandom(32), *proof[at + 1 :]], root) for at in range(len(proof))),
    ]  # fmt: skip
    for arguments in wrong:
        with pytest.raises(IntegrityViolation):
            check_inclusion(*arguments)


@pytest.mark.parametrize(("old", "new"), [(0, 5), (1, 2), (4, 7), (6, 8), (8, 8), (64, 200), (100, 129)])
def test_a_log_that_was_rewritten_is_not_consistent(old, new):
    proof, old_root, new_root = consistency_proof(old, new, node), defined(0, old), defined(0, new)
    wrong = [
        (old, new, proof, os.urandom(32), new_root), (old, new, [*proof, os.urandom(32)], old_root, new_root),
        (new + 1, new, proof, old_root, new_root), (-1, new, proof, old_root, new_root),
        *((old, new, [*proof[:at], os.urandom(32), *proof[at + 1 :]], old_root, new_root) for at in range(len(proof))),
        *((old, new, proof[:at], old_root, new_root) for at in range(len(proof))),
    ]  # fmt: skip
    if old:
        wrong.append((old, new, proof, old_root, os.urandom(32)))
    for arguments in wrong:
        with pytest.raises(IntegrityViolation):
            check_consistency(*arguments)


def test_what_a_log_does_not_have_has_no_proof():
    for index in (-1, 5, 6):
        with pytest.raises(InvalidInput, match=r"expected 0 to 4"):
            inclusion_proof(index, 5, node)
    for old in (-1, 6):
        with pytest.raises(InvalidInput, match=r"expected 0 to 5"):
            consistency_proof(old, 5, node)
