"""The journal of accesses: on disk when a call returns, also when the process is killed in the midst."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from domain.errors import IntegrityViolation, StorageFull
from runtime.access_journal import AccessJournal, NewAccess

EVENT = b'{"resourceType":"AuditEvent"}'


def access(number: int) -> NewAccess:
    return NewAccess(f"a-{number}", number, EVENT)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "accesses" / "api.db"


def test_accesses_wait_in_their_order_until_they_are_carried(file):
    journal = AccessJournal.open(file)
    journal.add([access(1), access(2)])
    journal.add([access(3)])
    waiting = journal.waiting(2)
    assert [item.id for item in waiting] == ["a-1", "a-2"]
    journal.carried(waiting[-1].n)
    assert [(item.id, item.at_us, item.event) for item in journal.waiting(9)] == [("a-3", 3, EVENT)]
    assert journal.count() == 1
    journal.close()


def test_numbers_never_come_again(file):
    journal = AccessJournal.open(file)
    journal.add([access(1)])
    first = journal.waiting(1)[0].n
    journal.carried(first)
    journal.close()
    journal = AccessJournal.open(file)
    journal.add([access(2)])
    assert journal.waiting(1)[0].n > first
    journal.close()


@pytest.mark.clause("9.3e")
def test_what_was_noted_outlives_a_process_that_is_killed(file):
    program = (
        "import sys; from pathlib import Path; from runtime.access_journal import AccessJournal, NewAccess\n"
        "journal = AccessJournal.open(Path(sys.argv[1]))\n"
        "for number in range(10**9):\n"
        "    journal.add([NewAccess(f'a-{number}', number, b'{}')])\n"
        "    print(number, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(file)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        noted = [int(next(process.stdout)) for _ in range(20)]
        process.send_signal(signal.SIGKILL)
        noted += [int(line) for line in process.stdout.read().split()]
    journal = AccessJournal.open(file)
    kept = {item.id for item in journal.waiting(10**6)}
    journal.close()
    assert {f"a-{number}" for number in noted} <= kept


def test_nobody_else_may_read_it(file):
    AccessJournal.open(file).close()
    assert [path.stat().st_mode & 0o777 for path in (file, file.parent)] == [0o600, 0o700]


def test_a_damaged_journal_is_put_aside_and_a_new_one_begun(file):
    journal = AccessJournal.open(file)
    journal.add([access(1)])
    journal.close()
    file.write_bytes(b"no database at all" * 300)
    with pytest.raises(IntegrityViolation, match="damaged"):
        AccessJournal.open(file)
    journal = AccessJournal.open_or_anew(file, 77)
    assert journal.waiting(1) == []
    journal.close()
    assert file.with_name("api.db.damaged-77").read_bytes().startswith(b"no database")


def test_a_disk_that_takes_nothing_is_said(file):
    file.parent.parent.joinpath("accesses").write_text("a file where the folder should be")
    with pytest.raises(StorageFull, match="noted"):
        AccessJournal.open(file)
