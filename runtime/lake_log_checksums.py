"""Whether entries of the lake's log are as they were written: each commit states the checksums of the entries before it.

A flipped bit may leave an entry valid JSON that says something else: another file, another position. Delta has no checksum
of an entry's bytes. A file of our own beside each entry would cost another fsync for each commit, so the checksums travel
in the next commits, in their `commitInfo`. A commit covers the last few entries it sees, because commits of several hosts
overlap; the newest entry is covered by the next one. Clause 9.3.
"""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import xxhash

FIELD: Final = "vitalgrid.entries"
COVERED: Final = 8  # entries; more hosts at once than this leave some uncovered
_KEPT: Final = 64


class EntryChecksums:
    """What this process states of the log in `table_path`; entries never change, so each is read once. Not thread-safe."""

    def __init__(self, table_path: Path) -> None:
        self._folder = table_path / "_delta_log"
        self._known: dict[int, str] = {}

    def of_last(self, version: int) -> dict[str, str]:
        """Metadata for a commit on `version`."""
        covered = range(max(version - COVERED + 1, 0), version + 1)
        for entry in covered:
            if entry not in self._known:
                with contextlib.suppress(FileNotFoundError):  # a checkpoint replaced it
                    self._known[entry] = _checksum((self._folder / f"{entry:020d}.json").read_bytes())
        stated = ",".join(f"{entry}:{self._known[entry]}" for entry in covered if entry in self._known)
        self._known = {entry: known for entry, known in self._known.items() if entry > version - _KEPT}
        return {FIELD: stated}


def damaged_entry(entries: Iterable[tuple[int, Path]]) -> Path | None:
    """The first of these entries that is not what the others say it was; None when all are.

    Where some agree with it and one does not, it is that one which is damaged.
    """
    there = {version: (path, path.read_bytes()) for version, path in entries}
    stated: defaultdict[int, list[tuple[int, str]]] = defaultdict(list)
    for version, (_, content) in there.items():
        for entry, checksum in _stated_in(content):
            stated[entry].append((version, checksum))
    for version in sorted(stated.keys() & there.keys()):
        path, content = there[version]
        wrong = [by for by, checksum in stated[version] if checksum != _checksum(content)]
        if wrong:
            return path if len(wrong) == len(stated[version]) else there[wrong[0]][0]
    return None


def _stated_in(content: bytes) -> list[tuple[int, str]]:
    found = []
    for line in content.splitlines():
        if FIELD.encode() in line:
            with contextlib.suppress(ValueError, AttributeError):  # not readable: that is told otherwise
                parts = (part.partition(":") for part in json.loads(line).get("commitInfo", {}).get(FIELD, "").split(","))
                found += [(int(entry), checksum) for entry, _, checksum in parts if entry]
    return found


def _checksum(content: bytes) -> str:
    return xxhash.xxh3_64_hexdigest(content)
