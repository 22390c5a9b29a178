"""Data sealed at rest: when its keys are made, who opens files with them, and under what key nats-server keeps its store.

Keys are made when sealing is switched on and nothing is sealed yet. Where something is, a missing key is an error: one made by
the way would open nothing of it. nats-server encrypts its own store, with a key that is made from ours, and cannot go back:
once sealed, streams stay so. Which version of the key they are under lies beside them. Clauses 7.2c, 9.3.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from runtime import sealed_file
from runtime.durable import write_secret
from runtime.key_provider import provider_of
from runtime.keys import KeyMissing, KeyProvider, make_missing
from runtime.nats_server import StoreKey
from runtime.sealed_file import FileSeal, is_sealed
from runtime.settings import Settings

STREAMS: Final = "streams"
_KEYS: Final = (sealed_file.KEY, STREAMS)
_CHECK_BYTES: Final = 8
SPILL_BUDGET: Final = "POLARS_OOC_DISK_BUDGET_MB"


def file_seal(settings: Settings) -> FileSeal:
    """What opens sealed files of this installation and, if it is to, seals new ones."""
    return FileSeal(provider_of(settings), writes=settings.seals_files)


def keep_off_disk(settings: Settings) -> None:
    """Let no question put what it has in hand on disk: Polars writes it in clear to a temporary folder when memory runs short.

    One that would is given up instead. Holds for processes that are started from here on.
    """
    if settings.seals_files:
        os.environ[SPILL_BUDGET] = "0"


def missing_keys(settings: Settings) -> list[str]:
    """Keys that sealing needs and that are to be made yet; none when nothing is to be sealed.

    Raises KeyMissing when one is not there and something was sealed under it.
    """
    keys = provider_of(settings)
    missing = [name for name in _KEYS if not keys.versions(name)] if settings.seals_files else []
    if missing and (sealed := next(_sealed_things(settings), None)) is not None:
        raise KeyMissing(f"{sealed} is sealed, and key {' and '.join(missing)} is missing: restore {settings.keys_dir}")
    return missing


def make_keys(settings: Settings) -> list[str]:
    """Make the keys that are missing; returns their names. Raises as `missing_keys`."""
    return make_missing(provider_of(settings), missing_keys(settings))


def _sealed_things(settings: Settings) -> Iterator[Path]:
    data_dir = settings.data_dir.resolve()
    yield from (path for path in (_known_file(settings),) if path.exists())
    yield from (data_dir / "nats" / "jetstream").rglob("meta.key")
    lake = settings.lake_dir.resolve()
    for files in (lake.glob("day=*/*"), lake.glob("_rollups/*/*"), (data_dir / "snapshots").glob("*/*")):
        yield from filter(is_sealed, files)


class _Known(msgspec.Struct, frozen=True):
    """Under which version of the key the store is, and what tells that key from another one of that number.

    `coming`: a version that a server was given beside it, and that a part of the store may be under.
    """

    version: int
    check: bytes
    coming: int | None = None


class StreamSeal:
    """The key of nats-server's store."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._keys: KeyProvider = provider_of(settings)
        self._file = _known_file(settings)

    def check(self) -> None:
        """Raises KeyMissing or KeyGone when there is a sealed store and its key is not at hand."""
        self._known()

    def versions(self) -> set[int]:
        """Versions of the key that the store, or a part of it, may be under; none: it is in clear. Raises as `check`."""
        known = self._known()
        return set() if known is None else {known.version, known.coming or known.version}

    def prepare(self) -> StoreKey | None:
        """What the server is to be started with; None for a store in clear that is to stay so.

        Raises KeyMissing or KeyGone when the store cannot be opened: a server without its key would begin an empty one.
        """
        known = self._known()
        if known is None and not self._settings.seals_files:
            return None
        newest = max(self._keys.versions(STREAMS), default=1)
        if known is None:  # said before the server seals anything: it may be killed in the middle of that
            self._say(newest)
            return StoreKey(self._secret(newest))
        if (target := known.coming or newest) == known.version:
            return StoreKey(self._secret(target))
        key = StoreKey(self._secret(target), self._secret(known.version))
        self._say(known.version, coming=target)  # for the same reason; a newer version waits until the store is whole
        return key

    def remember(self) -> None:
        """The server has started with what `prepare` said: its store is under that version from now on."""
        if (known := self._known()) is not None and known.coming is not None:
            self._say(known.coming)

    def _say(self, version: int, coming: int | None = None) -> None:
        write_secret(self._file, msgspec.json.encode(_Known(version, self._check(version), coming)))

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
