"""A witness signs what continues what it signed, forgets nothing of it, and keeps what contradicts it."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from domain.cosignatures import SIZE_MEDIA_TYPE, Submission, checkpoint_path, time_and_signature
from domain.errors import IntegrityViolation
from domain.merkle import consistency_proof, leaf_hash, perfect_root, root_of
from domain.signed_notes import Checkpoint, Note, read_signature
from runtime.clock import ManualClock
from runtime.keys import KeyMissing
from runtime.log_signing import LogSigner
from runtime.note_signing import KeyVerifier
from runtime.small_database import in_our_words, transaction
from runtime.soft_keys import SoftKeys
from runtime.witness import _WHAT, Witness

pytestmark = [pytest.mark.clause("9.3e"), pytest.mark.clause("6.1b")]

ORIGIN = "vitalgrid/sz"
NAME = "sz.h001/witness"


class Past:
    """A log as its owner might have it: entries, signed by the log's keys."""

    def __init__(self, signer: LogSigner, tag: str = "", shared: int = 0) -> None:
        self._signer = signer
        self._tag, self._shared = tag, shared

    def _leaf(self, index: int) -> bytes:
        return leaf_hash(f"{index}{self._tag if index >= self._shared else ''}".encode())

    def node(self, level: int, index: int) -> bytes:
        return perfect_root([self._leaf(at) for at in range(index << level, (index + 1) << level)])

    def note(self, size: int) -> bytes:
        return self._signer.sign(Checkpoint(self._signer.origin, size, root_of(size, self.node)))

    def submission(self, old: int, new: int) -> bytes:
        return Submission(old, tuple(consistency_proof(old, new, self.node)), self.note(new)).to_bytes()


@pytest.fixture
def signer(tmp_path):
    made = LogSigner(SoftKeys(tmp_path / "keys"), ORIGIN)
    made.make_keys()
    return made


@pytest.fixture
def log(signer):
    return Past(signer)


@pytest.fixture
def reopen(tmp_path, signer):
    """Open the witness anew, closing the one before."""
    opened = []

    def open_again():
        for one in opened:
            one.close()
        keys = SoftKeys(tmp_path / "witness" / "keys")
        opened[:] = [
            Witness.open(tmp_path / "witness", keys, NAME, lambda origin: signer.public_keys() if origin == ORIGIN else [],
                         ManualClock())
        ]  # fmt: skip
        return opened[0]

    yield open_again
    for one in opened:
        one.close()


@pytest.fixture
def witness(reopen):
    return reopen()


def submit(witness, raw):
    return witness.add_checkpoint(raw).status


def test_what_continues_is_cosigned_and_shown(witness, log):
    for old, new in ((0, 0), (0, 3), (3, 3), (3, 7), (7, 300)):
        answer = witness.add_checkpoint(log.submission(old, new))
        assert answer.status == 200
        signature = read_signature(answer.body.decode().removesuffix("\n"))
        text = Note.parse(log.note(new)).text
        assert KeyVerifier(witness.public).is_valid(text.encode(), signature.value)
        assert not KeyVerifier(witness.public).is_valid(text.encode() + b"x", signature.value)
        assert time_and_signature(signature.value)[0] == 1_700_000_000
    shown = Note.parse(witness.checkpoint(checkpoint_path(ORIGIN)).body)
    assert Checkpoint.parse(shown.text).size == 300
    assert {one.name for one in shown.signatures} == {ORIGIN, NAME}
    assert witness.checkpoint(checkpoint_path("another")).status == 404


def test_it_answers_as_the_protocol_says(witness, log, signer, tmp_path):
    submit(witness, log.submission(0, 5))
    unknown = LogSigner(SoftKeys(tmp_path / "keys"), "another/log")
    stranger = LogSigner(SoftKeys(tmp_path / "strange"), ORIGIN)
    stranger.make_keys()
    spoiled = log.submission(5, 6).replace(b"\n6\n", b"\n7\n")
    huge = Submission(5, (), signer.sign(Checkpoint(ORIGIN, 2**63, bytes(32)))).to_bytes()
    for raw, status in (
        (Past(unknown).submission(0, 5), 404), (Past(stranger).submission(5, 6), 403), (spoiled, 403),
        (log.submission(5, 6).replace(b"old 5", b"old 7"), 400), (b"old", 400), (huge, 400),
        (log.submission(4, 6), 409), (log.submission(0, 6), 409),
        (log.submission(5, 6).replace(b"old 5\n", b"old 5\n" + log.submission(3, 5).split(b"\n")[1] + b"\n"), 422),
    ):  # fmt: skip
        assert submit(witness, raw) == status
    answer = witness.add_checkpoint(log.submission(0, 6))
    assert (answer.body, answer.media_type) == (b"5\n", SIZE_MEDIA_TYPE)


def test_a_log_of_nothing_has_the_root_of_nothing(witness, signer):
    assert submit(witness, Submission(0, (), signer.sign(Checkpoint(ORIGIN, 0, bytes(32)))).to_bytes()) == 422


def test_a_line_of_either_key_of_the_log_must_be_there(witness, log):
    raw = log.submission(0, 4)
    lines = raw.decode().split("\n")
    for at in (-2, -3):
        assert submit(witness, "\n".join(line for line in lines if line != lines[at]).encode()) == 403
    assert submit(witness, raw) == 200


def test_a_log_rolled_back_to_yesterday_is_told_what_is_known(witness, log):
    submit(witness, log.submission(0, 50))
    answer = witness.add_checkpoint(log.submission(20, 20))
    assert (answer.status, answer.body) == (409, b"50\n")
    assert witness.evidence() == [], "an older checkpoint contradicts nothing"


def test_two_roots_of_one_size_are_an_evidence_bundle(witness, log, signer, reopen):
    submit(witness, log.submission(0, 50))
    other = Past(signer, tag="changed", shared=10)
    for _ in range(3):
        assert submit(witness, other.submission(50, 50)) == 422
    witness = reopen()
    (found,) = witness.evidence()
    assert (found.origin, found.why) == (ORIGIN, "two roots of 50 entries")
    told = [signer.verify(note.encode()) for note in (found.kept, found.given)]
    assert [one.size for one in told] == [50, 50]
    assert told[0].root != told[1].root, "both signed by the log: nobody else could have made them"


def test_another_past_is_found_whatever_its_size(witness, log, signer):
    submit(witness, log.submission(0, 30))
    submit(witness, log.submission(30, 50))
    other = Past(signer, tag="changed", shared=10)
    assert submit(witness, other.submission(50, 80)) == 422
    assert submit(witness, other.submission(20, 30)) == 409, "of a size that it signed before, and older"
    assert sorted(Note.parse(one.given.encode()).text.split("\n")[1] for one in witness.evidence()) == ["30", "80"]
    assert submit(witness, log.submission(50, 80)) == 200


def with_false_proof(raw, tag):
    """The same checkpoint, and hashes that show nothing."""
    submission = Submission.parse(raw)
    return Submission(submission.old, (leaf_hash(tag),), submission.note).to_bytes()


def test_a_false_proof_of_what_was_signed_is_no_evidence(witness, log):
    submit(witness, log.submission(0, 50))
    assert submit(witness, with_false_proof(log.submission(50, 50), b"x")) == 422
    assert witness.evidence() == []


def test_a_false_proof_is_not_kept_in_the_place_of_another(witness, log):
    submit(witness, log.submission(0, 50))
    for tag in (b"x", b"y", b"x"):
        assert submit(witness, with_false_proof(log.submission(50, 80), tag)) == 422
    assert sorted(one.hashes for one in witness.evidence()) == sorted([(leaf_hash(b"x"),), (leaf_hash(b"y"),)])


def test_false_proofs_take_no_room_from_two_roots(witness, log, signer, monkeypatch):
    monkeypatch.setattr("runtime.witness._MOST_EVIDENCE", {"two-roots": 2, "no-proof": 3})
    other = Past(signer, tag="changed", shared=10)
    submit(witness, log.submission(0, 50))
    for at in range(5):
        assert submit(witness, with_false_proof(log.submission(50, 80), b"%d" % at)) == 422
    assert submit(witness, with_false_proof(other.submission(50, 80), b"x")) == 422
    assert len(witness.evidence()) == 3
    submit(witness, log.submission(50, 80))
    assert submit(witness, with_false_proof(other.submission(80, 80), b"x")) == 422
    (found,) = [one for one in witness.evidence() if one.why == "two roots of 80 entries"]
    assert signer.verify(found.kept.encode()).root != signer.verify(found.given.encode()).root


def test_two_submissions_at_once_never_roll_a_witness_back(witness, log, reopen, tmp_path):
    """Each thread submits what follows from what it last heard; sizes that were answered 200 only grow."""
    signed, done = [], threading.Barrier(4)

    def hammer(step):
        done.wait()
        old = new = 0
        while new < 120:
            new = old + step
            answer = witness.add_checkpoint(log.submission(old, new))
            if answer.status == 200:
                signed.append(new)
                old = new
            else:
                assert answer.status == 409
                old = int(answer.body)

    threads = [threading.Thread(target=hammer, args=(step,)) for step in (1, 2, 3, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(signed) == len(set(signed)), "no size was the continuation of two"
    known = Checkpoint.parse(Note.parse(witness.checkpoint(checkpoint_path(ORIGIN)).body).text).size
    assert known == max(signed)
    with pytest.raises(IntegrityViolation, match=r"does not go back"), in_our_words(_WHAT), transaction(witness._connection):
        witness._connection.execute("INSERT INTO cosigned VALUES (?, 1, x'00', x'00')", (ORIGIN,))


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, os.getcwd())
from tests.unit.runtime.test_witness import *
folder = Path(sys.argv[1])
signer = LogSigner(SoftKeys(folder / "keys"), ORIGIN)
keys = SoftKeys(folder / "witness" / "keys")
witness = Witness.open(folder / "witness", keys, NAME, lambda _: signer.public_keys(), ManualClock())
old = int(sys.argv[2])
while True:
    assert witness.add_checkpoint(Past(signer).submission(old, old + 1)).status == 200
    old += 1
    sys.stdout.write(f"{old}\\n"); sys.stdout.flush()
"""


def test_killed_while_it_persists_it_knows_all_that_it_answered(tmp_path, signer, reopen, log):
    old = 0
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path), str(old)], stdout=subprocess.PIPE, text=True)
        for _ in range(5):
            answered = int(process.stdout.readline())
        process.kill()
        answered = max([answered, *(int(line) for line in process.stdout.read().split())])
        process.stdout.close()
        process.wait()
        witness = reopen()
        old = Checkpoint.parse(Note.parse(witness.checkpoint(checkpoint_path(ORIGIN)).body).text).size
        assert answered <= old <= answered + 1
        assert submit(witness, log.submission(old - 1, old)) == 409
    assert submit(witness, log.submission(old, old + 1)) == 200


def test_a_witness_that_signed_does_not_go_on_without_its_key(witness, log, reopen, tmp_path):
    submit(witness, log.submission(0, 5))
    key = tmp_path / "witness" / "keys" / "witness-ed25519" / "1.key"
    key.rename(key.with_suffix(".gone"))
    with pytest.raises(KeyMissing):
        reopen()


def lose_database(folder):
    for file in folder.glob("witness.db*"):
        file.unlink()


def test_a_witness_that_lost_what_it_signed_does_not_go_on_under_its_key(witness, log, reopen, tmp_path):
    submit(witness, log.submission(0, 5))
    witness.close()
    lose_database(tmp_path / "witness")
    for _ in range(2):  # having looked once is no beginning
        with pytest.raises(IntegrityViolation, match=r"has its key, but witness.db knows nothing of what it signed"):
            reopen()


def test_a_witness_that_never_signed_starts_again(witness, log, reopen, tmp_path):
    before = witness.public
    witness = reopen()
    assert (witness.public, submit(witness, log.submission(0, 5))) == (before, 200)


def test_a_witness_whose_first_start_ended_before_its_key_was_made_begins(log, reopen, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("runtime.witness.make_missing", no_room)
        with pytest.raises(OSError, match=r"no room"):
            reopen()
    assert submit(reopen(), log.submission(0, 5)) == 200


def no_room(*_):
    raise OSError("no room")


def test_what_it_knows_is_not_believed_when_it_is_damaged(witness, log, reopen, tmp_path):
    witness.close()
    (tmp_path / "witness" / "witness.db").write_bytes(b"no database, but as long as one might be" * 100)
    with pytest.raises(IntegrityViolation, match=r"damaged"):
        reopen()


def test_old_checkpoints_are_forgotten_and_the_last_never(witness, log, monkeypatch):
    monkeypatch.setattr("runtime.witness._KEPT", 3)
    for size in range(8):
        assert submit(witness, log.submission(size, size + 1)) == 200
    assert [row[0] for row in witness._connection.execute("SELECT size FROM cosigned ORDER BY size")] == [6, 7, 8]
