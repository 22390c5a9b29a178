"""How a log asks its witnesses: in time or not at all, and never stopped by a word that the log itself did not sign."""

from __future__ import annotations

import itertools
import os
import shutil
import threading
from concurrent.futures import wait

import pytest

from domain.errors import IntegrityViolation
from domain.signed_notes import Note
from runtime.clock import ManualClock
from runtime.log_keeper import LogKeeper
from runtime.log_signing import LogSigner
from runtime.log_store import LogReader
from runtime.log_witnesses import RolledBack
from runtime.soft_keys import SoftKeys
from runtime.witness import Answer, Witness
from tests.unit.runtime.test_log_keeper import ORIGIN, received
from tests.witnesses import WitnessHere, witnessed_by

pytestmark = [pytest.mark.clause("9.3e"), pytest.mark.clause("6.1b")]


class Rig:
    """A log in a folder, and two witnesses of it."""

    def __init__(self, folder):
        self.folder = folder / "audit"
        self.signer = LogSigner(SoftKeys(folder / "keys"), ORIGIN)
        self.here = [WitnessHere(Witness.open(folder / name, SoftKeys(folder / f"{name}-keys"), name,
                                              lambda _: self.signer.public_keys(), ManualClock()))
                     for name in ("near", "far")]  # fmt: skip
        self.now_s = 0.0
        self.witnesses = witnessed_by(self.signer, *self.here, now_s=lambda: self.now_s)
        self.keeper = None

    def open(self):
        self.close()
        self.keeper = LogKeeper.open(self.folder, self.signer, lambda: os.urandom(32), witnesses=self.witnesses)
        return self.keeper

    def close(self):
        if self.keeper is not None:
            self.keeper.close()
            self.keeper = None

    def names(self):
        return [one.name for one in Note.parse(LogReader(self.folder).note()).signatures][2:]


@pytest.fixture
def rig(tmp_path):
    made = Rig(tmp_path)
    yield made
    made.close()
    for here in made.here:
        here.witness.close()


def test_every_checkpoint_is_published_with_all_who_signed_it(rig):
    keeper = rig.open()
    for numbers in ((1,), (2, 3), range(4, 300)):
        keeper.take(received(*numbers))
        assert rig.names() == ["near", "far"]
        assert rig.witnesses.size == keeper.size
    assert keeper.was_witnessed()
    assert rig.open().witness()


def test_one_that_is_away_is_passed_over_and_catches_up(rig):
    keeper = rig.open()
    rig.here[1].is_away = True
    keeper.take(received(1, 2))
    assert rig.names() == ["near"]
    assert rig.witnesses.problems == ["w1: nobody is there"]
    rig.here[1].is_away = False
    assert not keeper.witness(), "it is asked again after a moment, not at once"
    rig.now_s += 1.0
    assert keeper.witness()
    assert (rig.names(), rig.witnesses.problems) == (["near", "far"], [])


def test_one_that_is_slow_has_its_time_and_no_more(rig, monkeypatch):
    monkeypatch.setattr("runtime.log_witnesses.WITHIN_S", 0.05)
    keeper, may_go_on = rig.open(), threading.Event()
    rig.here[1].before_answer = lambda: may_go_on.wait(10)
    keeper.take(received(1))
    keeper.take(received(2))  # it is asked no second time meanwhile
    assert rig.names() == ["near"]
    may_go_on.set()
    wait([rig.witnesses._witnesses[1]._asking], 10)
    monkeypatch.setattr("runtime.log_witnesses.WITHIN_S", 10)
    assert keeper.witness()  # what it said of an older checkpoint is not put to this one: it was asked anew
    assert rig.names() == ["near", "far"]
    assert rig.signer.verify(LogReader(rig.folder).note()).size == 2


def test_what_a_witness_signs_too_late_is_published_all_the_same(rig, monkeypatch):
    monkeypatch.setattr("runtime.log_witnesses.WITHIN_S", 0.05)
    keeper, may_go_on = rig.open(), threading.Event()
    rig.here[1].before_answer = lambda: may_go_on.wait(10)
    keeper.take(received(1))
    late = rig.witnesses._witnesses[1]._asking
    assert not keeper.witness()
    may_go_on.set()
    wait([late], 10)
    assert (rig.witnesses.size, rig.names()) == (0, ["near"]), "nothing is said to be signed before it is published"
    rig.here[1].is_away = True  # it need not be asked again
    assert keeper.witness()
    assert (rig.witnesses.size, rig.names()) == (1, ["near", "far"])


def test_one_that_does_not_answer_at_all_is_told_and_not_waited_for_at_the_end(rig, monkeypatch):
    monkeypatch.setattr("runtime.log_witnesses.WITHIN_S", 0.05)
    keeper, may_go_on = rig.open(), threading.Event()
    rig.here[1].before_answer = lambda: may_go_on.wait(10)
    keeper.take(received(1))
    rig.now_s += 7.0
    assert not keeper.witness()
    assert rig.witnesses.problems == ["w1: it has not answered for 7 s"]
    (asking,) = [one for one in threading.enumerate() if one.name.startswith("ask w1")]
    assert asking.daemon, "the interpreter would wait for it"
    may_go_on.set()
    asking.join(10)
    assert keeper.witness()
    assert rig.witnesses.problems == []


def test_what_a_witness_signed_is_published_though_the_disk_failed_at_first(rig, monkeypatch):
    keeper = rig.open()
    rig.here[1].is_away = True
    keeper.take(received(1))
    rig.here[1].is_away = False
    rig.now_s += 1.0
    with monkeypatch.context() as patched:
        patched.setattr(keeper._store, "publish", no_room)
        with pytest.raises(OSError, match=r"no room"):
            keeper.witness()
    assert rig.names() == ["near"]
    assert keeper.witness()
    assert rig.names() == ["near", "far"]


def no_room(*_):
    raise OSError("no room")


def test_a_witness_that_lost_all_it_knew_begins_anew(rig, tmp_path):
    rig.open().take(received(1, 2, 3))
    rig.here[1].witness._connection.execute("DELETE FROM cosigned")
    rig.keeper.take(received(4))
    assert rig.names() == ["near", "far"]


@pytest.mark.parametrize("answer", [
    Answer(409, b"1000\n"), Answer(409, b"-1\n"), Answer(409, b"x" * 100), Answer(422, b"no\n"), Answer(403, b""),
    Answer(500, b"\xff"), Answer(200, b""), Answer(200, b"\xff\n"), Answer(200, "\u2014 near AAAAAAAA\n".encode()),
])  # fmt: skip
def test_no_word_of_a_witness_alone_stops_the_log(rig, monkeypatch, answer):
    keeper = rig.open()
    monkeypatch.setattr(rig.here[1].witness, "add_checkpoint", lambda _: answer)
    keeper.take(received(1, 2))
    assert rig.names() == ["near"]
    assert len(rig.witnesses.problems) == 1


def test_a_checkpoint_that_the_log_did_not_sign_convicts_nobody(rig, monkeypatch, tmp_path):
    keeper = rig.open()
    stranger = Rig(tmp_path / "stranger")
    stranger.open().take(received(*range(1, 50)))
    note = LogReader(stranger.folder).note()
    stranger.close()
    monkeypatch.setattr(rig.here[1].witness, "add_checkpoint", lambda _: Answer(409, b"49\n"))
    monkeypatch.setattr(rig.here[1].witness, "checkpoint", lambda _: Answer(200, note))
    keeper.take(received(1))
    assert (rig.names(), keeper.size) == (["near"], 1)


@pytest.mark.parametrize("answer", [Answer(422, b"no\n"), Answer(409, b"3\n")])
def test_what_the_log_signed_while_a_witness_took_its_time_convicts_nobody(rig, monkeypatch, answer):
    """It answers late and has a checkpoint by then that was published after it was asked: a third party's, or a trick."""
    monkeypatch.setattr("runtime.log_witnesses.WITHIN_S", 0.05)
    keeper, may_go_on = rig.open(), threading.Event()
    rig.here[1].before_answer = lambda: may_go_on.wait(10)
    monkeypatch.setattr(rig.here[1].witness, "add_checkpoint", lambda _: answer)
    monkeypatch.setattr(rig.here[1].witness, "checkpoint", lambda _: Answer(200, LogReader(rig.folder).note()))
    keeper.take(received(1))
    keeper.take(received(2, 3))
    may_go_on.set()
    wait([rig.witnesses._witnesses[1]._asking], 10)
    assert not keeper.witness()
    assert rig.witnesses.problems == [f"w1: it refuses ({answer.status}): {answer.body.decode().strip()}"]
    keeper.take(received(4))
    assert (rig.names(), keeper.size) == (["near"], 4)


def test_a_tree_that_is_made_again_is_not_taken_for_an_older_copy(rig, monkeypatch):
    """As the runbook says for damaged tiles: without them and the checkpoint the log grows again from its events."""
    rig.open().take(received(*range(1, 8)))
    rig.close()
    shutil.rmtree(rig.folder / "tile")
    (rig.folder / "checkpoint").unlink()
    monkeypatch.setattr("runtime.log_keeper._AT_ONCE", 3)
    rig.witnesses = witnessed_by(rig.signer, *rig.here, now_s=lambda: rig.now_s)
    keeper = rig.open()
    rig.now_s += 1.0
    assert keeper.witness()
    assert (rig.names(), keeper.size) == (["near", "far"], 7)


def test_an_older_copy_of_the_log_signs_nothing_more(rig, tmp_path):
    rig.open().take(received(1, 2, 3))
    rig.close()
    shutil.copytree(rig.folder, tmp_path / "yesterday")
    rig.open().take(received(4, 5))
    rig.close()
    shutil.rmtree(rig.folder)
    shutil.copytree(tmp_path / "yesterday", rig.folder)
    rig.witnesses = witnessed_by(rig.signer, *rig.here)  # of a process that begins
    keeper = rig.open()
    for attempt in (keeper.witness, lambda: keeper.take(received(6))):
        with pytest.raises(RolledBack, match=r"the log has \d entries, and w[01] has its signature for 5"):
            attempt()
    assert LogReader(rig.folder).checkpoint().size == 3
    with pytest.raises(IntegrityViolation, match=r"rolled-back"):
        rig.open()  # what was kept of the stream before it was refused is not signed by a start either
    rig.keeper = None


def test_another_past_of_the_log_signs_nothing_more(rig):
    rig.open().take(received(1, 2, 3))
    rig.close()
    shutil.rmtree(rig.folder)
    rig.witnesses = witnessed_by(rig.signer, *rig.here)
    for here in rig.here:
        here.is_away = True
    keeper = rig.open()
    keeper.take(received(*range(1, 8)))
    for here in rig.here:
        here.is_away = False
    rig.witnesses._now_s = itertools.count(100).__next__
    with pytest.raises(RolledBack, match=r"the first 3 entries of the log are not those it signed for w0"):
        keeper.witness()
    assert len(rig.here[0].witness.evidence()) == 1


def test_a_process_that_ends_between_the_witness_and_publishing_is_not_taken_for_another_past(rig, monkeypatch):
    keeper = rig.open()
    keeper.take(received(1))

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(keeper._store, "publish", stop)
        with pytest.raises(KeyboardInterrupt):
            keeper.take(received(2, 3))
    assert LogReader(rig.folder).checkpoint().size == 1
    rig.witnesses = witnessed_by(rig.signer, *rig.here)
    assert rig.open().witness()
    assert LogReader(rig.folder).checkpoint().size == 3
    assert rig.names() == ["near", "far"]
