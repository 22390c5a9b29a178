"""The lake's log on disk: what delta-rs leaves to us. Reading all application transactions, fsync, repair of a torn end.

Delta-rs answers for one application id at a time; we need all of one version. And it never fsyncs: after a power cut
the newest entries may be empty or cut off, which would make the table unreadable. Nothing acknowledged is lost with
them, since the stream still has what they carried, so they are put aside.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import polars as pl

from domain.errors import IntegrityViolation
from runtime.durable import fsync
from runtime.lake_log_checksums import damaged_entry

logger = logging.getLogger(__name__)

_ENTRY: Final = re.compile(r"(\d{20})\.json\Z")
_CHECKPOINT: Final = re.compile(r"(\d{20})\.checkpoint\.parquet\Z")


class TransactionLog:
    """Reads `app id -> version` of every application transaction as of a table version; remembers the last answer.

    Not thread-safe.
    """

    def __init__(self, table_path: Path) -> None:
        self._folder = table_path / "_delta_log"
        self._version = -1
        self._transactions: dict[str, int] = {}

    def as_of(self, version: int) -> dict[str, int]:
        """All transactions of table version `version`. Raises FileNotFoundError when its log is no longer complete."""
        if version < self._version or not self._fast_forward(version):
            start, transactions = self._newest_checkpoint(version)
            for entry in range(start + 1, version + 1):
                transactions |= self._of_entry(entry)
            self._version, self._transactions = version, transactions
        return dict(self._transactions)

    def _fast_forward(self, version: int) -> bool:
        """Read only the entries since the last answer; False where some are gone or nothing was read before."""
        if self._version < 0:
            return False
        try:
            for entry in range(self._version + 1, version + 1):
                self._transactions |= self._of_entry(entry)
                self._version = entry
        except FileNotFoundError:
            return False
        return True

    def _of_entry(self, version: int) -> dict[str, int]:
        return dict(_transactions_in((self._folder / f"{version:020d}.json").read_text()))

    def _newest_checkpoint(self, version: int) -> tuple[int, dict[str, int]]:
        held = [number for number, _ in _numbered(self._folder, _CHECKPOINT) if number <= version]
        if not held:
            return -1, {}
        path = self._folder / f"{max(held):020d}.checkpoint.parquet"
        rows = pl.scan_parquet(path).select(pl.col("txn").struct.unnest()).drop_nulls("appId").collect()
        return max(held), dict(rows.select("appId", "version").iter_rows())


def sync_entries(table_path: Path, after: int, until: int) -> None:
    """Bring the log entries in (after, until] to disk; those that a checkpoint replaced are skipped."""
    folder = table_path / "_delta_log"
    for version in range(after + 1, until + 1):
        with contextlib.suppress(FileNotFoundError):
            fsync(folder / f"{version:020d}.json")
    fsync(folder)


def sync_checkpoint(table_path: Path, version: int) -> None:
    """Bring the checkpoint of `version` to disk."""
    folder = table_path / "_delta_log"
    fsync(folder / f"{version:020d}.checkpoint.parquet")
    fsync(folder / "_last_checkpoint")
    fsync(folder)


@contextlib.contextmanager
def repair_lock(table_path: Path) -> Iterator[None]:
    """Held while a table is opened, so that no process takes another's first new entry for the torn one it replaced."""
    with (table_path / "_open.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def set_aside_torn_end(table_path: Path) -> list[str]:
    """Put aside what a power cut left unreadable at the log's end, and name it in the log; the names are returned.

    From the first torn or missing entry on, all go: a commit is acknowledged only once every entry up to its own is on
    disk. Writers link complete files into place, one version after the other, so a running writer's entry is never
    taken for a torn one. An entry that is whole and yet not readable is damaged: to set it aside, and all that came
    after it, would forget readings that are long acknowledged. Raises IntegrityViolation, which names it. Call under
    `repair_lock`.
    """
    folder = table_path / "_delta_log"
    torn = [path for _, path in _numbered(folder, _CHECKPOINT) if not _is_readable_checkpoint(path)]
    pointer = folder / "_last_checkpoint"
    if pointer.exists() and (not _is_json(pointer.read_bytes()) or torn):
        torn.append(pointer)
    torn += _torn_entries(folder)
    whole = [entry for entry in _numbered(folder, _ENTRY) if entry[1] not in torn]
    if (damaged := damaged_entry(whole)) is not None:
        raise _damaged(damaged)
    for path in torn:
        path.rename(path.with_name(path.name + ".torn"))
        logger.warning("a torn entry of the lake's log was set aside", extra={"file": path.name})
    return [path.name for path in torn]


def _torn_entries(folder: Path) -> list[Path]:
    """Entries from the first bad one on, looked for behind the newest readable checkpoint."""
    checkpoints = [version for version, path in _numbered(folder, _CHECKPOINT) if _is_readable_checkpoint(path)]
    start = max(checkpoints, default=-1) + 1
    entries = [(version, path) for version, path in _numbered(folder, _ENTRY) if version >= start]
    for expected, (version, path) in enumerate(entries, start):
        earlier = folder / f"{expected:020d}.json"  # may have been linked while the folder was listed
        if (version != expected and not earlier.exists()) or not _is_readable_entry(path):
            return [path for _, path in entries[expected - start :]]
    return []


def _is_readable_entry(path: Path) -> bool:
    """False for one that a power cut tore: empty, cut off, or never filled."""
    entry = path.read_bytes()
    if all(map(_is_json, entry.splitlines() or [b""])):
        return True
    if b"\0" in entry or not entry.rstrip(b"\n").endswith(b"}"):
        return False
    raise _damaged(path)


def _damaged(path: Path) -> IntegrityViolation:
    logger.error("an entry of the lake's log is damaged: restore it from the backup", extra={"file": path.name})
    return IntegrityViolation(f"entry {path.name} of the lake's log is damaged: restore it from the backup")


def _numbered(folder: Path, pattern: re.Pattern[str]) -> list[tuple[int, Path]]:
    found = ((pattern.match(path.name), path) for path in folder.glob("*"))
    return sorted((int(match[1]), path) for match, path in found if match)


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _is_readable_checkpoint(path: Path) -> bool:
    try:
        pl.read_parquet_schema(path)
    except (pl.exceptions.ComputeError, OSError):
        return False
    return True


def _transactions_in(entry: str) -> Iterator[tuple[str, int]]:
    for line in entry.splitlines():
        if '"txn"' in line and (transaction := json.loads(line).get("txn")):
            yield transaction["appId"], transaction["version"]
