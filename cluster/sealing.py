"""Data sealed at rest: when its keys are made, who opens files with them, and under what key nats-server keeps its store.

Keys are made when sealing is switched on and nothing is sealed yet. Where something is, a missing key is an error: one made by
the way would open nothing of it. nats-server encrypts its own store, with a key that is made from ours, and cannot go back:
once sealed, streams stay so. Which version of the key they are under lies beside them. Clauses 7.2c, 9.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from runtime import sealed_file
from runtime.durable import write_secret
from runtime.keys import KeyMissing, KeyProvider, make_missing
from runtime.nats_server import StoreKey
from runtime.sealed_file import FileSeal, is_sealed
from runtime.settings import Settings
from runtime.soft_keys import SoftKeys

STREAMS: Final = "streams"
_KEYS: Final = (sealed_file.KEY, STREAMS)
_CHECK_BYTES: Final = 8


def file_seal(settings: Settings) -> FileSeal:
    """What opens sealed files of this installation and, if it is to, seals new ones."""
    return FileSeal(SoftKeys(settings.keys_dir.resolve()), writes=settings.seals_files)


def make_keys(settings: Settings) -> list[str]:
    """Make the keys that sealing needs where nothing is sealed yet; returns their names.

    Raises KeyMissing when one is not there and something was sealed under it.
    """
    keys = SoftKeys(settings.keys_dir.resolve())
    missing = [name for name in _KEYS if not keys.versions(name)]
    if not settings.seals_files or not missing:
        return []
    for path in _sealed_things(settings):
        raise KeyMissing(f"{path} is sealed, and key {' and '.join(missing)} is missing: restore {settings.keys_dir}")
    return make_missing(keys, missing)


def _sealed_things(settings: Settings) -> Iterator[Path]:
    data_dir = settings.data_dir.resolve()
    yield from (path for path in (_known_file(settings),) if path.exists())
    yield from (data_dir / "nats" / "jetstream").rglob("meta.key")
    lake = settings.lake_dir.resolve()
    for files in (lake.glob("day=*/*"), lake.glob("_rollups/*/*"), (data_dir / "snapshots").glob("*/*")):
        yield from filter(is_sealed, files)


class _Known(msgspec.Struct, frozen=True):
    """Under which version of the key the store is, and what tells that key from another one of that number."""

    version: int
    check: bytes


class StreamSeal:
    """The key of nats-server's store."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._keys: KeyProvider = SoftKeys(settings.keys_dir.resolve())
        self._file = _known_file(settings)

    def key(self) -> StoreKey | None:
        """What the server is to be started with; None for a store in clear that is to stay so.

        Raises KeyMissing or KeyGone when the store cannot be opened: a server without its key would begin an empty one.
        """
        known = self._known()
        if known is None and not self._settings.seals_files:
            return None
        newest = max(self._keys.versions(STREAMS), default=1)
        former = None if known is None or known.version == newest else self._secret(known.version)
        return StoreKey(self._secret(newest), former)

    def remember(self) -> None:
        """The server has started with what `key` said, and holds its store under the newest version from now on."""
        version = max(self._keys.versions(STREAMS), default=0)
        known = _Known(version, self._check(version)) if version else None
        if known is not None and (self._settings.seals_files or self._file.exists()) and known != self._known():
            write_secret(self._file, msgspec.json.encode(known))

    def _known(self) -> _Known | None:
        try:
            known = msgspec.json.decode(self._file.read_bytes(), type=_Known)
        except FileNotFoundError:
            for path in self._file.parent.rglob("jetstream/**/meta.key"):
                raise KeyMissing(f"{path.parent} is sealed, and {self._file}, which says how, is missing: restore it") from None
            return None
        except msgspec.MsgspecError as error:
            raise KeyMissing(f"{self._file} is damaged: restore it ({error})") from error
        if known.check != self._check(known.version):
            keys = self._settings.keys_dir
            raise KeyMissing(f"key {STREAMS} in {keys} is not the one that the streams are sealed under: restore it")
        return known

    def _secret(self, version: int) -> str:
        return self._keys.mac(STREAMS, b"jetstream", version=version).hex()

    def _check(self, version: int) -> bytes:
        return self._keys.mac(STREAMS, b"which key", version=version)[:_CHECK_BYTES]


def _known_file(settings: Settings) -> Path:
    return settings.data_dir.resolve() / "nats" / "sealed.json"
