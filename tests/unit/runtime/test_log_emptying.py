"""An event without content stands in a log that holds only if the log itself says that an erasure took it."""

from __future__ import annotations

import itertools
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from domain.log_emptying import Emptying, Explanations, ranges_of
from domain.log_entries import EMPTYING, UNREADABLE, WRITES, LogRecord, read_entry, read_record
from runtime.log_events import FILE, Received, events_between
from runtime.log_fsck import check_log
from runtime.log_keeper import LogKeeper
from runtime.log_signing import LogSigner
from runtime.log_store import LogReader
from runtime.log_verifier import DoesNotHold, Source, describe, verify_log
from runtime.soft_keys import SoftKeys
from tests.unit.runtime.test_log_erasure import AFTER_US, BEFORE_US, ERASED_US, ONE, OTHER, wrote
from tests.unit.runtime.test_log_keeper import ORIGIN, StoppingDisk, Stops

pytestmark = [pytest.mark.clause("9.3e"), pytest.mark.clause("9.3h")]


class Kept:
    """A log with its keys, as a process has it; `open` again as often as it takes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "audit"
        self.signer = LogSigner(SoftKeys(folder / "keys"), ORIGIN)
        self.keeper: LogKeeper | None = None

    def open(self, disk: StoppingDisk | None = None) -> LogKeeper:
        self.close()
        self.keeper = LogKeeper.open(self.folder, self.signer, lambda: b"s" * 32, disk)
        return self.keeper

    def close(self) -> None:
        if self.keeper is not None:
            self.keeper.close()
            self.keeper = None

    def verify(self, unexplained_before: int = 0) -> str:
        vkeys = [key.vkey for key in self.signer.public_keys()]
        return describe(verify_log(Source(str(self.folder)), vkeys, unexplained_before=unexplained_before))

    def damages(self, unexplained_before: int = 0) -> list[str]:
        return check_log(self.folder, self.signer, unexplained_before).damages

    def empty(self) -> list[int]:
        return [event.at for event in events_between(self.folder, 0, 9999) if event.event is None]

    def blank(self, index: int) -> None:
        """As somebody does who has the file."""
        with closing(sqlite3.connect(self.folder / FILE)) as connection:
            connection.execute("DROP TRIGGER events_stay_full")
            connection.execute("UPDATE events SET event = NULL, salt = NULL WHERE idx = ?", (index,))
            connection.commit()


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    log = Kept(tmp_path)
    yield log
    log.close()


ACCESSES = [wrote(n, "patient.update", ONE if n in (1, 2, 4) else OTHER, BEFORE_US) for n in range(1, 7)]
ERASURE = [wrote(7, "patient.erase", ONE, ERASED_US)]


def test_what_an_erasure_emptied_is_named_by_an_entry_and_the_log_holds(kept: Kept) -> None:
    keeper = kept.open()
    keeper.take(ACCESSES)
    assert keeper.take(ERASURE) == 2
    assert kept.empty() == [0, 1, 3]
    said = events_between(kept.folder, 7, 8)[0]
    assert read_entry(said.entry).by == EMPTYING
    assert msgspec.json.decode(said.event or b"", type=Emptying) == Emptying(ONE, 6, [(0, 1), (3, 3)])
    assert kept.verify().endswith("; 5 events opened, 3 emptied")
    found = check_log(kept.folder, kept.signer)
    assert (found.damages, found.emptied) == ([], 3)
    keeper.take([wrote(8, "patient.update", ONE, BEFORE_US)])  # late, and of before
    assert kept.empty() == [0, 1, 3, 8]
    assert kept.verify().endswith("; 6 events opened, 4 emptied")
    assert kept.damages() == []


@pytest.mark.parametrize("index", [2, 6, 7, 8])
def test_an_event_that_somebody_else_emptied_is_found(kept: Kept, index: int) -> None:
    """Of another person; the erasure itself; what it says it took; one of after."""
    kept.open().take([*ACCESSES, *ERASURE, wrote(8, "patient.update", OTHER, AFTER_US)])
    kept.close()
    kept.blank(index)
    first = 0 if index in {6, 7} else index  # without the word of it, what it took is not explained either
    with pytest.raises(DoesNotHold, match=rf"the event of entry {first} is gone, and no entry says"):
        kept.verify()
    assert any(f"{index} is gone, and no entry says" in one for one in kept.damages())
    assert {one.partition(":")[0] for one in kept.damages()} == {FILE}


def test_a_log_of_before_there_were_such_entries_is_asked_for_them_from_an_index_on(kept: Kept) -> None:
    kept.open().take(ACCESSES)
    kept.close()
    kept.blank(2)
    assert kept.verify(unexplained_before=3).endswith("5 events opened, 1 emptied")
    assert kept.damages(unexplained_before=3) == []
    with pytest.raises(DoesNotHold, match="entry 2 is gone"):
        kept.verify(unexplained_before=2)
    assert ["entry 2 is gone" in one for one in kept.damages(unexplained_before=2)] == [True]


@pytest.mark.parametrize("statement", [
    "UPDATE events SET event = NULL, salt = NULL WHERE idx = 2", "UPDATE events SET salt = NULL WHERE idx = 2",
    "UPDATE events SET event = x'7b7d' WHERE idx = 2", "UPDATE events SET event = x'7b7d', salt = x'00' WHERE idx = 0",
])  # fmt: skip
def test_the_database_empties_nothing_that_no_entry_names(kept: Kept, statement: str) -> None:
    kept.open().take([*ACCESSES, *ERASURE])
    with closing(sqlite3.connect(kept.folder / FILE)) as connection, pytest.raises(sqlite3.IntegrityError, match="only grows"):
        connection.execute(statement)


def test_nobody_else_says_that_an_erasure_took_something(kept: Kept) -> None:
    forged = LogRecord("emptied-9", ERASED_US, EMPTYING, 9, msgspec.Raw(msgspec.json.encode(Emptying(ONE, 6, [(2, 2)]))))
    record = read_record(msgspec.json.encode(forged), 8, ERASED_US)
    assert record.by == UNREADABLE
    kept.open().take([*ACCESSES, *ERASURE, Received(8, record)])
    kept.close()
    kept.blank(2)
    with pytest.raises(DoesNotHold, match="entry 2 is gone"):
        kept.verify()


def test_nothing_is_emptied_before_its_entry_is_published_and_a_start_goes_on(kept: Kept) -> None:
    for step in itertools.count(1):
        kept.close()
        shutil.rmtree(kept.folder, ignore_errors=True)
        disk = StoppingDisk(10**9)
        keeper = kept.open(disk)
        keeper.take(ACCESSES)
        disk.left = step
        try:
            keeper.take(ERASURE)
        except Stops:
            published = LogReader(kept.folder).checkpoint()
            assert published is not None
            assert kept.empty() == [] or published.size == 8
            kept.verify()
        else:
            assert step > 5
            break
        disk.left = -1
        kept.open()
        assert kept.empty() == [0, 1, 3]
        kept.verify()
        assert kept.damages() == []


def test_what_is_emptied_while_it_is_verified_is_explained_by_what_came_since(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = kept.open()
    keeper.take(ACCESSES)
    get, pending = Source.get, [ERASURE]

    def get_and_erase(source: Source, path: str) -> bytes | None:
        found = get(source, path)
        if path == "checkpoint" and pending:
            keeper.take(pending.pop())
        return found

    monkeypatch.setattr(Source, "get", get_and_erase)
    assert kept.verify().endswith("5 events opened, 3 emptied")


def test_of_who_was_looked_at_very_often_the_log_says_it_in_several_entries(kept: Kept) -> None:
    often = [wrote(n, "patient.update", ONE if n % 2 else OTHER, BEFORE_US) for n in range(1, 5001)]
    keeper = kept.open()
    keeper.take(often)
    assert keeper.take([wrote(5001, "patient.erase", ONE, ERASED_US)]) == 4
    assert len(kept.empty()) == 2500
    assert all(len(event.event or b"") < 20_000 for event in events_between(kept.folder, 5001, 5004))
    assert "2500 emptied" in kept.verify()
    assert kept.damages() == []


def test_what_explains_and_what_does_not() -> None:
    erased = bytes(ERASURE[0].record.event)

    def unexplained(*said: Emptying, before: int = 20) -> list[tuple[int, int]]:
        explanations = Explanations()
        for index in (0, 1, 2, 4, 5, 9):
            explanations.meet_emptied(index)
        explanations.meet(10, WRITES, erased)
        for one in said:
            explanations.meet(before, EMPTYING, msgspec.json.encode(one))
        return explanations.unexplained()

    nothing = [(0, 2), (4, 5), (9, 9)]
    assert unexplained() == nothing
    assert unexplained(Emptying(OTHER, 10, [(0, 9)])) == unexplained(Emptying(ONE, 9, [(0, 9)])) == nothing
    assert unexplained(Emptying(ONE, 10, [(0, 20)])) == nothing  # beyond itself
    assert unexplained(Emptying(ONE, 10, [(0, 9)])) == []
    assert unexplained(Emptying(ONE, 10, [(1, 4)]), Emptying(ONE, 10, [(1, 1), (9, 12)])) == [(0, 0), (5, 5)]
    assert ranges_of([1, 2, 3, 7, 9, 10]) == [(1, 3), (7, 7), (9, 10)]
