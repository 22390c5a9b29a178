"""Room on disk: how much is free where the platform keeps things, whether it can be written, and what follows.

Each place has a level. OK: all is taken. LOW: less than the reserve is free, and doors take no more readings; the
reserve is for what the platform itself still has to write: alarms, ticks, events of devices, commits to the lake,
snapshots. FULL: less than a quarter of the reserve is free, or a write fails (a full, read-only or broken disk), and
doors take nothing. A place is OK again once a tenth more than the reserve is free. Levels are said when they change,
not at every message that meets them. Clauses 7.3, 9.3.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from domain.messages import StorageLevel, StorageState

logger = logging.getLogger(__name__)

FULL_BELOW: Final = 0.25  # of the reserve
OK_FROM: Final = 1.1
_PROBE_EVERY: Final = 5  # looks; each look, once something is wrong
_PROBE_BYTES: Final = 4096
_MIB: Final = 2**20


STREAM: Final = "stream"  # the place whose room decides what doors take
_decoder: Final = msgspec.json.Decoder(list[StorageState])


class Place(NamedTuple):
    """What is kept (`stream`, `lake`, …) and in which folder."""

    name: str
    path: Path


def look_at(place: Place, reserve_bytes: int, *, write: bool = True) -> StorageState:
    """One place as it is now; a folder that is not there yet is judged by the one it will be made in.

    `write`: also write a few bytes durably, and delete them: that alone shows a disk that fails.
    """
    free_bytes = 0
    try:
        folder = existing(place.path)
        room = os.statvfs(folder)
        free_bytes = room.f_bavail * room.f_frsize
        if room.f_flag & os.ST_RDONLY:
            return _state(place, StorageLevel.FULL, free_bytes, "is read-only")
        if write:
            _probe(folder)
    except OSError as error:
        return _state(place, StorageLevel.FULL, free_bytes, f"cannot be written: {error.strerror or error}")
    says = f"has {free_bytes / _MIB:.0f} MiB left, of which {reserve_bytes / _MIB:.0f} are its reserve"
    if room.f_files and not room.f_favail:
        return _state(place, StorageLevel.FULL, free_bytes, "has no room for another file (inodes)")
    if free_bytes < FULL_BELOW * reserve_bytes:
        return _state(place, StorageLevel.FULL, free_bytes, says)
    return _state(place, StorageLevel.LOW if free_bytes < reserve_bytes else StorageLevel.OK, free_bytes, says)


def _state(place: Place, level: StorageLevel, free_bytes: int, how: str) -> StorageState:
    return StorageState(place.name, str(place.path), level, free_bytes, f"the disk of the {place.name} ({place.path}) {how}")


def existing(path: Path) -> Path:
    """`path`, or the nearest folder above it that exists: where it will be made."""
    return next(folder for folder in (path.resolve(), *path.resolve().parents) if folder.is_dir())


def _probe(folder: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".vitalgrid-probe-") as file:
        file.write(b"\0" * _PROBE_BYTES)
        file.flush()
        os.fsync(file.fileno())


def of_stream(told: bytes) -> list[StorageState]:
    """Of what was told on `subjects.STORAGE`, the place that acknowledged messages go to."""
    return [state for state in _decoder.decode(told) if state.name == STREAM]


class StorageWatch:
    """Looks at places again and again; logs a level once, when it is reached."""

    def __init__(self, places: Sequence[Place], reserve_bytes: int) -> None:
        self._places = places
        self._reserve_bytes = reserve_bytes
        self._looks = 0
        self.states: dict[str, StorageState] = {}

    def look(self) -> list[StorageState]:
        """All places, now. Blocks while the disk does."""
        writes = self._looks % _PROBE_EVERY == 0
        self._looks += 1
        for place in self._places:
            before = self.states.get(place.name)
            was = StorageLevel.OK if before is None else before.level
            now = look_at(place, self._reserve_bytes, write=writes or was is not StorageLevel.OK)
            if was is not StorageLevel.OK and now.level is StorageLevel.OK and now.free_bytes < OK_FROM * self._reserve_bytes:
                now = _state(place, StorageLevel.LOW, now.free_bytes, "has hardly more left than its reserve")
            self.states[place.name] = now
            if now.level is not was:
                self._say(now)
        return list(self.states.values())

    @staticmethod
    def _say(state: StorageState) -> None:
        extra = {"place": state.name, "level": state.level.value, "free_bytes": state.free_bytes}
        if state.level is StorageLevel.OK:
            logger.warning("there is room on disk again: %s", state.says, extra=extra)
        else:
            logger.error("a disk runs full or fails: %s", state.says, extra=extra)
