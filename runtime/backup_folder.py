"""A folder of backups: each is made under another name and renamed once it is whole, so a killed one is never listed.

What an earlier backup has already, and can never change, is linked to and not copied again. Clause 9.3.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Final, Self

import msgspec
from cryptography.hazmat.primitives import hashes

from domain.errors import Conflict, IntegrityViolation, InvalidInput, NotFound, StorageFull
from domain.signed_notes import PublicKey
from runtime.backup_manifest import (
    MANIFEST,
    NAME,
    NOTE,
    FileFacts,
    Manifest,
    digests,
    note_text,
    verified_manifest,
)
from runtime.durable import fsync, write_secret
from runtime.note_signing import NoteSigner

logger = logging.getLogger(__name__)

_PART: Final = ".part"
_ID: Final = ".id"
_CHUNK_BYTES: Final = 2**20


class BackupFolder:
    """Backups in `path`, which is made when something is put there. `held`: by whoever makes or deletes one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def id(self) -> str:
        """This folder, wherever it is mounted, and no other that is mounted in its place. While held."""
        path = self.path / _ID
        if not path.exists():
            write_secret(path, secrets.token_bytes(16))
        return path.read_bytes().hex()

    def names(self) -> list[str]:
        """Of the whole backups, the oldest first."""
        if not self.path.is_dir():
            return []
        return sorted(path.name for path in self.path.iterdir() if NAME.fullmatch(path.name) and (path / MANIFEST).exists())

    def folder_of(self, name: str) -> Path:
        """Raises NotFound."""
        if name not in self.names():
            raise NotFound(f"there is no backup {name!r} in {self.path}")
        return self.path / name

    def newest(self, keys: list[PublicKey]) -> tuple[Path, Manifest] | None:
        """The newest backup whose manifest is as it was signed."""
        for name in reversed(self.names()):
            with contextlib.suppress(IntegrityViolation, NotFound, OSError):
                return self.path / name, verified_manifest(self.path / name, keys)
        return None

    def manifests(self, keys: list[PublicKey]) -> Iterator[Manifest]:
        """Of all backups, the oldest first; those that are not as they were signed are passed over, and named in the log."""
        for name in self.names():
            try:
                yield verified_manifest(self.path / name, keys)
            except (IntegrityViolation, NotFound, OSError) as error:
                logger.warning("a backup is not heeded: %s", error)

    @contextlib.contextmanager
    def held(self) -> Iterator[Self]:
        """Nobody else makes or deletes backups here meanwhile. Deletes what killed ones left. Raises Conflict, InvalidInput."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise InvalidInput(f"{self.path} cannot be made, as a folder for backups: {error.strerror}") from None
        with (self.path / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise Conflict(f"a backup to {self.path} is being made already: wait for it") from None
            try:
                self._sweep()
                yield self
            finally:
                self._sweep()  # of one that failed nothing keeps the disk full

    def _sweep(self) -> None:
        for left in self.path.glob(f".*{_PART}"):
            shutil.rmtree(left, ignore_errors=True)

    def begin(self, name: str) -> Path:
        """A new folder for a backup that is not listed before `finish`. While held."""
        folder = self.path / f".{name}{_PART}"
        folder.mkdir(mode=0o700)
        return folder

    def finish(self, folder: Path, manifest: Manifest, signer: NoteSigner) -> Path:
        """Sign what lies in `folder`, bring it to disk, and list it: after that it is there and whole. Its folder."""
        (folder / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
        (folder / NOTE).write_bytes(signer.sign(note_text(manifest.name, digests(folder / MANIFEST))))
        for path in (folder / MANIFEST, folder / NOTE, *_folders(folder)):
            fsync(path)
        to = self.path / manifest.name
        folder.rename(to)
        fsync(self.path)
        return to

    def keep(self, most: int) -> list[str]:
        """Delete the oldest beyond the newest `most` (0: none); their names. While held. Each is unlisted first."""
        gone = self.names()[:-most] if most else []
        self.remove(gone)
        return gone

    def remove(self, names: Iterable[str]) -> None:
        """Delete backups, as far as they are there. While held."""
        for name in {*names} & {*self.names()}:
            unlisted = self.path / f".{name}{_PART}"
            (self.path / name).rename(unlisted)
            fsync(self.path)
            shutil.rmtree(unlisted)

    def check_room(self, needed_bytes: int) -> None:
        """Raises StorageFull when so much would not fit."""
        free = shutil.disk_usage(self.path).free
        if free < needed_bytes:
            needs = f"the backup may need {needed_bytes // 2**20}: make room, or keep fewer"
            raise StorageFull(f"{self.path} has {free // 2**20} MiB free, and {needs}")


class Copier:
    """Copies files into `folder` and knows their digests. `told` hears of bytes done. For one thread."""

    def __init__(
        self, folder: Path, told: Callable[[int], None] = lambda _: None, earlier: tuple[Path, Manifest] | None = None
    ) -> None:  # fmt: skip
        self.folder = folder
        self.files: dict[str, FileFacts] = {}
        self.told = told
        self._earlier_folder = earlier[0] if earlier else None
        self._earlier: Mapping[str, FileFacts] = {facts.path: facts for facts in earlier[1].files} if earlier else {}

    def copy(self, source: Path, path: str, *, never_changes: bool = False) -> None:
        """Copy a file. `never_changes`: one of that name has the same content always, so an earlier backup's is as good.

        Raises FileNotFoundError when it is gone, StorageFull.
        """
        if path in self.files or (never_changes and self._link(source, path)):
            return
        with source.open("rb") as file, self.create(path) as copy:
            while chunk := file.read(_CHUNK_BYTES):
                copy.write(chunk)
                self.told(len(chunk))

    @contextlib.contextmanager
    def create(self, path: str) -> Iterator[IO[bytes]]:
        """A new file of the backup, written from beginning to end; on disk, with its digests, afterwards."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _in_our_words(target), target.open("wb") as file:
            writing = _Digesting(file)
            yield writing  # type: ignore[misc]
            file.flush()
            os.fsync(file.fileno())
        self.files[path] = FileFacts(path, writing.size, writing.sha256.hexdigest(), writing.sm3.finalize().hex())

    def take(self, path: str) -> None:
        """Take up a file that somebody else made at its place in the folder."""
        with _in_our_words(self.folder / path):
            fsync(self.folder / path)
        self.files[path] = msgspec.structs.replace(digests(self.folder / path), path=path)
        self.told(self.files[path].bytes)

    def _link(self, source: Path, path: str) -> bool:
        """What was copied before is linked to, if it is the same by its digests."""
        earlier = self._earlier.get(path)
        if earlier is None or self._earlier_folder is None or source.stat().st_size != earlier.bytes:
            return False
        same = msgspec.structs.replace(earlier, path=source.name)
        if digests(source) != same or not self._is_whole(self._earlier_folder / path, same):
            return False
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            target.hardlink_to(self._earlier_folder / path)
        except OSError:  # deleted by hand, or a file system without links
            return False
        self.files[path] = earlier
        self.told(earlier.bytes)
        return True

    @staticmethod
    def _is_whole(kept: Path, same: FileFacts) -> bool:
        """What is damaged in the earlier backup must not become part of this one."""
        try:
            return digests(kept) == same
        except OSError:
            return False


class _Digesting:
    """A file that is written once, with the digests of what went into it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = 0
        self.sha256 = hashlib.sha256()
        self.sm3 = hashes.Hash(hashes.SM3())

    def write(self, content: bytes) -> int:
        self.sha256.update(content)
        self.sm3.update(content)
        self.size += len(content)
        return self._file.write(content)


@contextlib.contextmanager
def _in_our_words(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageFull(f"{path} cannot be written ({error.strerror}): the backup is given up") from None


def _folders(folder: Path) -> list[Path]:
    return [folder, *(path for path in folder.rglob("*") if path.is_dir())]
