"""What the access log loses when a person is erased, and what it keeps. Clause 9.3h."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest

from domain.accesses import write_event
from domain.log_entries import WRITES, LogRecord
from runtime import log_events
from runtime.log_events import FILE, Emptied, LogEvents, Received, Wanted, emptied_of, events_between, find_events

pytestmark = pytest.mark.clause("9.3h")
ONE, OTHER = "a" * 32, "b" * 32
BEFORE_US, ERASED_US, AFTER_US = 1_000, 2_000, 3_000


def wrote(number: int, action: str, target: str, at_us: int, by: str = WRITES) -> Received:
    row: dict[str, Any] = {
        "id": number, "at_us": at_us, "who": "ada", "action": action, "target": target, "reason": f"canary {number}",
        "detail": None,
    }  # fmt: skip
    return Received(number, LogRecord(f"w-{number}", at_us, by, number, msgspec.Raw(write_event(row, "sz"))))


@pytest.fixture
def events(tmp_path: Path) -> LogEvents:
    return LogEvents.open(tmp_path, lambda: b"s" * 32)


def add(events: LogEvents, *received: Received) -> None:
    """And what it says in the tree, as the keeper has it."""
    events.add(received)
    events.empty(events.count())


def left(folder: Path) -> set[str]:
    """Whose content is there; not what the log says by itself."""
    kept = [event for event in events_between(folder, 0, 99) if event.event is not None and event.salt is not None]
    return {event.id for event in kept if not event.id.startswith("emptied-")}


def test_events_of_before_about_the_person_alone_lose_their_content_and_no_others(events: LogEvents, tmp_path: Path) -> None:
    add(events, *[
        wrote(1, "patient.update", ONE, BEFORE_US), wrote(2, "patient.update", OTHER, BEFORE_US),
        wrote(3, "association.start", f"{ONE} {OTHER}", BEFORE_US), wrote(4, "patient.erasure.request", ONE, BEFORE_US),
    ])  # fmt: skip
    entries = events.entries(0, 9)
    assert emptied_of(tmp_path, ONE) is None
    add(events, wrote(5, "patient.erase", ONE, ERASED_US), wrote(6, "patient.erased", ONE, AFTER_US))
    assert left(tmp_path) == {"w-2", "w-3", "w-4", "w-5", "w-6"}
    assert events.entries(0, 4) == entries
    assert emptied_of(tmp_path, ONE) == Emptied(1, 4)
    assert [event.id for event in find_events(tmp_path, Wanted(principal="ada"), before=None, limit=9)][-1] == "w-2"
    add(events, wrote(5, "patient.erase", ONE, ERASED_US))  # told again
    assert emptied_of(tmp_path, ONE) == Emptied(1, 4)


def test_what_comes_late_and_is_of_before_is_emptied_as_it_comes(events: LogEvents, tmp_path: Path) -> None:
    add(events, wrote(1, "patient.erase", ONE, ERASED_US))
    add(events, wrote(2, "patient.update", ONE, BEFORE_US), wrote(3, "patient.update", OTHER, BEFORE_US))
    add(events, wrote(4, "patient.erasure.withdraw", ONE, AFTER_US))
    assert left(tmp_path) == {"w-1", "w-3", "w-4"}
    assert emptied_of(tmp_path, ONE) == Emptied(1, 2)


def test_nobody_but_the_write_log_says_who_is_erased(events: LogEvents, tmp_path: Path) -> None:
    add(events, wrote(1, "patient.update", ONE, BEFORE_US), wrote(2, "patient.erase", ONE, ERASED_US, by="accesses"))
    assert left(tmp_path) == {"w-1", "w-2"}
    assert emptied_of(tmp_path, ONE) is None


def test_nothing_of_it_stays_in_the_file_nor_in_the_log_beside_it(events: LogEvents, tmp_path: Path) -> None:
    add(events, wrote(1, "patient.update", ONE, BEFORE_US))
    add(events, wrote(2, "patient.erase", ONE, ERASED_US))
    content = b"".join(path.read_bytes() for path in tmp_path.glob(f"{FILE}*"))
    assert b"canary 2" in content
    assert b"canary 1" not in content


@pytest.mark.parametrize("is_restarted", [False, True])
def test_while_others_read_it_stays_beside_the_file_and_the_log_does_not_say_that_it_is_gone(
    events: LogEvents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_restarted: bool
) -> None:
    monkeypatch.setattr(log_events, "_PATIENCE_MS", 0)
    add(events, wrote(1, "patient.update", ONE, BEFORE_US))
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM events").fetchone()
        add(events, wrote(2, "patient.erase", ONE, ERASED_US))
        assert emptied_of(tmp_path, ONE) is None
    if is_restarted:
        events.close()
        events = LogEvents.open(tmp_path, lambda: b"s" * 32)
    else:
        add(events, wrote(3, "patient.update", OTHER, AFTER_US))
    assert emptied_of(tmp_path, ONE) == Emptied(1, 1)
    assert b"canary 1" not in b"".join(path.read_bytes() for path in tmp_path.glob(f"{FILE}*"))


def test_a_crash_while_it_is_emptied_leaves_neither_the_order_nor_half_of_its_work(events: LogEvents, tmp_path: Path) -> None:
    add(events, wrote(1, "patient.update", ONE, BEFORE_US))
    bad = Received(3, LogRecord("w-3", AFTER_US, WRITES, 3, msgspec.Raw(b"{}")))
    salts = iter([b"s" * 32])
    events._make_salt = lambda: next(salts)
    with pytest.raises(StopIteration):
        add(events, wrote(2, "patient.erase", ONE, ERASED_US), bad)
    assert left(tmp_path) == {"w-1"}
    events._make_salt = lambda: b"s" * 32
    add(events, wrote(2, "patient.erase", ONE, ERASED_US), bad)
    assert left(tmp_path) == {"w-2", "w-3"}
