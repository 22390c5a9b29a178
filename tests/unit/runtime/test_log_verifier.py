"""The stand-alone verifier: needs nothing but Python, accepts a whole log, and finds every bit that was changed."""

from __future__ import annotations

import ast
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from domain.merkle import inclusion_proof
from domain.signed_notes import Proof
from runtime import log_verifier, sm, sm2
from runtime.clock import ManualClock
from runtime.log_keeper import LogKeeper
from runtime.log_signing import LogSigner
from runtime.log_store import LogReader
from runtime.log_verifier import (
    CouldNotCheck,
    DoesNotHold,
    Source,
    describe,
    is_signed,
    is_signed_sm2,
    open_note,
    sm3,
    tree_hash,
    verify_log,
    verify_proof,
)
from runtime.soft_keys import SoftKeys
from runtime.witness import Witness
from tests.unit.domain.test_signed_notes import ENOCH, FOO, FOO_NOTE, PETER, PETER_LINE, PETER_TEXT
from tests.unit.runtime.test_log_keeper import ORIGIN, received
from tests.witnesses import witnessed_by

PROGRAM = Path(__file__).parents[3] / "runtime" / "log_verifier.py"
SIZE = 303


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A log of some hundred entries, the keys it is verified with, and a checkpoint of before."""
    folder = tmp_path_factory.mktemp("log")
    signer = LogSigner(SoftKeys(folder / "keys"), ORIGIN)
    keeper = LogKeeper.open(folder / "audit", signer, lambda: os.urandom(32))
    keeper.take(received(*range(1, 201)))
    old = LogReader(folder / "audit").note()
    for number in range(201, SIZE + 1):
        keeper.take(received(number))
    keeper.close()
    return folder / "audit", [key.vkey for key in signer.public_keys()], old


@pytest.fixture
def copy(log, tmp_path):
    shutil.copytree(log[0], tmp_path / "audit")
    return tmp_path / "audit"


@pytest.mark.clause("9.3e")
def test_a_whole_log_holds(log):
    folder, vkeys, old = log
    report = verify_log(Source(str(folder)), vkeys, old)
    assert (report.origin, report.size, report.signatures, report.others, report.events) == (ORIGIN, SIZE, 2, 0, SIZE)
    assert report.root == LogReader(folder).checkpoint().root


def needed(folder):
    """The files that the checkpoint stands for."""
    names = ["checkpoint", "tile/0/000", f"tile/0/001.p/{SIZE - 256}", "tile/1/000.p/1", "tile/entries/000",
             f"tile/entries/001.p/{SIZE - 256}"]  # fmt: skip
    return [folder / name for name in names]


def flip(file, at, bit):
    """Change a bit; what the file was."""
    content = file.read_bytes()
    file.write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
    return content


def check_flips(copy, vkeys, places):
    for file, at, bit in places:
        content = flip(file, at, bit)
        with pytest.raises(DoesNotHold):
            verify_log(Source(str(copy)), vkeys)
        file.write_bytes(content)
    verify_log(Source(str(copy)), vkeys)


@pytest.mark.clause("9.3e")
def test_a_flipped_bit_of_tiles_entries_and_checkpoint_is_found(copy, log):
    chance = random.Random(20_240_401)
    places = [(file, at, chance.randrange(8)) for file in needed(copy)
              for at in sorted(chance.sample(range(file.stat().st_size), 12))]  # fmt: skip
    check_flips(copy, log[1], places)


@pytest.mark.clause("9.3e")
def test_a_flipped_bit_of_a_tile_or_bundle_of_an_earlier_checkpoint_is_found(copy, log):
    earlier = [copy / name for name in ("tile/0/001.p/1", "tile/0/001.p/46", "tile/entries/001.p/1", "tile/entries/001.p/46")]
    assert not set(earlier) & set(needed(copy))
    check_flips(copy, log[1], [(file, at, at % 8) for file in earlier for at in (0, 9, file.stat().st_size - 1)])
    (copy / "tile/0/000.p").mkdir()
    (copy / "tile/0/000.p/10").write_bytes((copy / "tile/0/000").read_bytes()[:320])  # a process died before it was swept
    check_flips(copy, log[1], [(copy / "tile/0/000.p/10", 100, 3)])


def check_every_bit_of_tiles(folder, vkeys, monkeypatch):
    """Without events, and the checkpoint opened once: neither is what is tried here."""
    (folder / "events.db").unlink()
    opened = open_note((folder / "checkpoint").read_bytes(), vkeys)
    monkeypatch.setattr("runtime.log_verifier.open_note", lambda *_: opened)
    check_flips(folder, vkeys, [place for file in folder.glob("tile/**/*") if file.is_file() for place in every_bit(file)])


def every_bit(file):
    return [(file, at, bit) for at in range(file.stat().st_size) for bit in range(8)]


@pytest.mark.clause("9.3e")
def test_every_flipped_bit_of_tiles_and_entries_of_a_small_log_is_found(tmp_path, monkeypatch: pytest.MonkeyPatch):
    signer = LogSigner(SoftKeys(tmp_path / "keys"), ORIGIN)
    keeper = LogKeeper.open(tmp_path / "audit", signer, lambda: os.urandom(32))
    keeper.take(received(*range(1, 4)))
    keeper.close()
    check_every_bit_of_tiles(tmp_path / "audit", [key.vkey for key in signer.public_keys()], monkeypatch)


@pytest.mark.long
@pytest.mark.clause("9.3e")
@pytest.mark.timeout(3600)
def test_every_flipped_bit_of_a_log_of_two_levels_is_found(copy, log, monkeypatch: pytest.MonkeyPatch):
    for file in (*copy.glob("tile/*/000.p/*"), *copy.glob("tile/*/001.p/*")):
        if file not in needed(copy) and file.name not in {"1", "46"}:
            file.unlink()  # of before: some are enough
    check_flips(copy, log[1], every_bit(copy / "checkpoint"))
    check_every_bit_of_tiles(copy, log[1], monkeypatch)


@pytest.mark.clause("9.3e")
@pytest.mark.parametrize("statement", [
    "UPDATE events SET event = '{}' WHERE idx = 7", "UPDATE events SET event = x'7b7d' WHERE idx = 7",
    "UPDATE events SET salt = zeroblob(32) WHERE idx = 7",
    "DROP TRIGGER events_are_fixed; UPDATE events SET entry = event WHERE idx = 7",
    "DROP TRIGGER events_stay; DELETE FROM events WHERE idx = 302",
    "UPDATE events SET salt = NULL WHERE idx = 7",
])  # fmt: skip
def test_an_event_that_is_not_the_one_that_was_logged_is_found(copy, log, statement):
    connection = sqlite3.connect(copy / "events.db")
    connection.executescript(f"DROP TRIGGER events_stay_full; {statement}")
    connection.close()
    with pytest.raises(DoesNotHold, match=r"event"):
        verify_log(Source(str(copy)), log[1])


def test_a_token_is_shown_to_an_address_in_clear_on_this_machine_alone():
    with pytest.raises(CouldNotCheck, match=r"log\.example: expected https://"):
        Source("http://log.example/api/v1/log", "token")
    for where, token in (("http://127.0.0.1:8080/log", "t"), ("https://log.example", "t"), ("http://log.example", None)):
        assert Source(where, token).folder is None


def test_a_missing_file_is_named(copy, log):
    for file in needed(copy):
        content = file.read_bytes()
        file.unlink()
        with pytest.raises(DoesNotHold, match=r"missing|no checkpoint"):
            verify_log(Source(str(copy)), log[1])
        file.write_bytes(content)


@pytest.mark.clause("6.1b")
def test_a_log_that_was_rewritten_since_an_earlier_checkpoint_is_found(log, tmp_path):
    folder, vkeys, old = log
    signer = LogSigner(SoftKeys(folder.parent / "keys"), ORIGIN)
    keeper = LogKeeper.open(tmp_path / "audit", signer, lambda: os.urandom(32))  # the same owner, the same key, another past
    keeper.take(received(*range(1, 201)))
    keeper.close()
    verify_log(Source(str(tmp_path / "audit")), vkeys)
    with pytest.raises(DoesNotHold, match=r"rewritten"):
        verify_log(Source(str(tmp_path / "audit")), vkeys, old)
    with pytest.raises(DoesNotHold, match=r"rewritten"):  # and one that has become shorter
        verify_log(Source(str(tmp_path / "audit")), vkeys, LogReader(folder).note())


def test_a_proof_holds_for_its_entry_alone(log):
    folder, vkeys, _ = log
    reader = LogReader(folder)
    tree = reader.tree(SIZE)
    for index in (0, 1, 255, 256, SIZE - 1):
        proof = Proof(index, tuple(inclusion_proof(index, SIZE, tree.node)), reader.note()).to_bytes()
        assert verify_proof(proof, reader.entry(index, SIZE), vkeys).size == SIZE
        elsewhere = proof.replace(f"index {index}\n".encode(), b"index 77\n")
        entry = reader.entry(index, SIZE)
        for wrong, of in ((proof, b"{}"), (b"", b""), (proof[:-2], entry), (elsewhere, entry)):
            with pytest.raises(DoesNotHold):
                verify_proof(wrong, of, vkeys)


def test_its_ed25519_agrees_with_another(log):
    chance = random.Random(3)
    for _ in range(40):
        key, message = Ed25519PrivateKey.from_private_bytes(chance.randbytes(32)), chance.randbytes(chance.randrange(100))
        public, signature = key.public_key().public_bytes_raw(), key.sign(message)
        assert is_signed(public, message, signature)
        at = chance.randrange(64)
        flipped = signature[:at] + bytes([signature[at] ^ 1 << chance.randrange(8)]) + signature[at + 1 :]
        scalar = int.from_bytes(signature[32:], "little") + 2**252 + 27742317777372353535851937790883648493
        malleated = signature[:32] + scalar.to_bytes(32, "little")
        for wrong in (flipped, malleated, signature[:-1], b""):
            assert not is_signed(public, message, wrong)
            with pytest.raises(InvalidSignature):
                Ed25519PublicKey.from_public_bytes(public).verify(wrong, message)
        assert not is_signed(public, message + b"x", signature)


@pytest.mark.clause("7.2c")
def test_its_sm2_agrees_with_another():
    chance = random.Random(5)
    for _ in range(20):
        key, message = sm2.generate(), chance.randbytes(chance.randrange(100))
        signature = sm2.sign(key, message)
        assert is_signed_sm2(key.public, message, signature)
        at = chance.randrange(len(signature))
        flipped = signature[:at] + bytes([signature[at] ^ 1 << chance.randrange(8)]) + signature[at + 1 :]
        for wrong in (flipped, signature[:-1], signature + b"\0", b"", b"\x30\x06\x02\x01\x00\x02\x01\x00"):
            assert not is_signed_sm2(key.public, message, wrong)
        assert not is_signed_sm2(key.public, message + b"x", signature)
        assert not is_signed_sm2(key.public[:-1] + bytes([key.public[-1] ^ 1]), message, signature)


@pytest.mark.clause("7.2c")
def test_its_sm3_gives_the_answers_of_the_standard():
    assert sm3(b"abc").hex() == "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0"
    assert sm3(b"abcd" * 16).hex() == "debe9ff92275b8a138604889c18e5a4d6fdb70e5387e5765293dcba39c0c5732"
    chance = random.Random(6)
    for length in range(200):
        message = chance.randbytes(length)
        assert sm3(message) == sm.sm3(message)


def test_it_opens_the_published_notes():
    assert open_note(FOO_NOTE, [FOO]) == ("This is an example message.\n", 1, 0)
    assert open_note(f"{PETER_TEXT}\n{PETER_LINE}".encode(), [ENOCH, PETER]) == (PETER_TEXT, 1, 0)
    for raw, keys in ((FOO_NOTE, [PETER]), (FOO_NOTE.replace(b"This", b"Thas"), [FOO]), (b"", [FOO]), (FOO_NOTE[:-1], [FOO])):
        with pytest.raises(DoesNotHold):
            open_note(raw, keys)


def run(*arguments, cwd):
    """The program alone, without site packages and without this repository."""
    command = [sys.executable, "-S", "-I", PROGRAM, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=60, check=False)


def test_the_standalone_verifier_needs_nothing_but_python(copy, log, tmp_path):
    keys = [argument for vkey in log[1] for argument in ("--vkey", vkey)]
    done = run("log", copy, *keys, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"holds: {ORIGIN}: {SIZE} entries")
    reader = LogReader(copy)
    (tmp_path / "entry").write_bytes(reader.entry(5, SIZE))
    proof = Proof(5, tuple(inclusion_proof(5, SIZE, reader.tree(SIZE).node)), reader.note())
    (tmp_path / "5.tlog-proof").write_bytes(proof.to_bytes())
    assert run("proof", tmp_path / "5.tlog-proof", "--entry", tmp_path / "entry", *keys, cwd=tmp_path).returncode == 0
    flip(copy / "tile/0/000", 100, 3)
    done = run("log", copy, *keys, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "DOES NOT HOLD: tile 0 of level 0 does not follow from the entries\n")
    assert run("log", copy, cwd=tmp_path).returncode == 2


def test_it_imports_the_standard_library_alone():
    tree = ast.parse(PROGRAM.read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names


@pytest.fixture(scope="module")
def witnessed(log, tmp_path_factory):
    """A log whose checkpoint a witness signed, and the witness's key."""
    folder = tmp_path_factory.mktemp("witnessed")
    signer = LogSigner(SoftKeys(log[0].parent / "keys"), ORIGIN)
    witness = Witness.open(folder / "witness", SoftKeys(folder / "keys"), "w", lambda _: signer.public_keys(), ManualClock())
    witnesses = witnessed_by(signer, witness)
    keeper = LogKeeper.open(folder / "audit", signer, lambda: os.urandom(32), witnesses=witnesses)
    keeper.take(received(1, 2, 3))
    for one in (keeper, witness):
        one.close()
    return folder / "audit", witness.public.vkey


@pytest.mark.clause("6.1b")
def test_a_witness_that_is_given_must_have_signed(log, witnessed, tmp_path):
    folder, vkey = witnessed
    assert verify_log(Source(str(folder)), log[1]).witnessed_s is None
    report = verify_log(Source(str(folder)), log[1], None, [vkey])
    assert report.witnessed_s == 1_700_000_000
    assert "witnessed at 2023-11-14 22:13:20 UTC" in describe(report)
    with pytest.raises(DoesNotHold, match=r"not signed by the witness w"):
        verify_log(Source(str(log[0])), log[1], None, [vkey])
    with pytest.raises(CouldNotCheck, match=r"key of a log, not of a witness"):
        verify_log(Source(str(folder)), log[1], None, log[1])
    reader = LogReader(folder)
    proof = Proof(1, tuple(inclusion_proof(1, 3, reader.tree(3).node)), reader.note()).to_bytes()
    assert verify_proof(proof, reader.entry(1, 3), log[1], [vkey]).witnessed_s == 1_700_000_000
    command = [sys.executable, "-S", "-I", PROGRAM, "log", folder, "--witness-vkey", vkey]
    command += [argument for key in log[1] for argument in ("--vkey", key)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_flipped_bit_of_a_witnesss_line_is_found(log, witnessed, tmp_path):
    copy = Path(shutil.copytree(witnessed[0], tmp_path / "audit"))
    note = (copy / "checkpoint").read_bytes()
    start = note.index("\u2014 w ".encode())
    for at in range(start, len(note)):
        flip(copy / "checkpoint", at, 0)
        with pytest.raises(DoesNotHold):
            verify_log(Source(str(copy)), log[1], None, [witnessed[1]])
        (copy / "checkpoint").write_bytes(note)


def test_it_remembers_some_tiles_and_not_the_log(monkeypatch):
    """Memory grows with the levels of the tree: 70,000 leaves leave no more than three open tiles."""
    monkeypatch.setattr(log_verifier._Tree, "_look", lambda *_: None)
    chance = random.Random(7)
    leaves = [chance.randbytes(32) for _ in range(70_000)]
    tree, most = log_verifier._Tree(Source("nowhere")), 0
    for start in range(0, len(leaves), 256):
        some = leaves[start : start + 256]
        cut = chance.randrange(len(some) + 1)
        if start % 9 == 0:
            assert tree.root(some[:cut]) == tree_hash(leaves[: start + cut])
        tree.add(some)
        most = max(most, sum(map(len, tree._open)))
    assert tree.root([]) == tree_hash(leaves)
    assert most <= 3 * 256
