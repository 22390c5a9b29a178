"""Upkeep of the lake beside its writers: merging small files, retention, deleting what no version needs.

Each function may be called at any time by any process and again; a second call right behind finds nothing to do.
Upkeep is prepared on one state and committed compare-and-set against other upkeep (`Lake.commit_upkeep`); appends
never conflict with it. Clauses 7.4b, 9.3h.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from typing import Final

import polars as pl
from deltalake import DeltaTable
from deltalake.transaction import RemoveAction

from domain.errors import IntegrityViolation
from domain.messages import StorageLevel
from domain.ports import Clock
from runtime.clock import SystemClock
from runtime.lake import FILE_RETENTION_H, Lake, LakeState
from runtime.lake_files import DataFile, discard, scan_files, seal_file, write_file
from runtime.lake_folder import LakeFolder
from runtime.lake_rollups import RollupMaker, roll_up_file, sweep
from runtime.lake_schema import FILE_ORDER
from runtime.setting_sections import LakeSettings
from runtime.storage import Place, look_at
from runtime.tasks import again_and_again

logger = logging.getLogger(__name__)

TARGET_ROWS: Final = 16_000_000  # a file this large is left alone
CHUNK_ROWS: Final = 1_000_000  # merged and sorted in memory at once
_VACUUM_EVERY_US: Final = 3_600_000_000
WORTH_ROLLING_UP: Final = 1_000_000  # rows of a file that was not merged since there are rollups
ROLLED_UP_AT_ONCE: Final = 8  # files, so that merging does not wait for long
SEALED_AT_ONCE: Final = 8
MIN_FILES: Final = 8  # before a day that still grows is merged
_WORTH: Final = 4  # a file is merged with smaller ones that hold at least a quarter of its rows


@dataclass(frozen=True, slots=True)
class LakeStats:
    """What the newest version holds."""

    version: int
    rows: int
    files: int
    size_bytes: int
    first_day: date | None
    last_day: date | None


def stats(lake: Lake) -> LakeStats:
    """Size of the lake, from its log alone."""
    state = lake.state()
    files = state.files
    first, last = files.select(pl.col("day").min().alias("first"), pl.col("day").max().alias("last")).row(0)
    return LakeStats(state.view.version, int(files["rows"].sum()), len(files), int(files["size_bytes"].sum()), first, last)


def compact(lake: Lake, now_us: int, *, target_rows: int = TARGET_ROWS, min_files: int = MIN_FILES) -> int:
    """Merge small files of a day into sorted bigger ones; returns how many files were merged away.

    A day that still grows waits for `min_files` of them; in any day a file is merged only with smaller ones that
    amount to something beside it, so each row is rewritten a few times only. Memory is bounded by CHUNK_ROWS, not by
    the size of a file.
    """
    today = day_of(now_us)
    merged_away = 0
    for day in lake.state().files["day"].unique().sort().to_list():
        merged_away += _compact_day(lake, day, target_rows, min_files if day >= today else 2)
    if merged_away:
        logger.info("small files of the lake were merged", extra={"files": merged_away})
    return merged_away


def expire(lake: Lake, retention_days: int, now_us: int) -> int:
    """Take out whole days that lie more than `retention_days` back; returns how many rows left.

    The files are deleted by a later `vacuum`, once no kept version needs them.
    """
    oldest_kept = day_of(now_us) - timedelta(days=retention_days)
    state = lake.state()
    gone = state.files.filter(pl.col("day") < oldest_kept)
    if gone.is_empty() or not lake.commit_upkeep(state, removes(gone, data_change=True)):
        return 0
    rows = int(gone["rows"].sum())
    logger.info("days past their retention left the lake", extra={"rows": rows, "before_day": oldest_kept.isoformat()})
    return rows


def vacuum(lake: Lake, retention_h: int = FILE_RETENTION_H) -> int:
    """Delete files that no version of the last `retention_h` hours needs, those of crashed commits too; returns how many.

    Less than FILE_RETENTION_H endangers readers and writers that are at work.
    """
    deleted = DeltaTable(lake.path).vacuum(
        retention_hours=retention_h,
        dry_run=False,
        enforce_retention_duration=retention_h >= FILE_RETENTION_H,
        full=True,
    )
    lake.checkpoint()
    sweep(lake.folder)
    return len(deleted)


def roll_up(lake: Lake, *, least_rows: int = WORTH_ROLLING_UP, most: int = ROLLED_UP_AT_ONCE) -> int:
    """Make the rollups that files of `least_rows` lack, of `most` files, the newest days first; returns of how many.

    Merging makes those of its own files; lacking are those of an older version, and one whose rollup was damaged.
    """
    files = lake.state().files.filter(pl.col("rows") >= least_rows).sort("day", "path", descending=True)
    lacking = files.filter(~pl.Series(lake.rollups.are_made(files), dtype=pl.Boolean))["path"].head(most).to_list()
    for path in lacking:
        roll_up_file(lake.folder, path)
    return len(lacking)


def seal(lake: Lake, *, most: int = SEALED_AT_ONCE) -> int:
    """Put copies under the newest key in the place of files in clear or under an older one; returns of how many.

    At most of `most`, the newest days first. Merging seals what it writes; others are from before sealing was switched on, or
    from before the key was rotated. They are deleted by a later `vacuum`, once no kept version needs them. Of a lake that does
    not seal it is none.
    """
    if not lake.folder.is_sealing:
        return 0
    state = lake.state()
    as_new = lake.folder.are_as_new([str(lake.path / path) for path in state.files["path"]])
    files = state.files.filter(~pl.Series(as_new, dtype=pl.Boolean)).sort("day", "path", descending=True)
    copies = dict(islice(_sealed_copies(lake, files), most))
    if not copies:
        return 0
    adds = [copy.add_action(data_change=False) for copy in copies.values()]
    before = files.filter(pl.col("path").is_in(list(copies)))
    if lake.commit_upkeep(state, [*adds, *removes(before, data_change=False)]):
        return len(copies)
    discard(lake.folder, copies.values())
    return 0


def _sealed_copies(lake: Lake, files: pl.DataFrame) -> Iterator[tuple[str, DataFile]]:
    """Each file's path with its copy; one that is damaged is passed over, so that the rest does not wait for it."""
    for path, day, rows in files.select("path", "day", "rows").iter_rows():
        try:
            yield path, seal_file(lake.folder, path, day.isoformat(), rows)
        except IntegrityViolation as error:
            logger.error("a file of the lake is not sealed anew: %s", error)


class LakeUpkeep:
    """The background task: merging and retention every `compaction_interval_s`, deletion once an hour.

    One for a region is enough; more do no harm.
    """

    def __init__(
        self, lake: Lake, settings: LakeSettings, clock: Clock, reserve_bytes: int = 0,
        expire_lake: Callable[[Lake, int, int], int] = expire,
    ) -> None:  # fmt: skip
        """`expire_lake`: `expire`, or what knows of legal holds; whoever does not know whether any stand raises."""
        self._expire = expire_lake
        self._lake = lake
        self._settings = settings
        self._clock = clock
        self._reserve_bytes = reserve_bytes  # merging takes room before it gives any back: commits need it more
        self._vacuum_due_us = 0

    async def run(self) -> None:
        """Until cancelled. What fails is logged and tried again the next time."""
        every_s = self._settings.compaction_interval_s
        await asyncio.sleep(every_s)
        await again_and_again(self.once, every_s, "upkeep of the lake failed; its readers and writers go on without it")

    def once(self) -> None:
        """One round, in the calling thread."""
        now_us = self._clock.now_us()
        if look_at(Place("lake", self._lake.path), self._reserve_bytes, write=False).level is StorageLevel.OK:
            compact(self._lake, now_us)
            seal(self._lake)
            roll_up(self._lake)
        if now_us >= self._vacuum_due_us:
            vacuum(self._lake)
            self._vacuum_due_us = now_us + _VACUUM_EVERY_US
        self._expire(self._lake, self._settings.retention_days, now_us)


def _compact_day(lake: Lake, day: date, target_rows: int, min_files: int) -> int:
    """Merge groups of files until none is worth it; each is a commit of its own."""
    merged_away = 0
    while True:
        state = lake.state()
        group = _group_to_merge(state.files.filter(pl.col("day") == day), target_rows, min_files)
        if group is None or not _merge(lake, state, group):
            return merged_away
        merged_away += len(group)


def _group_to_merge(files: pl.DataFrame, target_rows: int, min_files: int) -> pl.DataFrame | None:
    """The smallest files, as many as are worth it: none is rewritten for the sake of much less than itself."""
    total = pl.col("rows").cum_sum()
    files = files.filter(pl.col("rows") < target_rows).sort("rows", "path")
    worth = files.select((pl.col("rows") <= _WORTH * (total - pl.col("rows"))) & (total <= target_rows)).to_series()
    last = worth.arg_true().max()
    group = files.head(int(last) + 1) if isinstance(last, int) else files.clear()
    return group if len(group) >= min_files else None


def _merge(lake: Lake, state: LakeState, group: pl.DataFrame) -> bool:
    paths = [str(lake.path / path) for path in group["path"]]
    rollups = RollupMaker()
    new = write_file(lake.folder, group["day"][0].isoformat(), rollups.watch(sorted_chunks(lake.folder, paths)), is_merged=True)
    if new.rows != group["rows"].sum():
        discard(lake.folder, [new])
        raise IntegrityViolation(f"merging {len(group)} files of {group['rows'].sum()} rows gave {new.rows}")
    rollups.write(lake.folder, new.path)  # before anybody hears of the file
    if lake.commit_upkeep(state, [new.add_action(data_change=False), *removes(group, data_change=False)]):
        return True
    discard(lake.folder, [new])
    return False


def sorted_chunks(folder: LakeFolder, paths: list[str], keep: pl.Expr | None = None) -> Iterator[pl.DataFrame]:
    """Rows of sorted files in FILE_ORDER, in pieces that fit in memory: one range of devices after the other.

    All of them, or those to `keep`.
    """
    scan = scan_files(folder, paths)
    if keep is not None:
        scan = scan.filter(keep)
    key = ("hospital", "handle")
    devices = scan.group_by(key).agg(rows=pl.len()).collect(engine="streaming").sort(key)
    for piece in devices.with_columns(piece=pl.col("rows").cum_sum() // CHUNK_ROWS).partition_by("piece", maintain_order=True):
        (first, least), (last, greatest) = piece.select(key).row(0), piece.select(key).row(-1)
        wanted = scan.filter(
            pl.col("hospital").is_between(pl.lit(first), pl.lit(last)),
            (pl.col("hospital") > first) | (pl.col("handle") >= least),
            (pl.col("hospital") < last) | (pl.col("handle") <= greatest),
        )
        yield wanted.sort(FILE_ORDER).collect(engine="streaming")


def removes(files: pl.DataFrame, *, data_change: bool) -> list[RemoveAction]:
    """What takes files out of the newest version."""
    now_ms = SystemClock().now_us() // 1000  # when a file may be deleted is the machine's business, not event time's
    rows = files.select("path", "size_bytes", "day").iter_rows()
    return [RemoveAction(path, data_change, now_ms, size, {"day": day.isoformat()}) for path, size, day in rows]


def day_of(time_us: int) -> date:
    """Its day of the lake."""
    return datetime.fromtimestamp(time_us // 1_000_000, UTC).date()
