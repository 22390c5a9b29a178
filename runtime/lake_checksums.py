"""Whether files of the lake are as they were written: each carries the xxh3 of its bytes in its name.

Parquet does not tell: of 300 single bits flipped in a file of ours 237 gave other values and no error. So each
process reads a file once, whole, before it believes the first value of it. A file of a version that gave no checksum is
believed. Clause 9.3.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import xxhash

from domain.errors import IntegrityViolation

logger = logging.getLogger(__name__)

_NAME: Final = re.compile(r"[0-9a-f]{32}-([0-9a-f]{16})\.parquet\Z")
_CHUNK_BYTES: Final = 2**20
_MOST_REMEMBERED: Final = 100_000
_intact: set[str] = set()  # of this process; sets of text are safe to share between threads


def name_with_checksum(path: Path) -> str:
    """Give a finished file the name that says what is in it; returns the name. The folder is the caller's to fsync."""
    name = f"{path.stem}-{_checksum(path)}.parquet"
    path.rename(path.with_name(name))
    return name


def check_files(paths: Iterable[str]) -> None:
    """Look at files that this process has not looked at yet. Raises IntegrityViolation, which names the damaged one."""
    for path in paths:
        if path in _intact:
            continue
        try:
            _check(Path(path))
        except FileNotFoundError:  # the scan will say so
            continue
        if len(_intact) >= _MOST_REMEMBERED:
            _intact.clear()
        _intact.add(path)


def _check(path: Path) -> None:
    said = _NAME.match(path.name)
    if said is None or said[1] == _checksum(path):
        return
    logger.error("a file of the lake is damaged: restore it from the backup", extra={"file": f"{path.parent.name}/{path.name}"})
    raise IntegrityViolation(f"file {path.parent.name}/{path.name} of the lake fails its checksum: restore it from the backup")


def _checksum(path: Path) -> str:
    digest = xxhash.xxh3_64()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
