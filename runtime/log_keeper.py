"""Keeps the access log: takes records of the stream, fixes their place, grows the tree, signs and publishes.

In this order, each step durable before the next and harmless to repeat: the event with its salt, place and entry
(`log_events`); bundles and tiles (`log_store`); that this root is signed for this size; what witnesses sign
(`log_witnesses`); the checkpoint; what an erasure empties (`log_emptying`). A start goes on from the checkpoint with whatever
events lie beyond it. Clauses 6.1b, 9.3e.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Self

from domain.errors import IntegrityViolation
from domain.signed_notes import Checkpoint, Note
from runtime.disk import Disk
from runtime.log_events import LogEvents, Received
from runtime.log_signing import LogSigner
from runtime.log_store import LogStore
from runtime.log_witnesses import LogWitnesses, Shown

_AT_ONCE: Final = 4096  # entries in one growth of the tree


class LogKeeper:
    """The log of `folder`. Make one with `open`. Calls block; `close` waits for those that other threads are in."""

    def __init__(self, store: LogStore, events: LogEvents, signer: LogSigner, witnesses: LogWitnesses) -> None:
        self._store = store
        self._events = events
        self._signer = signer
        self._witnesses = witnesses
        self._working = threading.Lock()
        self._told: list[str] = []

    @classmethod
    def open(
        cls, folder: Path, signer: LogSigner, make_salt: Callable[[], bytes], disk: Disk | None = None,
        witnesses: LogWitnesses | None = None,
    ) -> Self:  # fmt: skip
        """Open the log, made new when there is none, and bring it up to the events that it has.

        Raises IntegrityViolation when checkpoint, tiles, events and what was signed contradict each other or a witness
        has another past of this log, KeyMissing when the log was signed with keys that are not there, Conflict when
        another process writes to it.
        """
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        store = LogStore.open(folder, disk)
        try:
            keeper = cls(store, LogEvents.open(folder, make_salt), signer, witnesses or LogWitnesses(signer))
        except BaseException:
            store.close()
            raise
        try:
            keeper._recover()
        except BaseException:
            keeper.close()
            raise
        return keeper

    def close(self) -> None:
        with self._working:
            self._events.close()
            self._store.close()

    @property
    def size(self) -> int:
        """Entries that are signed and published."""
        return self._store.size

    @property
    def next_sequence(self) -> int:
        """Where the stream is to be followed from."""
        with self._working:
            return self._events.last_sequence() + 1

    def take(self, received: Sequence[Received]) -> int:
        """Take records into the log; how many were new. Once this returns they are in the published tree.

        After StorageFull or OSError some may be kept that are not published yet: call again, with the same or with nothing.
        """
        with self._working:
            added = self._events.add(received) if received else 0
            self._integrate()
        return added

    def witness(self) -> bool:
        """Show the published checkpoint to witnesses that have not signed it, and publish what they sign; whether all have.

        Raises RolledBack.
        """
        with self._working:
            note = self._store.note()
            if note is None:
                return False
            said = Checkpoint.parse(Note.parse(note).text)
            cosigned = self._witnesses.cosigned(self._shown(note, said))
            if cosigned != note:
                self._store.publish(said.size, cosigned)
            return self._witnesses.have_all(said)

    def was_witnessed(self) -> bool:
        """Whether anybody but the log signed the published checkpoint."""
        note = self._store.note()
        return note is not None and any(one.name != self._signer.origin for one in Note.parse(note).signatures)

    def _integrate(self) -> None:
        """Grow the tree by the events beyond it, then empty what it says is emptied.

        Where sizes were signed already the last is met, and its root compared.
        """
        while entries := self._events.entries(self._store.size, self._step()):
            self._publish(*self._store.append(entries))
        self._events.empty(self._store.size)

    def _step(self) -> int:
        signed = self._events.last_signed(self._store.size + _AT_ONCE)
        return _AT_ONCE if signed is None or signed <= self._store.size else signed - self._store.size

    def _publish(self, size: int, root: bytes) -> None:
        self._events.note_signed(size, root)
        said = Checkpoint(self._signer.origin, size, root)
        note = self._signer.sign(said)
        self._tell_keys()  # behind the signature: whatever key it is by is told before anybody is shown it
        self._store.publish(size, self._witnesses.cosigned(self._shown(note, said)))

    def _tell_keys(self) -> None:
        """Say with which keys the log is verified, when there is another one since."""
        vkeys = [key.vkey for key in self._signer.public_keys()]
        if vkeys != self._told:
            self._store.tell_keys(vkeys)
            self._told = vkeys

    def _shown(self, note: bytes, said: Checkpoint) -> Shown:
        return Shown(note, said, self._store.tree(said.size), max(said.size, self._events.last_signed() or 0))

    def _recover(self) -> None:
        note = self._store.note()
        if note is not None:
            self._signer.verify(note)
        elif self._events.last_signed() is None:
            self._signer.make_keys()
        if self._events.count() < max(self._store.size, self._events.last_signed() or 0):
            raise IntegrityViolation("the log has more entries than its events: events.db is an older one, or was cut")
        self._tell_keys()
        self._integrate()
        if self._store.note() is None:
            self._publish(*self._store.append([]))  # an empty log says so, signed
