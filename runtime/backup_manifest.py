"""What a backup says of itself: each file with its digests, how many rows, up to where; signed by Ed25519 and SM2.

`manifest.json` says it, `manifest.note` is a signed note with the digests of that file. Whoever has the public keys
(`vkey`) verifies a backup without a platform. Clauses 7.2c, 9.3.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from cryptography.hazmat.primitives import hashes

from domain.errors import IntegrityViolation, InvalidInput, NotFound
from domain.signed_notes import ED25519, SM2, Note, PublicKey
from runtime.keys import KEYS, KeyGone, KeyKind, KeyMissing, KeyProvider
from runtime.note_signing import NoteSigner, verify_by_each

BACKUP_KEYS: Final[Mapping[str, bytes]] = {"backup-ed25519": ED25519, "backup-sm2": SM2}
MANIFEST: Final = "manifest.json"
NOTE: Final = "manifest.note"
NAME: Final = re.compile(r"\d{8}T\d{6}Z(-\d+)?")
_HEADER: Final = "vitalgrid-backup/v1"
_FORMAT: Final = 1
_CHUNK_BYTES: Final = 2**20
_PROVED: Final = b"which key"


class FileFacts(msgspec.Struct, frozen=True):
    path: str  # under the backup's folder
    bytes: int
    sha256: str
    sm3: str


class TableFacts(msgspec.Struct, frozen=True):
    """`digest`: of all rows, in whatever order they are read."""

    rows: int
    digest: str


class StreamFacts(msgspec.Struct, frozen=True):
    """Messages of a stream from `first` to `last`; none when `last` is before `first`. `digest`: over all of them."""

    first: int
    last: int
    messages: int
    digest: str


class LakeFacts(msgspec.Struct, frozen=True):
    version: int
    positions: dict[int, int]  # how far each shard is in the stream
    rows_by_day: dict[str, int]


class LogFacts(msgspec.Struct, frozen=True):
    size: int
    root: str


class KeyProof(msgspec.Struct, frozen=True):
    """Tells a version of a key from every other one of its name and number, and does not tell the key."""

    name: str
    version: int
    value: bytes


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`acknowledged`: the sequence of the readings' stream up to which everything is in the backup, taken before all else.

    `outbox_cut_us`: messages to hosts that were marked as sent since may be missing in the streams, and are sent again.
    `destroyed`: owners of data keys that were destroyed; a restored store of keys must not bring them back.
    """

    format: int = _FORMAT
    kind: str  # data, or keys
    name: str
    region_id: str
    shards: int
    software: str
    began_us: int
    ended_us: int
    database: str = ""  # sqlite, or postgresql
    is_sealed: bool = False
    has_keys: bool = False
    backups: str = ""  # of keys: the id of the folder with the backup that they open
    acknowledged: int = 0
    outbox_cut_us: int = 0
    data_keys: int = 0
    files: list[FileFacts] = []
    tables: dict[str, TableFacts] = {}
    streams: dict[str, StreamFacts] = {}
    lake: LakeFacts | None = None
    log: LogFacts | None = None
    key_proofs: list[KeyProof] = []
    destroyed: list[str] = []

    @property
    def size_bytes(self) -> int:
        return sum(file.bytes for file in self.files)


class Damage(NamedTuple):
    path: str
    what: str


def signer_of(keys: KeyProvider, region_id: str) -> NoteSigner:
    """Who signs backups of this installation."""
    return NoteSigner(keys, f"vitalgrid/{region_id}/backup", BACKUP_KEYS)


def digests(path: Path) -> FileFacts:
    """A file's size and digests; `path` of the answer is its name alone. Errors are OSError."""
    sha256, sm3, size = hashlib.sha256(), hashes.Hash(hashes.SM3()), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            sha256.update(chunk)
            sm3.update(chunk)
            size += len(chunk)
    return FileFacts(path.name, size, sha256.hexdigest(), sm3.finalize().hex())


def note_text(name: str, facts: FileFacts) -> str:
    """What is signed: which backup, and the digests of its manifest."""
    return f"{_HEADER}\n{name}\nsha256:{facts.sha256}\nsm3:{facts.sm3}\n"


def read_manifest(folder: Path) -> Manifest:
    """What the backup in `folder` says, believed by nobody yet. Raises NotFound, IntegrityViolation."""
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"there is no backup in {folder}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise IntegrityViolation(f"{folder / MANIFEST} is damaged: {error}") from None
    if manifest.format != _FORMAT or manifest.name != folder.name:
        raise IntegrityViolation(
            f"{folder / MANIFEST} is of backup {manifest.name!r}, format {manifest.format}: expected {folder.name!r}, {_FORMAT}"
        )
    return manifest


def verified_manifest(folder: Path, keys: Iterable[PublicKey]) -> Manifest:
    """What the backup says, signed by a key of each kind. Raises NotFound, IntegrityViolation."""
    manifest = read_manifest(folder)
    try:
        note = Note.parse((folder / NOTE).read_bytes())
        verify_by_each(note, keys, BACKUP_KEYS.values())
    except FileNotFoundError:
        raise IntegrityViolation(f"{folder / NOTE} is missing: nobody vouches for this backup") from None
    except (InvalidInput, IntegrityViolation) as error:
        raise IntegrityViolation(
            f"the backup {folder} is damaged, or was made under other keys than those given: {error}"
        ) from None
    if note.text != note_text(folder.name, digests(folder / MANIFEST)):
        raise IntegrityViolation(f"{folder / MANIFEST} is not the one that was signed")
    return manifest


def damages(folder: Path, manifest: Manifest) -> list[Damage]:
    """Every file that is not as the manifest says, missing, or not named there."""
    found = []
    for facts in manifest.files:
        try:
            present = digests(folder / facts.path)
        except OSError as error:
            found.append(Damage(facts.path, f"cannot be read ({error.strerror})"))
            continue
        if present.bytes != facts.bytes:
            found.append(Damage(facts.path, f"has {present.bytes} bytes: expected {facts.bytes}"))
        elif (present.sha256, present.sm3) != (facts.sha256, facts.sm3):
            found.append(Damage(facts.path, "has other content than was backed up"))
    known = {MANIFEST, NOTE, *(facts.path for facts in manifest.files)}
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()}
    return found + [Damage(path, "is not part of the backup") for path in sorted(there - known)]


def prove_keys(keys: KeyProvider) -> list[KeyProof]:
    """What tells the newest version of each key from others."""
    proofs = []
    for name in KEYS:
        with contextlib.suppress(KeyGone):
            if versions := keys.versions(name):
                proofs.append(KeyProof(name, versions[-1], _proof(keys, name, versions[-1])))
    return proofs


def other_keys(keys: KeyProvider, proofs: Iterable[KeyProof]) -> list[str]:
    """Names of the keys that are missing, or are not those of the proofs."""
    return [proof.name for proof in proofs if not _is_same(keys, proof)]


def _is_same(keys: KeyProvider, proof: KeyProof) -> bool:
    """Of a key that signs its public part tells, which a destroyed version has too: nothing of the backup needs the rest."""
    try:
        if KEYS[proof.name] is KeyKind.WRAP:
            return keys.unwrap(proof.name, proof.value, _PROVED) == _PROVED
        return _proof(keys, proof.name, proof.version) == proof.value
    except (IntegrityViolation, KeyGone, KeyMissing):
        return False


def _proof(keys: KeyProvider, name: str, version: int) -> bytes:
    match KEYS[name]:
        case KeyKind.MAC:
            return keys.mac(name, _PROVED, version=version)
        case KeyKind.WRAP:
            return keys.wrap(name, _PROVED, _PROVED)
        case _:
            return keys.public_key(name, version=version)
