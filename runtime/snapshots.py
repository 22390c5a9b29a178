"""State snapshots of shards: tables in one checksummed file, fenced by epoch. Clause 9.3.

Layout: magic "VGSN" | manifest_bytes u32 | xxh3 of the manifest u64 | manifest (JSON) | the tables, one Arrow IPC stream
each (zstd). The manifest names shard, epoch, stream sequence and, for each table, its name, size and xxh3. A file is
written aside, fsynced and renamed into place, so a crash leaves the older ones as they were.
"""

from __future__ import annotations

import logging
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import pyarrow as pa
import xxhash

from domain.errors import IntegrityViolation
from runtime.keys import KeyGone, KeyMissing
from runtime.sealed_file import FileSeal, is_sealed

logger = logging.getLogger(__name__)

KEEP: Final = 3
_GIVEN: Final = "given"
_MAGIC: Final = b"VGSN"
_HEAD: Final = struct.Struct("<4sIQ")
_OPTIONS: Final = pa.ipc.IpcWriteOptions(compression="zstd")
_NAME: Final = re.compile(r"(\d{12})-(\d{20})\.snapshot\Z")


class _Part(msgspec.Struct, frozen=True):
    name: str
    bytes: int
    xxh3: int


class _Manifest(msgspec.Struct, frozen=True):
    shard: int
    epoch: int
    sequence: int
    tables: list[_Part]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """State of a shard after everything of its stream up to `sequence`, as its host of `epoch` saw it."""

    shard: int
    epoch: int
    sequence: int
    tables: dict[str, pa.Table]


class SnapshotStore:
    """Snapshots of all shards in one folder. Several processes may share it; a shard has one writer at a time."""

    def __init__(self, folder: Path, keep: int = KEEP, seal: FileSeal | None = None) -> None:
        """`seal`: opens sealed snapshots and, if it says so, seals new ones."""
        self._folder = folder
        self._keep = keep
        self._seal = seal
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, shard: int, epoch: int, sequence: int, tables: Mapping[str, pa.Table]) -> Path:
        """Keep the state of `shard`; on return it survives a power cut. Keeps the newest few, deletes older ones.

        Raises IntegrityViolation when a snapshot of a higher epoch is there: the shard was given to another host.
        """
        folder = self._folder / f"shard-{shard:04d}"
        folder.mkdir(exist_ok=True)
        held = _newest_first(folder)
        if held and _epoch_of(held[0]) > epoch:
            raise IntegrityViolation(
                f"shard {shard} has a snapshot of epoch {_epoch_of(held[0])}; one of epoch {epoch} is refused"
            )
        path = folder / f"{epoch:012d}-{sequence:020d}.snapshot"
        self._write(path, _encode(shard, epoch, sequence, tables))
        for old in (*_newest_first(folder)[self._keep :], *folder.glob("*.part")):  # .part: left by a crash
            old.unlink(missing_ok=True)
        return path

    def load(self, shard: int) -> Snapshot | None:
        """The newest intact snapshot; None if there is none. Damaged ones are skipped and named in a WARNING."""
        for path in _newest_first(self._folder / f"shard-{shard:04d}"):
            try:
                return _decode(shard, self._content(path))
            except (IntegrityViolation, KeyGone, OSError) as error:
                logger.warning(
                    "a damaged snapshot was skipped", extra={"shard": shard, "file": path.name, "reason": str(error)}
                )
        return None

    def give(self, number: int, shard: int, sequence: int, tables: Mapping[str, pa.Table]) -> None:
        """Keep the state of a hospital that `shard` gives away at `sequence`; on return it survives a power cut.

        What is given a second time, by a replay, is kept as it was at first.
        """
        folder = self._folder / _GIVEN
        folder.mkdir(exist_ok=True)
        path = folder / f"{sequence:020d}-{number}.given"
        if not path.exists():
            self._write(path, _encode(shard, 0, sequence, tables))

    def given(self, number: int) -> dict[str, pa.Table] | None:
        """What was given under `number`; None while nothing was. Raises IntegrityViolation when it is damaged."""
        for path in (self._folder / _GIVEN).glob(f"*-{number}.given"):
            data = self._content(path)
            return _decode(_manifest(data)[0].shard, data).tables
        return None

    def forget_given(self, before_sequence: int) -> None:
        """Delete what was given before the stream's beginning: no replay can come to it any more."""
        for path in (self._folder / _GIVEN).glob("*.given"):
            if int(path.name.partition("-")[0]) < before_sequence:
                path.unlink(missing_ok=True)

    def highest_sequence(self) -> int:
        """The furthest that any snapshot of any shard, damaged or not, has come in the stream; 0 without one."""
        names = (_NAME.match(path.name) for path in self._folder.glob("*/*.snapshot"))
        return max((int(name[2]) for name in names if name), default=0)

    def _write(self, path: Path, parts: list[bytes | memoryview]) -> None:
        if self._seal is not None and self._seal.writes:
            parts = [self._seal.seal(b"".join(parts), _identity(path))]
        _write_durably(path, parts)

    def _content(self, path: Path) -> bytes:
        if not is_sealed(path):
            return path.read_bytes()
        if self._seal is None:
            raise KeyMissing(f"{path} is sealed: the keys of this installation are needed to open it")
        return self._seal.read(path, _identity(path))


def _identity(path: Path) -> str:
    """Of a sealed snapshot: the shard's folder, and its name, which says epoch and sequence."""
    return f"snapshots/{path.parent.name}/{path.name}"


def _newest_first(folder: Path) -> list[Path]:
    """Names sort by epoch, then sequence."""
    return sorted((path for path in folder.glob("*.snapshot") if _NAME.match(path.name)), reverse=True)


def _epoch_of(path: Path) -> int:
    return int(path.name.partition("-")[0])


def _write_durably(path: Path, parts: list[bytes | memoryview]) -> None:
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with aside.open("wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError:  # half of a snapshot must not keep the disk full
        aside.unlink(missing_ok=True)
        raise
    for folder in (path.parent, path.parent.parent):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _encode(shard: int, epoch: int, sequence: int, tables: Mapping[str, pa.Table]) -> list[bytes | memoryview]:
    streams = {name: _to_ipc(table) for name, table in tables.items()}
    parts = [_Part(name, len(stream), xxhash.xxh3_64_intdigest(stream)) for name, stream in streams.items()]
    manifest = msgspec.json.encode(_Manifest(shard, epoch, sequence, parts))
    head = _HEAD.pack(_MAGIC, len(manifest), xxhash.xxh3_64_intdigest(manifest))
    return [head, manifest, *streams.values()]


def _decode(shard: int, data: bytes) -> Snapshot:
    manifest, start = _manifest(data)
    if manifest.shard != shard:
        raise IntegrityViolation(f"the snapshot is of shard {manifest.shard}, expected {shard}")
    whole = memoryview(data)
    tables: dict[str, pa.Table] = {}
    for part in manifest.tables:
        stream = whole[start : start + part.bytes]
        if len(stream) != part.bytes or xxhash.xxh3_64_intdigest(stream) != part.xxh3:
            raise IntegrityViolation(f"table {part.name!r} fails its checksum: {len(stream)} of {part.bytes} bytes are there")
        tables[part.name] = pa.ipc.open_stream(pa.py_buffer(stream)).read_all()
        start += part.bytes
    return Snapshot(manifest.shard, manifest.epoch, manifest.sequence, tables)


def _manifest(data: bytes) -> tuple[_Manifest, int]:
    if len(data) < _HEAD.size or data[:4] != _MAGIC:
        raise IntegrityViolation(f"{len(data)} bytes starting {data[:4]!r} are no snapshot: expected {_MAGIC!r}")
    _, manifest_bytes, checksum = _HEAD.unpack_from(data)
    manifest = data[_HEAD.size : _HEAD.size + manifest_bytes]
    if len(manifest) != manifest_bytes or xxhash.xxh3_64_intdigest(manifest) != checksum:
        raise IntegrityViolation(f"the snapshot's manifest fails its checksum: {len(manifest)} of {manifest_bytes} bytes")
    return msgspec.json.decode(manifest, type=_Manifest), _HEAD.size + manifest_bytes


def _to_ipc(table: pa.Table) -> memoryview:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=_OPTIONS) as writer:
        writer.write_table(table)
    return memoryview(sink.getvalue())
