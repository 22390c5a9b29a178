"""Questions to few devices: the row groups of the lake's files that can have their readings, and no others, read.

A file's footer says the least and greatest of each column in each row group. Looked at once and kept, footers find a
device's hour among 10⁹ readings without opening another file, and a page of one channel reads files in order of time
until it is full. A scan would read each file's footer and plan anew for each question, which took several times as long
as the readings. Clauses 7.1a, 7.1b.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, repeat, zip_longest
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from domain.errors import IntegrityViolation, NotFound
from runtime.lake_checksums import check_files
from runtime.lake_files import STORED, gone, scan_files
from runtime.lake_folder import LakeFolder
from runtime.lake_queries import collect, from_cursor, matching, page_of, without_repeats
from runtime.lake_schema import POLARS_ROWS, ReadingQuery, from_stored, is_marked

FEW_HANDLES: Final = 8
FOOTERS_BYTES: Final = 32 * 2**20  # as files hold them; in memory they take about eight times as much
FRESH_ROWS: Final = 1_000_000
_FRESH_AT_ONCE: Final = 8
_KEYS: Final = ("handle", "metric", "instance", "time_us")
_ANYTHING: Final = (-(2**63), 2**63 - 1)


@dataclass(frozen=True, slots=True, eq=False)
class Footer:
    """What a file says of itself; `least` and `greatest` of the columns that questions go by, one a row group."""

    metadata: pq.FileMetaData
    least: dict[str, NDArray[np.int64]]
    greatest: dict[str, NDArray[np.int64]]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Of one file, the row groups that can have rows of an answer."""

    folder: LakeFolder
    path: str
    footer: Footer
    groups: NDArray[np.intp]

    @property
    def first_us(self) -> int:
        return int(self.footer.least["time_us"][self.groups].min())

    @property
    def last_us(self) -> int:
        return int(self.footer.greatest["time_us"][self.groups].max())

    @property
    def last_instance(self) -> int:
        return int(self.footer.greatest["instance"][self.groups].max())

    def table(self, columns: Sequence[str]) -> pa.Table:
        """All rows of these row groups, stored; a column that the file lacks is left out. Raises NotFound."""
        try:
            with (
                self.folder.open(self.path) as source,
                pq.ParquetFile(source, metadata=self.footer.metadata, read_dictionary=["hospital"]) as file,
            ):
                there = set(self.footer.metadata.schema.names)
                wanted = [name for name in columns if name in there]
                return file.read_row_groups(self.groups.tolist(), columns=wanted, use_threads=False)
        except FileNotFoundError as error:
            raise gone() from error


def is_of_few(query: ReadingQuery) -> bool:
    """Whether a question is about few enough devices to look for their row groups one by one."""
    return query.handles is not None and len(query.handles) <= FEW_HANDLES


def is_of_one_channel(query: ReadingQuery) -> bool:
    """But for instances, which are few."""
    return [len(keys) if keys is not None else 0 for keys in (query.handles, query.metrics)] == [1, 1]


def read(folder: LakeFolder, files: pl.DataFrame, query: ReadingQuery) -> pl.DataFrame:
    """As `lake_queries.read`, of a question that `is_of_few`."""
    parts = parts_of(folder, files, query)
    stops_early = query.limit is not None and is_of_one_channel(query)
    found = _until_full(parts, query) if stops_early else map(_rows, _batches(parts), repeat(query))
    rows = pl.concat([STORED.to_frame(), *found])
    if rows.select(is_marked().any()).item():
        rows = without_repeats(rows.lazy()).collect()
    return page_of(rows.select(from_stored(name) for name in POLARS_ROWS), query)


def parts_of(folder: LakeFolder, files: pl.DataFrame, query: ReadingQuery) -> list[Part]:
    """What of each file can have rows that `query` asks for. Raises IntegrityViolation for a damaged file, and NotFound."""
    paths = [str(folder.path / path) for path in files["path"]]
    check_files(paths)
    footers = [(path, _footers.of(folder, path)) for path in paths]
    parts = [Part(folder, path, footer, _groups(footer, query)) for path, footer in footers]
    return [part for part in parts if len(part.groups)]


def look_at(folder: LakeFolder, path: str) -> None:
    """Check a file and keep its footer, for which the first question to it would have to wait.

    One that is damaged or gone is left to the question that needs it.
    """
    with contextlib.suppress(IntegrityViolation, NotFound):
        check_files([path])
        _footers.of(folder, path)


def _batches(parts: list[Part]) -> Iterator[list[Part]]:
    """Parts that are read together, in the same order: several of fresh files, where a scan that skips is quicker."""
    for is_fresh, some in groupby(parts, lambda part: part.footer.metadata.num_rows <= FRESH_ROWS):
        alike = list(some)
        at_once = _FRESH_AT_ONCE if is_fresh else 1
        yield from (alike[first : first + at_once] for first in range(0, len(alike), at_once))


def _rows(batch: list[Part], query: ReadingQuery) -> pl.DataFrame:
    """The rows of some parts that are in the answer, stored."""
    if batch[0].footer.metadata.num_rows > FRESH_ROWS:
        found = matching(_in_stored_form(_of_groups(batch[0], query)).lazy(), query)
    else:
        found = matching(scan_files(batch[0].folder, [part.path for part in batch]), query)
    if query.after is not None:
        found = found.filter(from_cursor(query.after, descending=query.descending))
    return collect(found)


def _of_groups(part: Part, query: ReadingQuery) -> pa.Table:
    """The rows of a part that are of the devices, metrics and times asked for."""
    rows = part.table(STORED.names())
    time_us = rows["time_us"].to_numpy()
    wanted = np.ones(len(time_us), dtype=np.bool_)
    for name, keys in (("handle", query.handles), ("metric", query.metrics)):
        if keys is not None:
            column = rows[name].to_numpy()
            wanted &= column == keys[0] if len(keys) == 1 else np.isin(column, keys)
    if query.from_us is not None:
        wanted &= time_us >= query.from_us
    if query.until_us is not None:
        wanted &= time_us < query.until_us
    return rows.take(np.flatnonzero(wanted))


def _in_stored_form(rows: pa.Table) -> pl.DataFrame:
    frame = pl.DataFrame(rows)
    lacking = [pl.lit(None, dtype).alias(name) for name, dtype in STORED.items() if name not in frame.columns]
    return frame.with_columns(lacking).cast(STORED).select(STORED.names())


# -- one channel, in order of time ------------------------------------------------------------------------------------


def _until_full(parts: list[Part], query: ReadingQuery) -> Iterator[pl.DataFrame]:
    """The rows of some parts after others, until no part that is left can have one of the page."""
    assert query.limit is not None
    needed = query.limit + (query.after.given if query.after is not None else 0)
    instance = _first_instance(parts, query)
    parts = sorted(parts, key=lambda part: -part.last_us if query.descending else part.first_us)
    found: list[pl.DataFrame] = []
    for batch, following in zip_longest(batches := list(_batches(parts)), batches[1:]):
        found.append(_rows(batch, query))
        yield found[-1]
        if following is not None and _is_full(found, following[0], instance, needed, query):
            return


def _first_instance(parts: list[Part], query: ReadingQuery) -> int:
    """The instance that an answer begins with, whether it has rows or not."""
    if query.after is not None:
        return query.after.instance
    return max((part.last_instance for part in parts), default=0) if query.descending else 0


def _is_full(found: list[pl.DataFrame], following: Part, instance: int, needed: int, query: ReadingQuery) -> bool:
    """Whether a page is full of rows that come before all of those in the parts that are left."""
    if sum(map(len, found)) < needed:
        return False
    time_us = pl.col("time_us")
    before = time_us > following.last_us if query.descending else time_us < following.first_us
    sure = pl.concat(found).lazy().filter(pl.col("instance") == instance, before)
    return bool(without_repeats(sure).select(pl.len() >= needed).collect().item())


# -- footers ----------------------------------------------------------------------------------------------------------


def _groups(footer: Footer, query: ReadingQuery) -> NDArray[np.intp]:
    """The row groups that can have rows for `query`."""
    least, greatest = footer.least, footer.greatest
    can = np.ones(len(least["handle"]), dtype=np.bool_)
    for name, keys in (("handle", query.handles), ("metric", query.metrics)):
        if keys is not None:
            ordered = np.sort(np.asarray(keys, dtype=np.int64))
            can &= np.searchsorted(ordered, greatest[name], "right") > np.searchsorted(ordered, least[name], "left")
    if query.from_us is not None:
        can &= greatest["time_us"] >= query.from_us
    if query.until_us is not None:
        can &= least["time_us"] < query.until_us
    if query.after is not None and is_of_one_channel(query):
        first = query.after
        if query.descending:
            can &= (least["instance"] < first.instance) | (least["time_us"] <= first.time_us)
        else:
            can &= (greatest["instance"] > first.instance) | (greatest["time_us"] >= first.time_us)
    return np.flatnonzero(can)


class Footers:
    """Footers of finished files, which never change: those asked for last, up to `most_bytes`. Thread-safe."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._kept: OrderedDict[str, Footer] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, folder: LakeFolder, path: str) -> Footer:
        """The footer of a file. Raises NotFound when it is there no more."""
        with self._lock:
            if path in self._kept:
                self._kept.move_to_end(path)
                return self._kept[path]
        footer = _read_footer(folder, path)
        with self._lock:
            if path not in self._kept:
                self._kept[path] = footer
                self._bytes += footer.metadata.serialized_size
            while self._bytes > self._most_bytes and len(self._kept) > 1:
                _, oldest = self._kept.popitem(last=False)
                self._bytes -= oldest.metadata.serialized_size
        return footer


_footers: Final = Footers(FOOTERS_BYTES)


def _read_footer(folder: LakeFolder, path: str) -> Footer:
    try:
        with folder.open(path) as source:
            metadata = pq.read_metadata(source)
    except FileNotFoundError as error:
        raise gone() from error
    places = [metadata.schema.names.index(name) for name in _KEYS]
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    bounds = np.array([[_bounds(group.column(place)) for place in places] for group in groups], dtype=np.int64)
    bounds = bounds.reshape(len(groups), len(_KEYS), 2)
    least = {name: bounds[:, n, 0].copy() for n, name in enumerate(_KEYS)}
    return Footer(metadata, least, {name: bounds[:, n, 1].copy() for n, name in enumerate(_KEYS)})


def _bounds(column: pq.ColumnChunkMetaData) -> tuple[int, int]:
    statistics = column.statistics
    return (statistics.min, statistics.max) if statistics is not None and statistics.has_min_max else _ANYTHING
