"""Takes the content of events away that tell of a person who was erased, after the log's own entry that says so.

Which events they are is fixed, with that entry, in the transaction that adds the write by which the person is erased
(`ordered`). They are emptied when that entry is in the published tree (`carry_out`). A process that ends in between does it
at its next start. Clauses 9.3e, 9.3h.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Final

from domain.audit_reading import concerned, erased_by, is_of_erasure
from domain.log_emptying import records_of
from domain.log_entries import WRITES, LogRecord

# `erased`: what comes later and is of before is emptied too. `doomed`: what is to be emptied when entry `reason` is published.
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS erased (name TEXT PRIMARY KEY, at_us INTEGER NOT NULL, emptied INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS doomed (idx INTEGER PRIMARY KEY, reason INTEGER NOT NULL);
CREATE TRIGGER IF NOT EXISTS events_stay_full BEFORE UPDATE OF salt, event ON events
    WHEN NEW.salt IS NOT NULL OR NEW.event IS NOT NULL OR NOT EXISTS (SELECT 1 FROM doomed WHERE doomed.idx = OLD.idx)
    BEGIN SELECT RAISE(ABORT, 'the log only grows'); END;
PRAGMA secure_delete=ON;
"""
PATIENT: Final = "patient"
PRINCIPAL: Final = "principal"
_DUE: Final = "SELECT idx FROM doomed WHERE reason < ?"


class LogEmptying:
    """See module. Each call is part of a transaction of the caller's. Errors of SQLite as they are."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def ordered(self, index: int, record: LogRecord) -> Iterator[LogRecord]:
        """Take down what `record`, the last before `index`, empties: the records that say so, all to be added from there on.

        It is what events before `index` say of patients who are erased by `record`, or, if it comes late, were before.
        """
        event = bytes(record.event)
        patients = erased_by(event) if record.by == WRITES else frozenset[str]()
        for key in patients:
            add = "INSERT INTO erased VALUES (?, ?, 0) ON CONFLICT (name) DO NOTHING"
            self._connection.execute(add, (key, record.at_us))
        late = {key for key in concerned(event).patients - patients if self._was_erased(key, record.at_us)}
        for key in sorted(patients | late):
            if doomed := self._told_of(key, index):
                self._connection.execute("UPDATE erased SET emptied = emptied + ? WHERE name = ?", (len(doomed), key))
                self._connection.execute("PRAGMA user_version=1")
                said = list(records_of(key, self._erasure_of(key), doomed, index, record.at_us))
                index += len(said)
                self._connection.executemany("INSERT INTO doomed VALUES (?, ?)", [(at, index - 1) for at in doomed])
                yield from said

    def carry_out(self, size: int) -> bool:
        """Empty what entries below `size` say is emptied; whether there was anything."""
        if self._connection.execute(f"{_DUE} LIMIT 1", (size,)).fetchone() is None:
            return False
        self._connection.execute(f"UPDATE events SET salt = NULL, event = NULL WHERE idx IN ({_DUE})", (size,))  # noqa: S608
        self._connection.execute(f"DELETE FROM concerned WHERE kind = ? AND idx IN ({_DUE})", (PRINCIPAL, size))  # noqa: S608
        self._connection.execute("DELETE FROM doomed WHERE reason < ?", (size,))
        return True

    def is_pending(self) -> bool:
        """Whether anything waits for its entry to be published."""
        return self._connection.execute("SELECT 1 FROM doomed LIMIT 1").fetchone() is not None

    def _was_erased(self, key: str, at_us: int) -> bool:
        """Whether what is of this time is of before the patient was erased."""
        found = self._connection.execute("SELECT 1 FROM erased WHERE name = ? AND at_us > ?", (key, at_us))
        return found.fetchone() is not None

    def _told_of(self, key: str, index: int) -> list[int]:
        """Events of before the erasure about this patient and no other, but for those that tell of the erasure."""
        mine = (
            "SELECT idx, source, event FROM concerned JOIN events USING (idx) WHERE kind = ? AND name = ? AND idx < ? "
            "AND event IS NOT NULL AND at_us < (SELECT at_us FROM erased WHERE erased.name = concerned.name) "
            "AND NOT EXISTS (SELECT 1 FROM concerned AS o WHERE o.idx = events.idx AND o.kind = ? AND o.name <> ?) "
            "AND NOT EXISTS (SELECT 1 FROM doomed WHERE doomed.idx = events.idx) ORDER BY idx"
        )
        found = self._connection.execute(mine, (PATIENT, key, index, PATIENT, key)).fetchall()
        return [at for at, source, event in found if not (source == WRITES and is_of_erasure(bytes(event)))]

    def _erasure_of(self, key: str) -> int:
        """Index of the write that says the patient is erased: it stays, whatever goes."""
        query = (
            "SELECT idx, event FROM concerned JOIN events USING (idx) WHERE kind = ? AND name = ? AND source = ? ORDER BY idx"
        )
        found = self._connection.execute(query, (PATIENT, key, WRITES)).fetchall()
        return next(int(at) for at, event in found if event is not None and key in erased_by(bytes(event)))
