"""Taking rows out of the lake: those of one handle, or of days that are past their time but for what is held.

A file that has such rows is written again without them, and takes the other's place in one commit against other upkeep
(`Lake.commit_upkeep`); ended in the middle, what was not committed is swept up by a vacuum. Older versions have the rows
until a vacuum deletes their files. Clause 9.3h.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import polars as pl

from domain.erasures import HeldReadings
from domain.errors import Unavailable
from runtime.lake import Lake, LakeState
from runtime.lake_files import DataFile, discard, scan_files, write_file
from runtime.lake_rollups import RollupMaker
from runtime.lake_upkeep import day_of, removes, sorted_chunks

logger = logging.getLogger(__name__)

_ATTEMPTS: Final = 20  # others' upkeep commits once in half a minute


def drop_handle(lake: Lake, hospital_id: str, handle: int) -> Iterator[int]:
    """Take out the rows of one handle: how many left, a file after the other. A second time it finds nothing.

    Raises Unavailable when other upkeep is faster, or the disk is full.
    """
    theirs = (pl.col("hospital").cast(pl.String) == hospital_id) & (pl.col("handle") == handle)
    seen: set[str] = set()  # no file ever changes, so those alone are looked at that came since, by merges and by hosts
    while fresh := [path for path in _may_hold(lake.state(), hospital_id, handle)["path"] if path not in seen]:
        yield from filter(None, (_drop(lake, path, theirs) for path in fresh))
        seen.update(fresh)


@dataclass(slots=True)
class SeenFiles:
    """Files that are over and have nothing but what is kept: read once, and again when other things are kept."""

    kept: HeldReadings | None = None
    paths: set[str] = field(default_factory=set)

    def unseen(self, paths: list[str], kept: HeldReadings) -> list[str]:
        """Those of these files that have to be looked at."""
        self.paths = self.paths.intersection(paths) if kept == self.kept else set()
        self.kept = kept
        return [path for path in paths if path not in self.paths]


def expire_but(lake: Lake, retention_days: int, now_us: int, kept: HeldReadings, seen: SeenFiles) -> int:
    """As `lake_upkeep.expire`, but for what is kept; returns how many rows left. `seen`: of the rounds before."""
    rows = 0
    for path in seen.unseen(_overdue(lake, retention_days, now_us), kept):
        rows += _drop(lake, path, _but(kept))
        seen.paths.add(path)
    if rows:
        logger.info("days past their retention left the lake, but for what is held", extra={"rows": rows})
    return rows


def count_overdue(lake: Lake, retention_days: int, now_us: int, kept: HeldReadings) -> int:
    """How many rows would leave the lake now."""
    return sum(_count(lake, path, _but(kept)) for path in _overdue(lake, retention_days, now_us))


def _overdue(lake: Lake, retention_days: int, now_us: int) -> list[str]:
    oldest_kept = day_of(now_us) - timedelta(days=retention_days)
    paths: list[str] = lake.state().files.filter(pl.col("day") < oldest_kept)["path"].to_list()
    return paths


def _but(kept: HeldReadings) -> pl.Expr:
    return ~(pl.col("hospital").cast(pl.String).is_in(sorted(kept.hospitals)) | pl.col("handle").is_in(sorted(kept.handles)))


def _drop(lake: Lake, path: str, which: pl.Expr) -> int:
    """Take rows out of one file; how many there were: none either when other upkeep has taken the file out meanwhile."""
    file = _file(lake.state(), path)
    count = 0 if file.is_empty() else _count(lake, path, which)
    if not count:
        return 0
    new = [] if count == file["rows"][0] else [_written_without(lake, file, which)]
    adds = [one.add_action(data_change=True) for one in new]
    for _ in range(_ATTEMPTS):
        state = lake.state()
        if _file(state, path).is_empty():
            discard(lake.folder, new)
            return 0
        if lake.commit_upkeep(state, [*adds, *removes(file, data_change=True)]):
            return count
    discard(lake.folder, new)
    raise Unavailable(f"other upkeep of the lake was faster, {_ATTEMPTS} times")


def _file(state: LakeState, path: str) -> pl.DataFrame:
    return state.files.filter(pl.col("path") == path)


def _written_without(lake: Lake, file: pl.DataFrame, which: pl.Expr) -> DataFile:
    rollups = RollupMaker()
    chunks = sorted_chunks(lake.folder, [str(lake.path / file["path"][0])], keep=~which)
    new = write_file(lake.folder, file["day"][0].isoformat(), rollups.watch(chunks), is_merged=True)
    rollups.write(lake.folder, new.path)
    return new


def _may_hold(state: LakeState, hospital_id: str, handle: int) -> pl.DataFrame:
    """Files that can have rows of a handle: those that say nothing of their rows, too."""
    bounds = {
        "min.hospital": pl.col("min.hospital") <= hospital_id, "max.hospital": pl.col("max.hospital") >= hospital_id,
        "min.handle": pl.col("min.handle") <= handle, "max.handle": pl.col("max.handle") >= handle,
    }  # fmt: skip
    known = [condition.fill_null(value=True) for name, condition in bounds.items() if name in state.files.columns]
    return state.files.filter(*known) if known else state.files


def _count(lake: Lake, path: str, which: pl.Expr) -> int:
    scan = scan_files(lake.folder, [str(lake.path / path)]).filter(which)
    return int(scan.select(pl.len()).collect(engine="streaming").item())
