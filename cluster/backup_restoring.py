"""Make a platform of a backup: in a data folder that is not there yet, which appears only once all is in it. Clause 9.3.

Everything is verified first, keys too. Who was erased since stays erased: newer backups beside this one say who, and a list
that was kept elsewhere; the start erases them from what was restored. What the stream had for the lake, hosts, desk and log
and they had not taken yet is in new streams, under the same sequences.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, cast

from cluster import backup_sources as sources
from cluster.backup_making import DATA, DATA_KEYS, KEYS, SECRET_FOLDERS, stream_path
from cluster.sealing import file_seal
from domain.errors import Conflict, IntegrityViolation, NotFound
from domain.signed_notes import PublicKey
from runtime.backup_folder import BackupFolder
from runtime.backup_manifest import Manifest, TableFacts, damages, other_keys, read_manifest, signer_of, verified_manifest
from runtime.backup_streams import fill_stream
from runtime.data_keys import DataKeys, list_destroyed
from runtime.durable import fsync
from runtime.key_provider import provider_in, provider_of
from runtime.keys import KeyMissing
from runtime.settings import Settings
from runtime.sql.copying import facts_of_tables, restore_postgresql, send_again
from runtime.sql.engine import open_engine
from runtime.sql.restored_erasures import redo_from_lake

_COPIED: Final = ("lake", "snapshots", "audit", "accesses")
CHANGED: Final = ("outbox", "erasures")  # tables in which a restore marks what has to be done again
_PART: Final = ".restoring"
Told = Callable[[str, int], None]


@dataclass(frozen=True, slots=True)
class Source:
    """A backup, and the folder that has its keys under the same name; None: it is restored without, and stays shut."""

    backup: Path
    keys: Path | None = None

    @property
    def keys_folder(self) -> Path | None:
        return None if self.keys is None else self.keys / self.backup.name


def verify(source: Source, known: Sequence[PublicKey]) -> Manifest:
    """What a backup says, once every file of it and of its keys is as it was signed. Raises IntegrityViolation, NotFound."""
    manifest = _verified(source.backup, known, DATA)
    if source.keys_folder is not None:
        _verified(source.keys_folder, known, KEYS)
    return manifest


def _verified(folder: Path, known: Sequence[PublicKey], kind: str) -> Manifest:
    manifest = verified_manifest(folder, known)
    if manifest.kind != kind:
        raise IntegrityViolation(f"{folder} is a backup of {manifest.kind}: expected one of {kind}")
    if found := damages(folder, manifest):
        shown = "; ".join(f"{damage.path} {damage.what}" for damage in found[:20])
        raise IntegrityViolation(f"{len(found)} files of the backup {folder} are damaged: {shown}")
    return manifest


def keys_in(source: Source) -> list[PublicKey]:
    """The public keys of whoever made the backup, as the folder of keys has them. Raises KeyMissing, NotFound."""
    folder = source.keys_folder
    if folder is None or not folder.is_dir():
        raise KeyMissing(f"there are no keys of backup {source.backup.name}: give the folder that they were put in, or a vkey")
    return signer_of(provider_in(folder / KEYS), read_manifest(source.backup).region_id).public_keys()


async def restore(
    settings: Settings, source: Source, known: Sequence[PublicKey], told: Told = lambda _what, _bytes: None,
    *, erased: Sequence[str] = (),
) -> Manifest:  # fmt: skip
    """Make `settings.data_dir` of a backup. `erased`: owners of data keys that are known to be destroyed, of a newer list.

    Raises Conflict when something is there, IntegrityViolation, KeyMissing.
    """
    to = settings.data_dir.resolve()
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise Conflict(f"{to} is not empty: nothing is overwritten, give a folder that is not there")
    manifest = await asyncio.to_thread(verify, source, known)
    if (manifest.shards, manifest.region_id) != (settings.shards, settings.region_id):
        raise Conflict(
            f"the backup is of region {manifest.region_id} in {manifest.shards} shards: the settings say {settings.region_id}"
            f" in {settings.shards}"
        )
    if manifest.database != sources.kind_of(settings):
        raise Conflict(f"the backup has a {manifest.database} database: the settings name another one (database_url)")
    destroyed = await asyncio.to_thread(destroyed_since, BackupFolder(source.backup.parent), manifest, list(known))
    destroyed = sorted({*destroyed, *erased})
    part = to.with_name(f".{to.name}{_PART}")
    with _new_folder(part):
        inside = settings.model_copy(update={"data_dir": part})
        await asyncio.to_thread(_place, inside, source, manifest, destroyed, told)
        told("streams", 0)
        await _fill(inside, source.backup, manifest)
        told("business database", 0)
        await asyncio.to_thread(_place_database, inside, source.backup, manifest)
        await asyncio.to_thread(_bring_to_disk, part)
        if to.exists():
            to.rmdir()
        part.rename(to)
        fsync(to.parent)
    return manifest


@contextlib.contextmanager
def _new_folder(part: Path) -> Iterator[None]:
    """What a killed restore left is made anew; of one that fails nothing is left."""
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True, mode=0o700)
    try:
        yield
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _place(settings: Settings, source: Source, manifest: Manifest, destroyed: Sequence[str], told: Told) -> None:
    if source.keys_folder is not None:
        _place_keys(settings, source.keys_folder, manifest)
    _destroy_again(settings, destroyed)
    places = {"lake": settings.lake_dir, "audit": settings.audit_dir}
    for file in manifest.files:
        top, _, rest = file.path.partition("/")
        if top in _COPIED:
            target = places.get(top, settings.data_dir / top) / rest
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            shutil.copyfile(source.backup / file.path, target)
            told(top, file.bytes)


def _place_keys(settings: Settings, folder: Path, manifest: Manifest) -> None:
    """Keys, certificates and secrets, readable by their owner only."""
    for name, to in ((KEYS, settings.keys_dir), *((name, settings.data_dir / name) for name in SECRET_FOLDERS)):
        for path in sorted((folder / name).rglob("*")):
            target = to / path.relative_to(folder / name)
            if path.is_dir():
                continue
            for parent in (to, *reversed(target.relative_to(to).parents[:-1])):
                (to / parent).mkdir(parents=True, exist_ok=True, mode=0o700)
            target.write_bytes(b"")
            target.chmod(0o600)
            target.write_bytes(path.read_bytes())
    keys = provider_of(settings)
    if others := other_keys(keys, manifest.key_proofs):
        raise IntegrityViolation(
            f"the keys in {folder} are not those of the backup ({', '.join(others)}): what it has sealed would stay shut"
        )


def _destroy_again(settings: Settings, destroyed: Sequence[str]) -> None:
    """What was destroyed since is destroyed again, or listed for when the keys are put in later."""
    data_keys = DataKeys(settings.keys_dir / DATA_KEYS, provider_of(settings))
    if data_keys.exists():
        data_keys.destroy(destroyed)
        data_keys.close()
    elif destroyed:
        settings.keys_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        list_destroyed(settings.keys_dir, destroyed)


def destroyed_since(folder: BackupFolder, manifest: Manifest, known: list[PublicKey]) -> list[str]:
    """Owners whose data keys this backup or a newer one beside it knows as destroyed."""
    later = [one for one in folder.manifests(known) if one.name >= manifest.name and one.region_id == manifest.region_id]
    return sorted({*manifest.destroyed, *(owner for one in later for owner in one.destroyed)})


async def _fill(settings: Settings, backup: Path, manifest: Manifest) -> None:
    async with sources.server_on(settings) as bus:
        await bus.ensure_streams(
            max_stream_bytes=settings.bus.max_stream_bytes, retention_s=settings.bus.stream_retention_h * 3600,
            duplicate_window_s=settings.bus.duplicate_window_s,
            beginnings={stream: facts.first for stream, facts in manifest.streams.items()},
        )  # fmt: skip
        for stream, facts in manifest.streams.items():
            with opened_messages(settings, backup, stream, is_sealed=manifest.is_sealed) as file:
                await fill_stream(bus, stream, facts, file)


@contextlib.contextmanager
def opened_messages(settings: Settings, backup: Path, stream: str, *, is_sealed: bool) -> Iterator[IO[bytes]]:
    """A backup's file of a stream's messages. Raises KeyMissing for a sealed one without its keys."""
    path = stream_path(stream)
    if is_sealed:
        with file_seal(settings).reader(backup / path, path) as reader:
            yield cast("IO[bytes]", reader)
        return
    with (backup / path).open("rb") as file:
        yield file


def _place_database(settings: Settings, backup: Path, manifest: Manifest) -> None:
    """The last of all: a server's database is no part of the folder that can still be thrown away."""
    file = backup / sources.DATABASE_FILE[manifest.database]
    engine = open_engine(settings.sql_url)
    try:
        if manifest.database == sources.POSTGRESQL:
            restore_postgresql(engine, file, os.environ)
        else:
            target = sources.sqlite_file(settings)
            if target.exists():
                raise Conflict(f"{target} is there already: nothing is overwritten")
            shutil.copyfile(file, target)
            target.chmod(0o600)
        differ = differing(manifest.tables, facts_of_tables(engine))
        if differ:
            raise IntegrityViolation(f"restored tables are not as they were backed up: {', '.join(differ)}")
        send_again(engine, manifest.outbox_cut_us)
        redo_from_lake(engine, manifest.began_us)
    finally:
        engine.dispose()


def differing(expected: Mapping[str, TableFacts], found: Mapping[str, TableFacts]) -> list[str]:
    """Names of the tables that have other rows, or are on one side alone."""
    return sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))


def _bring_to_disk(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        if not path.is_symlink():
            fsync(path)


def backup_at(folder: Path, name: str | None) -> Path:
    """The backup of that name in `folder`, the newest if none is named. Raises NotFound."""
    backups = BackupFolder(folder.resolve())
    names = backups.names()
    if not names:
        raise NotFound(f"there is no backup in {folder}")
    return backups.folder_of(name or names[-1])
