"""Where nats-server keeps the streams of an account, and how those of another account become this one's.

The server puts each account's streams into a folder of its name. Streams in clear become another account's by a rename. In an
encrypted store each stream and each of its blocks has a key file, whose content is sealed under a key that is made from the
store's key, the account's name and the place (nats-server 2.15, `jsKeyGen`): those files are made anew, all else is linked.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from domain.errors import Conflict, IntegrityViolation
from runtime.durable import fsync

NAMELESS: Final = "$G"  # the account of a server that was told of none
_STREAMS: Final = "streams"
_CONSUMERS: Final = "obs"
_STAGED: Final = "batches"  # of batches that were never committed: the server deletes them when it starts
_KEY_FILE: Final = "*.key"
_STREAM_KEY: Final = "meta.key"
_NONCE_BYTES: Final = 16


def hand_over(store: Path, heir: str, secrets: Sequence[str]) -> bool:
    """Make the streams of NAMELESS in `store` the account `heir`'s, while no server runs on it; whether there were any.

    Idempotent, and complete after a kill at any point and another call. `secrets`: under which an encrypted store may be.
    Raises Conflict when both accounts have streams of their own, IntegrityViolation when a key file is under no secret:
    nothing is changed then.
    """
    base = store / "jetstream"
    source, target = base / NAMELESS, base / heir
    leaving, coming = base / f"{heir}.leaving", base / f"{heir}.coming"
    shutil.rmtree(coming, ignore_errors=True)
    was_begun = leaving.is_dir()
    if was_begun:
        _finish(leaving, coming, target, secrets)
    if not any((source / _STREAMS).glob("*")):
        return was_begun
    if target.exists():
        raise Conflict(
            f"{source} has streams beside those of {target}: an older version has run here since. Move the folder aside whose"
            " readings are not to be kept"
        )
    if next(source.rglob(_KEY_FILE), None) is None:
        _rename(source, target)
        return True
    _sealed_anew(source, heir, secrets)  # nothing is moved before every key file is known to open
    _rename(source, leaving)
    _finish(leaving, coming, target, secrets)
    return True


def _finish(leaving: Path, coming: Path, target: Path, secrets: Sequence[str]) -> None:
    """From here on what lies in `leaving` belongs to `target`, which is there as a whole or not at all."""
    if not target.exists():
        keys = _sealed_anew(leaving, target.name, secrets)
        for path in _lasting(leaving):
            there = coming / path.relative_to(leaving)
            there.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
            if path.is_dir():
                there.mkdir(exist_ok=True, mode=0o750)
            elif path in keys:
                there.write_bytes(keys[path])
                there.chmod(0o640)
                fsync(there)
            else:
                there.hardlink_to(path)
        for folder in (coming, *filter(Path.is_dir, coming.rglob("*"))):
            fsync(folder)
        _rename(coming, target)
    shutil.rmtree(leaving)


def _rename(old: Path, new: Path) -> None:
    old.rename(new)
    fsync(new.parent)


def _lasting(account: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(account):
        folders[:] = [name for name in folders if name != _STAGED]
        yield from (Path(folder, name) for name in (*folders, *files))


def _sealed_anew(account: Path, heir: str, secrets: Sequence[str]) -> dict[Path, bytes]:
    """What each key file of a store is to hold so that it opens for `heir`. Raises IntegrityViolation."""
    streams = account / _STREAMS
    return {
        path: _as_heirs(streams, path.relative_to(streams), heir, secrets)
        for path in _lasting(account) if path.match(_KEY_FILE)
    }  # fmt: skip


def _place(path: Path) -> bytes:
    """What beside the account goes into the key that seals a key file: `READINGS`, a block `READINGS:7`, a consumer."""
    stream, *rest = path.parts
    if rest == [_STREAM_KEY]:
        return stream.encode()
    if rest[0] == _CONSUMERS:
        return f"{stream}.{rest[1]}".encode()
    return f"{stream}:{path.stem}".encode()


def _as_heirs(streams: Path, path: Path, heir: str, secrets: Sequence[str]) -> bytes:
    content, place = (streams / path).read_bytes(), _place(path)
    for secret in secrets:
        try:
            seed = _sealing(secret, NAMELESS, place).decrypt(content[:_NONCE_BYTES], content[_NONCE_BYTES:], None)
        except (InvalidTag, ValueError):
            continue
        # its nonce stays: in a block it is where the block's stream of key bytes begins
        return content[:_NONCE_BYTES] + _sealing(secret, heir, place).encrypt(content[:_NONCE_BYTES], seed, None)
    raise IntegrityViolation(
        f"{streams / path} is damaged, or under another key: restore it, or move {streams / path.parts[0]} aside"
    )


def _sealing(secret: str, account: str, place: bytes) -> AESGCM:
    return AESGCM(hmac.digest(secret.encode(), account.encode() + place, hashlib.sha256))
