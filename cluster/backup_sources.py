"""What a backup copies: the parts of a platform, running or not, each as of a moment that fits the others. Clause 9.3.

The order makes it one whole. Snapshots before the lake, the lake before the end of the readings' stream is read, so
nothing is ahead of the stream. That end before the business database, so the database knows every handle that occurs.
The database and the journal of accesses before the records' stream, and that before the access log: what one no longer
has, the next one has.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import polars as pl
from sqlalchemy import Engine, make_url

from cluster.connection import Connection
from cluster.sealing import StreamSeal, file_seal
from domain import subjects
from domain.bus_rights import BACKUP
from domain.errors import Conflict, IntegrityViolation, NotFound, Unavailable
from domain.merkle import root_of
from domain.tiles import ENTRIES, WIDTH, tile_of
from runtime.backup_folder import Copier
from runtime.backup_manifest import LakeFacts, LogFacts, Manifest
from runtime.bus import Bus
from runtime.bus_access import TokenAccess
from runtime.lake import Lake, LakeState
from runtime.log_events import FILE as EVENTS
from runtime.log_store import CHECKPOINT, LogReader
from runtime.nats_server import NatsServer
from runtime.settings import Settings
from runtime.sql.copying import Copied, copy_business, copy_sqlite, dump_postgresql

_T = TypeVar("_T")

SQLITE: Final = "sqlite"
POSTGRESQL: Final = "postgresql"
DATABASE_FILE: Final = {SQLITE: "database/vitalgrid.db", POSTGRESQL: "database/vitalgrid.dump"}
JOURNAL: Final = "accesses/api.db"
_TRIES: Final = 5
_SNAPSHOT: Final = re.compile(r"\d{12}-(\d{20})\.snapshot")
_LOG_FILE: Final = re.compile(r"(\d{20})\.(json|checkpoint\.parquet)")


@contextlib.asynccontextmanager
async def streams_of(settings: Settings) -> AsyncIterator[Bus]:
    """A connection to the streams: the running platform's or, when none runs, of a server of our own on its files.

    While it is ours no platform starts. Raises Unavailable, Conflict.
    """
    try:
        connection = Connection.load(settings.data_dir)
    except Unavailable:
        with _alone(settings.data_dir):
            async with server_on(settings) as bus:
                yield bus
        return
    bus = await Bus.connect(connection.nats_url, connection.bus_key(BACKUP), BACKUP)
    try:
        yield bus
    finally:
        await bus.close()


@contextlib.contextmanager
def _alone(data_dir: Path) -> Iterator[None]:
    if not data_dir.is_dir():
        raise NotFound(f"there is no platform in {data_dir}")
    with (data_dir / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Conflict(f"the platform in {data_dir} is starting or stopping just now: try again") from None
        yield


@contextlib.asynccontextmanager
async def server_on(settings: Settings) -> AsyncIterator[Bus]:
    """A nats-server of our own on the streams' files of a platform that does not run. Raises Unavailable, KeyMissing."""
    token = secrets.token_urlsafe(32)
    server = NatsServer(
        settings.data_dir.resolve() / "nats", access=TokenAccess(token),
        max_file_store_bytes=2 * settings.bus.max_stream_bytes + 2**30,
    )  # fmt: skip
    seal = StreamSeal(settings)
    if (key := await asyncio.to_thread(seal.prepare)) is not None:
        server.seal_store(key, {})
    await server.start()
    try:
        await asyncio.to_thread(seal.remember)
        bus = await Bus.connect(server.url, token, BACKUP)
        try:
            yield bus
        finally:
            await bus.close()
    finally:
        await server.stop()


def kind_of(settings: Settings) -> str:
    """SQLITE or POSTGRESQL."""
    return POSTGRESQL if make_url(settings.sql_url).get_backend_name() == POSTGRESQL else SQLITE


def sqlite_file(settings: Settings) -> Path:
    """Where the business database lies, if it is a file."""
    return Path(str(make_url(settings.sql_url).database))


def expected_bytes(settings: Settings, earlier: Manifest | None = None) -> int:
    """What a backup behind an `earlier` one takes, by and large: of streams a small part is copied, and not counted."""
    folders = (settings.lake_dir, settings.data_dir / "snapshots", settings.audit_dir)
    files = [path for folder in folders if folder.is_dir() for path in folder.rglob("*")]
    there = {f"{settings.lake_dir}/{file.path.removeprefix('lake/')}" for file in earlier.files} if earlier else set()
    files = [path for path in files if str(path) not in there]
    if kind_of(settings) == SQLITE:
        files += [sqlite_file(settings), sqlite_file(settings).with_name(f"{sqlite_file(settings).name}-wal")]
    total = 0
    for path in files:
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total


def copy_snapshots(settings: Settings, copier: Copier) -> dict[int, int]:
    """The newest snapshot of each shard, and what hospitals were handed over with; shard -> how far it is in the stream."""
    folder = settings.data_dir / "snapshots"
    found: dict[int, int] = {}
    for shard in sorted(folder.glob("shard-*")):
        newest = _until_stable(partial(_copy_newest, shard, copier))
        if newest is not None:
            found[int(shard.name.partition("-")[2])] = newest
    for given in sorted(folder.glob("given/*.given")):
        with contextlib.suppress(FileNotFoundError):  # forgotten just now: nobody comes to it any more
            copier.copy(given, f"snapshots/given/{given.name}", never_changes=True)
    return found


def _copy_newest(shard: Path, copier: Copier) -> int | None:
    named = [(path.name, match) for path in shard.glob("*.snapshot") if (match := _SNAPSHOT.fullmatch(path.name))]
    if not named:
        return None
    name, match = max(named, key=lambda pair: pair[0])
    copier.copy(shard / name, f"snapshots/{shard.name}/{name}")
    return int(match[1])


def copy_lake(settings: Settings, copier: Copier) -> LakeFacts:
    """One version of the lake: its log up to there, and its files. Rollups are made anew where they are missing."""
    lake = Lake(settings.lake_dir.resolve(), file_seal(settings))
    return _until_stable(lambda: _copy_version(lake, copier))


def _copy_version(lake: Lake, copier: Copier) -> LakeFacts:
    state = lake.state()
    version, log = state.view.version, lake.path / "_delta_log"
    for path in sorted(log.iterdir(), reverse=True):  # the newest first: what a checkpoint replaced may go meanwhile
        match = _LOG_FILE.fullmatch(path.name)
        if match and int(match[1]) <= version:
            with contextlib.suppress(FileNotFoundError):
                copier.copy(path, f"lake/_delta_log/{path.name}", never_changes=True)
    for name in state.files["path"]:
        copier.copy(lake.path / name, f"lake/{name}", never_changes=True)
    return LakeFacts(version, dict(state.view.positions), rows_by_day(state))


def rows_by_day(state: LakeState) -> dict[str, int]:
    """How many rows the lake says each day has."""
    days = state.files.group_by("day").agg(pl.col("rows").sum()).sort("day")
    return {str(day): int(rows) for day, rows in days.iter_rows()}


def copy_database(settings: Settings, engine: Engine, copier: Copier) -> Copied:
    """The business database, and what was in it."""
    kind = kind_of(settings)
    target = copier.folder / DATABASE_FILE[kind]
    copied = copy_business(sqlite_file(settings), target) if kind == SQLITE else dump_postgresql(engine, target, os.environ)
    copier.take(DATABASE_FILE[kind])
    return copied


def copy_journal(settings: Settings, copier: Copier) -> None:
    """Accesses that are noted and may not be in the records' stream yet."""
    if (settings.data_dir / JOURNAL).exists():
        copy_sqlite(settings.data_dir / JOURNAL, copier.folder / JOURNAL, counted=False)
        copier.take(JOURNAL)


def copy_log(settings: Settings, copier: Copier) -> LogFacts | None:
    """The access log: checkpoint, what it stands for, and the events, which are never behind it. None while there is none."""
    if not (settings.audit_dir / CHECKPOINT).exists():
        return None
    copier.copy(settings.audit_dir / CHECKPOINT, f"audit/{CHECKPOINT}")
    facts = _until_stable(lambda: _copy_tree(settings.audit_dir, copier))
    copy_sqlite(settings.audit_dir / EVENTS, copier.folder / "audit" / EVENTS, counted=False)
    copier.take(f"audit/{EVENTS}")
    return facts


def _copy_tree(folder: Path, copier: Copier) -> LogFacts:
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or path.name.startswith(".") or name.startswith(EVENTS) or name in (CHECKPOINT, "lock"):
            continue
        with contextlib.suppress(FileNotFoundError):  # a partial tile that has become full
            copier.copy(path, f"audit/{name}", never_changes=name.startswith("tile/"))
    copied = LogReader(copier.folder / "audit")
    checkpoint = copied.checkpoint()
    assert checkpoint is not None
    try:
        if checkpoint.size:
            copied.read(tile_of(ENTRIES, (checkpoint.size - 1) // WIDTH, checkpoint.size))
        whole = root_of(checkpoint.size, copied.tree(checkpoint.size).node) == checkpoint.root
    except NotFound as error:
        raise FileNotFoundError from error
    if not whole:
        raise IntegrityViolation("the access log is damaged: its entries have another root than signed")
    return LogFacts(checkpoint.size, checkpoint.root.hex())


def _until_stable(copy: Callable[[], _T]) -> _T:
    """What `copy` gives; again while files go that it was about to copy. Raises Unavailable."""
    for _ in range(_TRIES):
        with contextlib.suppress(FileNotFoundError):
            return copy()
    raise Unavailable("files went faster than they could be copied: try the backup again")


async def readings_from(bus: Bus, shards: int, snapshots: dict[int, int], lake: LakeFacts, end: int) -> int:
    """The first message of the readings' stream that somebody needs again after a restore, if it ends at `end`.

    A shard to which nothing came since its snapshot and the lake's last commit needs none.
    """
    needed = end + 1
    for shard in range(shards):
        position = min(snapshots.get(shard, 0), lake.positions.get(shard, 0))
        for subject in (subjects.reading(shard), subjects.control(shard)):
            if await bus.last_sequence(subjects.READINGS_STREAM, subject) > position:
                needed = min(needed, position + 1)
    return needed
