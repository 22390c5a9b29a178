"""The telemetry lake: one Delta table of readings. Opening it, committing to it, its versions.

Each commit carries, as application transactions of the same Delta commit, the stream position (`shard-<n>`) and the
fencing epoch (`epoch-<n>`) of every shard it advances, so a reading is in the lake exactly once, whoever dies when.
Clauses 7.4a, 7.4b, 9.3. Why it is built like this: docs/decisions/0008-lake-files-are-ours-its-log-is-deltas.md.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import polars as pl
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Field, PostCommitHookProperties, Schema, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from domain.errors import NotFound, Unavailable
from runtime import lake_log, lake_pages, lake_summaries
from runtime.lake_answers import KeptAnswers
from runtime.lake_bounds import FileBounds
from runtime.lake_files import DataFile, discard, write_days
from runtime.lake_folder import LakeFolder
from runtime.lake_log_checksums import EntryChecksums
from runtime.lake_queries import CHANNEL, FLEET, merged, prune, scan
from runtime.lake_rollups import Rollups
from runtime.lake_schema import (
    HOUR_US,
    PRUNING_COLUMNS,
    ROWS,
    TABLE_SCHEMA,
    Advance,
    Fenced,
    LakeView,
    PositionMoved,
    ReadingCursor,
    ReadingQuery,
    lake_rows,
    tail_rows,
)
from runtime.lake_stored import to_stored
from runtime.sealed_file import FileSeal

__all__ = [
    "ROWS", "Advance", "Fenced", "Lake", "LakeState", "LakeView", "PositionMoved", "ReadingCursor", "ReadingQuery",
    "lake_rows", "tail_rows",
]  # fmt: skip

logger = logging.getLogger(__name__)

CHECKPOINT_EVERY: Final = 50  # versions; a handle is opened anew as often
LOG_RETENTION: Final = "interval 2 days"
FILE_RETENTION_H: Final = 48  # how long a version can still be read after its files were compacted away
COMMIT_ATTEMPTS: Final = 50
_CONFIGURATION: Final = {
    "delta.checkpointInterval": str(CHECKPOINT_EVERY),
    "delta.logRetentionDuration": LOG_RETENTION,
    "delta.deletedFileRetentionDuration": f"interval {FILE_RETENTION_H} hours",
    "delta.dataSkippingStatsColumns": ",".join(PRUNING_COLUMNS),
}
WRITER: Final = "vitalgrid.writer"  # in `commitInfo`
_NO_HOOKS: Final = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)
_OLD_VERSIONS_KEPT: Final = 8


@dataclass(frozen=True, slots=True)
class LakeState:
    """One version, read once: its view, the number of its last upkeep, and its files.

    `files`: path, size_bytes, rows, day, and `min.<column>`, `max.<column>` of PRUNING_COLUMNS.
    """

    view: LakeView
    upkeep: int
    files: pl.DataFrame


class Lake:
    """The `readings` table in a folder. Thread-safe; any number of processes may open the same folder.

    Writers of different shards never disturb each other. Reads name a version, or take the newest.
    """

    def __init__(self, path: Path, seal: FileSeal | None = None, *, writer: str = "") -> None:
        """Open the table in `path`, creating it if missing; sets aside what a power cut tore off the log's end.

        `seal`: opens sealed files and, if it says so, seals new ones. `writer`: who commits, as the log is to say it.
        """
        self.path = path
        self._writer = {WRITER: writer} if writer else {}
        self.folder = LakeFolder(path, seal)
        self.rollups = Rollups(self.folder)
        self._bounds = FileBounds(self.folder)
        self._answers = KeptAnswers()
        self._lock = threading.Lock()
        self._table = _open(path)
        self._log = lake_log.TransactionLog(path)
        self._checksums = EntryChecksums(path)
        self._opened_at = self._table.version()
        self._synced = self._table.version() - 2 * CHECKPOINT_EVERY  # entries up to here are known to be on disk
        self._state: LakeState | None = None
        self._old: dict[int, LakeState] = {}

    # -- versions

    def positions(self) -> LakeView:
        """The newest version and how far it holds each shard."""
        return self.state().view

    def state(self, version: int | None = None) -> LakeState:
        """The newest state, or that of `version`. Raises NotFound for a version that is not there or no longer readable."""
        with self._lock:
            if version is None:
                return self._newest()
            if self._state is not None and self._state.view.version == version:
                return self._state
            if version not in self._old:
                self._keep(self._load_old(version))
            return self._old[version]

    def _keep(self, state: LakeState) -> None:
        """Keep a state that is not the newest: questions under way are at it, and reading it again takes far longer."""
        while len(self._old) >= _OLD_VERSIONS_KEPT:
            del self._old[min(self._old)]
        self._old[state.view.version] = state

    def _newest(self) -> LakeState:
        self._table.update_incremental()
        if self._table.version() - self._opened_at >= CHECKPOINT_EVERY:  # each update costs it a little more from then on
            self._table = DeltaTable(self.path)
            self._opened_at = self._table.version()
        if self._state is None or self._state.view.version != self._table.version():
            if self._state is not None:
                self._keep(self._state)
            self._state = self._read(self._table, self._log)
        return self._state

    def _load_old(self, version: int) -> LakeState:
        try:
            return self._read(DeltaTable(self.path, version=version), lake_log.TransactionLog(self.path))
        except (DeltaError, OverflowError, FileNotFoundError) as error:
            raise NotFound(f"version {version} of the lake is not kept any more, or not written yet") from error

    def _read(self, table: DeltaTable, log: lake_log.TransactionLog) -> LakeState:
        state = _read_state(table, log)
        return replace(state, files=self._bounds.filled_in(state.files))

    # -- questions

    def newest_files(self, most_bytes: int) -> list[str]:
        """The paths of the newest files, up to so many bytes."""
        newest = self.state().files.sort("day", "path", descending=True)
        return [str(self.path / path) for path in newest.filter(pl.col("size_bytes").cum_sum() <= most_bytes)["path"]]

    def scan(self, paths: Iterable[str]) -> pl.LazyFrame:
        """All rows of these files of a state (`path`), stored as they are: for those who check or measure the lake.

        Raises IntegrityViolation for a file that is not as it was written.
        """
        return scan(self.folder, list(paths))

    def read(self, query: ReadingQuery, version: int | None = None) -> pl.DataFrame:
        """Readings (columns of `ROWS`) in ANSWER_ORDER; `raw_value` is null where no other unit was sent.

        Repeats that ingest could only mark are given once. Raises NotFound for a version that is not kept any more.
        """
        files = prune(self.state(version).files, query)
        return self._answers.get(_key(files, query), lambda: lake_pages.read(self.folder, files, self.rollups, query))

    def buckets(self, query: ReadingQuery, bucket_us: int, version: int | None = None) -> pl.DataFrame:
        """Usable readings of each channel in buckets of `bucket_us`, aligned to 1970.

        Columns handle, metric, instance, bucket_us (start), count, min, max, mean, last, last_time_us; in this order.
        """
        return merged([self.summary(query, CHANNEL, bucket_us, version=version)], CHANNEL)

    def fleet(self, query: ReadingQuery, bucket_us: int = HOUR_US, version: int | None = None) -> pl.DataFrame:
        """Usable real readings by hospital, metric and hour; columns as of `buckets`. Test and demo data do not count."""
        return merged([self.summary(query, FLEET, bucket_us, real_only=True, version=version)], FLEET)

    def summary(
        self, query: ReadingQuery, keys: Sequence[str], bucket_us: int, *, real_only: bool = False, version: int | None = None
    ) -> pl.DataFrame:
        """The part of a summary that the lake holds (as of `lake_queries.summarise`), to be merged with the tail's."""
        files = prune(self.state(version).files, query.without_page())
        return self._answers.get(
            _key(files, query.without_page(), *keys, bucket_us, real_only),
            lambda: lake_summaries.summary(self.folder, files, self.rollups, query, keys, bucket_us, real_only=real_only),
        )

    # -- commits

    def commit(self, rows: pa.Table, advances: Mapping[int, Advance]) -> int:
        """Add `rows` and advance the shards they came from, all or nothing; returns a version that holds them.

        `rows` has the columns of `ROWS`; `advances` names every shard that rows came from. Durable on return.
        Raises Fenced when a shard has a higher epoch in the lake, PositionMoved when the lake is not at
        `from_sequence` (its `position` tells where it is), and Unavailable when other writers were faster
        COMMIT_ATTEMPTS times; then nothing of the commit is in the lake. After any other error (a full disk) ask
        `positions` before going on.
        """
        files = write_days(self.folder, to_stored(rows))
        try:
            return self._compare_and_set([file.add_action(data_change=True) for file in files], dict(advances))
        except (Fenced, PositionMoved, Unavailable):
            if files and self._holds(files[0]):  # reported as failed, yet written: the position that moved was ours
                return self.positions().version
            discard(self.folder, files)
            raise

    def claim(self, shard: int, epoch: int) -> int:
        """Fence the shard for `epoch`: from now on no lower epoch can commit it. Returns its position.

        Idempotent for the same epoch. Raises Fenced when a higher epoch holds it.
        """
        for _ in range(COMMIT_ATTEMPTS):
            view = self.positions()
            position = view.positions.get(shard, 0)
            if view.epochs.get(shard) == epoch:
                return position
            try:
                self._compare_and_set([], {shard: Advance(position, position, epoch)})
            except PositionMoved:
                continue  # its former host committed in between
            return position
        raise Unavailable(f"shard {shard} moved on {COMMIT_ATTEMPTS} times while it was claimed under epoch {epoch}")

    def commit_upkeep(self, state: LakeState, actions: Sequence[AddAction | RemoveAction]) -> bool:
        """Commit upkeep prepared on `state`: the same rows in other files, or whole days gone.

        False when other upkeep was committed since: Delta's log takes removes blindly, so two upkeeps from one state
        could double or lose rows. Appends in between do no harm. For `lake_upkeep` only.
        """
        with self._lock:
            before = self._newest()
            if before.upkeep != state.upkeep or not self._try_commit(actions, [Transaction("upkeep", state.upkeep + 1)]):
                return False
            version = self._after_commit()
        self._checkpoint_if_due(before.view.version, version)
        return True

    def checkpoint(self) -> None:
        """Write the newest version as a checkpoint and delete log entries that are past LOG_RETENTION."""
        table = DeltaTable(self.path)
        table.create_checkpoint()
        lake_log.sync_checkpoint(self.path, table.version())
        table.cleanup_metadata()

    def _compare_and_set(self, actions: Sequence[AddAction | RemoveAction], advances: dict[int, Advance]) -> int:
        transactions = [
            Transaction(f"{kind}-{shard}", number)
            for shard, advance in sorted(advances.items())
            for kind, number in (("shard", advance.to_sequence), ("epoch", advance.epoch))
        ]
        for _ in range(COMMIT_ATTEMPTS):
            with self._lock:
                view = self._newest().view
                _check(view, advances)
                if not self._try_commit(actions, transactions):
                    continue
                version = self._after_commit()
            self._checkpoint_if_due(view.version, version)
            return version
        raise Unavailable(f"other writers committed to the lake first, {COMMIT_ATTEMPTS} times")

    def _try_commit(self, actions: Sequence[AddAction | RemoveAction], transactions: list[Transaction]) -> bool:
        """Commit on the very snapshot that was checked; False when somebody wrote one of the transactions since."""
        try:
            self._table.create_write_transaction(
                list(actions),
                mode="append",
                schema=self._table.schema(),
                partition_by=["day"],
                commit_properties=CommitProperties(
                    app_transactions=transactions,
                    custom_metadata=self._writer | self._checksums.of_last(self._table.version()),
                ),
                post_commithook_properties=_NO_HOOKS,
            )
        except CommitFailedError:
            return False
        return True

    def _after_commit(self) -> int:
        """Bring the log to disk, others' entries too, and return the newest version: it holds what was just committed."""
        newest = self._newest().view.version
        lake_log.sync_entries(self.path, self._synced, newest)
        self._synced = newest
        return newest

    def _checkpoint_if_due(self, before: int, after: int) -> None:
        if before // CHECKPOINT_EVERY == after // CHECKPOINT_EVERY:
            return
        try:
            self.checkpoint()
        except (DeltaError, OSError):  # the commit stands without it; the next one tries again
            logger.warning("the lake's checkpoint could not be written", extra={"version": after}, exc_info=True)

    def _holds(self, file: DataFile) -> bool:
        return file.path in self.state().files["path"]


def _open(path: Path) -> DeltaTable:
    path.mkdir(parents=True, exist_ok=True)
    with lake_log.repair_lock(path):  # one process repairs or creates, the others wait for it
        lake_log.set_aside_torn_end(path)
        try:
            return _with_all_columns(DeltaTable(path), path)
        except TableNotFoundError:
            table = DeltaTable.create(path, TABLE_SCHEMA, partition_by=["day"], configuration=_CONFIGURATION, name="readings")
            lake_log.sync_entries(path, -1, table.version())
            return table


def _with_all_columns(table: DeltaTable, path: Path) -> DeltaTable:
    """Add the columns that an older version's table lacks. Its files stay as they are: what they lack reads as null."""
    for _ in range(COMMIT_ATTEMPTS):
        there = {field.name for field in table.schema().fields}
        missing: list[Field] = [field for field in Schema.from_arrow(TABLE_SCHEMA).fields if field.name not in there]
        if not missing:
            return table
        before = table.version()
        try:
            table.alter.add_columns(missing, post_commithook_properties=_NO_HOOKS)
        except CommitFailedError:  # somebody was just writing
            table = DeltaTable(path)
            continue
        lake_log.sync_entries(path, before, table.version())
        logger.info("columns were added to the lake", extra={"columns": [field.name for field in missing]})
    raise Unavailable(f"the lake's columns could not be added: other writers committed first, {COMMIT_ATTEMPTS} times")


def _key(files: pl.DataFrame, *question: object) -> Hashable:
    """What the files say to a question is the same as long as these are the ones that can have its rows."""
    return (*map(repr, question), tuple(files["path"]))


def _read_state(table: DeltaTable, log: lake_log.TransactionLog) -> LakeState:
    transactions = log.as_of(table.version())
    numbers: dict[str, dict[int, int]] = {"shard": {}, "epoch": {}}
    for name, number in transactions.items():
        kind, _, shard = name.partition("-")
        if kind in numbers:
            numbers[kind][int(shard)] = number
    files = pl.DataFrame(table.get_add_actions(flatten=True)).rename({"num_records": "rows", "partition.day": "day"})
    view = LakeView(table.version(), numbers["shard"], numbers["epoch"])
    return LakeState(view, transactions.get("upkeep", 0), files)


def _check(view: LakeView, advances: dict[int, Advance]) -> None:
    for shard, advance in advances.items():
        newer = view.epochs.get(shard, 0)
        if newer > advance.epoch:
            raise Fenced(shard, advance.epoch, newer)
        position = view.positions.get(shard, 0)
        if position != advance.from_sequence:
            raise PositionMoved(shard, advance.from_sequence, position)
