"""The log from records to a signed checkpoint: each record once, in order, whatever stops it where."""

from __future__ import annotations

import base64
import hashlib
import itertools
import shutil
import sqlite3
import threading

import msgspec
import pytest

from domain.errors import Conflict, IntegrityViolation
from domain.log_entries import LogRecord, commitment, read_entry, read_record
from domain.merkle import check_consistency, check_inclusion, consistency_proof, inclusion_proof, leaf_hash
from domain.signed_notes import Checkpoint, Note
from domain.tiles import bundles_of, entries_of
from runtime import log_events
from runtime.disk import Disk
from runtime.keys import KeyMissing
from runtime.log_events import LogEvents, Received, Wanted, events_between, find_events, taken_of_stream
from runtime.log_fsck import check_log
from runtime.log_keeper import LogKeeper
from runtime.log_signing import LogSigner
from runtime.log_store import LogReader
from runtime.note_signing import KeyVerifier
from runtime.soft_keys import SoftKeys
from tests.openssl import needs_openssl, openssl_accepts_sm2

ORIGIN = "vitalgrid.example/sz"


def record(number, **event):
    return LogRecord(
        f"w-{number}",
        1_700_000_000_000_000 + number,
        "writes",
        number,
        msgspec.Raw(msgspec.json.encode(event or {"n": number})),
    )


def received(*numbers):
    return [Received(number, record(number)) for number in numbers]


@pytest.fixture
def signer(tmp_path):
    return LogSigner(SoftKeys(tmp_path / "keys"), ORIGIN)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "audit"


@pytest.fixture
def salts():
    counter = itertools.count()
    return lambda: hashlib.sha256(str(next(counter)).encode()).digest()


@pytest.fixture
def keep(folder, signer, salts):
    """Open the log anew, closing the one before."""
    opened = []

    def open_again(disk=None):
        for keeper in opened:
            keeper.close()
        opened[:] = [LogKeeper.open(folder, signer, salts, disk)]
        return opened[0]

    yield open_again
    for keeper in opened:
        keeper.close()


def ids(folder):
    """Ids of what the published log has, in its order."""
    reader = LogReader(folder)
    return [read_entry(entry).id for tile in bundles_of(reader.checkpoint().size)
            for entry in entries_of(tile, reader.read(tile))]  # fmt: skip


def test_a_new_log_says_signed_that_it_is_empty(keep, folder, signer):
    assert keep().size == 0
    assert signer.verify(LogReader(folder).note()) == Checkpoint(ORIGIN, 0, hashlib.sha256(b"").digest())
    assert events_between(folder, 0, 10) == []


@pytest.mark.clause("6.1b")
@pytest.mark.clause("9.3e")
def test_each_record_is_in_the_log_once_as_a_commitment_that_its_event_opens(keep, folder, signer):
    keeper = keep()
    assert keeper.take(received(1, 2, 3)) == 3
    assert keeper.take(received(2, 3, 4)) == 1
    assert ids(folder) == ["w-1", "w-2", "w-3", "w-4"]
    assert (keeper.size, keeper.next_sequence, taken_of_stream(folder)) == (4, 5, 4)
    reader = LogReader(folder)
    for event in events_between(folder, 0, 10):
        entry = reader.entry(event.at, 4)
        assert entry == event.entry
        assert read_entry(entry).commitment == commitment(event.salt, event.event)
        assert event.event not in entry
    said = signer.verify(reader.note())
    node = reader.tree(4).node
    for index in range(4):
        check_inclusion(leaf_hash(reader.entry(index, 4)), index, 4, inclusion_proof(index, 4, node), said.root)


def test_another_event_under_a_known_id_is_kept_beside_it(keep, folder):
    keeper = keep()
    keeper.take(received(1))
    assert keeper.take([Received(2, record(1, what="else")), Received(3, record(1))]) == 1
    assert ids(folder) == ["w-1", "w-1#stream-2"]


def test_what_cannot_be_read_is_in_the_log_as_it_came(keep, folder):
    as_told = b'{"id":"a","at_us":%d,"by":"x","n":%d,"event":%b}'
    payloads = [
        b"", b"\xff\x00", b"{}", b"[1]", b'{"id":"","at_us":1,"by":"x","n":1,"event":1}', as_told % (2**63, 1, b"1"),
        as_told % (1, -(2**63) - 1, b"1"), as_told % (1, 1, b"[" * 10**5 + b"]" * 10**5),
    ]  # fmt: skip
    for sequence, payload in enumerate(payloads, 1):
        keep().take([Received(sequence, read_record(payload, sequence, 17))])
        assert events_between(folder, sequence - 1, sequence)[0].event == payload
    assert ids(folder) == [f"stream-{number}" for number in range(1, len(payloads) + 1)]
    readable = msgspec.json.encode(record(1))
    assert read_record(readable, 9, 17) == record(1)


@pytest.mark.clause("9.3e")
def test_a_log_begins_with_every_one_that_was_signed_before(keep, folder, signer):
    keeper, signed = keep(), []
    for number in range(1, 40):
        keeper.take(received(number))
        signed.append(signer.verify(LogReader(folder).note()))
    node = LogReader(folder).tree(39).node
    for old in signed:
        check_consistency(old.size, 39, consistency_proof(old.size, 39, node), old.root, signed[-1].root)


class Stops(Exception):
    """The process ends here."""


class StoppingDisk(Disk):
    """The machine's disk, until a step, before which the process ends."""

    def __init__(self, stop_before):
        self.left = stop_before

    def __getattribute__(self, name):
        if name in ("write", "sync", "rename", "make_folder", "sync_folder"):
            self.left -= 1
            if self.left == 0:
                raise Stops
        return super().__getattribute__(name)


@pytest.mark.clause("9.3e")
def test_a_process_that_ends_at_any_step_loses_and_doubles_nothing(keep, folder):
    """Each time the stream gives everything from the position that the log says, and a little of before."""
    for step in itertools.count(1):
        shutil.rmtree(folder, ignore_errors=True)
        disk = StoppingDisk(step)
        try:
            keeper = keep(disk)
            keeper.take(received(1, 2, 3))
            keeper.take(received(4, 5))
        except Stops:
            pass
        else:
            assert step > 30
            break
        disk.left = -1
        keeper = keep()
        start = max(keeper.next_sequence - 1, 1)
        keeper.take(received(*range(start, 7)))
        assert ids(folder) == [f"w-{number}" for number in range(1, 7)]


def test_a_checkpoint_between_signing_and_publishing_is_signed_the_same_again(keep, folder, signer, monkeypatch):
    keeper = keep()
    keeper.take(received(1))
    monkeypatch.setattr(keeper._store, "publish", lambda *_: (_ for _ in ()).throw(Stops))
    with pytest.raises(Stops):
        keeper.take(received(2, 3))
    keeper = keep()
    assert keeper.size == 3
    keeper.take(received(4))
    with sqlite3.connect(folder / "events.db") as connection:
        assert [row[0] for row in connection.execute("SELECT size FROM signed ORDER BY size")] == [0, 1, 3, 4]
    connection.close()


def test_the_database_changes_and_deletes_nothing(keep, folder):
    keep().take(received(1, 2))
    connection = sqlite3.connect(folder / "events.db")
    for statement in ("DELETE FROM events", "UPDATE events SET entry = x'00'", "UPDATE events SET idx = idx + 10",
                      "DELETE FROM signed", "UPDATE signed SET root = x'00'"):  # fmt: skip
        with pytest.raises(sqlite3.IntegrityError, match=r"only grows|stays"):
            connection.execute(statement)
    connection.close()


def test_what_was_forgotten_does_not_come_back(keep, folder):
    keep().take(received(1, 2))
    connection = sqlite3.connect(folder / "events.db")
    connection.executescript("DROP TRIGGER events_stay_full; UPDATE events SET event = NULL, salt = NULL WHERE idx = 0")
    connection.close()
    keeper = keep()
    assert keeper.take(received(1, 3)) == 1
    assert ids(folder) == ["w-1", "w-2", "w-3"]


def test_no_size_is_signed_with_two_roots(keep, folder):
    keeper = keep()
    keeper.take(received(1, 2))
    with pytest.raises(IntegrityViolation, match=r"another root was signed for 2"):
        keeper._events.note_signed(2, bytes(32))


def test_events_that_are_older_than_the_log_are_refused(keep, folder):
    keep().take(received(1))
    keep().close()
    shutil.copy(folder / "events.db", folder / "old.db")
    keep().take(received(2))
    keep().close()
    for name in ("events.db-wal", "events.db-shm"):
        (folder / name).unlink(missing_ok=True)
    (folder / "old.db").replace(folder / "events.db")
    with pytest.raises(IntegrityViolation, match=r"more entries than its events"):
        keep()


def test_tiles_that_are_older_than_the_events_are_made_again_with_the_same_roots(keep, folder, tmp_path):
    keep().take(received(1))
    keep().close()
    shutil.copytree(folder, tmp_path / "old")
    keep().take(received(2, 3))
    before = Note.parse(LogReader(folder).note()).text
    keep().close()
    shutil.rmtree(folder / "tile")
    shutil.copytree(tmp_path / "old" / "tile", folder / "tile")
    shutil.copy(tmp_path / "old" / "checkpoint", folder / "checkpoint")
    keep()
    assert Note.parse(LogReader(folder).note()).text == before


def without_tree(folder):
    shutil.rmtree(folder / "tile")
    (folder / "checkpoint").unlink()


def test_tiles_and_checkpoint_that_are_gone_are_made_again_from_the_events(keep, folder):
    keeper = keep()
    for first in (1, 3, 10, 400):
        keeper.take(received(*range(first, 3 * first)))
    before = Note.parse(LogReader(folder).note()).text
    keep().close()
    without_tree(folder)
    keep().close()
    assert Note.parse(LogReader(folder).note()).text == before


@pytest.mark.clause("9.3e")
def test_a_tree_of_other_events_than_were_signed_is_not_published(keep, folder):
    keep().take(received(1, 2, 3))
    keep().close()
    without_tree(folder)
    connection = sqlite3.connect(folder / "events.db")
    connection.executescript("DROP TRIGGER events_are_fixed; UPDATE events SET entry = x'7b7d' WHERE idx = 1;")
    connection.close()
    with pytest.raises(IntegrityViolation, match=r"another root was signed for 3"):
        keep()
    assert LogReader(folder).note() is None


def test_a_signed_log_does_not_go_on_without_its_keys(keep, folder, tmp_path):
    keep().take(received(1))
    shutil.rmtree(tmp_path / "keys")
    with pytest.raises(KeyMissing, match=r"log-ed25519"):
        keep()


def test_another_log_is_not_taken_for_ours(keep, folder, tmp_path, salts):
    keep().take(received(1))
    keep().close()
    with pytest.raises(IntegrityViolation, match=r"expected 'other/log'"):
        LogKeeper.open(folder, LogSigner(SoftKeys(tmp_path / "keys"), "other/log"), salts)


def test_two_keepers_are_refused(keep, folder, signer, salts):
    keep()
    with pytest.raises(Conflict):
        LogKeeper.open(folder, signer, salts)


def test_keys_may_change_and_older_checkpoints_are_still_verified(keep, folder, signer, tmp_path):
    keep().take(received(1))
    old = LogReader(folder).note()
    for name in ("log-ed25519", "log-sm2"):
        SoftKeys(tmp_path / "keys").rotate(name)
    keep().take(received(2))
    assert [signer.verify(note).size for note in (old, LogReader(folder).note())] == [1, 2]
    assert len(signer.public_keys()) == 4
    for name in ("log-ed25519", "log-sm2"):
        SoftKeys(tmp_path / "keys").destroy(name, 1)
    assert [signer.verify(note).size for note in (old, LogReader(folder).note())] == [1, 2]


def test_a_key_that_is_rotated_while_the_log_grows_is_told_before_it_is_needed(keep, folder, signer, tmp_path):
    keeper = keep()
    keeper.take(received(1))
    for name in ("log-ed25519", "log-sm2"):
        SoftKeys(tmp_path / "keys").rotate(name)
    assert check_log(folder, signer).damages == []  # nothing was signed with them yet
    keeper.take(received(2))
    told = LogReader(folder).keys().decode().split()
    assert told == [key.vkey for key in signer.public_keys()]
    assert len(told) == 4
    note = Note.parse(LogReader(folder).note())
    assert [one.key_id for one in note.signatures] == [signer.public_keys()[n].key_id for n in (0, 2)]
    (folder / "vkeys").write_text("".join(f"{vkey}\n" for vkey in told[1:]))
    assert "does not have the keys that the log signs with" in str(check_log(folder, signer).damages)


@needs_openssl
@pytest.mark.clause("7.2c")
def test_openssl_verifies_the_sm2_line(keep, folder, signer, tmp_path):
    keep().take(received(1))
    note = Note.parse(LogReader(folder).note())
    public = next(key for key in signer.public_keys() if len(key.key) == 64)
    line = next(signature for signature in note.signatures if signature.key_id == public.key_id)
    assert openssl_accepts_sm2(tmp_path, public.key, note.text.encode(), line.value, "1234567812345678")
    assert not openssl_accepts_sm2(tmp_path, public.key, note.text.encode() + b"\n", line.value, "1234567812345678")


@pytest.mark.clause("7.2c")
def test_a_line_of_either_key_that_was_changed_spoils_the_checkpoint(keep, folder, signer):
    keep().take(received(1))
    raw = LogReader(folder).note()
    note = Note.parse(raw)
    assert note.verified_by(map(KeyVerifier, signer.public_keys())) == [ORIGIN, ORIGIN]
    for signature in note.signatures:
        value = signature.value[:-1] + bytes([signature.value[-1] ^ 1])
        changed = raw.replace(base64.b64encode(signature.key_id + signature.value), base64.b64encode(signature.key_id + value))
        assert changed != raw
        with pytest.raises(IntegrityViolation, match=r"not of this text"):
            signer.verify(changed)


def test_a_log_is_not_closed_in_the_midst_of_its_work(keep, folder, monkeypatch):
    """At its end the process is told to close while a thread still writes."""
    keeper, closing = keep(), []

    def add_while_closed(events, records):
        closing.append(threading.Thread(target=keeper.close))
        closing[0].start()
        closing[0].join(0.2)
        assert closing[0].is_alive()
        return add(events, records)

    add = LogEvents.add
    monkeypatch.setattr(LogEvents, "add", add_while_closed)
    assert keeper.take(received(1)) == 1
    closing[0].join()
    assert ids(folder) == ["w-1"]


@pytest.mark.parametrize("read", ["count", "last_sequence", "last_signed"])
def test_damage_that_a_read_meets_is_said_in_our_words(folder, salts, read):
    folder.mkdir()
    events = LogEvents.open(folder, salts)
    events._connection.executescript("DROP TABLE events; DROP TABLE signed")  # as a file reads whose pages are lost
    for call in (getattr(events, read), lambda: events.entries(0, 1)):
        with pytest.raises(IntegrityViolation, match=r"damaged"):
            call()
    events.close()


@pytest.mark.parametrize(("from_us", "until_us"), [(5, 9), (None, 9), (19_996, None)])
def test_events_of_a_time_are_found_without_a_look_at_every_other(folder, salts, monkeypatch, from_us, until_us):
    folder.mkdir()
    events = LogEvents.open(folder, salts)
    events.add([Received(n + 1, LogRecord(f"w-{n}", n, "writes", n, msgspec.Raw(b"{}"))) for n in range(20_000)])
    events.close()
    steps, read_only = [], log_events._read_only

    def counting(where):
        connection = read_only(where)
        connection.set_progress_handler(lambda: steps.append(1) and None, 100)
        return connection

    monkeypatch.setattr(log_events, "_read_only", counting)
    found = find_events(folder, Wanted(from_us=from_us, until_us=until_us), before=None, limit=3)
    newest = (until_us or 20_000) - 1
    assert [event.at for event in found] == [newest, newest - 1, newest - 2]
    assert len(steps) < 20


def test_events_of_before_there_was_an_index_are_indexed_in_parts(folder, salts, monkeypatch):
    monkeypatch.setattr(log_events, "_AT_ONCE", 3)
    folder.mkdir()
    events = LogEvents.open(folder, salts)
    old = [record(n, who=f"ada-{n}", action="a", target="t") for n in range(10)]
    events.add([Received(n + 1, one) for n, one in enumerate(old)])
    events._connection.execute("DELETE FROM concerned")
    events.close()
    LogEvents.open(folder, salts).close()
    for n in range(10):
        (event,) = find_events(folder, Wanted(principal=f"ada-{n}"), before=None, limit=9)
        assert event.id == f"w-{n}"
