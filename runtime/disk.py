"""Files that survive a power cut: the few steps that make one, as a part of its own, so that tests can stop before any.

What was written is on disk after `sync`; that a file or folder is there, under its name, after `sync_folder` of the
folder it is in. So a file is written under another name, synced, renamed, and its folder synced.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path

from domain.errors import Conflict
from runtime.durable import fsync


class Disk:
    """The machine's own. Errors are OSError."""

    def read(self, path: Path) -> bytes:
        """Raises FileNotFoundError."""
        return path.read_bytes()

    def write(self, path: Path, content: bytes) -> None:
        """Make or replace a file; nothing of that is certain yet."""
        path.write_bytes(content)

    def sync(self, path: Path) -> None:
        """Bring a file's content to disk."""
        fsync(path)

    def rename(self, path: Path, to: Path) -> None:
        path.replace(to)

    def make_folder(self, path: Path) -> None:
        """Its parent is there."""
        path.mkdir(exist_ok=True)

    def sync_folder(self, path: Path) -> None:
        """Bring the names in a folder to disk."""
        fsync(path)

    def remove_folder(self, path: Path) -> None:
        """With what is in it; one that is not there is passed over."""
        shutil.rmtree(path, ignore_errors=True)

    def lock(self, path: Path) -> Callable[[], None]:
        """Hold a lock until the returned callable is called or the process ends. Raises Conflict when another holds it."""
        file = path.open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise Conflict(f"another process writes to {path.parent}: only one may") from None
        return file.close
