"""Data keys: random keys that seal short texts, kept wrapped in a small database of their own beside the keys.

Each key has an owner: a patient, or a kind of text of a hospital. The keys of a hospital's patients are wrapped under
the hospital's, and those under the provider's key `fields`: so a rotation of `fields` wraps some hundred keys anew, and
a million names are opened without asking the provider a million times. A destroyed key leaves a row that says so.

The file is no part of the business database, and no part of its backups: what is destroyed here is unreadable in every
copy of the business database. Clauses 7.2c, 9.3h.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from domain.errors import IntegrityViolation, Unavailable
from runtime.durable import fsync
from runtime.keys import KeyGone, KeyMissing, KeyProvider
from runtime.sm import GCM_NONCE_BYTES, SM4_KEY_BYTES, sm4_gcm_open, sm4_gcm_seal
from runtime.small_database import transaction

logger = logging.getLogger(__name__)

WRAPPED_BY: Final = "fields"
DESTROYED: Final = "destroyed.list"  # owners whose keys were destroyed, beside the store: only ever added to
_WAIT_MS: Final = 30_000
_KID_BITS: Final = 62
_CHUNK: Final = 5_000
_MOST_IN_MEMORY: Final = 100_000
_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS data_keys (kid INTEGER PRIMARY KEY, owner TEXT NOT NULL UNIQUE, under INTEGER, "
    "version INTEGER, wrapped BLOB)",  # `under` a key of this table or, of none, a `version` of the provider's key
)

_OF_OWNERS: Final = "SELECT kid, owner, wrapped IS NULL FROM data_keys WHERE owner IN (SELECT value FROM json_each(?))"
_OF_KIDS: Final = "SELECT kid, owner, under, wrapped FROM data_keys WHERE kid IN (SELECT value FROM json_each(?))"


class Owner(NamedTuple):
    """Whose texts a key seals. `under`: the owner whose key wraps this one; none: the provider does."""

    name: str
    under: str | None = None


class DataKey(NamedTuple):
    kid: int
    secret: bytes


class DataKeys:
    """See module. Calls may come from any thread, and several processes may use one file. All raise KeyMissing, Unavailable."""

    def __init__(self, file: Path, keys: KeyProvider) -> None:
        self._file = file
        self._keys = keys
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._version = 0
        self._by_kid: dict[int, bytes] = {}
        self._by_owner: dict[str, int] = {}

    @property
    def folder(self) -> Path:
        return self._file.parent

    def exists(self) -> bool:
        return self._file.exists()

    def create(self) -> None:
        """Make the file, if it is not there. For a first start: without the file of before, what it sealed stays shut."""
        self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self._file, os.O_CREAT | os.O_EXCL, 0o600))  # SQLite gives the files beside it the same mode
        with self._using() as connection:
            for statement in _SCHEMA:
                connection.execute(statement)
        fsync(self._file.parent)

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def of_owners(self, owners: Sequence[Owner], *, are_new: bool = False) -> dict[str, DataKey]:
        """The key of each owner, by name. Raises KeyGone for one that was destroyed.

        Where there is none it is made, durably, if the owner is under nobody, or all of them `are_new`. Else this store
        is older than what it once sealed for the owner, and another key would hide that: raises KeyMissing.
        """
        with self._using() as connection:
            found = {name: DataKey(kid, self._by_kid[kid]) for name, kid in self._known(owners)}
            if len(found) < len(set(owners)):
                with transaction(connection):
                    wanted = [owner for owner in dict.fromkeys(owners) if owner.name not in found]
                    made = self._made(connection, wanted, are_new=are_new)
                self._remember({key.kid: key.secret for key in made.values()}, {name: key.kid for name, key in made.items()})
                found |= made
            return found

    def of_kids(self, kids: Iterable[int]) -> dict[int, bytes | None]:
        """Secrets by number: None for a key that was destroyed. A number that never was, here, is left out."""
        wanted = set(kids)
        with self._using() as connection:
            found: dict[int, bytes | None] = {kid: self._by_kid[kid] for kid in wanted if kid in self._by_kid}
            missing = sorted(wanted - found.keys())
            for start in range(0, len(missing), _CHUNK):
                found |= self._read(connection, missing[start : start + _CHUNK])
            return found

    def is_destroyed(self, name: str) -> bool:
        """Whether this owner had a key, and has none any more."""
        with self._using() as connection:
            found = connection.execute("SELECT wrapped IS NULL FROM data_keys WHERE owner = ?", (name,)).fetchone()
            return found is not None and bool(found[0])

    def kids_of(self, name: str) -> list[int]:
        """The number of an owner's key, destroyed or not; nothing for an owner who never had one."""
        with self._using() as connection:
            return [kid for (kid,) in connection.execute("SELECT kid FROM data_keys WHERE owner = ?", (name,))]

    def destroy_listed(self) -> int:
        """Destroy again what DESTROYED names and an older copy of this store has brought back; returns how many that were.

        For every start, and for the end of a restore: the list is kept beside the store, and a restore keeps the newest.
        """
        names = destroyed_in(self.folder / DESTROYED)
        present = set(names) - {name for name in names if self.is_destroyed(name)}
        return self.destroy(sorted(present)) if present else 0

    def destroy(self, names: Sequence[str]) -> int:
        """Forget the keys of these owners for good; returns how many there were. Nothing of them is left in the files.

        Their names are in DESTROYED first, also of those who have none here: a newer copy of this store may. What ends in
        between is done by `destroy_listed`.
        """
        list_destroyed(self.folder, names)
        with self._using() as connection:
            with transaction(connection):
                ended = sum(
                    connection.execute(
                        "UPDATE data_keys SET wrapped = NULL WHERE owner = ? AND wrapped IS NOT NULL", (name,)
                    ).rowcount
                    for name in names
                )
            self._forget()
            _settle(connection)
            return ended

    def wrap_anew(self) -> int:
        """Wrap under the newest version of `fields` what an older one wraps; returns how many. Safe to end at any moment.

        One that does not open stays as it is, and is named in the log: the rest does not wait for it.
        """
        with self._using() as connection:
            newest = self._newest()
            query = "SELECT kid, owner, wrapped FROM data_keys WHERE under IS NULL AND wrapped IS NOT NULL AND version < ?"
            count = 0
            for kid, owner, wrapped in connection.execute(query, (newest,)).fetchall():
                bound = _bound(kid, owner)
                try:
                    anew = self._keys.wrap(WRAPPED_BY, self._keys.unwrap(WRAPPED_BY, wrapped, bound), bound)
                except (IntegrityViolation, KeyGone):
                    logger.error("the data key of %s in %s does not open, and is not wrapped anew", owner, self._file)
                    continue
                change = "UPDATE data_keys SET wrapped = ?, version = ? WHERE kid = ? AND wrapped = ?"
                connection.execute(change, (anew, newest, kid, wrapped))
                count += 1
            _settle(connection)
            return count

    def count_opened(self) -> int:
        """How many keys open with the provider's. Reads them all."""
        with self._using() as connection:
            kids = [kid for (kid,) in connection.execute("SELECT kid FROM data_keys WHERE wrapped IS NOT NULL ORDER BY kid")]
        opened = 0
        for start in range(0, len(kids), _CHUNK):
            opened += sum(secret is not None for secret in self.of_kids(kids[start : start + _CHUNK]).values())
        return opened

    def destroyed(self) -> list[str]:
        """Owners whose keys were destroyed, here or as DESTROYED says of another copy of this store."""
        with self._using() as connection:
            query = "SELECT owner FROM data_keys WHERE wrapped IS NULL"
            here = {owner for (owner,) in connection.execute(query)}
        return sorted(here.union(destroyed_in(self.folder / DESTROYED)))

    def count_destroyed(self) -> int:
        """How many keys that were here are destroyed."""
        with self._using() as connection:
            return int(connection.execute("SELECT count(*) FROM data_keys WHERE wrapped IS NULL").fetchone()[0])

    def count(self) -> int:
        """How many keys there are, the destroyed ones too."""
        with self._using() as connection:
            return int(connection.execute("SELECT count(*) FROM data_keys").fetchone()[0])

    def wrapped_under(self) -> dict[int, int]:
        """How many keys each version of `fields` wraps."""
        with self._using() as connection:
            query = "SELECT version, count(*) FROM data_keys WHERE under IS NULL AND wrapped IS NOT NULL GROUP BY version"
            return dict(connection.execute(query).fetchall())

    def _known(self, owners: Sequence[Owner]) -> list[tuple[str, int]]:
        return [(owner.name, self._by_owner[owner.name]) for owner in owners if owner.name in self._by_owner]

    def _made(self, connection: sqlite3.Connection, owners: Sequence[Owner], *, are_new: bool) -> dict[str, DataKey]:
        """Keys in force of these owners, or new ones; part of a transaction."""
        present: dict[str, DataKey] = {}
        for start in range(0, len(owners), _CHUNK):
            part = [owner.name for owner in owners[start : start + _CHUNK]]
            rows = connection.execute(_OF_OWNERS, (json.dumps(part),)).fetchall()
            secrets_of = self._read(connection, [kid for kid, _, is_gone in rows if not is_gone])
            for kid, name, is_gone in rows:
                if not is_gone and kid not in secrets_of:
                    raise IntegrityViolation(f"the data key of {name} is damaged: restore {self._file} from the newest copy")
                secret = None if is_gone else secrets_of[kid]
                if secret is None:
                    raise KeyGone(f"the data key of {name} was destroyed: nothing is sealed for it any more")
                present[name] = DataKey(kid, secret)
        wanted = [owner for owner in owners if owner.name not in present]
        above = {owner.under: owner.name for owner in wanted if owner.under is not None}
        if above and not are_new:
            raise KeyMissing(f"the data key of {min(above.values())} is not in {self._file}: restore the newest copy of it")
        upper = self._made(connection, [Owner(name) for name in sorted(above)], are_new=True) if above else {}
        first = secrets.randbits(_KID_BITS)  # at random, so that a store from an older copy gives no number again
        new = [(owner, DataKey(first + n, os.urandom(SM4_KEY_BYTES))) for n, owner in enumerate(wanted)]
        version = self._newest() if new else 0
        rows = [self._row(owner, key, upper.get(owner.under or ""), version) for owner, key in new]
        connection.executemany("INSERT INTO data_keys (kid, owner, under, version, wrapped) VALUES (?, ?, ?, ?, ?)", rows)
        return present | {owner.name: key for owner, key in new}

    def _row(self, owner: Owner, key: DataKey, above: DataKey | None, version: int) -> tuple[object, ...]:
        bound = _bound(key.kid, owner.name)
        if above is None:
            return key.kid, owner.name, None, version, self._keys.wrap(WRAPPED_BY, key.secret, bound)
        nonce = os.urandom(GCM_NONCE_BYTES)
        return key.kid, owner.name, above.kid, None, nonce + sm4_gcm_seal(above.secret, nonce, key.secret, bound)

    def _read(self, connection: sqlite3.Connection, kids: Sequence[int]) -> dict[int, bytes | None]:
        """Secrets of the keys that are there and whole; None for what is under a destroyed key, too."""
        rows = connection.execute(_OF_KIDS, (json.dumps(kids),)).fetchall()
        above = sorted({under for _, _, under, wrapped in rows if under is not None and wrapped is not None})
        uppers: dict[int, bytes | None] = {kid: self._by_kid[kid] for kid in above if kid in self._by_kid}
        if missing := [kid for kid in above if kid not in uppers]:
            uppers |= self._read(connection, missing)
        found: dict[int, bytes | None] = {}
        for kid, owner, under, wrapped in rows:
            try:
                found[kid] = self._unwrapped(_bound(kid, owner), under, uppers, wrapped)
            except KeyGone:
                found[kid] = None
            except (IntegrityViolation, ValueError):  # ValueError: a nonce that is too short
                logger.error("the data key of %s in %s is damaged", owner, self._file)
        there = {kid: secret for kid, secret in found.items() if secret is not None}
        self._remember(there, {owner: kid for kid, owner, _, _ in rows if kid in there})
        return found

    def _unwrapped(
        self, bound: bytes, under: int | None, uppers: dict[int, bytes | None], wrapped: bytes | None
    ) -> bytes | None:  # fmt: skip
        if wrapped is None:
            return None
        if under is None:
            return self._keys.unwrap(WRAPPED_BY, wrapped, bound)
        if under not in uppers:
            raise IntegrityViolation("the key above is damaged")
        upper = uppers[under]
        return None if upper is None else sm4_gcm_open(upper, wrapped[:GCM_NONCE_BYTES], wrapped[GCM_NONCE_BYTES:], bound)

    def _newest(self) -> int:
        versions = self._keys.versions(WRAPPED_BY)
        if not versions:
            raise KeyMissing(f"key {WRAPPED_BY} is missing: restore the folder of keys")
        return versions[-1]

    def _remember(self, by_kid: dict[int, bytes], by_owner: dict[str, int]) -> None:
        if len(self._by_kid) + len(by_kid) > _MOST_IN_MEMORY:
            self._forget()
        if len(by_kid) <= _MOST_IN_MEMORY:
            self._by_kid |= by_kid
            self._by_owner |= by_owner

    def _forget(self) -> None:
        self._by_kid.clear()
        self._by_owner.clear()

    @contextlib.contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        """The connection, for one thread at a time. What another process changed is not remembered any longer."""
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = _opened(self._file)
                version = self._connection.execute("PRAGMA data_version").fetchone()[0]
                if version != self._version:
                    self._version = version
                    self._forget()
                yield self._connection
            except sqlite3.DatabaseError as error:
                self._forget()
                if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode != sqlite3.SQLITE_ERROR:  # no table
                    raise Unavailable(f"the store of data keys does not answer ({error.sqlite_errorname}): try again") from None
                raise IntegrityViolation(f"{self._file} is damaged ({error}): restore it from the newest copy") from None


def destroyed_in(file: Path) -> list[str]:
    """Owners whose keys a list of destroyed keys names, a line each; a line that was torn off at the end is none."""
    try:
        lines = file.read_text().split("\n")[:-1]
    except FileNotFoundError:
        return []
    return [line for line in lines if line]


def list_destroyed(folder: Path, names: Iterable[str]) -> None:
    """Add to the folder's list, durably, those of these owners who are not in it."""
    file = folder / DESTROYED
    new = sorted(set(names).difference(destroyed_in(file)))
    if not new:
        return
    descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "r+b") as content:
        whole = content.read()
        torn = b"" if not whole or whole.endswith(b"\n") else b"\n"
        content.write(torn + "".join(f"{name}\n" for name in new).encode())
        content.flush()
        os.fsync(content.fileno())
    fsync(file.parent)


def _opened(file: Path) -> sqlite3.Connection:
    if not file.exists():
        raise KeyMissing(
            f"the data keys are not in {file}: restore the folder of keys; what they sealed opens with nothing else"
        )
    connection = sqlite3.connect(file, timeout=_WAIT_MS / 1000, isolation_level=None, check_same_thread=False)
    for pragma in (f"busy_timeout={_WAIT_MS}", "journal_mode=WAL", "synchronous=FULL", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _settle(connection: sqlite3.Connection) -> None:
    """What was overwritten is gone from the log beside the file too. Raises Unavailable while others read."""
    if connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
        raise Unavailable("the change of data keys stands, but its traces are in use by another process: do it again")


def _bound(kid: int, owner: str) -> bytes:
    return f"data-key|{kid:016x}|{owner}".encode()
