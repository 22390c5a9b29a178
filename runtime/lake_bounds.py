"""The least and the greatest of what files are pruned by, where the table's log does not say it.

Delta's log is in clear, so of sealed files it says no more than how many rows they have. Their footers, which are sealed too,
say the rest. They never change, so each is read once in a process.
"""

from __future__ import annotations

import logging
from datetime import date
from typing import Any, Final

import polars as pl
import pyarrow.parquet as pq

from domain.errors import IntegrityViolation
from domain.instants import DAY_US
from runtime.keys import KeyGone
from runtime.lake_files import STORED
from runtime.lake_folder import LakeFolder
from runtime.lake_schema import PRUNING_COLUMNS

logger = logging.getLogger(__name__)

_ENDS: Final = ("min", "max")
_BOUNDS: Final = pl.Schema({f"{end}.{name}": STORED[name] for end in _ENDS for name in PRUNING_COLUMNS})
_KNOWN: Final = ("path", "size_bytes", "rows", "day")
_EPOCH: Final = date(1970, 1, 1)
_FORGOTTEN: Final = 10_000  # files that are no more, before they are forgotten


class FileBounds:
    """Of the files of one table. Not thread-safe."""

    def __init__(self, folder: LakeFolder) -> None:
        self._folder = folder
        self._found: dict[str, tuple[Any, ...]] = {}

    def filled_in(self, files: pl.DataFrame) -> pl.DataFrame:
        """The files as their table's log has them, with `min.<column>` and `max.<column>` of PRUNING_COLUMNS of each.

        One that cannot be read may hold anything of its day, for a question has to come to it to say so.
        """
        lacking = [pl.lit(None, dtype).alias(name) for name, dtype in _BOUNDS.items() if name not in files.columns]
        files = files.with_columns(lacking).select(*_KNOWN, *(pl.col(name).cast(dtype) for name, dtype in _BOUNDS.items()))
        is_said = pl.col("min.time_us").is_not_null()
        silent = files.filter(~is_said).select(_KNOWN)
        if silent.is_empty():
            return files
        rows = [self._of(path, day) for path, day in silent.select("path", "day").iter_rows()]
        if len(self._found) > len(silent) + _FORGOTTEN:
            self._found = dict(zip(silent["path"], rows, strict=True))
        told = silent.hstack(pl.DataFrame(rows, schema=_BOUNDS, orient="row"))
        return pl.concat([files.filter(is_said), told])

    def _of(self, path: str, day: date) -> tuple[Any, ...]:
        found = self._found.get(path)
        if found is not None:
            return found
        try:
            with self._folder.open(str(self._folder.path / path)) as source:
                found = _stated(pq.read_metadata(source))
        except (IntegrityViolation, KeyGone, OSError) as error:
            logger.warning("a file of the lake cannot say what it holds", extra={"file": path, "reason": str(error)})
            found = _anything(day)
        self._found[path] = found
        return found


def _stated(metadata: pq.FileMetaData) -> tuple[Any, ...]:
    """The least of each column, then the greatest of each."""
    places = {name: metadata.schema.names.index(name) for name in PRUNING_COLUMNS}
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    stated = {name: [group.column(place).statistics for group in groups] for name, place in places.items()}
    least = (min(statistics.min for statistics in column) for column in stated.values())
    greatest = (max(statistics.max for statistics in column) for column in stated.values())
    return (*least, *greatest)


def _anything(day: date) -> tuple[Any, ...]:
    first_us = (day - _EPOCH).days * DAY_US
    least: dict[str, Any] = dict.fromkeys(PRUNING_COLUMNS, 0)
    greatest: dict[str, Any] = dict.fromkeys(PRUNING_COLUMNS, 2**31 - 1)
    least |= {"hospital": "", "time_us": first_us}
    greatest |= {"hospital": "\U0010ffff", "handle": 2**32 - 1, "time_us": first_us + DAY_US - 1}
    return (*least.values(), *greatest.values())
