"""A witness of logs: signs a checkpoint only if it begins with all that it signed of that log before. C2SP tlog-witness.

A log whose owner has its keys and its disk can write another past; not one whose checkpoints somebody else remembers.
What the witness signed is compared and replaced in one transaction, on disk before it is answered: two who submit at
once, and a kill at any place, never lead it back. Two checkpoints of one log that cannot both be true are kept, both
with the log's signatures: that is evidence against the log, for whoever judges it. So are checkpoints whose proof fails,
in a room of their own: anybody can send a true one with a false proof. Clauses 6.1b, 9.3e.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Final, NamedTuple, Self

import msgspec

from domain.cosignatures import SIZE_MEDIA_TYPE, Submission, cosigned_text, timed
from domain.errors import IntegrityViolation, InvalidInput
from domain.instants import US_PER_S
from domain.merkle import EMPTY_ROOT, check_consistency
from domain.ports import Clock
from domain.signed_notes import COSIGNATURE, Checkpoint, Note, PublicKey, Signature
from runtime.durable import create_secret, write_secret
from runtime.keys import KeyProvider, make_missing
from runtime.note_signing import KeyVerifier
from runtime.small_database import in_our_words, opened, transaction

logger = logging.getLogger(__name__)

FILE: Final = "witness.db"
_WHAT: Final = f"the checkpoints that the witness knows ({FILE})"
VKEY: Final = "vkey"  # whom to verify the witness with
EVIDENCE: Final = "evidence"
KEY: Final = "witness-ed25519"
_KEPT: Final = 10_000  # checkpoints of each log: an old one that comes with another root is told from one that comes late
_TWO_ROOTS: Final = "two-roots"
_NO_PROOF: Final = "no-proof"
_MOST_EVIDENCE: Final = {_TWO_ROOTS: 1_000, _NO_PROOF: 100}  # files: who has a log's key, or anybody, could fill the disk
_MOST_ENTRIES: Final = 2**62
_TEXT: Final = "text/plain; charset=utf-8"
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS cosigned (
    origin TEXT NOT NULL, size INTEGER NOT NULL, root BLOB NOT NULL, note BLOB NOT NULL, PRIMARY KEY (origin, size)
);
CREATE TABLE IF NOT EXISTS began (once INTEGER PRIMARY KEY CHECK (once = 1));
CREATE TRIGGER IF NOT EXISTS never_back BEFORE INSERT ON cosigned
    WHEN NEW.size < (SELECT max(size) FROM cosigned WHERE origin = NEW.origin)
    BEGIN SELECT RAISE(ABORT, 'a witness does not go back'); END;
CREATE TRIGGER IF NOT EXISTS roots_stay BEFORE UPDATE OF origin, size, root ON cosigned
    BEGIN SELECT RAISE(ABORT, 'what was cosigned stays'); END;
"""
_LATEST: Final = "SELECT size, root, note FROM cosigned WHERE origin = ? ORDER BY size DESC LIMIT 1"
_AT: Final = "SELECT size, root, note FROM cosigned WHERE origin = ? AND size = ?"
_KEEP: Final = "INSERT INTO cosigned VALUES (?, ?, ?, ?) ON CONFLICT (origin, size) DO UPDATE SET note = excluded.note"
_FORGET: Final = """DELETE FROM cosigned WHERE origin = ?1 AND size < (
    SELECT size FROM cosigned WHERE origin = ?1 ORDER BY size DESC LIMIT 1 OFFSET ?2)"""

LogKeys = Callable[[str], Sequence[PublicKey]]  # of a log by its origin; none: it is not witnessed here


class Answer(NamedTuple):
    """To a request, in the words of HTTP, in which the protocol is written."""

    status: int
    body: bytes
    media_type: str = _TEXT


class Evidence(msgspec.Struct, frozen=True):
    """Two notes of one log, both signed by it: `kept`, which was cosigned, and `given`, which was not.

    With two roots of one size they contradict each other, whatever `hashes` says: only the log can have made them. With
    two sizes `hashes` did not show that `given` begins with `kept`; that may be the fault of whoever submitted it, who
    need not be the log: it is evidence if the log itself cannot show it either.
    """

    origin: str
    why: str
    at_us: int
    kept: str
    given: str
    hashes: tuple[bytes, ...] = ()


class _Known(NamedTuple):
    """A checkpoint that was cosigned, with the log's signatures and ours."""

    size: int
    root: bytes
    note: bytes


class Witness:
    """See module. Calls may come from any thread, and from several processes over one folder."""

    def __init__(
        self, folder: Path, connection: sqlite3.Connection, keys: KeyProvider, public: PublicKey, logs: LogKeys, clock: Clock
    ) -> None:
        self._folder = folder
        self._connection = connection
        self._keys = keys
        self.public = public
        self._logs = logs
        self._clock = clock
        self._one_at_a_time = threading.Lock()

    @classmethod
    def open(cls, folder: Path, keys: KeyProvider, name: str, logs: LogKeys, clock: Clock) -> Self:
        """The witness `name` of `folder`, made new when there is none.

        Raises IntegrityViolation when what it knows is damaged or gone and its key is there, KeyMissing when it has signed
        before and its key is gone, StorageFull.
        """
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        connection = opened(folder / FILE, _SCHEMA, _WHAT)
        try:
            with in_our_words(_WHAT), transaction(connection):
                has_signed = _begin(connection, keys)
            if not has_signed:
                make_missing(keys, [KEY])
            public = PublicKey(name, COSIGNATURE, keys.public_key(KEY))
            write_secret(folder / VKEY, f"{public.vkey}\n".encode())
        except BaseException:
            connection.close()
            raise
        return cls(folder, connection, keys, public, logs, clock)

    def close(self) -> None:
        with self._one_at_a_time:
            self._connection.close()

    def add_checkpoint(self, body: bytes) -> Answer:
        """Answer a submission; with 200 the checkpoint is cosigned, and on disk. Raises StorageFull, IntegrityViolation."""
        try:
            submission = Submission.parse(body)
            note = Note.parse(submission.note)
            said = Checkpoint.parse(note.text)
        except InvalidInput as error:
            return _refused(HTTPStatus.BAD_REQUEST, str(error))
        keys = self._logs(said.origin)
        if not keys:
            return _refused(HTTPStatus.NOT_FOUND, f"the log {said.origin!r} is not witnessed here")
        try:
            note = _by_all(note, keys)
        except IntegrityViolation as error:
            return _refused(HTTPStatus.FORBIDDEN, str(error))
        if said.size > _MOST_ENTRIES:
            return _refused(HTTPStatus.BAD_REQUEST, f"no log has {said.size} entries")
        if submission.old > said.size:
            return _refused(HTTPStatus.BAD_REQUEST, f"{submission.old} entries come after {said.size}")
        with self._one_at_a_time, in_our_words(_WHAT), transaction(self._connection):
            return self._considered(submission, note, said)

    def checkpoint(self, path: str) -> Answer:
        """The last checkpoint that was cosigned of the log whose `checkpoint_path` this is."""
        wanted = path.removeprefix("/").removesuffix("/checkpoint")
        with self._one_at_a_time, in_our_words(_WHAT):
            origins = [row[0] for row in self._connection.execute("SELECT DISTINCT origin FROM cosigned")]
            found = next((one for one in origins if hashlib.sha256(one.encode()).hexdigest() == wanted), None)
            known = None if found is None else self._known(_LATEST, found)
        return _refused(HTTPStatus.NOT_FOUND, "no such log") if known is None else Answer(HTTPStatus.OK, known.note)

    def evidence(self) -> list[Evidence]:
        """What is kept against logs, the oldest first."""
        files = (self._folder / EVIDENCE).glob("*.json")
        return sorted((msgspec.json.decode(file.read_bytes(), type=Evidence) for file in files), key=lambda one: one.at_us)

    def _considered(self, submission: Submission, note: Note, said: Checkpoint) -> Answer:
        latest = self._known(_LATEST, said.origin)
        of_this_size = self._known(_AT, said.origin, said.size)
        is_fork = of_this_size is not None and of_this_size.root != said.root
        if of_this_size is not None and is_fork:
            self._keep_against(_TWO_ROOTS, of_this_size, note, submission, f"two roots of {said.size} entries")
        known_size, known_root = (latest.size, latest.root) if latest else (0, EMPTY_ROOT)
        if submission.old != known_size:
            return Answer(HTTPStatus.CONFLICT, b"%d\n" % known_size, SIZE_MEDIA_TYPE)
        try:
            _check(known_size, known_root, said, submission.hashes)
        except IntegrityViolation as error:
            if latest is not None and of_this_size is None:
                self._keep_against(_NO_PROOF, latest, note, submission, str(error))
            return _refused(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        return self._cosigned(note, said)

    def _cosigned(self, note: Note, said: Checkpoint) -> Answer:
        at_s = self._clock.now_us() // US_PER_S
        signature = self._keys.sign(KEY, cosigned_text(note.text.encode(), at_s))
        ours = Signature(self.public.name, self.public.key_id, timed(at_s, signature))
        self._connection.execute(_KEEP, (said.origin, said.size, said.root, note.with_signatures([ours]).to_bytes()))
        self._connection.execute(_FORGET, (said.origin, _KEPT - 1))
        return Answer(HTTPStatus.OK, ours.line.encode())

    def _keep_against(self, kind: str, kept: _Known, note: Note, submission: Submission, why: str) -> None:
        """Keep what speaks against a log, once; of each kind while it has room."""
        given = Checkpoint.parse(note.text)
        logger.error(
            "a checkpoint contradicts what was signed before, or its proof does not hold: %s",
            why,
            extra={"origin": given.origin, "size": given.size},
        )
        hashes = submission.hashes if kind == _NO_PROOF else ()
        evidence = Evidence(given.origin, why, self._clock.now_us(), kept.note.decode(), note.to_bytes().decode(), hashes)
        # The texts, not the notes: signatures of one text differ from time to time.
        content = msgspec.json.encode((Note.parse(kept.note).text, note.text, hashes))
        folder = self._folder / EVIDENCE
        if sum(1 for _ in folder.glob(f"{kind}-*.json")) < _MOST_EVIDENCE[kind]:
            with contextlib.suppress(FileExistsError):
                name = f"{kind}-{given.size}-{hashlib.sha256(content).hexdigest()}.json"
                create_secret(folder / name, msgspec.json.format(msgspec.json.encode(evidence)))

    def _known(self, query: str, *values: str | int) -> _Known | None:
        row = self._connection.execute(query, values).fetchone()
        return None if row is None else _Known(*row)


def _begin(connection: sqlite3.Connection, keys: KeyProvider) -> bool:
    """Note that a witness begins here, before its key is made; whether it has signed already.

    Raises IntegrityViolation when a key is there and no such note: whoever has that key signed something, and what is gone.
    """
    has_signed = connection.execute("SELECT 1 FROM cosigned LIMIT 1").fetchone() is not None
    has_begun = connection.execute("SELECT 1 FROM began").fetchone() is not None
    if not has_signed and not has_begun and keys.versions(KEY):
        raise IntegrityViolation(
            f"the witness has its key, but {FILE} knows nothing of what it signed with it: it could sign another past"
        )
    connection.execute("INSERT INTO began VALUES (1) ON CONFLICT DO NOTHING")
    return has_signed


def _check(size: int, root: bytes, said: Checkpoint, hashes: Sequence[bytes]) -> None:
    """Raise IntegrityViolation unless what is said begins with the `size` entries of `root`."""
    if said.size == 0 and said.root != EMPTY_ROOT:
        raise IntegrityViolation("a log of no entries has another root than nothing has")
    check_consistency(size, said.size, hashes, root, said.root)


def keys_from(vkeys: Sequence[str], origin: str) -> list[PublicKey]:
    """Those among `vkeys` that are of the log `origin`."""
    return [key for key in map(PublicKey.parse, vkeys) if key.name == origin]


def _by_all(note: Note, keys: Sequence[PublicKey]) -> Note:
    """The note with no signatures but those of `keys`; each kind of them must have signed. Raises IntegrityViolation."""
    for kind in {key.kind for key in keys}:
        note.verified_by(KeyVerifier(key) for key in keys if key.kind == kind)
    known = {(key.name, key.key_id) for key in keys}
    return Note(note.text, tuple(one for one in note.signatures if (one.name, one.key_id) in known))


def _refused(status: HTTPStatus, why: str) -> Answer:
    return Answer(status, f"{why}\n".encode())
