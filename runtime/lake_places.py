"""Where rows of the lake lie, and by which commit they came: for traces. No value of a reading is read. Clause 9.2a.

Rows are looked for in the row groups that can have them, as questions to few devices are (`lake_row_groups`), at most
MOST_GROUPS of them. A commit is found in Delta's log, which is kept for two days: by its time, then by the shard's position
that it carries.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import numpy as np
import polars as pl

from runtime.lake import WRITER, Lake
from runtime.lake_queries import matching, prune
from runtime.lake_rollups import CHANNELS
from runtime.lake_row_groups import Part, parts_of
from runtime.lake_schema import POLARS_ROWS, ReadingQuery, from_stored

MOST_GROUPS: Final = 64
MOST_FILES: Final = 512  # whose footers are looked at: readings of some weeks that come together
_MOST_ENTRIES: Final = 4_000  # of the log that are read behind the time of a message: an hour of commits of one host
_SLACK_MS: Final = 60_000  # by which clocks of hosts and doors may disagree
_ENTRY: Final = re.compile(r"(\d{20})\.json\Z")
COLUMNS: Final = (
    "handle", "metric", "instance", "time_us", "quality", "source", "sequence", "arrival_us", "clock_offset_us",
    "clock_uncertainty_us",
)  # fmt: skip
PLACED: Final[dict[str, Any]] = {name: POLARS_ROWS[name] for name in COLUMNS} | {
    "file": pl.String, "row_group": pl.Int64, "is_rolled_up": pl.Boolean,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PlacedRows:
    """Rows (`PLACED`) of one version; `is_cut`: more files or row groups than are looked at could have had some."""

    version: int
    rows: pl.DataFrame
    is_cut: bool


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit that brought a shard to `position`; `writer` is unknown of commits of older versions."""

    version: int
    at_us: int
    shard: int | None
    position: int | None
    epoch: int | None
    writer: str | None


def placed_rows(lake: Lake, query: ReadingQuery) -> PlacedRows:
    """The rows of a few devices that `query` asks for, each with its file and row group. Raises as `Lake.read`."""
    state = lake.state()
    files = prune(state.files, query)
    is_cut = len(files) > MOST_FILES
    files = files.sort("day", "path", descending=True).head(MOST_FILES)
    is_rolled = dict(
        zip(files["path"], [path is not None for path in lake.rollups.paths(CHANNELS, files)], strict=True)
    )  # fmt: skip
    groups = [(part, int(group)) for part in parts_of(lake.folder, files, query) for group in part.groups]
    found = [pl.DataFrame(schema=PLACED)]
    for part, group in groups[:MOST_GROUPS]:
        name = str(Path(part.path).relative_to(lake.folder.path))
        rows = _rows(replace(part, groups=np.array([group])), query)
        found.append(rows.with_columns(file=pl.lit(name), row_group=pl.lit(group, pl.Int64), is_rolled_up=is_rolled[name]))
    return PlacedRows(state.view.version, pl.concat(found), is_cut or len(groups) > MOST_GROUPS)


def _rows(part: Part, query: ReadingQuery) -> pl.DataFrame:
    stored = pl.DataFrame(part.table(COLUMNS))
    lacking = [pl.lit(None, pl.Int64).alias(name) for name in COLUMNS if name not in stored.columns]
    kept = matching(stored.with_columns(lacking).lazy(), query)
    return kept.select(from_stored(name) for name in COLUMNS).collect()


def commit_of(
    table_path: Path, since_us: int, *, shard: int | None = None, sequence: int = 0, file: str = ""
) -> Commit | None:  # fmt: skip
    """The commit by which the lake got message `sequence` of `shard`, or a file that hosts wrote; None when it is not known.

    It came at `since_us` or later.
    """
    folder = table_path / "_delta_log"
    versions = sorted(int(found[1]) for path in folder.iterdir() if (found := _ENTRY.fullmatch(path.name)))
    begin = _first_since(folder, versions, since_us // 1000 - _SLACK_MS)
    for version in versions[begin : begin + _MOST_ENTRIES]:
        entry = _Entry.read(folder, version)
        if entry is None or not (file in entry.files if shard is None else entry.position(shard) >= sequence):
            continue
        if begin == 0 and version == versions[0]:
            return None  # an earlier one, gone by now, may have carried it
        of = shard if shard is not None else entry.only_shard()
        position, epoch = (None, None) if of is None else (entry.position(of), entry.transactions.get(f"epoch-{of}"))
        return Commit(version, entry.at_ms * 1000, of, position, epoch, entry.writer)
    return None


def _first_since(folder: Path, versions: Sequence[int], at_ms: int) -> int:
    least, beyond = 0, len(versions)
    while least < beyond:
        middle = (least + beyond) // 2
        entry = _Entry.read(folder, versions[middle])
        if entry is not None and entry.at_ms >= at_ms:
            beyond = middle
        else:
            least = middle + 1
    return least


@dataclass(frozen=True, slots=True)
class _Entry:
    """What is read of one entry of the log."""

    at_ms: int
    transactions: dict[str, int]
    files: frozenset[str]  # that hosts wrote; not those of merging
    writer: str | None

    def position(self, shard: int) -> int:
        return self.transactions.get(f"shard-{shard}", -1)

    def only_shard(self) -> int | None:
        """The shard whose rows it carried, where it advanced one alone."""
        shards = [int(name.removeprefix("shard-")) for name in self.transactions if name.startswith("shard-")]
        return shards[0] if len(shards) == 1 else None

    @classmethod
    def read(cls, folder: Path, version: int) -> _Entry | None:
        """None for one that was deleted meanwhile."""
        with contextlib.suppress(FileNotFoundError):
            actions = list(_actions((folder / f"{version:020d}.json").read_text()))
            about: dict[str, Any] = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
            carried = [action["txn"] for action in actions if "txn" in action]
            transactions = {one["appId"]: int(one["version"]) for one in carried}
            added = (action["add"]["path"] for action in actions if "add" in action)
            files = frozenset(map(unquote, added)) if transactions.keys() - {"upkeep"} else frozenset[str]()
            return cls(int(about.get("timestamp", 0)), transactions, files, about.get(WRITER))
        return None


def _actions(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        if line.startswith(('{"txn"', '{"commitInfo"', '{"add"')):
            yield json.loads(line)
