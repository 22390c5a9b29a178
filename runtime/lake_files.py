"""Parquet files of the lake: sorted, encoded column by column, and on disk before anybody hears of them.

Delta-rs does not fsync, so we write the files ourselves and hand it finished ones: data first, fsynced, then the log
entry, fsynced. That also keeps encoding out of the compare-and-set: a commit that must look again rewrites nothing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake.transaction import AddAction

from domain.errors import NotFound, VitalgridError
from runtime.durable import fsync
from runtime.lake_checksums import check_files, name_with_checksum
from runtime.lake_folder import LakeFolder
from runtime.lake_schema import FILE_ORDER, FILE_SCHEMA, PRUNING_COLUMNS

ROW_GROUP_ROWS: Final = 32_768  # one device and metric is in one or two: what a small question decodes
MERGED_GROUP_ROWS: Final = 65_536  # of a merged file: a monitor's signs of some hours, which say the same times
_ALWAYS_DICTIONARY: Final = (
    "hospital", "instance", "metric", "quality", "source", "raw_unit", "clock_offset_us", "clock_uncertainty_us",
)  # fmt: skip
_DELTA: Final = "DELTA_BINARY_PACKED"
_OTHERWISE: Final = {  # where a dictionary does not pay
    "handle": _DELTA, "time_us": _DELTA, "sequence": _DELTA, "arrival_us": _DELTA,
    "value": "BYTE_STREAM_SPLIT", "raw_value": "BYTE_STREAM_SPLIT",
}  # fmt: skip
_DICTIONARY_PAYS_BELOW: Final = {"value": 0.25, "raw_value": 0.25, "arrival_us": 0.05}  # distinct values a row
_STEADY_BELOW: Final = 0.05  # distinct steps between times a row: a clock that ticks, whose deltas shrink to nothing
_PAGE_BYTES: Final = 16 * 2**20  # more than a row group's column: zstd finds a device's times again at its next metric
_SAMPLE_ROWS: Final = 131_072
_COPIED_BYTES: Final = 2**20
STORED: Final = pl.DataFrame(FILE_SCHEMA.empty_table()).schema
# as it is handed to the writer: texts once each, not once a row; the file is that of FILE_SCHEMA
_WRITTEN: Final = FILE_SCHEMA.set(0, pa.field("hospital", pa.dictionary(pa.int32(), pa.string()), nullable=False))
_Held = tuple[int, dict[str, Any], dict[str, Any]]  # rows, and the least and greatest of what files are pruned by
_SORTING: Final = [pq.SortingColumn(FILE_SCHEMA.get_field_index(name)) for name in FILE_ORDER]


@dataclass(frozen=True, slots=True)
class DataFile:
    """A finished file: on disk, fsynced, not yet part of any version."""

    path: str  # relative to the table
    day: str
    rows: int
    size_bytes: int
    written_ms: int  # by the file system's clock: bookkeeping, never event time
    least: dict[str, Any]
    greatest: dict[str, Any]
    is_sealed: bool = False

    def add_action(self, *, data_change: bool) -> AddAction:
        """What tells Delta of it. `data_change` is False where the same rows were in the table before.

        The log is in clear: of a sealed file it says how many rows there are, not whose, nor of when.
        """
        stats: dict[str, Any] = {"numRecords": self.rows}
        if not self.is_sealed:
            stats |= {
                "minValues": self.least,
                "maxValues": self.greatest,
                "nullCount": dict.fromkeys(self.least, 0),
            }
        return AddAction(self.path, self.size_bytes, {"day": self.day}, self.written_ms, data_change, json.dumps(stats))


def scan_files(folder: LakeFolder, paths: list[str]) -> pl.LazyFrame:
    """Rows of finished files in stored form, whatever version wrote them: a column that a file lacks is null in its rows.

    Raises IntegrityViolation for a file that is not as it was written (see `lake_checksums`), and NotFound.
    """
    check_files(paths)
    try:
        return folder.scan(paths, STORED)
    except FileNotFoundError as error:
        raise gone() from error


def gone() -> NotFound:
    """What whoever asks is told when files of its version were deleted meanwhile: versions are kept for two days."""
    return NotFound("this version of the lake is not kept any more: its files were merged and deleted")


def write_days(folder: LakeFolder, stored: pl.DataFrame) -> list[DataFile]:
    """Write rows in stored form (`lake_stored.to_stored`), one file a day. Returns once all is fsynced."""
    if not len(stored):
        return []
    is_one = stored["day"][0] == stored["day"][-1]  # rows are sorted by day first
    days = [stored] if is_one else stored.partition_by("day", maintain_order=True)
    files: list[DataFile] = []
    try:
        for day in days:
            files.append(write_file(folder, day["day"][0].isoformat(), [day]))  # noqa: PERF401 (kept when a later one fails)
    except OSError:
        discard(folder, files)
        raise
    return files


def write_file(folder: LakeFolder, day: str, chunks: Iterable[pl.DataFrame], *, is_merged: bool = False) -> DataFile:
    """Write one file of `day` from chunks that are sorted, each behind the one before. Returns once it is fsynced.

    One that `is_merged` holds long stretches of each channel and is read for years: it is written for that.
    """
    return _finished(folder, day, lambda path: _write(folder, path, chunks, is_merged=is_merged))


def seal_file(folder: LakeFolder, before: str, day: str, rows: int) -> DataFile:
    """Write the sealed copy of a file, in clear or under an older key, with the same content. Returns once it is fsynced.

    Raises IntegrityViolation for a file that is not as it was written.
    """
    path_before = str(folder.path / before)
    check_files([path_before])

    def copy(path: Path) -> _Held:
        with folder.content(path_before) as source, folder.create(path) as file:
            shutil.copyfileobj(source, file, _COPIED_BYTES)
        return rows, {}, {}

    return _finished(folder, day, copy)


def _finished(folder: LakeFolder, day: str, write: Callable[[Path], _Held]) -> DataFile:
    """A file that `write` filled, on disk under the name that says what is in it."""
    of_day = folder.path / f"day={day}"
    is_new_day = not of_day.exists()
    of_day.mkdir(parents=True, exist_ok=True)
    path = of_day / f"{uuid4().hex}.parquet"
    try:
        rows, least, greatest = write(path)
        fsync(path)
    except (OSError, VitalgridError):  # half of a file must not keep the disk full
        path.unlink(missing_ok=True)
        raise
    path = path.with_name(name_with_checksum(path))
    fsync(of_day)
    if is_new_day:
        fsync(folder.path)
    status = path.stat()
    written_ms = status.st_mtime_ns // 1_000_000
    name = f"{of_day.name}/{path.name}"
    return DataFile(name, day, rows, status.st_size, written_ms, least, greatest, is_sealed=folder.is_sealing)


def discard(folder: LakeFolder, files: Iterable[DataFile]) -> None:
    """Delete files that did not become part of the table."""
    for file in files:
        (folder.path / file.path).unlink(missing_ok=True)


def _write(folder: LakeFolder, path: Path, chunks: Iterable[pl.DataFrame], *, is_merged: bool) -> _Held:
    rows = 0
    bounds: list[pl.DataFrame] = []
    remaining = iter(chunks)
    first = next(remaining)
    options = _merged_options(first) if is_merged else _writer_options(first)
    group_rows = MERGED_GROUP_ROWS if is_merged else ROW_GROUP_ROWS
    with folder.create(path) as file, pq.ParquetWriter(file, _WRITTEN, sorting_columns=_SORTING, **options) as writer:
        for chunk in _chain(first, remaining):
            bounds.append(_bounds(chunk))
            rows += len(chunk)
            writer.write_table(_arrow(chunk), row_group_size=group_rows)
    both = pl.concat(bounds)
    least = both.select(pl.col(f"{name}.min").min().alias(name) for name in PRUNING_COLUMNS).row(0, named=True)
    greatest = both.select(pl.col(f"{name}.max").max().alias(name) for name in PRUNING_COLUMNS).row(0, named=True)
    return rows, least, greatest


def _chain(first: pl.DataFrame, others: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    yield first
    yield from others


def _arrow(chunk: pl.DataFrame) -> pa.Table:
    return chunk.select(FILE_SCHEMA.names).to_arrow().cast(_WRITTEN)


def _bounds(chunk: pl.DataFrame) -> pl.DataFrame:
    """The least and the greatest of each column that files are pruned by. Rows are sorted by hospital first."""
    return chunk.select(
        pl.col("hospital").first().cast(pl.String).alias("hospital.min"),
        *(pl.col(name).min().alias(f"{name}.min") for name in PRUNING_COLUMNS if name != "hospital"),
        pl.col("hospital").last().cast(pl.String).alias("hospital.max"),
        *(pl.col(name).max().alias(f"{name}.max") for name in PRUNING_COLUMNS if name != "hospital"),
    )


def _writer_options(sample: pl.DataFrame) -> dict[str, Any]:
    """Encodings for rows like those of `sample`: a dictionary for few distinct values, else what suits the type."""
    sample = sample.head(_SAMPLE_ROWS)
    few = [
        name for name, share in _DICTIONARY_PAYS_BELOW.items() if sample[name].drop_nulls().n_unique() < share * len(sample) + 2
    ]
    dictionary = [*_ALWAYS_DICTIONARY, *few]
    return {
        "use_dictionary": dictionary,
        "column_encoding": {name: encoding for name, encoding in _OTHERWISE.items() if name not in dictionary},
        "store_schema": False,
        "compression": "lz4",  # of files that are merged soon: less work than zstd, a tenth more bytes
    }


def _merged_options(sample: pl.DataFrame) -> dict[str, Any]:
    """As `_writer_options`, with one page a column, and times by what the clocks do.

    Times of a clock that jitters have no small deltas; byte by byte they are at least the same at a device's next metric.
    """
    options = _writer_options(sample)
    steps = sample["time_us"].head(_SAMPLE_ROWS).diff()
    if steps.n_unique() >= _STEADY_BELOW * len(steps) + 2:
        options["column_encoding"]["time_us"] = "BYTE_STREAM_SPLIT"
    lasting = {"compression": "zstd", "compression_level": 3}
    return options | lasting | {"max_rows_per_page": MERGED_GROUP_ROWS, "data_page_size": _PAGE_BYTES}
