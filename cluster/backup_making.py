"""Make a backup of a platform, beside its work. What was acknowledged before it began is in it. Clause 9.3.

Keys are no part of it: they go to a folder of their own, if one is named, under the same name.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import msgspec
from sqlalchemy import Engine

from cluster import backup_sources as sources
from cluster.connection import check_owner
from cluster.first_start import sealer_of
from cluster.key_orders import undisturbed
from cluster.sealing import file_seal
from domain import subjects
from domain.errors import InvalidInput, NotFound, VitalgridError
from domain.instants import from_us
from domain.ports import Clock
from runtime.backup_folder import BackupFolder, Copier
from runtime.backup_manifest import BACKUP_KEYS, Manifest, StreamFacts, prove_keys, signer_of
from runtime.backup_streams import copy_stream
from runtime.bus import Bus
from runtime.data_keys import DataKeys
from runtime.key_provider import provider_of
from runtime.keys import make_missing
from runtime.log_events import taken_of_stream
from runtime.note_signing import NoteSigner
from runtime.settings import Settings
from runtime.sql.copying import copy_sqlite
from runtime.sql.engine import open_engine
from runtime.sql.records import by_platform, note_write
from runtime.sql.risks import BACKUP as MADE

logger = logging.getLogger(__name__)

DATA: Final = "data"
KEYS: Final = "keys"
SETTINGS: Final = "settings.json"
DATA_KEYS: Final = "data_keys.db"
SECRET_FOLDERS: Final = ("pki", "secrets")  # beside the keys, and as secret
BEGUN: Final = "backup.create"  # in the write log: told before anything leaves the platform
_ROOM: Final = 64 * 2**20
_MARGIN_US: Final = 2_000_000  # by which clocks of processes on one machine are read apart


@dataclass(frozen=True, slots=True)
class Wish:
    """Where a backup goes, where its keys do (None: nowhere), and how many are kept (0: all).

    `keys_stay`: whether the keys will be there later, too.
    """

    to: Path
    keys_to: Path | None = None
    keep: int = 0
    keys_stay: bool = True


Told = Callable[[str, int], None]  # what is being copied, and how many bytes more are done


async def create(settings: Settings, wish: Wish, clock: Clock, told: Told = lambda _what, _bytes: None) -> Manifest:
    """Make a backup. Raises Conflict, StorageFull, Unavailable, KeyMissing; then there is none, and nothing else is touched."""
    _check_places(settings, wish)
    check_owner(settings.data_dir, "make backups")
    if not (settings.data_dir / "nats").is_dir():
        raise NotFound(f"there is no platform in {settings.data_dir}: none was ever started there")
    keys = provider_of(settings)
    folder = BackupFolder(wish.to.resolve())
    with contextlib.ExitStack() as stack:
        stack.enter_context(folder.held())
        kept = None if wish.keys_to is None else stack.enter_context(BackupFolder(wish.keys_to.resolve()).held())
        if not folder.names():  # where backups are, a lost key must not be replaced by the way
            make_missing(keys, BACKUP_KEYS)
        stack.enter_context(undisturbed(settings))
        signer = signer_of(keys, settings.region_id)
        earlier = await asyncio.to_thread(_earlier, folder, signer)
        folder.check_room(await asyncio.to_thread(sources.expected_bytes, settings, earlier and earlier[1]) + _ROOM)
        making = _Making(settings, clock, folder, signer, told)
        manifest, unlisted = await making.data(earlier, has_keys=wish.keys_to is not None and wish.keys_stay)
        if kept is not None:  # first, so that a backup that is listed has its keys
            await asyncio.to_thread(making.keys, kept, manifest)
        folder.finish(unlisted, manifest, signer)
        _keep(folder, kept, wish.keep, signer)
    await asyncio.to_thread(_say_made, settings, clock, manifest.name)
    return manifest


def keep(settings: Settings, wish: Wish) -> None:
    """Delete the oldest backups beyond those that are wished for, and their keys. Raises Conflict, KeyMissing."""
    signer = signer_of(provider_of(settings), settings.region_id)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(BackupFolder(wish.to.resolve()).held())
        kept = None if wish.keys_to is None else stack.enter_context(BackupFolder(wish.keys_to.resolve()).held())
        _keep(folder, kept, wish.keep, signer)


def _keep(folder: BackupFolder, kept: BackupFolder | None, most: int, signer: NoteSigner) -> None:
    """A copy of keys goes once so many newer backups of the same folder are there, whatever became of its own one.

    Another disk at the same place, or none, is another folder and costs no keys.
    """
    gone = folder.keep(most)
    if kept is None:
        if gone:
            logger.warning("backups were deleted; copies of their keys, if any, go with the next one that names their folder")
        return
    there = folder.names()
    if most and len(there) >= most:
        of_this = [one.name for one in kept.manifests(signer.public_keys()) if one.backups == folder.id]
        kept.remove(name for name in of_this if name < there[0])


def _say_made(settings: Settings, clock: Clock, name: str) -> None:
    """What the register of risks goes by. The backup is whole without."""
    engine = open_engine(settings.sql_url, sealer_of(settings))
    try:
        note_write(engine, by_platform("backup", clock.now_us()), MADE, name)
    except VitalgridError as error:
        logger.warning("that backup %s was made is not in the write log: %s", name, error)
    finally:
        engine.dispose()


def _earlier(folder: BackupFolder, signer: NoteSigner) -> tuple[Path, Manifest] | None:
    """The newest backup there, to which what never changes is linked."""
    return folder.newest(signer.public_keys())


def _check_places(settings: Settings, wish: Wish) -> None:
    to, data_dir = wish.to.resolve(), settings.data_dir.resolve()
    if to.is_relative_to(data_dir):
        raise InvalidInput(f"{to} lies in the platform's own folder: whoever loses that loses the backup too")
    if wish.keys_to is None:
        return
    keys_to = wish.keys_to.resolve()
    if keys_to.is_relative_to(data_dir) or keys_to.is_relative_to(to) or to.is_relative_to(keys_to):
        raise InvalidInput(f"{keys_to} is not apart from {to} and the platform: keys beside what they seal protect nothing")


class _Making:
    def __init__(self, settings: Settings, clock: Clock, folder: BackupFolder, signer: NoteSigner, told: Told) -> None:
        self._settings = settings
        self._clock = clock
        self._folder = folder
        self._signer = signer
        self._told = told
        self._keys = provider_of(settings)
        self._data_keys = DataKeys(settings.keys_dir.resolve() / DATA_KEYS, self._keys)

    async def data(self, earlier: tuple[Path, Manifest] | None, *, has_keys: bool) -> tuple[Manifest, Path]:
        """Everything but keys, not listed yet."""
        settings, began_us = self._settings, self._clock.now_us()
        name = self._new_name(began_us)
        engine = open_engine(settings.sql_url, sealer_of(settings))
        try:
            await asyncio.to_thread(note_write, engine, by_platform("backup", began_us), BEGUN, name)
            async with sources.streams_of(settings) as bus:
                unlisted = self._folder.begin(name)
                copier = Copier(unlisted, earlier=earlier)
                parts = await self._parts(bus, engine, copier)
        finally:
            engine.dispose()
        with copier.create(SETTINGS) as file:
            file.write(msgspec.json.format(settings.model_dump_json().encode()))  # secrets are not told
        manifest = Manifest(
            kind=DATA, name=name, region_id=settings.region_id, shards=settings.shards, software=_version(),
            began_us=began_us, ended_us=self._clock.now_us(), database=sources.kind_of(settings),
            is_sealed=settings.seals_files, has_keys=has_keys, files=list(copier.files.values()),
            key_proofs=prove_keys(self._keys), **await asyncio.to_thread(self._of_data_keys), **parts,
        )  # fmt: skip
        return manifest, unlisted

    async def _parts(self, bus: Bus, engine: Engine, copier: Copier) -> dict[str, Any]:
        """In the order that `backup_sources` explains."""
        settings = self._settings
        acknowledged = (await bus.stream_state(subjects.READINGS_STREAM)).last_sequence
        with self._telling(copier, "snapshots"):
            snapshots = await asyncio.to_thread(sources.copy_snapshots, settings, copier)
        with self._telling(copier, "lake"):
            lake = await asyncio.to_thread(sources.copy_lake, settings, copier)
        ends = {stream: (await bus.stream_state(stream)).last_sequence for stream in subjects_of_business()}
        cut_us = self._clock.now_us() - _MARGIN_US
        with self._telling(copier, "business database"):
            copied = await asyncio.to_thread(sources.copy_database, settings, engine, copier)
        with self._telling(copier, "access log"):
            await asyncio.to_thread(sources.copy_journal, settings, copier)
        first = await sources.readings_from(bus, settings.shards, snapshots, lake, ends[subjects.READINGS_STREAM])
        taken = await asyncio.to_thread(taken_of_stream, settings.audit_dir)
        last_record = (await bus.stream_state(subjects.AUDIT_STREAM)).last_sequence
        ranges = {
            subjects.READINGS_STREAM: (first, ends[subjects.READINGS_STREAM]),
            subjects.ALARMS_STREAM: (1, max(ends[subjects.ALARMS_STREAM], copied.alarms_taken)),
            subjects.REJECTS_STREAM: (1, ends[subjects.REJECTS_STREAM]),
            subjects.AUDIT_STREAM: (taken + 1, last_record),
        }
        streams = {stream: await self._stream(bus, copier, stream, *wanted) for stream, wanted in ranges.items()}
        with self._telling(copier, "access log"):
            log = await asyncio.to_thread(sources.copy_log, settings, copier)
        return {
            "acknowledged": acknowledged, "outbox_cut_us": cut_us, "lake": lake, "log": log, "tables": copied.tables,
            "streams": streams,
        }  # fmt: skip

    @contextlib.contextmanager
    def _telling(self, copier: Copier, what: str) -> Iterator[None]:
        copier.told = lambda size: self._told(what, size)
        self._told(what, 0)
        yield

    async def _stream(self, bus: Bus, copier: Copier, stream: str, first: int, last: int) -> StreamFacts:
        path = stream_path(stream)
        self._told("streams", 0)

        def told(size: int) -> None:
            self._told("streams", size)

        with copier.create(path) as file:
            if not self._settings.seals_files:
                return await copy_stream(bus, stream, first, last, file, told)
            with file_seal(self._settings).writer(cast("BinaryIO", file), path) as sealed:
                return await copy_stream(bus, stream, first, last, sealed, told)

    def _of_data_keys(self) -> dict[str, Any]:
        if not self._data_keys.exists():
            return {}
        return {"data_keys": self._data_keys.count(), "destroyed": self._data_keys.destroyed()}

    def keys(self, kept: BackupFolder, data: Manifest) -> None:
        """Keys, data keys, certificates and this machine's secrets, under the name of what they belong to."""
        settings = self._settings
        unlisted = kept.begin(data.name)
        copier = Copier(unlisted, lambda size: self._told("keys", size))
        for folder in (settings.keys_dir, *(settings.data_dir / name for name in SECRET_FOLDERS)):
            for path in sorted(folder.rglob("*")):
                if path.is_file() and not path.name.startswith((".", DATA_KEYS)):
                    copier.copy(path, f"{folder.name}/{path.relative_to(folder)}")
        if self._data_keys.exists():
            copy_sqlite(settings.keys_dir / DATA_KEYS, unlisted / KEYS / DATA_KEYS, counted=False)
            copier.take(f"{KEYS}/{DATA_KEYS}")
        for secret in copier.files:
            (unlisted / secret).chmod(0o600)
        manifest = Manifest(
            kind=KEYS, name=data.name, region_id=data.region_id, shards=data.shards, software=data.software,
            began_us=data.began_us, ended_us=self._clock.now_us(), files=list(copier.files.values()),
            backups=self._folder.id,
        )  # fmt: skip
        kept.finish(unlisted, manifest, self._signer)

    def _new_name(self, now_us: int) -> str:
        """By the second; of two within one the second gets a number, and none a number that is free because it was deleted."""
        base = from_us(now_us).strftime("%Y%m%dT%H%M%SZ")
        same = [name.removeprefix(base) for name in self._folder.names() if name.startswith(base)]
        return f"{base}-{max(int(number[1:] or 1) for number in same) + 1}" if same else base


def subjects_of_business() -> tuple[str, ...]:
    """Streams whose end is read before the business database is copied."""
    return subjects.READINGS_STREAM, subjects.ALARMS_STREAM, subjects.REJECTS_STREAM


def stream_path(stream: str) -> str:
    """Where a backup has the messages of a stream; a sealed file's identity too."""
    return f"streams/{stream}.messages"


def _version() -> str:
    try:
        return metadata.version("vitalgrid")
    except metadata.PackageNotFoundError:
        return "sources"
