"""KeyProvider in software: a file for each version of a key, readable by its owner only.

A file names its key and version, and has a check sum, so that a flipped bit is told from a wrong password and a file
that was copied over another one is noticed. Files are read at each use (20 us): a rotation or destruction holds
at once in every process. A destroyed version leaves a file that says so, and its old content is overwritten where it lay,
not only unlinked. On flash storage old content may survive in places that no program reaches: there destruction is as good
as the disk's own encryption.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from domain.errors import Conflict, IntegrityViolation
from domain.ports import Clock
from runtime import sm2
from runtime.clock import SystemClock
from runtime.durable import create_secret, overwrite, write_secret
from runtime.keys import KEYS, KeyGone, KeyKind, KeyMissing, KeyVersion
from runtime.sm import GCM_NONCE_BYTES, SM3_BYTES, SM4_KEY_BYTES, hmac_sm3, sm3, sm4_gcm_open, sm4_gcm_seal

_FILE: Final = re.compile(r"([1-9][0-9]{0,8})\.key")
_VERSION_BYTES: Final = 4  # in front of what was wrapped
_OTHERS: Final = 0o077  # mode bits of everybody but the owner


class _Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A version of a key as it lies in its file. Without a secret: it was destroyed."""

    name: str
    version: int
    kind: KeyKind
    secret: bytes | None
    public: bytes = b""
    check: bytes = b""
    made_us: int | msgspec.UnsetType = msgspec.UNSET  # none of what is older than this field: such files stay as they are
    destroyed_us: int | msgspec.UnsetType = msgspec.UNSET

    def checked(self) -> _Key:
        return msgspec.structs.replace(self, check=self._sum())

    def is_whole(self) -> bool:
        return self.check == self._sum()

    def _sum(self) -> bytes:
        return sm3(msgspec.json.encode(msgspec.structs.replace(self, check=b"")))[:8]


class SoftKeys:
    """`runtime.keys.KeyProvider` over a folder. Several processes may use one folder at once."""

    def __init__(self, folder: Path, clock: Clock | None = None) -> None:
        self._folder = folder
        self._clock = clock or SystemClock()

    def versions(self, name: str) -> tuple[int, ...]:
        return tuple(version.number for version in self.history(name) if not version.is_destroyed)

    def history(self, name: str) -> tuple[KeyVersion, ...]:
        return tuple(_told(self._read(name, number)) for number in self._numbers(name))

    def mac(self, name: str, message: bytes, *, version: int | None = None) -> bytes:
        return hmac_sm3(self._secret(name, version, KeyKind.MAC)[1], message)

    def wrap(self, name: str, content: bytes, bound_to: bytes) -> bytes:
        version, secret = self._secret(name, None, KeyKind.WRAP)
        front = version.to_bytes(_VERSION_BYTES, "big")
        nonce = os.urandom(GCM_NONCE_BYTES)
        return front + nonce + sm4_gcm_seal(secret, nonce, content, _bound(name, front, bound_to))

    def unwrap(self, name: str, wrapped: bytes, bound_to: bytes) -> bytes:
        front, nonce, sealed = _parts(wrapped)
        version = int.from_bytes(front, "big")
        numbers = self._numbers(name)
        if not numbers:  # else a lost folder would be told as damaged content
            raise KeyMissing(f"no version of key {name} is in {self._folder}")
        if version not in numbers:
            raise IntegrityViolation(f"wrapped content names version {version} of key {name}, which never was")
        _, secret = self._secret(name, version, KeyKind.WRAP)
        return sm4_gcm_open(secret, nonce, sealed, _bound(name, front, bound_to))

    def version_of(self, wrapped: bytes) -> int:
        return int.from_bytes(wrapped[:_VERSION_BYTES], "big")

    def sign(self, name: str, message: bytes, *, version: int | None = None) -> bytes:
        key = self._usable(name, version, KeyKind.ED25519, KeyKind.SM2)
        assert key.secret is not None
        if key.kind is KeyKind.SM2:
            return sm2.sign(sm2.KeyPair(key.secret, key.public), message)
        return Ed25519PrivateKey.from_private_bytes(key.secret).sign(message)

    def public_key(self, name: str, *, version: int | None = None) -> bytes:
        if version is None:
            return self._usable(name, None, KeyKind.ED25519, KeyKind.SM2).public
        key = self._of_kind(name, version, KeyKind.ED25519, KeyKind.SM2)
        if not key.public:
            raise KeyGone(f"version {version} of key {name} was destroyed when public keys were not kept")
        return key.public

    def rotate(self, name: str) -> int:
        version = max(self._numbers(name), default=0) + 1
        try:
            key = msgspec.structs.replace(_new_key(name, version), made_us=self._clock.now_us()).checked()
            create_secret(self._path(name, version), msgspec.json.encode(key))
        except FileExistsError:
            raise Conflict(f"version {version} of key {name} was just made by somebody else: look again") from None
        return version

    def destroy(self, name: str, version: int) -> None:
        """Its content is held under a second name until the file says that it is destroyed, and overwritten under that."""
        path = self._path(name, version)
        self._read(name, version)
        with _alone_in(path.parent):
            key = self._read(name, version)
            if key.secret is not None:
                with contextlib.suppress(FileExistsError):  # killed here before
                    path.with_name(f".{path.name}.destroyed").hardlink_to(path)
                gone = msgspec.structs.replace(key, secret=None, destroyed_us=self._clock.now_us()).checked()
                write_secret(path, msgspec.json.encode(gone))
            for left in path.parent.glob(f".{path.name}.*"):  # of killed calls that made or destroyed it
                overwrite(left)

    def _secret(self, name: str, version: int | None, kind: KeyKind) -> tuple[int, bytes]:
        key = self._usable(name, version, kind)
        assert key.secret is not None
        return key.version, key.secret

    def _usable(self, name: str, version: int | None, *kinds: KeyKind) -> _Key:
        """The key, of one of these kinds. Its newest version counts even when destroyed: an older one is no substitute."""
        number = max(self._numbers(name), default=1) if version is None else version
        key = self._of_kind(name, number, *kinds)
        if key.secret is None:
            raise KeyGone(f"version {number} of key {name} was destroyed")
        return key

    def _of_kind(self, name: str, version: int, *kinds: KeyKind) -> _Key:
        if KEYS[name] not in kinds:
            raise ValueError(f"key {name} is of kind {KEYS[name]}: expected {' or '.join(kinds)}")
        return self._read(name, version)

    def _numbers(self, name: str) -> list[int]:
        try:
            files = os.listdir(self._folder / name)  # noqa: PTH208 (names are all that is wanted)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise IntegrityViolation(f"the versions of key {name} cannot be listed ({error.strerror})") from None
        return sorted(int(found[1]) for file in files if (found := _FILE.fullmatch(file)))

    def _path(self, name: str, version: int) -> Path:
        return self._folder / name / f"{version}.key"

    def _read(self, name: str, version: int) -> _Key:
        path = self._path(name, version)
        try:
            with path.open("rb") as file:
                mode, content = os.fstat(file.fileno()).st_mode, file.read()
        except FileNotFoundError:
            raise KeyMissing(f"version {version} of key {name} is not in {self._folder}") from None
        except OSError as error:  # PermissionError, IsADirectoryError
            raise IntegrityViolation(f"{path} cannot be read ({error.strerror}): expected a file of mode 0600") from None
        if mode & _OTHERS:
            raise IntegrityViolation(f"{path} has mode {mode & 0o777:04o}, so others can reach the key: expected 0600")
        try:
            key = msgspec.json.decode(content, type=_Key)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise IntegrityViolation(f"{path} is damaged: it is no key") from None
        is_as_written = msgspec.json.encode(key) == content  # JSON and base64 have several spellings for one value
        if not (is_as_written and key.is_whole()) or (key.name, key.version) != (name, version) or key.kind is not KEYS[name]:
            raise IntegrityViolation(f"{path} is damaged, or is not version {version} of key {name}")
        return key


def _new_key(name: str, version: int) -> _Key:
    kind = KEYS[name]
    match kind:
        case KeyKind.MAC:
            key = _Key(name, version, kind, secrets.token_bytes(SM3_BYTES))
        case KeyKind.WRAP:
            key = _Key(name, version, kind, secrets.token_bytes(SM4_KEY_BYTES))
        case KeyKind.ED25519:
            private = Ed25519PrivateKey.generate()
            key = _Key(name, version, kind, private.private_bytes_raw(), private.public_key().public_bytes_raw())
        case KeyKind.SM2:
            key = _Key(name, version, kind, *sm2.generate())
    return key


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Whoever destroys here overwrites what killed ones left, and must not meet what is just being written."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _told(key: _Key) -> KeyVersion:
    made_us, destroyed_us = (None if at is msgspec.UNSET else at for at in (key.made_us, key.destroyed_us))
    return KeyVersion(key.version, made_us, key.secret is None, destroyed_us)


def _bound(name: str, front: bytes, bound_to: bytes) -> bytes:
    return name.encode() + b"\0" + front + bound_to  # a name holds no zero, and the front is of fixed width


def _parts(wrapped: bytes) -> tuple[bytes, bytes, bytes]:
    nonce_end = _VERSION_BYTES + GCM_NONCE_BYTES
    return wrapped[:_VERSION_BYTES], wrapped[_VERSION_BYTES:nonce_end], wrapped[nonce_end:]
