"""The restore drill: a backup is made, restored beside the platform, and compared with what it is of. Clause 9.3.

What was counted while the copies were made, in the platform's own databases and tables, is counted again in what was
restored. The verdict is written as a file.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec
import polars as pl

from cluster import backup_sources as sources
from cluster.backup_making import DATA_KEYS, Wish, create, keep
from cluster.backup_restoring import CHANGED, Source, Told, differing, restore
from cluster.run_target import some_platform
from cluster.sealing import file_seal
from domain.errors import InvalidInput
from domain.ports import Clock
from runtime.backup_manifest import Manifest, digests, signer_of
from runtime.backup_streams import stream_digest
from runtime.data_keys import DataKeys
from runtime.key_provider import provider_of
from runtime.lake import Lake
from runtime.log_signing import LogSigner
from runtime.log_verifier import CouldNotCheck, DoesNotHold, verify_log
from runtime.log_verifier import Source as LogSource
from runtime.outgoing_links import plain_links
from runtime.settings import Settings
from runtime.sql.copying import facts_of_tables
from runtime.sql.engine import open_engine

_FREE_PORTS: Final = ("VITALGRID_API__PORT", "VITALGRID_DOORS__MQTT_PORT", "VITALGRID_DOORS__HTTP_PORT", "VITALGRID_BUS__PORT")
_MIB: Final = 2**20


class Check(msgspec.Struct, frozen=True):
    """`says`: what was compared and, if it differs, where."""

    what: str
    holds: bool
    says: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """`loss_s`: from the moment that the backup covers to its end: what is acknowledged then is in the next one.

    `started_s`: until a restored platform answered; None when none was started.
    """

    backup: str
    holds: bool
    checks: list[Check]
    backup_bytes: int
    backup_s: float
    loss_s: float
    restore_s: float
    started_s: float | None = None


async def drill(
    settings: Settings, wish: Wish, clock: Clock, told: Told = lambda _what, _bytes: None, *,
    start: bool = False, scratch_database: str | None = None,
) -> Verdict:  # fmt: skip
    """Make a backup, restore it, compare. The backup is kept, what was restored is not. Raises as `create` and `restore`.

    Older backups than are to be kept are deleted once the new one holds.
    """
    inside = _beside(settings, scratch_database, start=start)
    with _temporary(wish.to) as folder:
        keys_to = wish.keys_to or folder / "keys"
        began_s = time.monotonic()
        all_stay = Wish(wish.to, keys_to, keys_stay=wish.keys_to is not None)
        manifest = await create(settings, all_stay, clock, told)
        backed_s = time.monotonic()
        inside = inside.model_copy(update={"data_dir": folder / "restored"})
        source = Source(wish.to.resolve() / manifest.name, keys_to)
        known = signer_of(provider_of(settings), settings.region_id).public_keys()
        await restore(inside, source, known, told)
        restored_s = time.monotonic()
        checks = [await asyncio.to_thread(check, inside, manifest) for check in _CHECKS]
        checks += await _check_streams(inside, manifest)
        started_s = None
        if start:
            async with _started(inside):
                started_s = time.monotonic() - restored_s
    verdict = Verdict(
        backup=manifest.name, holds=all(check.holds for check in checks), checks=checks, backup_bytes=manifest.size_bytes,
        backup_s=backed_s - began_s, loss_s=(manifest.ended_us - manifest.outbox_cut_us) / 1e6,
        restore_s=restored_s - backed_s, started_s=started_s,
    )  # fmt: skip
    report_file(wish.to, verdict).write_bytes(msgspec.json.format(msgspec.json.encode(verdict)))
    keep_after(settings, wish, verdict)
    return verdict


def keep_after(settings: Settings, wish: Wish, verdict: Verdict) -> None:
    """Delete what is not to be kept, unless the drill failed: then an older backup may be the one that holds."""
    if verdict.holds and wish.keep:
        keep(settings, wish)


def report_file(to: Path, verdict: Verdict) -> Path:
    """Where the verdict is written."""
    return to / f"drill-{verdict.backup}.json"


def _beside(settings: Settings, scratch_database: str | None, *, start: bool) -> Settings:
    """Settings of what is restored. Raises InvalidInput for what would touch others."""
    if start and (settings.webhook.url or settings.audit.witnesses or settings.hosts.ray_address):
        raise InvalidInput("a started copy would call the webhook, the witnesses or the Ray cluster: drill without --start")
    if sources.kind_of(settings) == sources.POSTGRESQL:
        if scratch_database is None:
            raise InvalidInput("the business database is PostgreSQL: give an empty one with --scratch-database")
        if problems := plain_links(settings.security.profile, {}, {"--scratch-database": scratch_database}):
            raise InvalidInput("; ".join(problems))
        return settings.model_copy(update={"database_url": type(settings.database_url)(scratch_database)})  # type: ignore[misc]
    return settings.model_copy(update={"database_url": None})


@contextlib.contextmanager
def _temporary(to: Path) -> Iterator[Path]:
    to.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = Path(tempfile.mkdtemp(prefix=f".drill-{to.resolve().name}-", dir=to.resolve().parent))  # mode 0700
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.asynccontextmanager
async def _started(settings: Settings) -> AsyncIterator[None]:
    """The restored platform, ready, on ports of its own."""
    before = dict(os.environ)
    os.environ.update(dict.fromkeys(_FREE_PORTS, "0") | {"VITALGRID_DATA_DIR": str(settings.data_dir)})
    os.environ.pop("VITALGRID_TOKEN", None)
    try:
        async with some_platform(settings, None):
            yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _check_tables(settings: Settings, manifest: Manifest) -> Check:
    """Restoring compared every row, before what may be missing elsewhere was marked to be done again."""
    engine = open_engine(settings.sql_url)
    try:
        found = facts_of_tables(engine)
    finally:
        engine.dispose()
    differ = [name for name in differing(manifest.tables, found) if name not in CHANGED]
    rows = sum(facts.rows for facts in found.values())
    return _check("tables", differ, f"{len(found)} tables, {rows} rows")


def _check_files(settings: Settings, manifest: Manifest) -> Check:
    """Files of lake and log as they are where they were restored to."""
    places = {"lake": settings.lake_dir, "audit": settings.audit_dir, "snapshots": settings.data_dir / "snapshots"}
    differ, size = [], 0
    for facts in manifest.files:
        top, _, rest = facts.path.partition("/")
        if top in places:
            found = digests(places[top] / rest)
            size += found.bytes
            if (found.sha256, found.sm3) != (facts.sha256, facts.sm3):
                differ.append(facts.path)
    return _check("files", differ, f"{size / _MIB:.1f} MiB by SHA-256 and SM3")


def _check_lake(settings: Settings, manifest: Manifest) -> Check:
    """What the restored table says of each day, and what its files have when all are read."""
    expected = manifest.lake
    lake = Lake(settings.lake_dir, file_seal(settings))
    state = lake.state()
    said = sources.rows_by_day(state)
    differ = []
    if expected is None or (state.view.version, state.view.positions) != (expected.version, expected.positions):
        differ.append("version or positions")
    for day, files in state.files.group_by("day"):
        paths = [str(lake.path / path) for path in files["path"]]
        rows = int(lake.scan(paths).select(pl.len()).collect().item())
        if expected is None or expected.rows_by_day.get(str(day[0])) != rows or said[str(day[0])] != rows:
            differ.append(str(day[0]))
    missing = set(expected.rows_by_day) - set(said) if expected else set()
    return _check("lake", [*differ, *sorted(missing)], f"{sum(said.values())} rows of {len(said)} days")


def _check_log(settings: Settings, manifest: Manifest) -> Check:
    if manifest.log is None:
        return Check("access log", holds=True, says="there is none yet")
    vkeys = [key.vkey for key in LogSigner(provider_of(settings), settings.audit_origin).public_keys()]
    try:
        report = verify_log(LogSource(str(settings.audit_dir)), vkeys)
    except (DoesNotHold, CouldNotCheck, OSError) as error:
        return Check("access log", holds=False, says=str(error))
    is_same = (report.size, report.root.hex()) == (manifest.log.size, manifest.log.root)
    return _check("access log", [] if is_same else ["another root"], f"{report.size} entries, signed, the same root")


def _check_keys(settings: Settings, manifest: Manifest) -> Check:
    """Every data key opens with the restored keys, but for those that were destroyed."""
    data_keys = DataKeys(settings.keys_dir / DATA_KEYS, provider_of(settings))
    if not data_keys.exists():
        return _check("data keys", ["the store is missing"] if manifest.data_keys else [], "none were made yet")
    try:
        count, gone, opened = data_keys.count(), data_keys.count_destroyed(), data_keys.count_opened()
        destroyed = data_keys.destroyed()
    finally:
        data_keys.close()
    differ = [] if count >= manifest.data_keys and set(destroyed) >= set(manifest.destroyed) else ["other ones"]
    if shut := count - gone - opened:
        differ.append(f"{shut} do not open")
    return _check("data keys", differ, f"{opened} open, {gone} destroyed")


async def _check_streams(settings: Settings, manifest: Manifest) -> list[Check]:
    checks = []
    async with sources.server_on(settings) as bus:
        for stream, facts in manifest.streams.items():
            state = await bus.stream_state(stream)
            is_same = state.last_sequence == facts.last and await stream_digest(bus, stream, facts) == facts.digest
            says = f"messages {facts.first} to {facts.last}"
            checks.append(_check(f"stream {stream}", [] if is_same else ["other messages"], says))
    readings = manifest.streams["READINGS"]
    kept = [] if readings.last >= manifest.acknowledged else [f"{manifest.acknowledged} was acknowledged"]
    return [*checks, _check("acknowledged", kept, f"all of the readings' stream up to {manifest.acknowledged}")]


def _check(what: str, differ: list[str], says: str) -> Check:
    return Check(what, holds=not differ, says=f"{says}; differs: {', '.join(differ[:20])}" if differ else says)


_CHECKS: Final[tuple[Callable[[Settings, Manifest], Check], ...]] = (
    _check_files, _check_tables, _check_lake, _check_log, _check_keys,
)  # fmt: skip
