"""The folder of a table, and how its Parquet files are opened and written: in clear, or sealed (`sealed_file`).

A file says of itself which of the two it is, so a table that was begun in clear goes on when sealing is switched on: both
are read, and what is written from then on is sealed. Polars reads plain files itself, and small ones that were opened in
memory. Large sealed ones are read here, row group by row group: only chunks that hold wanted columns are opened. No content
ever lies on disk in clear.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import IO, Any, Final, cast

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from polars.io.plugins import register_io_source

from runtime import sealed_file
from runtime.keys import KeyMissing
from runtime.sealed_file import FileSeal

_AT_ONCE_ROWS: Final = 1_000_000  # decoded together
_REMEMBERED: Final = 100_000
_SMALL_BYTES: Final = 2**20
_OPENED_BYTES: Final = 64 * 2**20  # small files that a scan holds in memory at most


@dataclass(frozen=True, slots=True)
class LakeFolder:
    """`seal`: with what sealed files are opened, and new ones are sealed if it says so; None: none can be."""

    path: Path
    seal: FileSeal | None = None

    @property
    def is_sealing(self) -> bool:
        """Whether new files are sealed."""
        return self.seal is not None and self.seal.writes

    def are_as_new(self, paths: Sequence[str]) -> list[bool]:
        """Whether finished files are sealed as new ones are, under the newest version of the key. All, where none is sealed."""
        if self.seal is None or not self.seal.writes:
            return [True] * len(paths)
        newest = self.seal.newest()
        return [_version_of(self.seal, path) == newest for path in paths]

    @contextlib.contextmanager
    def content(self, path: str) -> Iterator[IO[bytes]]:
        """A finished file's content, from its beginning; errors as of `open`."""
        if not is_sealed(path):
            with Path(path).open("rb") as file:
                yield file
            return
        with self._seal_for(path).reader(path, _identity(Path(path))) as reader:
            yield cast("IO[bytes]", reader)

    @contextlib.contextmanager
    def create(self, path: Path) -> Iterator[IO[bytes]]:
        """A new file that is written from beginning to end. The caller makes it durable, or deletes it after an error."""
        with path.open("wb") as file:
            if self.seal is None or not self.seal.writes:
                yield file
                return
            with self.seal.writer(file, _identity(path)) as writer:
                yield cast("IO[bytes]", writer)

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[pa.NativeFile]:
        """A finished file's content.

        Raises FileNotFoundError, IntegrityViolation for a sealed one that is not as it was written, KeyMissing and KeyGone.
        """
        if not is_sealed(path):
            with pa.OSFile(path) as file:
                yield file
            return
        with self._seal_for(path).reader(path, _identity(Path(path))) as reader, pa.PythonFile(reader, "r") as file:
            yield file

    def read(self, path: str) -> bytes:
        """All of a finished file's content; errors as of `open`."""
        if not is_sealed(path):
            return Path(path).read_bytes()
        return self._seal_for(path).read(path, _identity(Path(path)))

    def scan(self, paths: Sequence[str], schema: pl.Schema | None = None) -> pl.LazyFrame:
        """Rows of files, at least one; of `schema`, where a column that a file lacks is null, or of what they all have."""
        options: dict[str, Any] = {} if schema is None else {"schema": schema, "missing_columns": "insert"}
        options |= {"glob": False, "hive_partitioning": False, "cache": False}
        parts: list[pl.LazyFrame] = []
        for how, alike in groupby(zip(paths, _hows(paths), strict=True), lambda pair: pair[1]):
            some = [path for path, _ in alike]
            if how is _How.BY_US:
                parts += [self._scan_sealed(path, schema) for path in some]
            else:
                parts.append(pl.scan_parquet(some if how is _How.IN_CLEAR else list(map(self.read, some)), **options))
        return parts[0] if len(parts) == 1 else pl.concat(parts)

    def _scan_sealed(self, path: str, schema: pl.Schema | None) -> pl.LazyFrame:
        columns = schema if schema is not None else self._schema_of(path)

        def rows(
            names: list[str] | None, predicate: pl.Expr | None, most: int | None, _: int | None
        ) -> Iterator[pl.DataFrame]:  # fmt: skip
            for frame in self._rows(path, {name: columns[name] for name in names or columns.names()}, predicate):
                given = frame if predicate is None else frame.filter(predicate)
                given = given if most is None else given.head(most)
                most = None if most is None else most - len(given)
                yield given
                if most == 0:
                    return

        return register_io_source(rows, schema=columns, is_pure=True)

    def _rows(self, path: str, columns: dict[str, pl.DataType], predicate: pl.Expr | None) -> Iterator[pl.DataFrame]:
        """These columns of the row groups that can have rows for `predicate`; at least one frame, perhaps an empty one."""
        yield pl.DataFrame(schema=columns)
        with self.open(path) as source, pq.ParquetFile(source, pre_buffer=False) as file:
            there = set(file.metadata.schema.names)
            names = [name for name in columns if name in there]
            lacking = [pl.lit(None, dtype).alias(name) for name, dtype in columns.items() if name not in there]
            for groups in _batches(file.metadata, _possible(file.metadata, columns, predicate)):
                frame = pl.DataFrame(file.read_row_groups(groups, columns=names, use_threads=False))
                yield frame.with_columns(lacking).cast(pl.Schema(columns)).select(*columns)

    def _schema_of(self, path: str) -> pl.Schema:
        with self.open(path) as source:
            return pl.DataFrame(pq.read_schema(source).empty_table()).schema

    def _seal_for(self, path: str) -> FileSeal:
        if self.seal is None:
            raise KeyMissing(f"{path} is sealed: the keys of this installation are needed to open it")
        return self.seal


class _How(Enum):
    """Who reads a file: Polars in clear; Polars, opened in memory, as it is small; or row group by row group."""

    IN_CLEAR = auto()
    OPENED = auto()
    BY_US = auto()


def _hows(paths: Sequence[str]) -> Iterator[_How]:
    """How each is read: of fresh files, small and many, opening each for itself takes several times as long."""
    room_bytes = _OPENED_BYTES
    for path in paths:
        if not is_sealed(path):
            yield _How.IN_CLEAR
            continue
        size_bytes = Path(path).stat().st_size
        if size_bytes > min(_SMALL_BYTES, room_bytes):
            yield _How.BY_US
            continue
        room_bytes -= size_bytes
        yield _How.OPENED


@lru_cache(_REMEMBERED)
def is_sealed(path: str) -> bool:
    """Whether a finished file is sealed; finished files never change. Raises FileNotFoundError."""
    return sealed_file.is_sealed(path)


@lru_cache(_REMEMBERED)
def _version_of(seal: FileSeal, path: str) -> int | None:
    return seal.version_of(path)


def file_key(path: Path | str) -> str:
    """What a data file and its rollups have in common: the first part of their names."""
    return Path(path).stem.partition("-")[0]


def _identity(path: Path) -> str:
    """Of a file whose name may still lack its checksum: the day or the level it belongs to, and its key."""
    return f"lake/{path.parent.name}/{file_key(path)}"


def _possible(metadata: pq.FileMetaData, columns: dict[str, pl.DataType], predicate: pl.Expr | None) -> list[int]:
    """The row groups that can have rows for `predicate`, as Polars tells from what they state of their columns."""
    every = list(range(metadata.num_row_groups))
    if predicate is None:
        return every
    can_skip = predicate._skip_batch_predicate(pl.Schema(columns))  # noqa: SLF001 (what a scan of its own goes by)
    if can_skip is None:
        return every
    wanted = {name.rpartition("_")[0] for name in can_skip.meta.root_names()}
    stated = _stated(metadata, {name: dtype for name, dtype in columns.items() if name in wanted})
    skipped = stated.select(can_skip.fill_null(value=False).alias("skipped"))["skipped"]
    return (~skipped).arg_true().to_list() if len(skipped) == len(every) else every


def _stated(metadata: pq.FileMetaData, columns: dict[str, pl.DataType]) -> pl.DataFrame:
    """`<column>_min`, `_max` and `_nc` (nulls) of each row group, and its `len`; null where a group does not say.

    Of numbers that are not whole nothing is told: NaN is in none of their bounds.
    """
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    found = {"len": pl.Series([group.num_rows for group in groups], dtype=pl.UInt32)}
    places = {column: place for place, column in enumerate(metadata.schema.names)}
    for name, dtype in columns.items():
        bounds: list[tuple[Any, Any, int | None]] = [(None, None, None)] * len(groups)
        if name in places and (dtype.is_integer() or dtype == pl.String):
            bounds = [_bounds(group.column(places[name])) for group in groups]
        least, greatest, nulls = zip(*bounds, strict=True) if bounds else ((), (), ())
        found[f"{name}_min"] = pl.Series(least, dtype=dtype)
        found[f"{name}_max"] = pl.Series(greatest, dtype=dtype)
        found[f"{name}_nc"] = pl.Series(nulls, dtype=pl.UInt32)
    return pl.DataFrame(found)


def _bounds(column: pq.ColumnChunkMetaData) -> tuple[Any, Any, int | None]:
    stated = column.statistics
    if stated is None or not stated.has_min_max:
        return None, None, None
    return stated.min, stated.max, stated.null_count if stated.has_null_count else None


def _batches(metadata: pq.FileMetaData, groups: list[int]) -> Iterator[list[int]]:
    """Row groups that are decoded together, in order."""
    batch: list[int] = []
    rows = 0
    for group in groups:
        batch.append(group)
        rows += metadata.row_group(group).num_rows
        if rows >= _AT_ONCE_ROWS:
            yield batch
            batch, rows = [], 0
    if batch:
        yield batch
