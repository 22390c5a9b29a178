"""Rollups: what each merged file holds of every channel and hour, in a small file beside it.

A rollup is a function of one immutable file and of nothing else. A question adds up the rollups of the files of its
version, and the rows themselves of files that have none yet and of the hot tail: late readings come in files of their
own, so no rollup ever has to change, and none can be wrong. A rollup that is missing costs time only; one that is damaged
is passed over, and upkeep makes it anew. Clauses 7.1b, 7.4b. Why: docs/decisions/0013-rollups-belong-to-files.md.

CHANNELS have a row for each (hospital, handle, metric, instance, hour, is_real, is_marked); FLEETS for each (hospital,
metric, hour), of real readings without the mark of a possible repeat. `rows` counts all readings, the other figures the
usable ones. A large file of sparse readings has no CHANNELS. MARKED are the readings with that mark themselves: which of
them count is only known of all files together.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

import polars as pl
import pyarrow.parquet as pq

from domain.errors import IntegrityViolation
from domain.quality import Mode
from runtime.durable import fsync
from runtime.lake_checksums import check_files, name_with_checksum
from runtime.lake_files import STORED
from runtime.lake_folder import LakeFolder, file_key
from runtime.lake_schema import HOUR_US, is_marked, is_usable

logger = logging.getLogger(__name__)

CHANNELS: Final = "channels-1"  # a folder each; the number says by which rules they were made
FLEETS: Final = "fleets-1"
MARKED: Final = "marked-1"
SPARSE: Final = "sparse-1"  # in place of CHANNELS: this file has so few readings an hour that its rows are read as fast
LEVELS: Final = (CHANNELS, FLEETS, MARKED)
_ROOT: Final = "_rollups"  # Delta's vacuum leaves folders alone that begin with an underscore
_KEYS: Final = ("hospital", "handle", "metric", "instance", "hour_us", "is_real", "is_marked")
_FLEET_KEYS: Final = ("hospital", "metric", "hour_us")
_WORTH_ROWS: Final = 8  # readings of a channel-hour, on average, from which on it is worth a row
_NEVER_SPARSE: Final = 65_536  # channel-hours: so few cost nothing either way
_BATCH_ROWS: Final = 1_000_000
_GROUP_ROWS: Final = 16_384
_SMALL_BYTES: Final = 16_384  # a rollup this small stays in memory, where it takes up to ten times as much
_SMALL_KEPT: Final = 1_024


class RollupMaker:
    """Makes the rollups of a file from its rows as they pass; see `watch`."""

    def __init__(self) -> None:
        self._parts: list[pl.DataFrame] = []
        self._marked: list[pl.DataFrame] = []

    def watch(self, chunks: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
        """The same chunks (stored form), looked at."""
        for chunk in chunks:
            self.look_at(chunk)
            yield chunk

    def look_at(self, chunk: pl.DataFrame) -> None:
        self._parts.append(_rolled_up(chunk))
        self._marked.append(chunk.filter(is_marked()).select(*STORED).cast({"hospital": pl.String}))

    def write(self, folder: LakeFolder, data_path: str) -> None:
        """Write what was seen as the rollups of the file `data_path` (relative to the table). Durable on return."""
        channels = _added_up(pl.concat(self._parts).lazy(), _KEYS).sort("hospital", "handle", "metric", "hour_us").collect()
        fleets = _added_up(channels.lazy().filter("is_real", ~pl.col("is_marked"), pl.col("count") > 0), _FLEET_KEYS)
        if len(channels) > _NEVER_SPARSE and channels["rows"].sum() < _WORTH_ROWS * len(channels):
            _write(folder, SPARSE, data_path, channels.clear())
        else:
            _write(folder, CHANNELS, data_path, channels)
        _write(folder, FLEETS, data_path, fleets.sort(_FLEET_KEYS).collect())
        _write(folder, MARKED, data_path, pl.concat(self._marked))


class Rollups:
    """The rollups there are of a table's files. Thread-safe."""

    def __init__(self, folder: LakeFolder) -> None:
        self._folder = folder
        self._root = folder.path / _ROOT
        self._lock = threading.Lock()
        self._listed: dict[str, tuple[int, dict[str, str]]] = {}

    def paths(self, level: str, files: pl.DataFrame) -> list[str | None]:
        """The rollup of each of `files` (column `path`), None where there is none that is as it was written."""
        known = self._known(level)
        found = [known.get(file_key(path)) for path in files["path"]]
        return [path if path is not None and _is_intact(path) else None for path in found]

    def are_made(self, files: pl.DataFrame) -> list[bool]:
        """Whether each of `files` has all rollups that it is to have, as they were written."""
        by_level = {level: self.paths(level, files) for level in (*LEVELS, SPARSE)}
        channels = [path or sparse for path, sparse in zip(by_level[CHANNELS], by_level[SPARSE], strict=True)]
        return [None not in found for found in zip(channels, by_level[FLEETS], by_level[MARKED], strict=True)]

    def _known(self, level: str) -> dict[str, str]:
        """Key of the data file -> path of its rollup; the folder is listed again when it changed."""
        folder = self._root / level
        try:
            changed_ns = folder.stat().st_mtime_ns
        except FileNotFoundError:
            return {}
        with self._lock:
            at_ns, known = self._listed.get(level, (-1, {}))
            if at_ns != changed_ns:
                known = {file_key(path.name): str(path) for path in folder.glob("*-*.parquet")}
                self._listed[level] = (changed_ns, known)
        return known


def scan_rollups(folder: LakeFolder, paths: Sequence[str]) -> pl.LazyFrame:
    """Rollups of one level, at least one. They never change, so small ones are read once."""
    small = [path for path in paths if Path(path).stat().st_size <= _SMALL_BYTES]
    large = sorted(set(paths) - set(small))
    parts = [_small(folder, path).lazy() for path in small]
    if large:
        parts.append(folder.scan(large))
    return pl.concat(parts)


def roll_up_file(folder: LakeFolder, data_path: str) -> None:
    """Make the rollups of a file that has none. Raises IntegrityViolation when the file itself is damaged."""
    path = str(folder.path / data_path)
    check_files([path])
    maker = RollupMaker()
    with folder.open(path) as source, pq.ParquetFile(source) as file:
        for batch in file.iter_batches(_BATCH_ROWS):
            maker.look_at(_in_stored_form(pl.DataFrame(batch)))
    maker.write(folder, data_path)


def sweep(folder: LakeFolder) -> int:
    """Delete rollups whose file is no more, and what a crash left half written; returns how many."""
    held = {file_key(path.name) for path in folder.path.glob("day=*/*.parquet")}
    orphans = [path for path in (folder.path / _ROOT).glob("*/*") if file_key(path.name) not in held]
    for path in orphans:
        path.unlink(missing_ok=True)
    return len(orphans)


def _in_stored_form(rows: pl.DataFrame) -> pl.DataFrame:
    lacking = [pl.lit(None, dtype).alias(name) for name, dtype in STORED.items() if name not in rows.columns]
    return rows.with_columns(lacking).cast(STORED)


def _rolled_up(chunk: pl.DataFrame) -> pl.DataFrame:
    """One chunk's rows by channel and hour. Of several last values at one time the greatest counts.

    By whole numbers, which group several times faster than the columns they stand for.
    """
    flags = ((pl.col("quality") & 0x30) == int(Mode.REAL)).cast(pl.UInt64) + 2 * is_marked().cast(pl.UInt64)
    rows = chunk.lazy().select(
        hospital=pl.col("hospital"),
        place=pl.col("hospital").rle_id(),
        channel=_shifted("handle", 26) + _shifted("metric", 10) + _shifted("instance", 2) + flags,
        hour=pl.col("time_us") // HOUR_US,
        time_us=pl.col("time_us"),
        value=pl.when(is_usable()).then(pl.col("value")),
    ).collect()  # fmt: skip
    at = pl.col("handle", "metric", "time_us")
    if chunk.select(pl.all_horizontal(at == at.shift()).any()).item():  # several at one time
        rows = rows.sort("place", "channel", "time_us", "value", nulls_last=False)
    of_value = pl.col("value")
    figures = rows.group_by("place", "channel", "hour").agg(
        pl.col("hospital").first(),
        rows=pl.len(),
        count=of_value.count(),
        min=of_value.min(),
        max=of_value.max(),
        sum=of_value.sum(),
        last_time_us=pl.when(of_value.is_not_null()).then(pl.col("time_us")).max(),
        last=of_value.drop_nulls().last(),
    )
    return figures.select(
        pl.col("hospital").cast(pl.String),
        handle=(pl.col("channel") // 2**26).cast(pl.Int64),
        metric=(pl.col("channel") // 2**10 % 2**16).cast(pl.Int32),
        instance=(pl.col("channel") // 2**2 % 2**8).cast(pl.Int16),
        hour_us=pl.col("hour") * HOUR_US,
        is_real=pl.col("channel") % 2 == 1,
        is_marked=pl.col("channel") // 2 % 2 == 1,
        rows=pl.col("rows").cast(pl.Int64), count=pl.col("count").cast(pl.Int64),
        min="min", max="max", sum="sum", last_time_us="last_time_us", last="last",
    )  # fmt: skip


def _shifted(name: str, bits: int) -> pl.Expr:
    return pl.col(name).cast(pl.UInt64) * pl.lit(2**bits)


def _added_up(parts: pl.LazyFrame, keys: tuple[str, ...]) -> pl.LazyFrame:
    last = pl.col("last").filter(pl.col("last_time_us") == pl.col("last_time_us").max()).max()
    sums = (pl.col(name).sum() for name in ("rows", "count", "sum"))
    return parts.group_by(keys).agg(*sums, pl.col("min").min(), pl.col("max").max(), pl.col("last_time_us").max(), last)


def _write(folder: LakeFolder, level: str, data_path: str, frame: pl.DataFrame) -> None:
    of_level = folder.path / _ROOT / level
    of_level.mkdir(parents=True, exist_ok=True)
    path = of_level / f"{file_key(data_path)}.parquet"
    with folder.create(path) as file:
        frame.write_parquet(file, row_group_size=_GROUP_ROWS)
    fsync(path)
    name_with_checksum(path)
    fsync(of_level)


def _is_intact(path: str) -> bool:
    """A damaged one is deleted, so that upkeep makes it anew."""
    try:
        check_files([path])
    except IntegrityViolation:
        logger.warning("a damaged rollup was deleted: it will be made anew", extra={"file": Path(path).name})
        Path(path).unlink(missing_ok=True)
        return False
    return True


@lru_cache(_SMALL_KEPT)
def _small(folder: LakeFolder, path: str) -> pl.DataFrame:
    return pl.read_parquet(folder.read(path), hive_partitioning=False)
